package https

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/clawpatrol/clawpatrol/policy"
)

// authority returns the canonical host[:port] of a match, the port left out
// where it is https's default (RFC 9110 section 4.2.2).
func authority(m policy.Match) string {
	if m.Port != 443 {
		return net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port)))
	}
	if strings.Contains(m.Host, ":") {
		return "[" + m.Host + "]"
	}
	return m.Host
}

// contradiction says how a request names another destination than its flow has
// (I04), or returns "". Everything that can name one is looked at: :authority,
// Host, :scheme, the scheme and authority of an absolute-form target. hosts are
// the Host fields of an HTTP/1.1 request: one beside an absolute URL is not in r.
func contradiction(r *http.Request, hosts []string, m policy.Match) string {
	if r.Host == "" {
		return "the request names no host"
	}
	claims := append([]string{r.Host}, hosts...)
	claims = append(claims, r.Header["Host"]...) // HTTP/2 leaves Host beside :authority
	if r.ProtoMajor == 2 && r.TLS == nil {       // net/http's word for a :scheme other than https
		return "the request's scheme is not https"
	}
	if r.URL.IsAbs() || r.URL.Host != "" {
		if !strings.EqualFold(r.URL.Scheme, "https") {
			return "the request's scheme is not https"
		}
		if r.URL.User != nil {
			return "the request's URL has user information"
		}
		claims = append(claims, r.URL.Host)
	}
	for _, claim := range claims {
		if !names(claim, m) {
			return fmt.Sprintf("the request names %q", clip(claim, 100))
		}
	}
	return ""
}

// names reports whether host[:port], an agent's words, is m's host and port.
func names(claim string, m policy.Match) bool {
	host, port := claim, "443"
	if i := strings.LastIndexByte(claim, ':'); i >= 0 && !strings.HasSuffix(claim, "]") {
		host, port = claim[:i], claim[i+1:]
		if port == "" { // "host:" is the default port: RFC 3986 section 6.2.3
			port = "443"
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || uint16(n) != m.Port || port[0] == '+' {
		return false
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		addr, err := netip.ParseAddr(inner)
		return ok && err == nil && addr.Is6() && addr.Zone() == "" && addr.String() == m.Host
	}
	if strings.Contains(host, ":") {
		return false
	}
	return sameHost(strings.TrimSuffix(host, "."), m.Host)
}

// sameHost ignores the case of ASCII. strings.EqualFold would also take a Kelvin
// sign for a k.
func sameHost(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if fold(a[i]) != fold(b[i]) {
			return false
		}
	}
	return true
}

// clip bounds outside input that is quoted.
func clip(s string, max int) string {
	if len(s) > max {
		return s[:max] + "…"
	}
	return s
}
