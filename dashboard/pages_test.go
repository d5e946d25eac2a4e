package dashboard_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/registry"
)

func (g *gateway) page(path string) string {
	g.t.Helper()
	return status(g.t, g.send(request{method: "GET", path: path, secret: password}), http.StatusOK)
}

func (g *gateway) post(path string, form url.Values) *http.Response {
	g.t.Helper()
	return g.send(request{method: "POST", path: path, form: form, secret: password})
}

func TestPages_RegistrationFromReviewToRevocation(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("build-01", "10.1.2.3")
	at := "/registrations/" + string(reg.ID)
	for _, p := range []string{"/registrations", at} {
		page := g.page(p)
		for _, want := range []string{"build-01", reg.UserCode, "10.1.2.3 is a private address: this pin proves nothing", html.EscapeString(base64.StdEncoding.EncodeToString(reg.PublicKey[:]))} {
			if !strings.Contains(html.UnescapeString(page), html.UnescapeString(want)) {
				t.Errorf("%s does not show %q", p, want)
			}
		}
	}
	page := g.page(at)
	if !regexp.MustCompile(`value="ci" checked`).MatchString(page) || regexp.MustCompile(`value="deploy" checked`).MatchString(page) {
		t.Error("the default profile, and only it, should be ticked")
	}
	if body := status(t, g.post(at+"/approve", url.Values{}), http.StatusUnprocessableEntity); !strings.Contains(body, "at least one profile is required") {
		t.Error("the page does not say why")
	}
	goesTo(t, g.post(at+"/approve", url.Values{"profile": {"ci", "deploy"}}), at+"?done=approved")
	if s := g.get(reg.ID); s.State != registry.Approved || len(s.Profiles) != 2 {
		t.Errorf("after the form: %+v", s)
	}
	if page := g.page(at + "?done=approved"); !strings.Contains(page, "Approved. Traffic") {
		t.Error("the page does not say what was done")
	}
	if page := g.page(at + "?done=%3Cscript%3E"); strings.Contains(page, `class="note`) {
		t.Error("the page says what a link told it to")
	}
	goesTo(t, g.post(at+"/profiles", url.Values{"profile": {"deploy"}}), at+"?done=profiles")
	goesTo(t, g.post(at+"/block", url.Values{"reason": {"strange traffic"}}), at+"?done=blocked")
	if page := g.page(at); !strings.Contains(page, "strange traffic") {
		t.Error("the reason is not shown")
	}
	if page := g.page(at + "/revoke"); !strings.Contains(page, "Revoke for good") {
		t.Error("revoking does not ask")
	}
	if s := g.get(reg.ID).State; s != registry.Blocked {
		t.Fatalf("looking at the confirmation made it %s", s)
	}
	for _, typed := range []string{"", "build-02", "Build-01", string(reg.ID)} {
		if body := status(t, g.post(at+"/revoke", url.Values{"confirm": {typed}}), http.StatusUnprocessableEntity); !strings.Contains(body, "type build-01 to confirm") {
			t.Error("the page does not say what to type")
		}
	}
	if s := g.get(reg.ID).State; s != registry.Blocked {
		t.Fatalf("without its name typed it is %s", s)
	}
	goesTo(t, g.post(at+"/revoke", url.Values{"confirm": {" build-01 "}}), at+"?done=revoked")
	if s := g.get(reg.ID).State; s != registry.Revoked {
		t.Errorf("after the form: %s", s)
	}
	if page := g.page(at); strings.Contains(page, "<form method=\"post\" action=\"/registrations") {
		t.Error("a revoked registration still has forms")
	}
	status(t, g.send(request{method: "GET", path: "/registrations/r_nothing", secret: password}), http.StatusNotFound)
}

func TestPages_PinRemarks(t *testing.T) {
	g := newOperated(t)
	for from, want := range map[string]string{
		"192.168.7.7":   "a private address",
		"100.64.1.1":    "a carrier-grade NAT address",
		"127.0.0.1":     "a loopback address",
		"169.254.1.1":   "a link-local address",
		"fd00::1":       "a private address",
		"203.0.113.1":   "the gateway's own address", // see newGateway
		"198.51.100.55": "",
	} {
		reg := g.enrol("host "+from, from)
		has := strings.Contains(html.UnescapeString(g.page("/registrations/"+string(reg.ID))), from+" is "+want+": this pin proves nothing")
		if has != (want != "") {
			t.Errorf("%s: remark shown: %v", from, has)
		}
	}
}

