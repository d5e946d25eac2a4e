package policy

import (
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
)

const maxUsers = 64 // entries of users

// commonSSHCredential is what credentials for an endpoint of type "ssh" have.
// There is no env: no program reads a login's name from a variable.
var commonSSHCredential = []attribute{
	{name: "endpoint", kind: refKind, required: true},
	{name: "user", kind: stringKind},
	{name: "users", kind: stringListKind},
	{name: "placeholder", kind: stringKind},
	{name: "wildcard", kind: boolKind},
}

var sshCredentialTypes = []credentialType{
	{
		name:     "ssh_key",
		endpoint: "ssh",
		slots:    []Slot{{Name: slotPrivateKey}, {Name: slotPassphrase, Optional: true}, {Name: slotCertificate, Optional: true}},
		together: true,
		check:    (*Credential).checkSSHKey,
		build:    (*compiler).sshUser,
		schema:   schema{attributes: commonSSHCredential},
	},
	{
		name:     "ssh_password",
		endpoint: "ssh",
		slots:    []Slot{{Name: slotPassword}},
		build:    (*compiler).sshUser,
		schema:   schema{attributes: commonSSHCredential},
	},
}

// sshUser reads who to be at the endpoint: always the one, or one of a list that
// the agent chooses from. Nobody is everybody's: without either nothing says who.
func (c *compiler) sshUser(cred *Credential, s section) {
	switch {
	case !s.present["user"] && !s.present["users"]:
		c.errorf(s.header, "Missing attribute", "A credential of type %q needs \"user\", who to be at the endpoint, or \"users\", whom the agent may choose from.", cred.Type)
	case s.present["user"] && s.present["users"]:
		c.errorf(s.header, "Two answers", "user and users exclude each other: the one is always used, of the others the agent chooses.")
	}
	if v, ok := s.has("user"); ok && c.userName(v.text, v.rng, "user") {
		cred.User = v.text
	}
	if v, ok := s.has("users"); ok {
		cred.Users = c.names(v, "users", maxUsers, c.userName)
	}
}

// names reads a list of names, at least one and none twice. What is not valid is
// left out; valid has reported it.
func (c *compiler) names(v value, attribute string, most int, valid func(s string, rng hcl.Range, attribute string) bool) []string {
	switch {
	case len(v.items) == 0:
		c.errorf(v.rng, "Invalid "+attribute, "There is at least one name in %s.", attribute)
	case len(v.items) > most:
		c.errorf(v.rng, "Too many "+attribute, "There are at most %d names in %s; here are %d.", most, attribute, len(v.items))
		return nil
	}
	var names []string
	for _, item := range v.items {
		switch {
		case !valid(item.text, item.rng, attribute):
		case slices.Contains(names, item.text):
			c.errorf(item.rng, "Listed twice", "%s is in the list already.", clip(item.text))
		default:
			names = append(names, item.text)
		}
	}
	return names
}

// userName wants what SSH carries as a user name (RFC 4252, section 5: UTF-8),
// and Postgres as a role's.
func (c *compiler) userName(s string, rng hcl.Range, attribute string) bool {
	switch {
	case s == "" || len(s) > maxUsername:
		c.errorf(rng, "Invalid "+attribute, "A user name has 1 to %d bytes.", maxUsername)
	case strings.ContainsFunc(s, unicode.IsControl):
		c.errorf(rng, "Invalid "+attribute, "A user name has no control characters.")
	default:
		return true
	}
	return false
}

// answersTo reports whether an agent that logs in as name could mean c by it,
// whatever its placeholder is.
func (c *Credential) answersTo(name string) bool {
	return name != "" && (c.User == name || slices.Contains(c.Users, name))
}
