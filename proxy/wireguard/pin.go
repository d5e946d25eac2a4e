package wireguard

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
)

// A peer's packets come from its pin, a few addresses, or from an impostor: the
// join credential, or the keys of a session, are in other hands, or the agent
// host has moved, which nobody has approved. What is done about a packet depends
// on where it comes from, which anybody can write into a datagram, and on whether
// it is authentic, which only the WireGuard device can tell:
//
//   - from inside the pin: the device's business;
//   - from outside, and of no session and no peer, forged, or recorded earlier:
//     it disappears, and nobody is blamed;
//   - from outside and authentic: the peer has deviated. Nothing of it goes any
//     further in either direction, its connections are aborted, and
//     Config.Deviated is told.
//
// watchedbind.go sees where packets come from and where they go, handshake.go says whose
// an initiation is and how old, suspect.go finds out about the others.

// maxPin is how many addresses a pin has at most: of both families, as seen
// over TCP and as seen over UDP.
const maxPin = 4

// Timestamp is the TAI64N label of a handshake initiation, from the agent host's
// clock (section 5.4.2 of the WireGuard paper). The zero Timestamp is before all
// others.
type Timestamp [12]byte

// Time is what t says, to the second.
func (t Timestamp) Time() time.Time {
	const atEpoch = 1<<62 + 10 // as the WireGuard implementations have it, without leap seconds
	return time.Unix(int64(binary.BigEndian.Uint64(t[:])-atEpoch), 0).UTC()
}

// After reports whether t is later than u.
func (t Timestamp) After(u Timestamp) bool { return bytes.Compare(t[:], u[:]) > 0 }

// Deviation is an authentic packet from outside its peer's pin.
type Deviation struct {
	PublicKey [32]byte
	From      netip.Addr
	Proof     string // what kind of packet, for the operator
}

// Handshake is an authentic initiation, newer than all before, from inside the
// pin.
type Handshake struct {
	PublicKey [32]byte
	From      netip.Addr // in the pin, or learnt: see Peer.Learn
	Timestamp Timestamp
}

// pinning is what the tunnel knows of where a peer's packets come from.
type pinning struct {
	allowed  atomic.Pointer[[]netip.Addr]
	deviated atomic.Bool // for good: until SetPeers makes another peer of it

	mu     sync.Mutex
	learn  bool          // guarded by mu
	learnt netip.Addr    // that its first handshake added; guarded by mu
	newest Timestamp     // guarded by mu
	path   conn.Endpoint // where the latest good handshake came from; guarded by mu

	warned atomic.Bool // of a clock that went back

	probing  atomic.Bool // a probe is under way, see suspect.go
	suspects inside      // of packets that came from outside the pin
}

// allows reports whether packets may come from addr and go there.
func (p *pinning) allows(addr netip.Addr) bool {
	allowed := p.allowed.Load()
	return allowed != nil && slices.Contains(*allowed, addr)
}

// pin sets what SetPeers says.
func (p *pinning) pin(config Peer) {
	allowed := make([]netip.Addr, 0, maxPin)
	for _, addr := range config.Pin {
		allowed = append(allowed, plainAddr(addr))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.learn = config.Learn && !p.learnt.IsValid()
	// Whoever says Learn has not heard yet of what was learnt.
	if config.Learn && p.learnt.IsValid() && len(allowed) < maxPin && !slices.Contains(allowed, p.learnt) {
		allowed = append(allowed, p.learnt)
	}
	p.allowed.Store(&allowed)
	if config.Newest.After(p.newest) {
		p.newest = config.Newest
	}
}

// meet decides about an authentic initiation from addr.
func (p *pinning) meet(addr netip.Addr, at Timestamp, path conn.Endpoint) standing {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !at.After(p.newest):
		return recorded
	case !p.allows(addr) && !p.take(addr):
		return outside
	}
	p.newest, p.path, p.learn = at, path, false
	return welcome
}

// take adds addr to the pin where this is the peer's first handshake, which may
// show another address than its TCP connections did. mu is held.
func (p *pinning) take(addr netip.Addr) bool {
	allowed := *p.allowed.Load()
	if !p.learn || len(allowed) >= maxPin || !slices.ContainsFunc(allowed, func(a netip.Addr) bool { return a.Is4() == addr.Is4() }) {
		return false
	}
	next := append(slices.Clone(allowed), addr)
	p.allowed.Store(&next)
	p.learnt = addr
	return true
}

// succeed begins where the peer of an earlier life ended: what that one has
// answered is a recording for this one.
func (p *pinning) succeed(before *pinning) {
	before.mu.Lock()
	newest := before.newest
	before.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.newest = newest
}

// lead sets the path that is known from before the first handshake.
func (p *pinning) lead(path conn.Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.path == nil {
		p.path = path
	}
}

// newestMet is the timestamp of the newest good initiation.
func (p *pinning) newestMet() Timestamp {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.newest
}

// lastPath is where the latest good handshake came from, or nil.
func (p *pinning) lastPath() conn.Endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.path
}

// standing is what became of an initiation. The zero value refuses.
type standing int

const (
	unknown  standing = iota // of nobody here
	recorded                 // not newer than what this peer has sent before
	outside                  // authentic, from outside the pin
	welcome
)

// plainAddr is an address as pins have it: IPv4 as such, without a zone.
func plainAddr(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// deviate ends a peer. It does not block: the device's goroutines call it.
func (t *Tunnel) deviate(p *peer, from netip.Addr, proof string) {
	if !p.deviated.CompareAndSwap(false, true) {
		return
	}
	t.counters.deviations.Add(1)
	p.cancel()
	t.tasks.Go(func() {
		t.abortConnections(func(addr netip.Addr) bool { return t.peers.Load().find(addr) == p })
		if t.cfg.Deviated != nil {
			defer t.contain("Deviated")
			t.cfg.Deviated(Deviation{PublicKey: p.key, From: from, Proof: proof})
		}
	})
}