// The code of a look-alike is not on the page: typing it in would prove nothing.
func TestPages_LookAlikes(t *testing.T) {
	g := newOperated(t)
	mine, evil := g.enrol("build-01", "198.51.100.1"), g.enrol("build-01", "198.51.100.2")
	at := "/registrations/" + string(mine.ID)
	for _, p := range []string{"/registrations", at} {
		if page := g.page(p); strings.Contains(page, mine.UserCode) || strings.Contains(page, evil.UserCode) {
			t.Errorf("%s shows the code", p)
		}
	}
	if !strings.Contains(g.page(at), `name="user_code"`) {
		t.Fatal("the form does not ask for the code")
	}
	status(t, g.post(at+"/approve", url.Values{"profile": {"ci"}}), http.StatusConflict)
	if body := status(t, g.post(at+"/approve", url.Values{"profile": {"ci"}, "user_code": {evil.UserCode}}), http.StatusConflict); strings.Contains(body, mine.UserCode) {
		t.Error("the refusal shows the right code")
	}
	goesTo(t, g.post(at+"/approve", url.Values{"profile": {"ci"}, "user_code": {mine.UserCode}}), at+"?done=approved")
}

// Likeness is the registry's word: a page that went by the letter would show the
// code of a registration that the operator takes for another, to be copied from
// the very row that should not be trusted.
func TestPages_LookAlikesOfTheRegistrysKind(t *testing.T) {
	g := newOperated(t)
	mine := g.enrol("build-o1", "198.51.100.1")
	g.enrol("build-01", "198.51.100.2")
	at := "/registrations/" + string(mine.ID)
	for _, p := range []string{"/registrations", at} {
		if strings.Contains(g.page(p), mine.UserCode) {
			t.Errorf("%s shows the code", p)
		}
	}
	if !strings.Contains(g.page(at), `name="user_code"`) {
		t.Error("the form does not ask for the code")
	}
	body := status(t, g.post(at+"/approve", url.Values{"profile": {"ci"}}), http.StatusConflict)
	if !strings.Contains(body, `name="user_code"`) || strings.Contains(body, mine.UserCode) {
		t.Error("after a refusal, the form does not ask for the code, or shows it")
	}
}

// Until the approval, whoever has the join credential can add an address to the
// pin: the operator approves what the page showed, or looks again.
func TestPages_ApprovesThePinThatWasShown(t *testing.T) {
	g := newOperated(t)
	reg := g.enrol("build-01", "198.51.100.1")
	at := "/registrations/" + string(reg.ID)
	page := g.page(at)
	for _, field := range []string{`name="pin4" value="198.51.100.1"`, `name="pin6" value=""`} {
		if !strings.Contains(page, field) {
			t.Errorf("the form has no %s", field)
		}
	}
	shown := url.Values{"profile": {"ci"}, "pin4": {"198.51.100.1"}, "pin6": {""}}
	for _, from := range []string{"198.51.100.1", "2001:db8:bad::1"} { // the agent host, and who has its credential
		if _, err := g.db.Claim(t.Context(), reg.ID, netip.MustParseAddr(from)); err != nil {
			t.Fatal(err)
		}
	}
	body := status(t, g.post(at+"/approve", shown), http.StatusConflict)
	if !strings.Contains(body, "2001:db8:bad::1") || g.get(reg.ID).State != registry.Pending {
		t.Errorf("approved, or the page does not show the new pin:\n%s", body)
	}
	refused(t, g.api("POST", "/api"+at+"/approve", `{"profiles":["ci"],"pin":{"ipv4":"198.51.100.1","ipv6":""}}`), http.StatusConflict, "pin_changed")
	refused(t, g.api("POST", "/api"+at+"/approve", `{"profiles":["ci"],"pin":{"ipv4":"x","ipv6":""}}`), http.StatusBadRequest, "bad_request")
	shown.Set("pin6", "2001:db8:bad::1")
	goesTo(t, g.post(at+"/approve", shown), at+"?done=approved")
}

// Where a secret goes is the policy's to say: the page says it to who sets one.
func TestPages_CredentialSaysWhereItsSecretGoes(t *testing.T) {
	g := newOperated(t)
	if page := g.page("/credentials/bearer/github_token"); !strings.Contains(page, "<code>api.github.com:443</code>") || !strings.Contains(page, "<code>uploads.github.com:443</code>") {
		t.Errorf("the page does not name the hosts:\n%s", page)
	}
	g.load(strings.ReplaceAll(gatewayHCL, "api.github.com", "api.github.example"))
	if page := g.page("/credentials/bearer/github_token"); !strings.Contains(page, "api.github.example:443") {
		t.Errorf("after a reload, the page does not name the hosts:\n%s", page)
	}
}

