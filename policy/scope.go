package policy

// index finds the endpoint that owns a host and port, whoever asks. It is made
// once per policy and shared by all scopes.
//
// Ownership is the policy's, not the registration's: an exact host belongs to
// its endpoint even for a registration with a credential for a wildcard beside
// it only. A wildcard credential is never sent to a host that the operator gave
// to another endpoint.
type index struct {
	exact map[Host]*Endpoint
	wild  map[Host]*Endpoint  // Name is the parent: "example.com" for "*.example.com"
	ports map[string][]uint16 // exact name -> its ports
	below map[string][]uint16 // parent -> the ports of its wildcard
}

func newIndex(endpoints []*Endpoint) *index {
	x := &index{
		exact: map[Host]*Endpoint{},
		wild:  map[Host]*Endpoint{},
		ports: map[string][]uint16{},
		below: map[string][]uint16{},
	}
	for _, e := range endpoints {
		for _, h := range e.Hosts {
			owners, ports := x.exact, x.ports
			if h.isWildcard() {
				owners, ports = x.wild, x.below
				h.Name = h.Name[len("*."):]
			}
			if _, taken := owners[h]; !taken {
				owners[h] = e
				ports[h.Name] = append(ports[h.Name], h.Port)
			}
		}
	}
	return x
}

// owner returns the endpoint that owns a canonical host name at port, and
// whether through a wildcard.
func (x *index) owner(name string, port uint16) (e *Endpoint, wildcard bool) {
	if e := x.exact[Host{name, port}]; e != nil {
		return e, false
	}
	if parent, ok := parentName(name); ok {
		return x.wild[Host{parent, port}], true
	}
	return nil, false
}

// Scope is what a set of profiles reaches. It is immutable and safe for
// concurrent use. The zero Scope and a nil *Scope reach nothing.
type Scope struct {
	index   *index
	reach   map[*Endpoint]reach
	missing string // an assigned profile that the policy does not have

	ports map[portOf]bool
}

// reach is what a scope has for one endpoint.
type reach struct {
	all  []*Credential // at the endpoint's exact hosts
	wild []*Credential // at what its wildcards match: those that say wildcard = true
}

type portOf struct {
	endpointType string
	port         uint16
}

// unnamed stands for a profile with an empty name, which no policy has.
const unnamed = "(unnamed)"

// Scope compiles what the named profiles reach together. Unknown names are
// remembered: see Match.MissingProfile.
func (p *Policy) Scope(profiles []string) *Scope {
	if p == nil {
		return &Scope{}
	}
	s := &Scope{index: p.index, reach: map[*Endpoint]reach{}, ports: map[portOf]bool{}}
	if s.index == nil {
		s.index = newIndex(p.Endpoints)
	}
	granted := map[*Credential]bool{}
	for _, name := range profiles {
		pr := p.Profile(name)
		if pr == nil {
			if s.missing == "" {
				s.missing = name
			}
			if s.missing == "" {
				s.missing = unnamed
			}
			continue
		}
		for _, c := range pr.Credentials {
			granted[c] = true
		}
	}
	for _, c := range p.Credentials {
		if !granted[c] || c.Endpoint == nil {
			continue
		}
		r := s.reach[c.Endpoint]
		r.all = append(r.all, c)
		if c.Wildcard {
			r.wild = append(r.wild, c)
		}
		s.reach[c.Endpoint] = r
	}
	for _, e := range p.Endpoints {
		for _, h := range e.Hosts {
			if _, ok := s.at(e, h.isWildcard()); ok {
				s.ports[portOf{e.Type, h.Port}] = true
			}
		}
	}
	return s
}

// at returns what the scope has for an endpoint at its exact or its wildcard
// hosts. With a missing profile every endpoint is in the scope, if only to say
// so.
func (s *Scope) at(e *Endpoint, wildcard bool) ([]*Credential, bool) {
	r := s.reach[e]
	list := r.all
	if wildcard {
		list = r.wild
	}
	return list, len(list) > 0 || s.missing != ""
}

// Match finds the endpoint at host and port, exact names before wildcards. host
// may be a name in any case, with or without a trailing dot, or an IP address.
// The credentials belong to the Scope: the caller must not change them.
func (s *Scope) Match(host string, port uint16) (Match, bool) {
	if s == nil || s.index == nil {
		return Match{}, false
	}
	name, ok := CanonicalHost(host)
	if !ok {
		return Match{}, false
	}
	e, wildcard := s.index.owner(name, port)
	if e == nil {
		return Match{}, false
	}
	credentials, ok := s.at(e, wildcard)
	if !ok {
		return Match{}, false
	}
	m := Match{Endpoint: e, Host: name, Port: port, Credentials: credentials[:len(credentials):len(credentials)]}
	if len(credentials) == 0 {
		m.MissingProfile = s.missing
	}
	return m, true
}

// HasHost reports whether any endpoint in the scope has this host, on whatever
// port: such names get virtual addresses.
func (s *Scope) HasHost(host string) bool {
	if s == nil || s.index == nil {
		return false
	}
	name, ok := CanonicalHost(host)
	if !ok {
		return false
	}
	ports := s.index.ports[name]
	parent, _ := parentName(name)
	for _, list := range [][]uint16{ports, s.index.below[parent]} {
		for _, port := range list {
			if e, wildcard := s.index.owner(name, port); e != nil {
				if _, ok := s.at(e, wildcard); ok {
					return true
				}
			}
		}
	}
	return false
}

// HasPort reports whether an endpoint of the given type in the scope has any
// host on port: there a TLS ClientHello may still select it.
func (s *Scope) HasPort(endpointType string, port uint16) bool {
	return s != nil && s.ports[portOf{endpointType, port}]
}
