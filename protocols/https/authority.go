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
// Host, the scheme and authority of an absolute-form target.
func contradiction(r *http.Request, m policy.Match) string {
	if r.Host == "" {
		return "the request names no host"
	}
	claims := append([]string{r.Host}, r.Header["Host"]...) // HTTP/2 leaves Host beside :authority
	if r.URL.IsAbs() || r.URL.Host != "" {
		if !strings.EqualFold(r.URL.Scheme, "https") {
			return "the request's scheme is not https"
		}
		if r.URL.User != nil {
			return "the request's URL has user information"
		}
		claims = append(claims, r.URL.Host)
		if conn, ok := r.Context().Value(agentConnKey{}).(*h1Conn); ok {
			hosts, seen := conn.hostsOf(r)
			if !seen || len(hosts) == 0 && r.ProtoAtLeast(1, 1) {
				return "the Host field beside the request's absolute URL could not be checked"
			}
			claims = append(claims, hosts...)
		}
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
		return ok && err == nil && addr.Zone() == "" && addr.String() == m.Host
	}
	if strings.Contains(host, ":") {
		return false
	}
	return strings.EqualFold(strings.TrimSuffix(host, "."), m.Host)
}

// target returns the path of the request as the agent wrote it, without the
// query, for the request line upstream; ok is false where it holds bytes that
// may not stand there. HTTP/2 carries blanks in :path that would end the target
// of an HTTP/1.1 request line (RFC 9113 section 8.2.1, RFC 9112 section 3.2).
func target(r *http.Request) (path string, ok bool) {
	for i := range len(r.RequestURI) {
		if b := r.RequestURI[i]; b <= ' ' || b == 0x7f {
			return "", false
		}
	}
	if r.RequestURI == "*" {
		return "*", r.Method == http.MethodOptions
	}
	if r.URL.IsAbs() || r.URL.Host != "" {
		path = r.URL.EscapedPath()
	} else {
		path, _, _ = strings.Cut(r.RequestURI, "?")
	}
	if path == "" {
		path = "/"
	}
	return path, path[0] == '/'
}

// clip bounds outside input that is quoted.
func clip(s string, max int) string {
	if len(s) > max {
		return s[:max] + "…"
	}
	return s
}
