package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/clawpatrol/clawpatrol/secret"
)

const (
	maxPlaceholder = 256 // bytes
	maxUsername    = 256 // bytes
	maxHeader      = 128 // bytes of a header's name, a parameter's, a cookie's
	maxEnv         = 128 // bytes of an environment variable's name
)

// credentialType is what a credential's type label chooses.
type credentialType struct {
	name     string
	endpoint string // the type of endpoint it belongs to
	slots    []Slot
	together bool                                              // setting any slot replaces them all
	check    func(*Credential, map[string]secret.Secret) error // of what is to be stored; nil: anything
	build    func(*compiler, *Credential, section)             // nil: nothing beyond what all have
	schema
}

// commonCredential is what every type of credential has.
var commonCredential = []attribute{
	{name: "endpoint", kind: refKind, required: true},
	{name: "env", kind: stringKind},
	{name: "placeholder", kind: stringKind},
	{name: "wildcard", kind: boolKind},
}

var oneSecret = []Slot{{Name: "secret"}}

var credentialTypes = slices.Concat(httpsCredentialTypes, sshCredentialTypes, postgresCredentialTypes)

var httpsCredentialTypes = []credentialType{
	{
		name:     "bearer",
		endpoint: "https",
		slots:    oneSecret,
		schema:   schema{attributes: commonCredential},
	},
	{
		name:     "basic",
		endpoint: "https",
		slots:    oneSecret,
		build:    (*compiler).basic,
		schema:   schema{attributes: slices.Concat(commonCredential, []attribute{{name: "username", kind: stringKind, required: true}})},
	},
	{
		name:     "header",
		endpoint: "https",
		slots:    oneSecret,
		build:    (*compiler).header,
		schema:   schema{attributes: slices.Concat(commonCredential, []attribute{{name: "header", kind: stringKind, required: true}})},
	},
	{
		name:     "query",
		endpoint: "https",
		slots:    oneSecret,
		build:    (*compiler).query,
		schema:   schema{attributes: slices.Concat(commonCredential, []attribute{{name: "parameter", kind: stringKind, required: true}})},
	},
	{
		name:     "cookie",
		endpoint: "https",
		slots:    oneSecret,
		build:    (*compiler).cookie,
		schema:   schema{attributes: slices.Concat(commonCredential, []attribute{{name: "cookie", kind: stringKind, required: true}})},
	},
}

func credentialTypeNames() []string {
	var names []string
	for _, t := range credentialTypes {
		names = append(names, t.name)
	}
	return names
}

func (c *compiler) credential(b *hclsyntax.Block) {
	labels, ok := c.labels(b, []string{"type", "name"})
	if !ok {
		return
	}
	ref := labels[0].text + "." + labels[1].text
	if !c.declare("credential", ref, b.DefRange()) {
		return
	}
	c.credentials[ref] = nil
	i := slices.IndexFunc(credentialTypes, func(t credentialType) bool { return t.name == labels[0].text })
	if i < 0 {
		c.unknownType("credential", labels[0], credentialTypeNames())
		return
	}
	t := credentialTypes[i]

	before := len(c.diags)
	s := c.section(b.Body, b.DefRange(), fmt.Sprintf("A credential of type %q", t.name), t.schema)
	cred := &Credential{Type: t.name, Name: labels[1].text, Placeholder: "clawpatrol-" + labels[1].text}
	if v, ok := s.has("endpoint"); ok {
		cred.Endpoint = c.endpointRef(v, t)
	}
	if v, ok := s.has("env"); ok {
		if err := checkEnv(v.text); err != nil {
			c.invalid(v.rng, "env", err)
		}
		cred.Env = v.text
	}
	if v, ok := s.has("placeholder"); ok {
		if err := checkPlaceholder(v.text); err != nil {
			c.invalid(v.rng, "placeholder", err)
		}
		cred.Placeholder = v.text
	}
	if v, ok := s.has("wildcard"); ok {
		cred.Wildcard = v.flag
	}
	if t.build != nil {
		t.build(c, cred, s)
	}
	if len(c.diags) > before || cred.Endpoint == nil {
		return
	}

	fp := newFingerprint("credential", cred.Type, cred.Name)
	fp.add("endpoint", cred.Endpoint.Ref())
	fp.add("username", cred.Username)
	fp.add("header", cred.Header)
	if cred.Parameter != "" {
		fp.add("parameter", cred.Parameter)
	}
	if cred.Cookie != "" {
		fp.add("cookie", cred.Cookie)
	}
	if cred.User != "" {
		fp.add("user", cred.User)
	}
	if cred.Users != nil {
		fp.add("users", cred.Users...)
	}
	if cred.Databases != nil {
		fp.add("databases", cred.Databases...)
		fp.add("map", strconv.FormatBool(cred.MapMismatch))
		fp.add("read only", strconv.FormatBool(cred.ReadOnly))
	}
	fp.add("env", cred.Env)
	fp.add("placeholder", cred.Placeholder)
	fp.add("wildcard", strconv.FormatBool(cred.Wildcard))
	cred.Fingerprint = fp.sum()
	c.credentials[ref] = cred
	c.policy.Credentials = append(c.policy.Credentials, cred)
}

