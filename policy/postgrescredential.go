package policy

import (
	"slices"
	"strings"
	"unicode"
)

const (
	maxDatabases = 64  // entries of databases
	maxDatabase  = 256 // bytes of one; PostgreSQL itself has 63, what stands before it may take more
)

// The words of mismatch.
const (
	refuseMismatch = "refuse"
	mapMismatch    = "map"
)

var postgresCredentialTypes = []credentialType{
	{
		name:     "postgres",
		endpoint: "postgres",
		slots: []Slot{
			{Name: slotPassword, Optional: true},
			{Name: slotClientCertificate, Optional: true},
			{Name: slotClientKey, Optional: true},
		},
		together: true,
		check:    (*Credential).checkPostgres,
		build:    (*compiler).postgresCredential,
		schema: schema{attributes: slices.Concat(commonCredential, []attribute{
			{name: "user", kind: stringKind, required: true},
			{name: "databases", kind: stringListKind, required: true},
			{name: "mismatch", kind: stringKind, oneOf: []string{refuseMismatch, mapMismatch}},
			{name: "read_only", kind: boolKind},
		})},
	},
}

// postgresCredential reads what only this type has.
func (c *compiler) postgresCredential(cred *Credential, s section) {
	if v, ok := s.has("user"); ok && c.userName(v.text, v.rng, "user") {
		cred.User = v.text
	}
	if v, ok := s.has("databases"); ok {
		cred.Databases = c.databases(v)
	}
	cred.MapMismatch = s.text("mismatch", refuseMismatch) == mapMismatch
	if v, ok := s.has("read_only"); ok {
		cred.ReadOnly = v.flag
	}
}

func (c *compiler) databases(v value) []string {
	switch {
	case len(v.items) == 0:
		c.errorf(v.rng, "Invalid databases", "There is at least one name in databases.")
	case len(v.items) > maxDatabases:
		c.errorf(v.rng, "Too many databases", "There are at most %d names in databases; here are %d.", maxDatabases, len(v.items))
		return nil
	}
	var names []string
	for _, item := range v.items {
		switch {
		case item.text == "" || len(item.text) > maxDatabase:
			c.errorf(item.rng, "Invalid databases", "A database's name has 1 to %d bytes.", maxDatabase)
		case strings.ContainsFunc(item.text, unicode.IsControl):
			c.errorf(item.rng, "Invalid databases", "A database's name has no control characters.")
		case slices.Contains(names, item.text):
			c.errorf(item.rng, "Listed twice", "%s is in the list already.", clip(item.text))
		default:
			names = append(names, item.text)
		}
	}
	return names
}
