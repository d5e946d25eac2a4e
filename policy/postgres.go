package policy

import (
	"slices"
	"strconv"
	"strings"
)

const (
	maxOptions   = 64  // entries of options
	maxParameter = 128 // bytes of a run-time parameter's name: two identifiers (NAMEDATALEN) and a dot
)

// The words of tls.
const (
	verifyFull = "verify-full"
	disableTLS = "disable"
)

// Postgres is what only an endpoint of type "postgres" has.
type Postgres struct {
	DisableTLS  bool     // tls = "disable": plain TCP, to loopback only
	Options     []string // run-time parameters that agents may set in their startup message, besides the harmless ones; lower case
	Replication bool     // replication connections are allowed
	LogLiterals bool     // statements are logged as they are, not with their literals replaced
}

// identityParameters are run-time parameters that say who the session is: the
// credential's to say, so they are nobody's to allow.
var identityParameters = []string{"role", "session_authorization"}

// startupFields are words of the startup message that are not run-time
// parameters (PostgreSQL's documentation, 55.7).
var startupFields = []string{"user", "database", "options", "replication"}

// postgres reads what only this type has.
func (c *compiler) postgres(e *Endpoint, s section) {
	x := &Postgres{}
	e.Postgres = x
	if v, ok := s.has("tls"); ok && v.text == disableTLS {
		x.DisableTLS = true
		switch {
		case s.present["ca_file"]:
			c.errorf(v.rng, "Two answers", "ca_file says how to verify the server's certificate; with tls = %q there is none.", disableTLS)
		case !s.present["address"]:
			c.errorf(v.rng, "Invalid tls", "Without TLS nothing proves who answers: tls = %q needs an address on this machine, such as \"127.0.0.1:5432\".", disableTLS)
		case e.Address.IsValid() && !e.Address.Addr().IsLoopback():
			c.errorf(v.rng, "Invalid tls", "Without TLS nothing proves who answers: tls = %q needs a loopback address, and %s is another machine's.", disableTLS, e.Address)
		}
	}
	c.caFile(e, s)
	if v, ok := s.has("options"); ok {
		x.Options = c.runtimeParameters(v)
	}
	if v, ok := s.has("replication"); ok {
		x.Replication = v.flag
	}
	if v, ok := s.has("log_literals"); ok {
		x.LogLiterals = v.flag
	}
}

func (x *Postgres) fingerprint(fp fingerprint) {
	fp.add("disable tls", strconv.FormatBool(x.DisableTLS))
	fp.add("options", x.Options...)
	fp.add("replication", strconv.FormatBool(x.Replication))
	fp.add("log literals", strconv.FormatBool(x.LogLiterals))
}

// runtimeParameters reads the names of options: as PostgreSQL compares them, in
// lower case.
func (c *compiler) runtimeParameters(v value) []string {
	if len(v.items) > maxOptions {
		c.errorf(v.rng, "Too many options", "There are at most %d names in options; here are %d.", maxOptions, len(v.items))
		return nil
	}
	var names []string
	for _, item := range v.items {
		name := strings.ToLower(item.text)
		switch {
		case strings.Contains(name, "="):
			c.errorf(item.rng, "Invalid options", "A parameter's name stands here, without a value: which one is the agent's choice.")
		case !isParameter(name):
			c.errorf(item.rng, "Invalid options", "%q is not the name of a run-time parameter, such as \"statement_timeout\".", clip(item.text))
		case slices.Contains(identityParameters, name):
			c.errorf(item.rng, "Invalid options", "%s says who the session is, and that is the credential's to say.", name)
		case slices.Contains(startupFields, name):
			c.errorf(item.rng, "Invalid options", "%s is not a run-time parameter.", name)
		case slices.Contains(names, name):
			c.errorf(item.rng, "Listed twice", "%s is in the list already.", name)
		default:
			names = append(names, name)
		}
	}
	return names
}

// isParameter reports whether s, in lower case, is a run-time parameter's name:
// an identifier, or two with a dot between them for an extension's.
func isParameter(s string) bool {
	if len(s) > maxParameter {
		return false
	}
	class, name, extension := strings.Cut(s, ".")
	if !extension {
		return isParameterPart(s)
	}
	return isParameterPart(class) && isParameterPart(name) && !strings.HasPrefix(s, "_pq_.") // protocol extensions
}

func isParameterPart(s string) bool {
	return s != "" && !isDigit(s[0]) && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}
