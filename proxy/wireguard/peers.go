package wireguard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/device"

	"github.com/clawpatrol/clawpatrol/secret"
)

// Limits of one peer.
const (
	icmpRate  = 100 // ICMP errors a second (RFC 4443 section 2.4 (f)); netstack's own limiter is stack-wide
	icmpBurst = 50

	// Fragments a second. Netstack's reassembly memory (4 MiB, oldest out first)
	// is shared by all peers; at this rate one needs seconds to fill it, while a
	// whole datagram arrives within milliseconds.
	fragmentRate  = 500
	fragmentBurst = 512
)

// Peer is one registration's end.
type Peer struct {
	PublicKey    [32]byte
	PresharedKey secret.Secret
	Prefixes     []netip.Prefix // AllowedIPs; limits are counted per peer
	Endpoint     netip.AddrPort // last known; a handshake is started when the peer is added with one in its pin

	// Pin is where the peer's packets may come from, at most four addresses: one
	// that is empty allows none. With Learn the first handshake may come from
	// elsewhere, in a family that the pin has, and adds its address.
	Pin   []netip.Addr
	Learn bool

	// Newest is the timestamp of the newest good initiation that Config.Handshake
	// was told of: what is not newer is a recording.
	Newest Timestamp

	// Life counts how often the peer was let in again. One that has deviated stays
	// out until it changes.
	Life int
}

// peer is the living state of a Peer from SetPeers to SetPeers.
type peer struct {
	key    [32]byte
	ctx    context.Context // ends when the peer is removed
	cancel context.CancelFunc

	icmp      *rate.Limiter
	fragments *rate.Limiter

	making int          // TCP connections in the making; guarded by attempts.mu
	open   atomic.Int32 // connections that netstack has not done with yet

	inside  inside // see transit.go
	pinning        // see pin.go
	macKey  [32]byte

	commonOnce   sync.Once
	commonSecret func() []byte // with the gateway's key; nil where the peer's is no good

	// See session.go; times in nanoseconds since start.
	sessionUntil atomic.Int64
	staged       atomic.Int32
	lastStaged   atomic.Int64
}

// peerTable maps tunnel addresses to peers. It is immutable.
type peerTable struct {
	configs  map[[32]byte]Peer
	peers    map[[32]byte]*peer
	byPrefix map[netip.Prefix]*peer
	pins     map[netip.Addr]struct{} // all peers', but for what was learnt since
	bits4    []int                   // distinct prefix lengths in use
	bits6    []int
}

func newPeerTable(configs map[[32]byte]Peer) *peerTable {
	return &peerTable{
		configs:  configs,
		peers:    make(map[[32]byte]*peer, len(configs)),
		byPrefix: make(map[netip.Prefix]*peer, 2*len(configs)),
		pins:     make(map[netip.Addr]struct{}, len(configs)),
	}
}

func (t *peerTable) add(p *peer, config Peer) {
	t.peers[p.key] = p
	for _, addr := range *p.allowed.Load() {
		t.pins[addr] = struct{}{}
	}
	for _, prefix := range config.Prefixes {
		t.byPrefix[prefix] = p
		bits := &t.bits6
		if prefix.Addr().Is4() {
			bits = &t.bits4
		}
		if !slices.Contains(*bits, prefix.Bits()) {
			*bits = append(*bits, prefix.Bits())
		}
	}
}

// find returns the peer that owns a tunnel address, or nil. Prefixes do not
// overlap, so at most one length matches.
func (t *peerTable) find(addr netip.Addr) *peer {
	bits := t.bits6
	if addr.Is4() {
		bits = t.bits4
	}
	for _, n := range bits {
		if prefix, err := addr.Prefix(n); err == nil {
			if p := t.byPrefix[prefix]; p != nil {
				return p
			}
		}
	}
	return nil
}

// pinned reports whether addr is in some peer's pin.
func (t *peerTable) pinned(addr netip.Addr) bool {
	_, ok := t.pins[addr]
	return ok
}

// addressee returns the peer that a handshake message of the gateway's is for, or
// nil. It tries them all, at less than a microsecond each.
func (t *peerTable) addressee(message []byte) *peer {
	for _, p := range t.peers {
		if addressedTo(message, &p.macKey) {
			return p
		}
	}
	return nil
}

