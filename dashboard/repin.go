package dashboard

import (
	"net/netip"
	"slices"

	"github.com/clawpatrol/clawpatrol/registry"
)

// repinTo returns the pin that a page offers for a blocked registration instead
// of the one it has: where it has proven to be since. False where there is none,
// or nothing in it is new.
func repinTo(reg *registry.Registration) (registry.Pin, bool) {
	p := reg.Seen
	// Where its connections come from a new address, the datagram that was
	// outside the pin is older than they: a place it has left, or another host.
	// Should a NAT give its datagrams another address still, the next one shows.
	moved := func(a netip.Addr) bool { return a.IsValid() && !reg.Pin.Has(a) }
	if moved(p.IPv4) || p.UDP4 == p.IPv4 {
		p.UDP4 = netip.Addr{}
	}
	if moved(p.IPv6) || p.UDP6 == p.IPv6 {
		p.UDP6 = netip.Addr{}
	}
	elsewhere := slices.ContainsFunc(p.Addrs(), moved)
	return p, reg.State == registry.Blocked && elsewhere && (p.IPv4.IsValid() || p.IPv6.IsValid())
}

// inAndOut reports whether a registration was seen inside and outside its pin in
// one family, which a host that has moved is not.
func inAndOut(reg *registry.Registration) bool {
	in, out := map[bool]bool{}, map[bool]bool{}
	for _, a := range reg.Seen.Addrs() {
		if reg.Pin.Has(a) {
			in[a.Is4()] = true
		} else {
			out[a.Is4()] = true
		}
	}
	return in[true] && out[true] || in[false] && out[false]
}

// repinChoice is the pin that a blocked registration can be given instead.
type repinChoice struct {
	Pin       pinView
	Addresses []addressRow
	Remarks   []string     // as registrationView.PinRemarks
	Gone      []addressRow // of the pin it has, and not in this one
}

func (ro roster) repinChoice(reg *registry.Registration) *repinChoice {
	to, ok := repinTo(reg)
	if !ok {
		return nil
	}
	c := &repinChoice{Pin: viewPin(to), Addresses: addressRows(to, reg.Pin), Remarks: pinRemarks(to, ro.own)}
	for _, a := range addressRows(reg.Pin, to) {
		if a.New {
			c.Gone = append(c.Gone, a)
		}
	}
	return c
}
