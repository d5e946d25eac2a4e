package https

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/secret"
)

// secretSlot is the one slot of every credential type of https.
const secretSlot = "secret"

// slotHeader returns the field a credential owns, in canonical form.
func slotHeader(c *policy.Credential) (string, error) {
	switch c.Type {
	case "bearer", "basic":
		return "Authorization", nil
	case "header":
		name := textproto.CanonicalMIMEHeaderKey(c.Header)
		if name == "" || name == "Host" || name == "Content-Length" || name == "Te" || name == "Expect" ||
			hopByHop[name] || !isToken(name) {
			return "", fmt.Errorf("credential %s cannot own the field %q", c.Ref(), c.Header)
		}
		return name, nil
	}
	return "", fmt.Errorf("credential %s has type %q, which https cannot carry", c.Ref(), c.Type)
}

// injection is a credential ready to be put into requests. It keeps what is
// secret in closures, for the reason package secret gives.
type injection struct {
	header string        // the field it owns
	value  func() string // what goes there
	bare   func() string // the secret alone, without the line break a paste left at its end
}

// prepare makes the injection of credential c with secret s. Errors name the
// credential and what is wrong, never the value.
func prepare(c *policy.Credential, s secret.Secret) (injection, error) {
	header, err := slotHeader(c)
	if err != nil {
		return injection{}, err
	}
	bare := strings.TrimRight(string(s.Reveal()), "\r\n")
	if bare == "" {
		return injection{}, &proxy.Refusal{
			Code:   proxy.CodeSecretMissing,
			Reason: fmt.Sprintf("credential %s has an empty secret: an operator has to store it", c.Ref()),
		}
	}
	value := bare
	switch c.Type {
	case "bearer":
		value = "Bearer " + bare
	case "basic":
		// RFC 7617 section 2: the first colon ends the user-id.
		if strings.Contains(c.Username, ":") || hasControl(c.Username) || hasControl(bare) {
			return injection{}, fmt.Errorf("credential %s: its username or secret cannot stand in a Basic credential", c.Ref())
		}
		value = "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+bare))
	}
	// RFC 9110 section 5.5: neither controls nor blanks at the ends, which the
	// upstream would not see as part of the value.
	if hasControl(value) || strings.TrimSpace(bare) != bare && c.Type != "basic" {
		return injection{}, fmt.Errorf("credential %s: its secret holds characters that cannot stand in a header", c.Ref())
	}
	return injection{
		header: header,
		value:  func() string { return value },
		bare:   func() string { return bare },
	}, nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// into replaces the slot in a request's fields, whatever the agent put there:
// every duplicate, and the spellings with "_" for "-" that some servers take
// for the same field.
func (in injection) into(h http.Header) {
	for name := range h {
		if sameField(name, in.header) {
			delete(h, name)
		}
	}
	h[in.header] = []string{in.value()}
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

// chooser returns how a request with fields h picks among several credentials:
// the one whose placeholder stands in its slot. None and more than one are nil.
func chooser(h http.Header) func([]*policy.Credential) *policy.Credential {
	return func(credentials []*policy.Credential) *policy.Credential {
		var chosen *policy.Credential
		for _, c := range credentials {
			if !presents(h, c) {
				continue
			}
			if chosen != nil {
				return nil
			}
			chosen = c
		}
		return chosen
	}
}

// presents reports whether the placeholder of c stands in its slot: as the
// token of any scheme for bearer ("Bearer X", "token X", "X"), as the password
// with any user name for basic, as the whole value for header.
func presents(h http.Header, c *policy.Credential) bool {
	header, err := slotHeader(c)
	if err != nil || c.Placeholder == "" {
		return false
	}
	for _, value := range h[header] {
		value = strings.TrimSpace(value)
		switch c.Type {
		case "header":
			if value == c.Placeholder {
				return true
			}
		case "bearer":
			_, token, ok := strings.Cut(value, " ")
			if !ok {
				token = value
			}
			if strings.TrimSpace(token) == c.Placeholder {
				return true
			}
		case "basic":
			scheme, blob, _ := strings.Cut(value, " ")
			if !strings.EqualFold(scheme, "Basic") {
				continue
			}
			pair, err := base64.StdEncoding.DecodeString(strings.TrimSpace(blob))
			if err != nil {
				continue
			}
			if _, password, ok := strings.Cut(string(pair), ":"); ok && password == c.Placeholder {
				return true
			}
		}
	}
	return false
}
