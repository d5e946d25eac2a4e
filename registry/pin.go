package registry

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Pin is where a registration's messages may come from: an address pair, and
// the pair that its datagrams have where a NAT gives them others. A zero Addr is
// a family the registration does not have, or no other address.
type Pin struct {
	IPv4, IPv6 netip.Addr // as proven over TCP
	UDP4, UDP6 netip.Addr // of the first handshake, or zero
}

// with returns the pin with a as the address of a's family.
func (p Pin) with(a netip.Addr) Pin {
	if a.Is4() {
		p.IPv4 = a
	} else {
		p.IPv6 = a
	}
	return p
}

// withUDP returns the pin with a as the address of the datagrams of a's family.
func (p Pin) withUDP(a netip.Addr) Pin {
	switch {
	case !a.IsValid() || p.Has(a):
	case a.Is4():
		p.UDP4 = a
	default:
		p.UDP6 = a
	}
	return p
}

// Has reports whether a is one of the pin's addresses. A zero Addr never is.
func (p Pin) Has(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsValid() && (a == p.IPv4 || a == p.IPv6 || a == p.UDP4 || a == p.UDP6)
}

// Addrs returns the pin's addresses, each once.
func (p Pin) Addrs() []netip.Addr {
	var addrs []netip.Addr
	for _, a := range []netip.Addr{p.IPv4, p.IPv6, p.UDP4, p.UDP6} {
		if a.IsValid() && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// within reports whether each address of the pin is the same in other, and one
// of them was proven over TCP.
func (p Pin) within(other Pin) bool {
	same := func(a, b netip.Addr) bool { return !a.IsValid() || a == b }
	return (p.IPv4.IsValid() || p.IPv6.IsValid()) &&
		same(p.IPv4, other.IPv4) && same(p.IPv6, other.IPv6) && same(p.UDP4, other.UDP4) && same(p.UDP6, other.UDP6)
}

// Deviation is an authentic message of a registration from outside its pin, or,
// while it is blocked, from anywhere.
type Deviation struct {
	From netip.Addr
	UDP  bool   // a WireGuard message; else a claim or poll over TCP
	What string // the kind of message, for operators: "a data packet"
}

// Deviate blocks a registration because of an authentic message from outside its
// pin, with the address as the reason. Where it is blocked already, the address
// is noted in Registration.Seen; so are, while it is blocked, those of messages
// from inside the pin. A message from inside the pin of a registration that is
// not blocked changes nothing. Like Block it holds where the disk refuses it.
func (db *DB) Deviate(ctx context.Context, id ID, d Deviation) error {
	from := d.From.Unmap().WithZone("")
	seen := func(r *record) Pin {
		if d.UDP {
			return r.Seen.withUDP(from)
		}
		return r.Seen.with(from)
	}
	// Whoever sends these decides how often: once noted, they must cost no lock.
	if r := db.Snapshot().byID[id]; r != nil && r.State == Blocked && seen(r) == r.Seen && !db.behind.Load() {
		return nil
	}
	return db.tighten(ctx, "blocking", id, func(_ *Snapshot, r *record, now time.Time) (bool, error) {
		switch {
		case r.State == Revoked:
			return false, fmt.Errorf("%w: the registration is revoked", ErrState)
		case !from.IsValid():
			return false, fmt.Errorf("%w: no source address", ErrInvalid)
		case r.State != Blocked && r.Pin.Has(from):
			return false, nil
		case r.State != Blocked:
			r.block(fmt.Sprintf("%s came from %s, which is outside the pin", d.What, from), now)
		}
		next := seen(r)
		changed := r.BlockedAt.Equal(now) || next != r.Seen || db.unsaved[id]
		r.Seen = next
		return changed, nil
	})
}