// endpointRef finds the endpoint a credential of type t names; nil where there
// is none, which is reported unless the endpoint's own block was.
func (c *compiler) endpointRef(v value, t credentialType) *Endpoint {
	if typ, _, _ := strings.Cut(v.text, "."); typ != t.endpoint && slices.Contains(endpointTypeNames(), typ) {
		c.errorf(v.rng, "Wrong type of endpoint", "A credential of type %q belongs to an endpoint of type %q, not %q.", t.name, t.endpoint, typ)
		return nil
	}
	e, declared := c.endpoints[v.text]
	if !declared {
		c.errorf(v.rng, "Unknown endpoint", "There is no endpoint %s.%s", clip(v.text), suggest(c, v.text, c.endpoints))
	}
	return e
}

// basic reads what only this type has. RFC 7617, section 2: a user-id with a
// colon cannot be encoded, and neither part may hold control characters.
func (c *compiler) basic(cred *Credential, s section) {
	v, ok := s.has("username")
	if !ok {
		return
	}
	switch {
	case len(v.text) > maxUsername:
		c.errorf(v.rng, "Invalid username", "A username has at most %d bytes.", maxUsername)
	case strings.Contains(v.text, ":"):
		c.errorf(v.rng, "Invalid username", "Basic authentication cannot carry a username with a colon (RFC 7617, section 2).")
	case strings.ContainsFunc(v.text, unicode.IsControl):
		c.errorf(v.rng, "Invalid username", "A username has no control characters (RFC 7617, section 2).")
	}
	cred.Username = v.text
}

// header reads what only this type has.
func (c *compiler) header(cred *Credential, s section) {
	v, ok := s.has("header")
	if !ok {
		return
	}
	name, err := canonicalHeader(v.text)
	if err != nil {
		c.invalid(v.rng, "header", err)
	}
	cred.Header = name
}

// query reads what only this type has. Any text is a parameter's name once it is
// percent-encoded; control characters are a mistake.
func (c *compiler) query(cred *Credential, s section) {
	v, ok := s.has("parameter")
	if !ok {
		return
	}
	switch {
	case v.text == "" || len(v.text) > maxHeader:
		c.errorf(v.rng, "Invalid parameter", "A parameter's name has 1 to %d bytes.", maxHeader)
	case strings.ContainsFunc(v.text, unicode.IsControl):
		c.errorf(v.rng, "Invalid parameter", "A parameter's name has no control characters.")
	case strings.TrimSpace(v.text) != v.text:
		c.errorf(v.rng, "Invalid parameter", "A parameter's name does not begin or end with a blank.")
	}
	cred.Parameter = v.text
}

// cookie reads what only this type has. RFC 6265, section 4.1.1: a cookie's name
// is a token, and some characters end its value or quote it; a placeholder with
// one of them would never be found in its place.
func (c *compiler) cookie(cred *Credential, s section) {
	if v, ok := s.has("placeholder"); ok && strings.ContainsAny(v.text, `",;\`) {
		c.errorf(v.rng, "Invalid placeholder", "A cookie cannot hold a double quote, comma, semicolon or backslash (RFC 6265, section 4.1.1).")
	}
	v, ok := s.has("cookie")
	if !ok {
		return
	}
	if v.text == "" || len(v.text) > maxHeader {
		c.errorf(v.rng, "Invalid cookie", "A cookie's name has 1 to %d characters.", maxHeader)
	} else if !isToken(v.text) {
		c.errorf(v.rng, "Invalid cookie", "%q is not a cookie's name (RFC 6265, section 4.1.1).", clip(v.text))
	}
	cred.Cookie = v.text
}

// checkPlaceholder wants what fits in a header, an environment variable and a
// message: printable ASCII without spaces.
func checkPlaceholder(s string) error {
	if s == "" || len(s) > maxPlaceholder {
		return fmt.Errorf("a placeholder has 1 to %d characters", maxPlaceholder)
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return fmt.Errorf("a placeholder is printable ASCII without spaces")
		}
	}
	return nil
}
