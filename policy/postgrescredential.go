package policy

import (
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
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
		cred.Databases = c.names(v, "databases", maxDatabases, c.databaseName)
	}
	cred.MapMismatch = s.text("mismatch", refuseMismatch) == mapMismatch
	if v, ok := s.has("read_only"); ok {
		cred.ReadOnly = v.flag
	}
}

// databaseName wants what the start-up message carries as one (a string without a
// NUL), and a log line as a word of it.
func (c *compiler) databaseName(s string, rng hcl.Range, attribute string) bool {
	switch {
	case s == "" || len(s) > maxDatabase:
		c.errorf(rng, "Invalid "+attribute, "A database's name has 1 to %d bytes.", maxDatabase)
	case strings.ContainsFunc(s, unicode.IsControl):
		c.errorf(rng, "Invalid "+attribute, "A database's name has no control characters.")
	default:
		return true
	}
	return false
}
