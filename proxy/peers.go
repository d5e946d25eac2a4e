package proxy

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	// peerStatsEvery is how often the tunnel's view of the peers is persisted.
	peerStatsEvery = 2 * time.Second

	// lastPeerStats bounds the last time, while the gateway stops.
	lastPeerStats = 5 * time.Second

	// blockTimeout bounds how long storing a block may take.
	blockTimeout = 30 * time.Second
)

// Peers keeps the tunnel's peers and the registrations in step.
type Peers struct {
	db  *registry.DB
	log *slog.Logger

	mu    sync.Mutex
	shook map[[32]byte]wireguard.Handshake // the newest, not stored yet; guarded by mu
	lives map[[32]byte]int                 // how often a deviation turned out to be none; guarded by mu
	told  chan struct{}                    // holds one after there was another of either
}

// NewPeers makes the link between a registry and the tunnel whose Config gets
// Deviated and Handshake. A nil log discards.
func NewPeers(db *registry.DB, log *slog.Logger) *Peers {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Peers{db: db, log: log, shook: make(map[[32]byte]wireguard.Handshake), lives: make(map[[32]byte]int), told: make(chan struct{}, 1)}
}

// Deviated blocks the registration that a packet from outside its pin is proven
// to be of (I08). It is wireguard.Config's.
func (p *Peers) Deviated(d wireguard.Deviation) {
	for _, reg := range p.db.Snapshot().All() {
		if reg.PublicKey != d.PublicKey {
			continue
		}
		// It holds in memory at once; only the disk may take its time.
		ctx, cancel := context.WithTimeout(context.Background(), blockTimeout)
		defer cancel()
		if err := p.db.Deviate(ctx, reg.ID, registry.Deviation{From: d.From, UDP: true, What: d.Proof}); err != nil {
			p.log.Error("blocking a registration", "registration", reg.ID, "err", err)
		}
		now, ok := p.db.Snapshot().ByID(reg.ID)
		switch {
		case ok && now.State == registry.Blocked:
			p.log.Warn("registration blocked: a packet came from outside its pin", "registration", reg.ID, "name", reg.Name, "from", d.From, "what", d.Proof)
		case ok && now.Pin.Has(d.From):
			// The pin had grown, and the tunnel was not told yet: let in again.
			p.mu.Lock()
			p.lives[d.PublicKey]++
			p.mu.Unlock()
			p.wake()
		}
		return
	}
}

// wake has Sync look.
func (p *Peers) wake() {
	select {
	case p.told <- struct{}{}:
	default:
	}
}

// Handshake notes a good initiation, for Sync to store. It is
// wireguard.Config's. The timestamp is on disk some milliseconds later: an
// initiation that somebody records in the last moments of a gateway that is
// killed passes for new after the restart.
func (p *Peers) Handshake(h wireguard.Handshake) {
	p.mu.Lock()
	p.shook[h.PublicKey] = h
	p.mu.Unlock()
	p.wake()
}

// giveBack undoes take, for handshakes that could not be stored.
func (p *Peers) giveBack(taken map[[32]byte]wireguard.Handshake) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, h := range taken {
		if now, ok := p.shook[key]; !ok || h.Timestamp.After(now.Timestamp) {
			p.shook[key] = h
		}
	}
}

// take returns the handshakes since the last call.
func (p *Peers) take() map[[32]byte]wireguard.Handshake {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.shook
	p.shook = make(map[[32]byte]wireguard.Handshake)
	return taken
}

// Sync makes pending and approved registrations the tunnel's peers; what is
// blocked or revoked goes at once. It persists each peer's handshakes and
// endpoint as they change, so that after a restart the gateway can call, and
// tell a recorded initiation. A peer that the tunnel does not take is logged
// and costs nobody else anything; it is tried again. Sync runs until ctx ends,
// which is no error.
func (p *Peers) Sync(ctx context.Context, t *wireguard.Tunnel) error {
	changed, stop := p.db.Changed()
	defer stop()
	tick := time.NewTicker(peerStatsEvery)
	defer tick.Stop()

	var (
		set        peerSet
		complained string
	)
	for {
		if next := p.newPeerSet(p.db.Snapshot(), t.PublicKey()); !next.equal(set) {
			set = next
			if err := t.SetPeers(p.peers(next)); err != nil {
				set = nil // again at the next change or tick
				if complained != err.Error() {
					p.log.Error("the tunnel does not take all peers", "err", err)
				}
				complained = err.Error()
			}
		}
		select {
		case <-changed:
		case <-p.told:
			if err := p.record(ctx, nil); err != nil && ctx.Err() == nil {
				p.log.Error("recording handshakes", "err", err)
			}
		case <-tick.C:
			if err := p.record(ctx, t); err != nil && ctx.Err() == nil {
				p.log.Error("recording the tunnel's peers", "err", err)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPeerStats)
			defer cancel()
			if err := p.record(last, t); err != nil {
				p.log.Error("recording the tunnel's peers", "err", err)
			}
			return nil
		}
	}
}

