package https

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/clawpatrol/clawpatrol/policy"
)

// slot is the place in a request that a credential owns: exactly one of a header
// field, a parameter of the query and a cookie.
type slot struct {
	header    string // canonical form
	parameter string // decoded
	cookie    string
}

// slotOf returns the slot of a credential.
func slotOf(c *policy.Credential) (slot, error) {
	switch c.Type {
	case "bearer", "basic":
		return slot{header: "Authorization"}, nil
	case "header":
		name := textproto.CanonicalMIMEHeaderKey(c.Header)
		if name == "" || name == "Host" || name == "Content-Length" || name == "Te" || name == "Expect" || name == "Cookie" ||
			hopByHop[name] || !isToken(name) {
			return slot{}, fmt.Errorf("credential %s cannot own the field %q", c.Ref(), c.Header)
		}
		return slot{header: name}, nil
	case "query":
		if c.Parameter == "" || hasControl(c.Parameter) {
			return slot{}, fmt.Errorf("credential %s cannot own the parameter %q", c.Ref(), c.Parameter)
		}
		return slot{parameter: c.Parameter}, nil
	case "cookie":
		if !isToken(c.Cookie) {
			return slot{}, fmt.Errorf("credential %s cannot own the cookie %q", c.Ref(), c.Cookie)
		}
		return slot{cookie: c.Cookie}, nil
	}
	return slot{}, fmt.Errorf("credential %s has type %q, which https cannot carry", c.Ref(), c.Type)
}

// put makes value the only content of the slot in out, whatever the agent put
// there; "" leaves the slot empty. In a query and among cookies, value has its
// name in front of it.
func (s slot) put(out *http.Request, value string) {
	switch {
	case s.header != "":
		for name := range out.Header { // every spelling, and every duplicate with it
			if sameField(name, s.header) {
				delete(out.Header, name)
			}
		}
		if value != "" {
			out.Header[s.header] = []string{value}
		}
	case s.parameter != "":
		out.URL.RawQuery = putParameter(out.URL.RawQuery, s.parameter, value)
	case s.cookie != "":
		if line := putCookie(out.Header["Cookie"], s.cookie, value); line != "" {
			out.Header["Cookie"] = []string{line}
		} else {
			delete(out.Header, "Cookie")
		}
	}
}

// sameField reports whether two field names are one to a server that ignores
// case and, like CGI (RFC 3875 section 4.1.18), does not tell "-" from "_".
func sameField(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if foldField(a[i]) != foldField(b[i]) {
			return false
		}
	}
	return true
}

func foldField(b byte) byte {
	if b == '_' {
		return '-'
	}
	return fold(b)
}

// sameName reports whether an agent's name for a parameter or a cookie, decoded,
// is name to some server: as it stands; in another case (ASP.NET); with a blank
// or dot for "_", blanks in front, or "[…]" or a NUL behind (PHP).
func sameName(got, name string) bool {
	if got == name {
		return true
	}
	got = strings.TrimLeft(got, " ")
	if i := strings.IndexAny(got, "[\x00"); i > 0 {
		got = got[:i]
	}
	if len(got) != len(name) {
		return false
	}
	for i := range len(got) {
		if foldName(got[i]) != foldName(name[i]) {
			return false
		}
	}
	return true
}

func foldName(b byte) byte {
	if b == ' ' || b == '.' {
		return '_'
	}
	return fold(b)
}
