// Package listener is what the gateway's two HTTP listeners have in common: who
// a source is, and how many connections it may hold.
package listener

import "net/netip"

// Source is what limits count by: an IPv4 address or an IPv6 /64, the least that
// one host has. ok is false for the zero Addr.
func Source(a netip.Addr) (source netip.Prefix, ok bool) {
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	return p, err == nil && a.IsValid()
}
