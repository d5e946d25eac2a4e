package egress

import (
	"net/netip"
)

// Reasons of a refusal, beside those of the ranges table.
const (
	reasonClosed  = "the gateway is stopping"
	reasonAddress = "not an address"
	reasonPort    = "port 0"
	reasonUnknown = "unknown destinations are denied"
	reasonTunnel  = "the tunnel's own addresses"
	reasonOwn     = "the gateway's own address"
	reasonUnsure  = "the gateway's own addresses could not be read"
)

// origin is who chose a destination.
type origin struct {
	policy  bool           // an endpoint of the policy: unknown = "deny" does not apply
	literal netip.AddrPort // the policy named exactly this address; exempt
}

var (
	byAgent  = origin{}
	byPolicy = origin{policy: true}
)

// ruleset is Rules in the form they are judged by. Immutable.
type ruleset struct {
	allow       []netip.Prefix
	exact       map[netip.AddrPort]struct{}
	tunnel      []netip.Prefix
	own         map[netip.Addr]struct{}
	denyUnknown bool
	resolver    *resolver
}

func compile(r Rules) *ruleset {
	rs := &ruleset{
		allow:       canonicalPrefixes(r.Allow),
		exact:       make(map[netip.AddrPort]struct{}, len(r.AllowExact)),
		tunnel:      canonicalPrefixes(r.Tunnel),
		own:         make(map[netip.Addr]struct{}, len(r.Own)),
		denyUnknown: r.DenyUnknown,
	}
	for _, ap := range r.AllowExact {
		rs.exact[exactKey(ap)] = struct{}{}
	}
	for _, a := range r.Own {
		rs.own[canonical(a)] = struct{}{}
	}
	return rs
}

// canonical is the form addresses are compared in: v4-mapped addresses are the
// IPv4 address (the kernel sends the same packet), and a zone only says through
// which interface.
func canonical(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// exactKey is canonical, except that the zone stays: an exemption for one link
// is none for another.
func exactKey(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// canonicalPrefixes masks the prefixes and turns those within ::ffff:0:0/96
// into IPv4 ones. Invalid ones are left out: as an allowance they allow nothing.
func canonicalPrefixes(in []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(in))
	for _, p := range in {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if p.IsValid() {
			out = append(out, p.Masked())
		}
	}
	return out
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// judge returns why address is refused to who, or nil.
func (d *Dialer) judge(address netip.AddrPort, who origin) *Refused {
	rs := d.rules.Load()
	reason := ""
	switch {
	case rs == nil:
		reason = reasonClosed
	case !address.Addr().IsValid():
		reason = reasonAddress
	case address.Port() == 0:
		reason = reasonPort
	case who.policy && exactKey(address) == who.literal:
		return nil
	case rs.denyUnknown && !who.policy:
		reason = reasonUnknown
	default:
		if _, ok := rs.exact[exactKey(address)]; ok {
			return nil
		}
		return d.judgeAddr(address.Addr(), who).at(address)
	}
	return &Refused{Address: address, Reason: reason}
}

// judgeAddr returns why a is refused to who whatever the port, or nil.
func (d *Dialer) judgeAddr(a netip.Addr, who origin) *Refused {
	rs := d.rules.Load()
	reason := ""
	switch {
	case rs == nil:
		reason = reasonClosed
	case !a.IsValid():
		reason = reasonAddress
	case rs.denyUnknown && !who.policy:
		reason = reasonUnknown
	default:
		// a is reachable if every address a packet to it may end up at is.
		e := embedded(canonical(a))
		for _, x := range e.all() {
			if reason = d.refuses(rs, x); reason != "" {
				break
			}
		}
	}
	if reason == "" {
		return nil
	}
	return &Refused{Address: netip.AddrPortFrom(a, 0), Reason: reason}
}

// refuses judges one canonical address, taken literally; "" allows.
func (d *Dialer) refuses(rs *ruleset, a netip.Addr) string {
	reason, private := classify(a)
	if reason != "" && !private {
		return reason
	}
	if contains(rs.tunnel, a) {
		return reasonTunnel
	}
	if _, ok := rs.own[a]; ok {
		return reasonOwn
	}
	if private && !contains(rs.allow, a) {
		return reason
	}
	return d.own.refuses(a)
}

// at completes a refusal with the port that was asked for; nil stays nil.
func (r *Refused) at(address netip.AddrPort) *Refused {
	if r != nil {
		r.Address = address
	}
	return r
}