// checkPeers returns the peers by key with their prefixes masked. The error
// names the peer by its public key.
func (t *Tunnel) checkPeers(list []Peer) (map[[32]byte]Peer, error) {
	type claim struct {
		prefix netip.Prefix
		key    [32]byte
	}
	var claims []claim
	configs := make(map[[32]byte]Peer, len(list))
	for _, p := range list {
		if p.PublicKey == ([32]byte{}) || p.PublicKey == t.identity.public {
			return nil, fmt.Errorf("peer %x: not a public key of an agent host", p.PublicKey)
		}
		if _, ok := configs[p.PublicKey]; ok {
			return nil, fmt.Errorf("peer %x: listed twice", p.PublicKey)
		}
		if !p.PresharedKey.IsZero() && len(p.PresharedKey.Reveal()) != device.NoisePresharedKeySize {
			return nil, fmt.Errorf("peer %x: preshared key must be %d bytes", p.PublicKey, device.NoisePresharedKeySize)
		}
		if len(p.Pin) > maxPin {
			return nil, fmt.Errorf("peer %x: more than %d addresses in its pin", p.PublicKey, maxPin)
		}
		if !slices.ContainsFunc(p.Pin, func(a netip.Addr) bool { return plainAddr(a) == plainAddr(p.Endpoint.Addr()) }) {
			p.Endpoint = netip.AddrPort{} // from before the pin was what it is
		}
		p.Prefixes = slices.Clone(p.Prefixes)
		for i, prefix := range p.Prefixes {
			if !prefix.IsValid() || prefix.Addr().Is4In6() {
				return nil, fmt.Errorf("peer %x: prefix %q is not valid", p.PublicKey, prefix)
			}
			p.Prefixes[i] = prefix.Masked()
			claims = append(claims, claim{p.Prefixes[i], p.PublicKey})
		}
		configs[p.PublicKey] = p
	}
	// Sorted by first address and length, a prefix that overlaps another one
	// comes directly after one that it overlaps.
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	for i := 1; i < len(claims); i++ {
		a, b := claims[i-1], claims[i]
		if a.prefix.Overlaps(b.prefix) {
			return nil, fmt.Errorf("peer %x: prefix %v overlaps %v of peer %x", b.key, b.prefix, a.prefix, a.key)
		}
	}
	return configs, nil
}

// SetPeers makes exactly these the tunnel's peers: peers that stay keep their
// sessions, peers that go are torn down with their connections, of which their
// agent hosts hear nothing. A list that is not valid (a key twice, overlapping
// prefixes) changes nothing. A peer that the WireGuard device refuses is left
// out and named in the error; the others are set.
func (t *Tunnel) SetPeers(list []Peer) error {
	configs, err := t.checkPeers(list)
	if err != nil {
		return fmt.Errorf("setting peers: %w", err)
	}
	t.peersMu.Lock()
	defer t.peersMu.Unlock()
	if t.ctx.Err() != nil {
		return errors.New("setting peers: tunnel is closed")
	}

	old := t.peers.Load()
	next, staying := newPeerTable(configs), newPeerTable(configs)
	for key, config := range configs {
		before := old.peers[key]
		p := before
		if before == nil || old.configs[key].Life != config.Life {
			p = t.newPeer(key)
			if before != nil {
				p.succeed(&before.pinning)
			}
		}
		p.pin(config)
		next.add(p, config)
		if p == before {
			staying.add(p, config)
		}
	}
	// The tables first: what was removed is refused from here on, and what is
	// added is known before its first packet can arrive. Between the two nobody
	// has the place of a peer that begins another life: the device may still
	// have packets of the one before, from addresses that are not its pin any more.
	t.peers.Store(staying)

	var errs []error
	for key, p := range old.peers {
		if next.peers[key] == p {
			continue
		}
		p.cancel()
		t.link.transit.sessions.forget(p)
		if err := t.configure(append(hexLine("public_key", key[:]), "remove=true\n"...)); err != nil {
			errs = append(errs, fmt.Errorf("removing peer %x: %w", key, err))
		}
	}
	t.peers.Store(next)
	for key, config := range configs {
		before := old.configs[key]
		stays := old.peers[key] == next.peers[key]
		if stays && before.PresharedKey.Equal(config.PresharedKey) && slices.Equal(before.Prefixes, config.Prefixes) {
			continue
		}
		if !stays && config.Endpoint.IsValid() {
			if path, err := t.link.bind.ParseEndpoint(config.Endpoint.String()); err == nil {
				next.peers[key].lead(path)
			}
		}
		if err := t.configure(peerText(config, !stays)); err != nil {
			errs = append(errs, fmt.Errorf("adding peer %x: %w", key, err))
			continue
		}
		if !stays && config.Endpoint.IsValid() {
			if p := t.dev.LookupPeer(key); p != nil {
				// A failure is logged by the device, which then tries again.
				_ = p.SendHandshakeInitiation(false)
			}
		}
	}
	t.abortConnections(func(addr netip.Addr) bool {
		p := next.find(addr)
		return p == nil || p != old.find(addr)
	})
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("setting peers: %w", err)
	}
	return nil
}

func (t *Tunnel) newPeer(key [32]byte) *peer {
	p := &peer{
		key:       key,
		macKey:    macKey(key),
		icmp:      rate.NewLimiter(icmpRate, icmpBurst),
		fragments: newFragmentLimiter(),
	}
	p.ctx, p.cancel = context.WithCancel(t.ctx)
	return p
}

func newFragmentLimiter() *rate.Limiter { return rate.NewLimiter(fragmentRate, fragmentBurst) }

// PeerStats is what the tunnel knows of a peer.
type PeerStats struct {
	Endpoint          netip.AddrPort // zero while unknown
	LastHandshake     time.Time      // zero before the first
	BytesIn, BytesOut uint64         // of WireGuard's own messages, since the peer was added
}

// Stats returns every peer's, by public key.
func (t *Tunnel) Stats() (map[[32]byte]PeerStats, error) {
	state, err := t.inspect()
	if err != nil {
		return nil, err
	}
	table := t.peers.Load()
	for key, s := range state.peers {
		// The device's may be where a packet came from that it should not have.
		if p := table.peers[key]; p == nil || !p.allows(plainAddr(s.Endpoint.Addr())) {
			s.Endpoint = netip.AddrPort{}
			state.peers[key] = s
		}
	}
	return state.peers, nil
}
