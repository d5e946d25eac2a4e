package registry

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Sizes of what a registration gets of each subnet.
const (
	rangeBits4 = 28
	rangeBits6 = 64

	// maxVirtual bounds the virtual addresses of one registration.
	maxVirtual = 4096
)

// addressPlan divides the two tunnel subnets. Each is cut into ranges (/28,
// /64) numbered from 0. Range 0 is the gateway's own; registrations get the
// same number in both families from 1 up to the last quarter, which holds the
// virtual addresses.
type addressPlan struct {
	subnet4, subnet6   netip.Prefix
	virtual4, virtual6 netip.Prefix // the last quarters
	ranges             int          // slots 1 to ranges-1 are for registrations
	virtuals           int          // virtual positions 1 to virtuals
}

// newAddressPlan checks and divides one IPv4 and one IPv6 prefix, in any order.
func newAddressPlan(subnets []netip.Prefix) (addressPlan, error) {
	var p addressPlan
	for _, s := range subnets {
		switch {
		case !s.IsValid() || s != s.Masked():
			return p, fmt.Errorf("%s is not a network prefix", s)
		case s.Addr().Is4() && !p.subnet4.IsValid():
			p.subnet4 = s
		case s.Addr().Is6() && !s.Addr().Is4In6() && !p.subnet6.IsValid():
			p.subnet6 = s
		default:
			return p, fmt.Errorf("%s is a second prefix of its family", s)
		}
	}
	// Four ranges are the least that leave one for a registration; /8 and /32
	// keep the numbers of ranges within an int and memory reasonable.
	if !p.subnet4.IsValid() || p.subnet4.Bits() < 8 || p.subnet4.Bits() > rangeBits4-2 {
		return p, fmt.Errorf("one IPv4 prefix between /8 and /%d is required", rangeBits4-2)
	}
	if !p.subnet6.IsValid() || p.subnet6.Bits() < 32 || p.subnet6.Bits() > rangeBits6-2 {
		return p, fmt.Errorf("one IPv6 prefix between /32 and /%d is required", rangeBits6-2)
	}
	quarters4 := 1 << (rangeBits4 - p.subnet4.Bits() - 2)
	quarters6 := 1 << (rangeBits6 - p.subnet6.Bits() - 2)
	p.ranges = 3 * min(quarters4, quarters6)
	p.virtual4 = netip.PrefixFrom(p.nth4(3*quarters4), p.subnet4.Bits()+2)
	p.virtual6 = netip.PrefixFrom(p.nth6(3*quarters6), p.subnet6.Bits()+2)
	// Position 0 would be IPv6's subnet-router anycast address (RFC 4291,
	// section 2.6.1).
	p.virtuals = min(maxVirtual, 1<<(32-p.virtual4.Bits())-1)
	return p, nil
}

// nth4 is the first address of the IPv4 range with this number.
func (p addressPlan) nth4(slot int) netip.Addr {
	return add4(p.subnet4.Addr(), uint32(slot)<<(32-rangeBits4))
}

// nth6 is the first address of the IPv6 range with this number.
func (p addressPlan) nth6(slot int) netip.Addr {
	b := p.subnet6.Addr().As16()
	high := binary.BigEndian.Uint64(b[:8]) + uint64(slot)
	binary.BigEndian.PutUint64(b[:8], high)
	return netip.AddrFrom16(b)
}

// prefixes are the ranges of a registration's slot.
func (p addressPlan) prefixes(slot int) (v4, v6 netip.Prefix) {
	return netip.PrefixFrom(p.nth4(slot), rangeBits4), netip.PrefixFrom(p.nth6(slot), rangeBits6)
}

// virtualPair is the pair of virtual addresses at this position.
func (p addressPlan) virtualPair(position int) (v4, v6 netip.Addr) {
	return add4(p.virtual4.Addr(), uint32(position)), add6(p.virtual6.Addr(), uint64(position))
}

// virtualPosition undoes virtualPair; false for addresses that are none.
func (p addressPlan) virtualPosition(a netip.Addr) (int, bool) {
	var n uint64
	switch {
	case p.virtual4.Contains(a):
		first, this := p.virtual4.Addr().As4(), a.As4()
		n = uint64(binary.BigEndian.Uint32(this[:]) - binary.BigEndian.Uint32(first[:]))
	case p.virtual6.Contains(a):
		first, this := p.virtual6.Addr().As16(), a.As16()
		if [8]byte(first[:8]) != [8]byte(this[:8]) {
			return 0, false
		}
		n = binary.BigEndian.Uint64(this[8:])
	}
	if n < 1 || n > uint64(p.virtuals) {
		return 0, false
	}
	return int(n), true
}

func add4(a netip.Addr, n uint32) netip.Addr {
	b := a.As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+n)
	return netip.AddrFrom4(b)
}

// add6 adds to the low 64 bits, which are zero in every base it is used with.
func add6(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+n)
	return netip.AddrFrom16(b)
}

// Resolvers returns the gateway's resolver addresses inside the tunnel: the
// first address of each subnet's first range.
func (db *DB) Resolvers() []netip.Addr {
	return []netip.Addr{add4(db.plan.nth4(0), 1), add6(db.plan.nth6(0), 1)}
}

// IsVirtual reports whether a lies in the virtual ranges.
func (db *DB) IsVirtual(a netip.Addr) bool {
	return db.plan.virtual4.Contains(a) || db.plan.virtual6.Contains(a)
}

// sourceKey is what counts as one source: an IPv4 address, or an IPv6 /64.
func sourceKey(a netip.Addr) netip.Prefix {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.WithZone("").Prefix(bits) // cannot fail: bits fits the family
	return p
}