// Names, reasons and summaries are an agent's or an upstream's words.
func TestPages_HostileText(t *testing.T) {
	g := newOperated(t)
	const evil = `<script>alert(1)</script>"'>` + "{{.}}"
	reg := g.enrol(evil, "198.51.100.1")
	if err := g.db.Block(t.Context(), reg.ID, evil+"\u202e\u200b\x1b[31m"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.db.Append(t.Context(), registry.Action{
		Registration: registry.ID(evil), Profile: evil, Endpoint: evil, Credential: evil, Protocol: evil,
		Summary: "GET /\u2067\u200bx\u00ad " + evil, Verdict: "deny", Rule: evil, Reason: "\u202egnp.exe",
	}); err != nil {
		t.Fatal(err)
	}
	q := url.QueryEscape(`"><script>alert(1)</script>`)
	for _, p := range []string{
		"/registrations", "/registrations/" + string(reg.ID), "/registrations/" + string(reg.ID) + "/revoke", "/actions",
		"/actions?registration=" + q + "&endpoint=" + q + "&since=1h&cursor=9", "/registrations?done=" + q,
	} {
		page := g.page(p)
		page = withoutOwnScripts(page)
		for _, bad := range []string{"<script", "\u202e", "\u2067", "\u200b", "\u00ad", "\x1b", "<no value>", "ZgotmplZ"} {
			if strings.Contains(page, bad) {
				t.Errorf("%s has %q", p, bad)
			}
		}
	}
	page := status(t, g.send(request{method: "GET", path: "/actions?verdict=" + q, secret: password}), http.StatusBadRequest)
	if strings.Contains(withoutOwnScripts(page), "<script") {
		t.Error("the error page has a script")
	}
}

// ownScripts are the scripts that pages may name, and name nothing else of.
var ownScripts = map[string]bool{"/static/htmx.min.js": true, "/static/htmx-sse.min.js": true, "/static/app.js": true}

func withoutOwnScripts(page string) string {
	for src := range ownScripts {
		page = strings.ReplaceAll(page, `<script src="`+src+`" defer></script>`, "")
	}
	return page
}

// The registry cleans what it stores; pages do not rely on it.
func TestShown_SpellsOutWhatDoesNotPrint(t *testing.T) {
	for in, want := range map[string]string{
		"build-01 (größe) 東京":           "build-01 (größe) 東京",
		"a\x00b\nc\x1b[31m":             `a\u{0000}b\u{000a}c\u{001b}[31m`,
		"\u202egnp.exe\u2069\u200b":     `\u{202e}gnp.exe\u{2069}\u{200b}`,
		"e\u0301\u00ad\u00a0x":          `e\u{0301}\u{00ad}\u{00a0}x`,
		"rm -rf /\u3164tmp\u2800\uffa0": `rm -rf /\u{3164}tmp\u{2800}\u{ffa0}`,
		"\xff\ufffd\xc3(":               "\\xff\ufffd\\xc3(",
		strings.Repeat("é", 600):        strings.Repeat("é", 512) + "…",
		"<b>&amp;</b> stays for html":   "<b>&amp;</b> stays for html",
	} {
		if got := dashboard.Shown(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

// Without a script, an inline style or anything of another origin, the policy
// that forbids them costs nothing; and each page is one that can be used by
// keyboard, on a phone, and with a screen reader.
func TestPages_MarkupIsPlainAndAccessible(t *testing.T) {
	g := newGateway(t)
	pages := map[string]string{"/setup": status(t, g.send(request{method: "GET", path: "/setup"}), http.StatusOK)}
	g.setPassword(password)
	reg := g.enrol("build-01", "10.0.0.1")
	old := g.enrol("build-02", "198.51.100.2")
	if err := g.db.Approve(t.Context(), old.ID, []string{"ci", "gone"}, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := g.db.Append(t.Context(), registry.Action{Registration: reg.ID, Verdict: "allow", Summary: "GET /"}); err != nil {
		t.Fatal(err)
	}
	status(t, g.api("PUT", "/api/credentials/bearer/github_token", `{"slots":{"secret":"x"}}`), http.StatusNoContent)
	pages["/login"] = status(t, g.send(request{method: "GET", path: "/login"}), http.StatusOK)
	pages["/nothing"] = status(t, g.send(request{method: "GET", path: "/nothing", secret: password}), http.StatusNotFound)
	for _, p := range []string{
		"/registrations", "/registrations/" + string(reg.ID), "/registrations/" + string(old.ID), "/registrations/" + string(reg.ID) + "/revoke",
		"/credentials", "/credentials/bearer/github_token", "/credentials/bearer/github_token/clear", "/actions",
	} {
		pages[p] = g.page(p)
	}
	for p, src := range pages {
		doc, err := html.Parse(strings.NewReader(src))
		if err != nil {
			t.Fatal(err)
		}
		checkMarkup(t, p, doc)
	}
}

func checkMarkup(t *testing.T, where string, doc *html.Node) {
	t.Helper()
	labelled, ids := map[string]bool{}, map[string]bool{}
	headings, lang, viewport := 0, "", false
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		a := attributes(n)
		if id := a["id"]; id != "" {
			if ids[id] {
				t.Errorf("%s: id %q twice", where, id)
			}
			ids[id] = true
		}
		switch n.Data {
		case "label":
			labelled[a["for"]] = true
		case "html":
			lang = a["lang"]
		case "meta":
			viewport = viewport || a["name"] == "viewport"
		case "h1":
			headings++
		case "th":
			if a["scope"] == "" {
				t.Errorf("%s: a th without scope", where)
			}
		case "script":
			if !ownScripts[a["src"]] || n.FirstChild != nil {
				t.Errorf("%s: <script> that is not one of our files", where)
			}
		case "style", "iframe", "object", "embed", "base", "img":
			t.Errorf("%s: <%s>", where, n.Data)
		}
		for k, v := range a {
			if k == "style" || strings.HasPrefix(k, "on") && k != "one" {
				t.Errorf("%s: inline %s", where, k)
			}
			if (k == "href" || k == "src" || k == "action") && !strings.HasPrefix(v, "/") && !strings.HasPrefix(v, "#") {
				t.Errorf("%s: %s to %q", where, k, v)
			}
		}
	}
	for n := range doc.Descendants() {
		a := attributes(n)
		if n.Type == html.ElementNode && (n.Data == "input" || n.Data == "select" || n.Data == "textarea") && a["type"] != "hidden" && !labelled[a["id"]] {
			t.Errorf("%s: %s %q has no label", where, n.Data, a["name"])
		}
		if n.Data == "input" && a["type"] == "password" && a["value"] != "" {
			t.Errorf("%s: a password field has a value", where)
		}
	}
	if headings != 1 || lang != "en" || !viewport {
		t.Errorf("%s: %d h1, lang %q, viewport %v", where, headings, lang, viewport)
	}
}

func attributes(n *html.Node) map[string]string {
	m := make(map[string]string)
	for _, a := range n.Attr {
		m[a.Key] = a.Val
	}
	return m
}

func TestPages_Credentials(t *testing.T) {
	g := newOperated(t)
	const at = "/credentials/bearer/github_token"
	if page := g.page("/credentials"); strings.Count(page, ">missing<") != 3 {
		t.Error("three credentials should be missing")
	}
	status(t, g.post(at, url.Values{"slot.secret": {""}}), http.StatusUnprocessableEntity)
	status(t, g.post(at, url.Values{"slot.secret": {"two\nlines"}}), http.StatusUnprocessableEntity)
	status(t, g.post(at, url.Values{"slot.other": {"x"}}), http.StatusUnprocessableEntity)
	goesTo(t, g.post(at, url.Values{"slot.secret": {"tok-4711"}}), "/credentials?done=set")
	if page := g.page("/credentials"); strings.Count(page, ">missing<") != 2 || !strings.Contains(page, "2026-03-01 12:00:00 UTC") {
		t.Error("the credential is not shown as set")
	}
	goesTo(t, g.post(at+"/clear", url.Values{}), "/credentials?done=cleared")
	if page := g.page("/credentials"); strings.Count(page, ">missing<") != 3 {
		t.Error("the credential is not shown as cleared")
	}
	status(t, g.send(request{method: "GET", path: "/credentials/bearer/nothing", secret: password}), http.StatusNotFound)
}

func TestPages_ActionsPager(t *testing.T) {
	g := newOperated(t)
	for i := range 120 {
		if _, err := g.db.Append(t.Context(), registry.Action{Registration: "r_x", Summary: fmt.Sprintf("GET /%d", i), Verdict: "allow"}); err != nil {
			t.Fatal(err)
		}
	}
	first := g.page("/actions?verdict=allow")
	older := regexp.MustCompile(`href="(/actions\?[^"]*)">Older`).FindStringSubmatch(first)
	if older == nil || !strings.Contains(first, "GET /119<") || strings.Contains(first, "GET /19<") {
		t.Fatalf("the first page has no way to older rows, or the wrong rows")
	}
	second := g.page(html.UnescapeString(older[1]))
	if !strings.Contains(second, "GET /19<") || strings.Contains(second, "Older") || !strings.Contains(second, "Newest") || !strings.Contains(second, `value="allow" selected`) {
		t.Error("the second page is not the last, or lost the filter")
	}
}

// TestI02_NoAnswerOrLogHasASecret goes through everything an operator can do
// with secrets, well and badly, and then searches all that was answered and
// logged.
func TestI02_NoAnswerOrLogHasASecret(t *testing.T) {
	g := newOperated(t)
	const wrong = "not the password at all"
	secrets := []string{password, wrong, "tok-1-BEARER", "tok-2-BASIC", "tok-3-HEADER", "tok-4-NAMED", "tok-5-PAGE", "tok-6\r\nBAD", "tok-7-UNKNOWN", "tok-8-TRAILING", "tok-9-WRONGTYPE", "mac-key-of-host", "preshared-key-of-host"}

	refused(t, g.send(request{method: "POST", path: "/api/login", body: loginBody(wrong)}), http.StatusUnauthorized, "wrong_password")
	status(t, g.send(request{method: "POST", path: "/login", form: url.Values{"password": {wrong}}}), http.StatusUnauthorized)
	refused(t, g.send(request{method: "GET", path: "/api/actions", secret: wrong}), http.StatusUnauthorized, "unauthorized")
	session := g.logIn()
	secrets = append(secrets, session)
	g.api("PUT", "/api/credentials/bearer/github_token", `{"slots":{"secret":"tok-1-BEARER"}}`)
	g.api("PUT", "/api/credentials/basic/registry", `{"slots":{"secret":"tok-2-BASIC"}}`)
	g.api("PUT", "/api/credentials/header/apikey", `{"slots":{"secret":"tok-3-HEADER"}}`)
	g.api("PUT", "/api/secrets/NAME", `{"value":"tok-4-NAMED"}`)
	g.post("/credentials/bearer/github_token", url.Values{"slot.secret": {"tok-5-PAGE"}})
	g.post("/credentials/bearer/github_token", url.Values{"slot.secret": {"tok-6\r\nBAD"}})
	g.api("PUT", "/api/credentials/bearer/github_token", `{"slots":{"secret":"tok-6\r\nBAD"}}`)
	g.api("PUT", "/api/credentials/bearer/nothing", `{"slots":{"secret":"tok-7-UNKNOWN"}}`)
	g.api("PUT", "/api/secrets/bad-name", `{"value":"tok-7-UNKNOWN"}`)
	g.api("PUT", "/api/secrets/NAME", `{"value":"x"} tok-8-TRAILING`)
	g.api("PUT", "/api/secrets/NAME", `tok-8-TRAILING`)
	g.api("PUT", "/api/secrets/NAME", `{"value":["tok-9-WRONGTYPE"]}`)
	g.api("PUT", "/api/secrets/NAME", `{"tok-9-WRONGTYPE":"x"}`)

	reg := g.enrol("host", "198.51.100.1")
	gated, public := dashboard.Routes(g.handler)
	fill := strings.NewReplacer("{id}", string(reg.ID), "{type}", "bearer", "{name}", "github_token", "{$}", "")
	for _, p := range append(gated, public...) {
		if m, path, _ := strings.Cut(p, " "); m == "GET" {
			g.send(request{method: m, path: fill.Replace(path), cookie: session})
		}
	}
	hash, err := g.db.RootPasswordHash(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, string(hash))
	seen, log := g.seen.String(), g.log.String()
	cookie := "Set-Cookie: cp_dash=" + session + ";"
	if !strings.Contains(seen, cookie) {
		t.Fatal("the session's own cookie was not seen: is anything searched?")
	}
	seen = strings.ReplaceAll(seen, cookie, "")
	if !strings.Contains(log, "credential set") || !strings.Contains(seen, "github_token") {
		t.Fatal("nothing to search")
	}
	for _, s := range secrets {
		for _, form := range []string{s, url.QueryEscape(s), html.EscapeString(s), base64.StdEncoding.EncodeToString([]byte(s)), hex.EncodeToString([]byte(s))} {
			if strings.Contains(seen, form) {
				t.Errorf("an answer has %q", form)
			}
			if strings.Contains(log, form) {
				t.Errorf("the log has %q", form)
			}
		}
	}
}

func TestServer_HasLimits(t *testing.T) {
	s := dashboard.Server(http.NotFoundHandler())
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 || s.ReadHeaderTimeout > time.Minute {
		t.Errorf("a limit is missing: %+v", s)
	}
}