// peerKey is what of a registration the tunnel is told. A change of anything
// else, such as the endpoint that the tunnel itself has reported, leaves its
// sessions alone.
type peerKey struct {
	publicKey  [32]byte
	four, six  netip.Prefix
	registered time.Time
	pin        registry.Pin
	sealed     bool
	life       int
}

// member is a registration that is a peer. Its life changes when it is let in
// again.
type member struct {
	*registry.Registration
	life int
}

// peerSet is the registrations that are peers.
type peerSet map[registry.ID]member

// newPeerSet leaves out whoever enrolled with the gateway's own key: the tunnel
// would take none of a list with such a peer.
func (p *Peers) newPeerSet(snapshot *registry.Snapshot, own [32]byte) peerSet {
	set := make(peerSet)
	p.mu.Lock()
	defer p.mu.Unlock()
	all := snapshot.All()
	// Of registrations that have gone nothing is remembered. Those that are blocked
	// stay: their next life must be another than the last.
	maps.DeleteFunc(p.lives, func(key [32]byte, _ int) bool {
		return !slices.ContainsFunc(all, func(reg *registry.Registration) bool { return reg.PublicKey == key })
	})
	for _, reg := range all {
		if reg.PublicKey == own || reg.PublicKey == ([32]byte{}) {
			continue
		}
		if reg.State == registry.Pending || reg.State == registry.Approved {
			set[reg.ID] = member{reg, reg.Blocks + p.lives[reg.PublicKey]}
		}
	}
	return set
}

func keyOf(m member) peerKey {
	return peerKey{m.PublicKey, m.Prefix4, m.Prefix6, m.CreatedAt, m.Pin, m.PinSealed, m.life}
}

// equal is false for the set before the first: even no peers are set once.
func (s peerSet) equal(other peerSet) bool {
	if other == nil || len(s) != len(other) {
		return false
	}
	for id, reg := range s {
		if o, ok := other[id]; !ok || keyOf(o) != keyOf(reg) {
			return false
		}
	}
	return true
}

func (p *Peers) peers(s peerSet) []wireguard.Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	peers := make([]wireguard.Peer, 0, len(s))
	for _, reg := range s {
		psk := p.db.PresharedKey(reg.ID)
		if psk.IsZero() {
			continue // gone since the snapshot; without the key it is no peer
		}
		peer := wireguard.Peer{
			PublicKey:    reg.PublicKey,
			PresharedKey: psk,
			Endpoint:     reg.Endpoint,
			Pin:          reg.Pin.Addrs(),
			Learn:        !reg.PinSealed,
			Newest:       reg.Newest,
			Life:         reg.life,
		}
		if h := p.shook[reg.PublicKey]; h.Timestamp.After(peer.Newest) {
			peer.Newest = h.Timestamp
		}
		for _, prefix := range []netip.Prefix{reg.Prefix4, reg.Prefix6} {
			if prefix.IsValid() {
				peer.Prefixes = append(peer.Prefixes, prefix)
			}
		}
		peers = append(peers, peer)
	}
	return peers
}

// record persists what has changed since the registry last heard: handshakes,
// and, where t is given, what the tunnel says of its peers.
func (p *Peers) record(ctx context.Context, t *wireguard.Tunnel) error {
	var stats map[[32]byte]wireguard.PeerStats
	if t != nil {
		var err error
		if stats, err = t.Stats(); err != nil {
			return err
		}
		p.db.ReportHealth(healthOf(p.db.Snapshot(), stats))
	}
	shook := p.take()
	seen := make(map[registry.ID]registry.PeerState)
	for _, reg := range p.db.Snapshot().All() {
		if reg.State == registry.Revoked {
			continue
		}
		var state registry.PeerState
		if h, ok := shook[reg.PublicKey]; ok {
			state.From, state.Newest = h.From, h.Timestamp
		}
		if s := stats[reg.PublicKey]; !s.LastHandshake.IsZero() && (s.Endpoint != reg.Endpoint || !sameInstant(s.LastHandshake, reg.LastHandshake)) {
			state.Endpoint, state.Handshake = s.Endpoint, s.LastHandshake
		}
		if state != (registry.PeerState{}) {
			seen[reg.ID] = state
		}
	}
	if len(seen) == 0 {
		return nil
	}
	err := p.db.RecordPeers(ctx, seen)
	if err != nil {
		p.giveBack(shook)
	}
	return err
}

// healthOf sorts the tunnel's figures by registration.
func healthOf(snapshot *registry.Snapshot, stats map[[32]byte]wireguard.PeerStats) map[registry.ID]registry.PeerHealth {
	health := make(map[registry.ID]registry.PeerHealth, len(stats))
	for _, reg := range snapshot.All() {
		if s, ok := stats[reg.PublicKey]; ok {
			health[reg.ID] = registry.PeerHealth{LastHandshake: s.LastHandshake, BytesIn: s.BytesIn, BytesOut: s.BytesOut}
		}
	}
	return health
}

// sameInstant allows for what a database keeps of a time.
func sameInstant(a, b time.Time) bool { return a.Sub(b).Abs() < time.Second }
