package https

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/secret"
)

// secretSlot is the one slot of every credential type of https.
const secretSlot = "secret"

// injection is a credential ready to be put into requests. It keeps what is
// secret in closures, for the reason package secret gives.
type injection struct {
	slot  slot
	value func() string // what goes there; in a query and among cookies with its name
	bare  func() string // the secret alone, without the line break a paste left at its end
	blob  func() string // Basic's base64(user:secret), otherwise ""
}

// prepare makes the injection of credential c with secret s. Errors name the
// credential and what is wrong, never the value.
func prepare(c *policy.Credential, s secret.Secret) (injection, error) {
	place, err := slotOf(c)
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
	value, blob := bare, ""
	switch c.Type {
	case "bearer":
		value = "Bearer " + bare
	case "basic":
		// RFC 7617 section 2: the first colon ends the user-id.
		if strings.Contains(c.Username, ":") || hasControl(c.Username) || hasControl(bare) {
			return injection{}, fmt.Errorf("credential %s: its username or secret cannot stand in a Basic credential", c.Ref())
		}
		blob = base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + bare))
		value = "Basic " + blob
	case "query":
		value = encodeQuery(c.Parameter) + "=" + encodeQuery(bare)
	case "cookie":
		// RFC 6265 section 5.4: nothing but this ends a cookie's value there.
		if strings.Contains(bare, ";") {
			return injection{}, fmt.Errorf("credential %s: its secret holds a semicolon, which would end the cookie", c.Ref())
		}
		value = c.Cookie + "=" + bare
	}
	// RFC 9110 section 5.5: neither controls nor blanks at the ends, which the
	// upstream would not see as part of the value.
	if hasControl(bare) || hasControl(value) || strings.TrimSpace(bare) != bare && c.Type != "basic" {
		return injection{}, fmt.Errorf("credential %s: its secret holds characters that cannot stand in a request", c.Ref())
	}
	return injection{
		slot:  place,
		value: func() string { return value },
		bare:  func() string { return bare },
		blob:  func() string { return blob },
	}, nil
}

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// presents reports whether the placeholder of c stands in its slot: as the
// token of any scheme for bearer ("Bearer X", "token X", "X"), as the password
// with any user name for basic, as the whole value for the others.
func presents(r *http.Request, c *policy.Credential) bool {
	s, err := slotOf(c)
	switch {
	case err != nil || c.Placeholder == "":
		return false
	case s.parameter != "":
		return holdsParameter(r.URL.RawQuery, s.parameter, c.Placeholder)
	case s.cookie != "":
		return holdsCookie(r.Header["Cookie"], s.cookie, c.Placeholder)
	}
	for _, value := range r.Header[s.header] {
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
