package dashboard

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/clawpatrol/clawpatrol/policy"
)

// hostCheck knows which Host values are the listener's own. DNS rebinding makes
// a browser send another site's name to this address; an IP literal it cannot
// forge (I14).
type hostCheck struct {
	host     string // configured, lower case; empty: every address
	port     string // configured
	scheme   string
	loopback bool
}

func newHostCheck(listen string, tls bool) (hostCheck, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return hostCheck{}, fmt.Errorf("reading the listener's address %q: %w", listen, err)
	}
	c := hostCheck{host: strings.ToLower(host), port: port, scheme: "http"}
	if tls {
		c.scheme = "https"
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		c.host = ip.Unmap().String()
		c.loopback = ip.Unmap().IsLoopback()
		if ip.Unmap().IsUnspecified() {
			c.host = ""
		}
	} else {
		c.loopback = c.host == "localhost"
	}
	return c, nil
}

// own reports whether r's Host is the listener's. The port is always compared:
// another service on the same host is another origin.
func (c hostCheck) own(r *http.Request, p *policy.Policy) bool {
	host, port := splitHost(r.Host, c.scheme)
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	var at netip.AddrPort
	if local != nil {
		at, _ = netip.ParseAddrPort(local.String())
	}
	wantPort := c.port
	if wantPort == "0" && at.IsValid() { // chosen by the kernel
		wantPort = fmt.Sprint(at.Port())
	}
	if host == "" || port != wantPort {
		return false
	}
	ip, err := netip.ParseAddr(host)
	isIP := err == nil
	loopbackName := host == "localhost" || isIP && (ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || ip == netip.IPv6Loopback())
	switch {
	case c.loopback:
		return loopbackName || host == c.host
	case c.host != "":
		return host == c.host || host == publicHost(p)
	}
	here := at.Addr().Unmap()
	return isIP && ip.Unmap() == here || loopbackName && here.IsLoopback() || host == publicHost(p)
}

// splitHost splits a Host header. The scheme's own port may be left out (RFC
// 9110 section 7.2); an address is given back in canonical form.
func splitHost(s, scheme string) (host, port string) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), "80"
		if scheme == "https" {
			port = "443"
		}
	}
	host = strings.ToLower(host)
	if ip, err := netip.ParseAddr(host); err == nil {
		host = ip.String()
	}
	return host, port
}

// publicHost is the name the operator gave this machine in public_url.
func publicHost(p *policy.Policy) string {
	if p == nil {
		return ""
	}
	u, err := url.Parse(p.Gateway.PublicURL)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	host, _ := splitHost(net.JoinHostPort(u.Hostname(), "443"), "https")
	return host
}
