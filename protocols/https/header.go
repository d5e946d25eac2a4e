package https

import (
	"net/http"
	"net/textproto"
	"reflect"
	"strconv"
	"strings"
)

// hopByHop are the fields that concern one connection only (RFC 9110 section
// 7.6.1); those a Connection field lists go as well. Proxy-* is handled by
// connectionField.
var hopByHop = map[string]bool{
	"Connection":        true,
	"Keep-Alive":        true,
	"Te":                true,
	"Trailer":           true,
	"Transfer-Encoding": true,
	"Upgrade":           true,
	"Http2-Settings":    true, // RFC 7540 section 3.2.1
}

// connectionField reports whether a field is not relayed in either direction:
// hop-by-hop, for proxies, or in the gateway's own name space.
func connectionField(name string) bool {
	return hopByHop[name] || disguised(name) || hasPrefixFold(name, "Proxy-") || hasPrefixFold(name, "X-Clawpatrol-")
}

// disguised reports whether a field would delimit its message for a server that
// takes "_" for "-", as CGI does, and for the gateway does not.
func disguised(name string) bool {
	if strings.IndexByte(name, '_') < 0 {
		return false
	}
	meant := textproto.CanonicalMIMEHeaderKey(strings.ReplaceAll(name, "_", "-"))
	return hopByHop[meant] || meant == "Content-Length"
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && sameField(s[:len(prefix)], prefix)
}

// listed returns the canonical names a Connection field lists.
func listed(h http.Header) map[string]bool {
	values := h["Connection"]
	if len(values) == 0 {
		return nil
	}
	names := make(map[string]bool)
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			names[textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	return names
}

// hasToken reports whether a comma-separated field holds token.
func hasToken(values []string, token string) bool {
	for _, value := range values {
		for t := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// requestHeader puts the agent's fields into out as they go upstream, without any
// credential yet. upgrade is the protocol the request may switch to, or "".
func requestHeader(out http.Header, r *http.Request, upgrade string) {
	gone := listed(r.Header)
	for name, values := range r.Header {
		if gone[name] || connectionField(name) || name == "Host" {
			continue
		}
		out[name] = values
	}
	// What sends it says its length. An empty body that was announced stays so.
	if r.ContentLength != 0 {
		delete(out, "Content-Length")
	}
	if hasToken(r.Header["Te"], "trailers") { // what gRPC servers insist on
		out["Te"] = []string{"trailers"}
	}
	if upgrade != "" {
		out["Connection"] = []string{"Upgrade"}
		out["Upgrade"] = []string{upgrade}
	}
	if r.ProtoMajor == 2 && awaitsContinue(r) {
		out["Expect"] = []string{"100-continue"}
	}
	if r.ContentLength == 0 {
		delete(out, "Expect") // RFC 9110 section 10.1.1: not without content
	}
	switch agents := out["User-Agent"]; {
	case len(agents) == 0:
		out["User-Agent"] = nil // or net/http adds its own
	case len(agents) > 1: // it sends one
		out["User-Agent"] = agents[:1]
	}
}

// awaitsContinue reports whether an HTTP/2 agent sends its body only after a 100.
// x/net/http2 takes the Expect field out of such a request and leaves word of it
// nowhere but in the body that it hands out.
func awaitsContinue(r *http.Request) bool {
	body := reflect.ValueOf(r.Body)
	if body.Kind() != reflect.Pointer || body.Elem().Kind() != reflect.Struct {
		return false
	}
	waits := body.Elem().FieldByName("needsContinue")
	return waits.Kind() == reflect.Bool && waits.Bool()
}

// responseHeader copies an upstream's fields to the agent's, with the secret
// masked. It adds nothing, and keeps net/http from adding.
func (x *exchange) responseHeader(to, from http.Header) {
	gone := listed(from)
	for name, values := range from {
		if gone[name] || connectionField(name) || x.withheld(name) {
			continue
		}
		if name == "Content-Length" { // framing, written as net/http has read it
			if n, err := strconv.ParseUint(textproto.TrimString(values[0]), 10, 63); err == nil {
				to[name] = []string{strconv.FormatUint(n, 10)}
			}
			continue
		}
		to[name] = x.mask(values)
	}
	for _, name := range []string{"Date", "Content-Type"} {
		if _, ok := to[name]; !ok {
			to[name] = nil
		}
	}
}

// withheld reports whether a response field does not reach the agent: cookies
// that would carry the authenticated session outside, invitations to other
// servers, and names that hold the secret.
func (x *exchange) withheld(name string) bool {
	switch name {
	case "Set-Cookie", "Set-Cookie2":
		return !x.conversation.flow.Match.Endpoint.PassCookies
	case "Alt-Svc": // RFC 7838: the same origin elsewhere, past this gateway
		return true
	}
	return x.scrubber.holds(name)
}

// mask returns values with the secret replaced; values itself where it is not
// in there.
func (x *exchange) mask(values []string) []string {
	var masked []string
	for i, value := range values {
		clean, found := x.scrubber.mask(value)
		if !found {
			continue
		}
		if masked == nil {
			masked = append([]string{}, values...)
		}
		masked[i] = clean
	}
	if masked == nil {
		return values
	}
	x.echoed = true
	return masked
}

// isToken: RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		b := s[i]
		if b <= ' ' || b >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, b) >= 0 {
			return false
		}
	}
	return s != ""
}
