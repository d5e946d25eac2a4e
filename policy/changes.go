package policy

import (
	"maps"
	"reflect"
)

// Changes is what differs between two policies. Lists are of references, in the
// file order of the policy that has them.
type Changes struct {
	Endpoints   Difference
	Credentials Difference
	Profiles    Difference

	// Settings are the blocks dns and egress and the attribute gateway.enrolment,
	// as far as they differ: they take effect with the policy.
	Settings []string
	// AtStart are the blocks gateway and wireguard, as far as they differ: they
	// take effect at the next start only.
	AtStart []string
	// Moved are the credentials whose secrets would go elsewhere; see Moved.
	Moved []string
}

// Difference is what differs among declarations of one kind.
type Difference struct {
	Added, Removed, Changed []string
}

// Empty reports whether nothing differs that takes effect with the policy.
func (c Changes) Empty() bool {
	none := func(d Difference) bool { return len(d.Added)+len(d.Removed)+len(d.Changed) == 0 }
	return none(c.Endpoints) && none(c.Credentials) && none(c.Profiles) && len(c.Settings) == 0
}

// Compare says what would change if next were in force instead of now.
func Compare(now, next *Policy) Changes {
	c := Changes{
		Endpoints: differ(now.Endpoints, next.Endpoints, (*Endpoint).Ref,
			func(a, b *Endpoint) bool { return a.Fingerprint == b.Fingerprint }),
		Credentials: differ(now.Credentials, next.Credentials, (*Credential).Ref,
			func(a, b *Credential) bool { return a.Fingerprint == b.Fingerprint }),
		Profiles: differ(now.Profiles, next.Profiles, func(p *Profile) string { return p.Name },
			func(a, b *Profile) bool { return a.Default == b.Default && maps.Equal(a.refs(), b.refs()) }),
	}
	was, is := now.Gateway, next.Gateway
	for _, s := range []struct {
		name    string
		differs bool
		list    *[]string
	}{
		{"gateway.enrolment", was.Enrolment != is.Enrolment, &c.Settings},
		{"dns", !reflect.DeepEqual(now.DNS, next.DNS), &c.Settings},
		{"egress", !reflect.DeepEqual(now.Egress, next.Egress), &c.Settings},
		{"gateway", !sameButEnrolment(was, is), &c.AtStart},
		{"wireguard", !reflect.DeepEqual(now.WireGuard, next.WireGuard), &c.AtStart},
	} {
		if s.differs {
			*s.list = append(*s.list, s.name)
		}
	}
	had := map[string]bool{}
	for _, h := range now.Credentials {
		had[h.Ref()] = true
	}
	for _, m := range Moved(now, next) {
		if had[m.Ref()] { // others are told of as added
			c.Moved = append(c.Moved, m.Ref())
		}
	}
	return c
}

func sameButEnrolment(a, b Gateway) bool {
	a.Enrolment = b.Enrolment
	return reflect.DeepEqual(a, b)
}

// refs is the set of a profile's credentials: their order means nothing.
func (p *Profile) refs() map[string]bool {
	set := map[string]bool{}
	for _, c := range p.Credentials {
		set[c.Ref()] = true
	}
	return set
}

func differ[T any](now, next []T, ref func(T) string, same func(a, b T) bool) Difference {
	var d Difference
	before := map[string]T{}
	for _, a := range now {
		before[ref(a)] = a
	}
	after := map[string]bool{}
	for _, b := range next {
		after[ref(b)] = true
		switch a, ok := before[ref(b)]; {
		case !ok:
			d.Added = append(d.Added, ref(b))
		case !same(a, b):
			d.Changed = append(d.Changed, ref(b))
		}
	}
	for _, a := range now {
		if !after[ref(a)] {
			d.Removed = append(d.Removed, ref(a))
		}
	}
	return d
}

// Moved lists next's credentials that now does not have, or has with another
// endpoint, or with the same one otherwise set up: a secret that is stored for
// one goes to other hosts than before, or proves them otherwise.
func Moved(now, next *Policy) []*Credential {
	before := make(map[string]*Endpoint, len(now.Credentials))
	for _, c := range now.Credentials {
		before[c.Ref()] = c.Endpoint
	}
	var moved []*Credential
	for _, c := range next.Credentials {
		if was := before[c.Ref()]; was == nil || was.Ref() != c.Endpoint.Ref() || was.Fingerprint != c.Endpoint.Fingerprint {
			moved = append(moved, c)
		}
	}
	return moved
}
