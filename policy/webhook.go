package policy

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Webhook is where what waits for an operator is announced.
type Webhook struct {
	URL    string // empty: nowhere. It may have a token in it: not for logs
	Secret string // the name of the secret that announcements are signed with; empty: they are not
}

// maxURL bounds the URL of a webhook, in bytes.
const maxURL = 2048

// dashboardBlock reads gateway's dashboard block.
func (c *compiler) dashboardBlock(s section) {
	g := &c.policy.Gateway
	g.DashboardListen = c.listen(s, defaultDashboardListen)
	if v, ok := s.has("url"); ok {
		u, err := parseDashboardURL(v.text)
		if err != nil {
			c.invalid(v.rng, "url", err)
		}
		g.DashboardURL = u
	} else {
		g.DashboardURL = dashboardAt(g.DashboardListen)
	}
	hook, ok := s.blocks["webhook"]
	if !ok {
		return
	}
	if v, ok := hook.has("url"); ok {
		if why := checkWebhookURL(v.text); why != "" {
			c.hidden(v.rng, "Invalid url", why)
		}
		g.Webhook.URL = v.text
		c.hiddenURLs = append(c.hiddenURLs, v.rng)
	}
	if v, ok := hook.has("secret"); ok {
		g.Webhook.Secret = v.text
	}
	if g.DashboardURL == "" && !s.present["url"] {
		c.errorf(s.header, "Missing attribute", "The dashboard block needs %q where there is a webhook: it listens on every address, and links have to lead to one.", "url")
	}
}

// dashboardAt is the URL of a dashboard that listens there; empty: on no address
// in particular.
func dashboardAt(listen string) string {
	host, _, err := net.SplitHostPort(listen)
	a, errAddr := netip.ParseAddr(host)
	switch {
	case err != nil || errAddr != nil || a.IsUnspecified():
		return ""
	case a.IsLoopback():
		return "http://" + listen
	default:
		return "https://" + listen
	}
}

// parseDashboardURL returns dashboard.url without a slash at its end.
func parseDashboardURL(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Path != "" && u.Path != "/" ||
		u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", fmt.Errorf("this is not the URL of a dashboard; write https://host or https://host:port")
	}
	if _, err := parseHostPort(u.Host, 443); err != nil {
		return "", err
	}
	return u.Scheme + "://" + u.Host, nil
}

// checkWebhookURL says what is wrong with a webhook's URL, without a word of it;
// empty: nothing.
func checkWebhookURL(s string) string {
	const form = " Write https://host/path."
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Opaque != "" || len(s) > maxURL {
		return fmt.Sprintf("This is not a URL of at most %d bytes.", maxURL) + form
	}
	host, err := parseHostPort(u.Host, 443)
	if err != nil {
		return "This URL has no host that can be dialled." + form
	}
	loopback, err := netip.ParseAddr(host.Name)
	switch {
	case u.User != nil || u.Fragment != "":
		return "A user, a password or a fragment is not sent anywhere." + form
	case u.Scheme == "https", u.Scheme == "http" && err == nil && loopback.IsLoopback():
		return ""
	default:
		return "What waits is announced over https, or over http to a loopback address." + form
	}
}

var secretReference = regexp.MustCompile(`^\{\{secret:([A-Za-z_][A-Za-z0-9_]{0,63})\}\}$`)

// secretReference reads an attribute that is a secret, as the name of one.
func (c *compiler) secretReference(expr hclsyntax.Expression) (value, bool) {
	if t, ok := expr.(*hclsyntax.TemplateExpr); ok && t.IsStringLiteral() {
		if v, diags := t.Value(nil); !diags.HasErrors() {
			if m := secretReference.FindStringSubmatch(v.AsString()); m != nil {
				return value{text: m[1], rng: expr.Range()}, true
			}
		}
	}
	c.hidden(expr.Range(), "Not the name of a secret", `A secret never stands in this file: write "{{secret:NAME}}", and set NAME in the dashboard.`)
	return value{}, false
}

// hidden reports a mistake in what may be a secret: the line is not shown.
func (c *compiler) hidden(rng hcl.Range, summary, detail string) {
	c.report(&hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &rng, Extra: hideLine{}})
}
