package policy

// Scope is what a set of profiles reaches. It is immutable and safe for
// concurrent use. The zero Scope and a nil *Scope reach nothing.
type Scope struct{}

// Scope compiles what the named profiles reach together. Unknown names are
// remembered: see Match.MissingProfile.
func (p *Policy) Scope(profiles []string) *Scope { panic("policy: not built yet") }

// Match finds the endpoint at host and port, exact names before wildcards. host
// may be a name in any case, with or without a trailing dot, or an IP address.
func (s *Scope) Match(host string, port uint16) (Match, bool) { panic("policy: not built yet") }

// HasHost reports whether any endpoint in the scope has this host, on whatever
// port: such names get virtual addresses.
func (s *Scope) HasHost(host string) bool { panic("policy: not built yet") }

// HasPort reports whether an endpoint of the given type in the scope has any
// host on port: there a TLS ClientHello may still select it.
func (s *Scope) HasPort(endpointType string, port uint16) bool { panic("policy: not built yet") }
