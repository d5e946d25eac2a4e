package proxy

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	// peerStatsEvery is how often the tunnel's view of the peers is persisted.
	peerStatsEvery = 2 * time.Second

	// lastPeerStats bounds the last time, while the gateway stops.
	lastPeerStats = 5 * time.Second
)

// SyncPeers keeps the tunnel's peers in step with the registrations: pending and
// approved ones are peers, what is blocked or revoked goes at once. It persists
// each peer's endpoint and last handshake as they change, so that after a
// restart the gateway can call. A peer that the tunnel does not take is logged
// and costs nobody else anything; it is tried again. SyncPeers runs until ctx
// ends, which is no error.
func SyncPeers(ctx context.Context, db *registry.DB, t *wireguard.Tunnel, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	changed, stop := db.Changed()
	defer stop()
	tick := time.NewTicker(peerStatsEvery)
	defer tick.Stop()

	var (
		set        peerSet
		complained string
	)
	for {
		if next := newPeerSet(db.Snapshot(), t.PublicKey()); !next.equal(set) {
			set = next
			if err := t.SetPeers(next.peers(db)); err != nil {
				set = nil // again at the next change or tick
				if complained != err.Error() {
					log.Error("the tunnel does not take all peers", "err", err)
				}
				complained = err.Error()
			}
		}
		select {
		case <-changed:
		case <-tick.C:
			if err := recordPeers(ctx, db, t); err != nil && ctx.Err() == nil {
				log.Error("recording the tunnel's peers", "err", err)
			}
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastPeerStats)
			defer cancel()
			if err := recordPeers(last, db, t); err != nil {
				log.Error("recording the tunnel's peers", "err", err)
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
}

// peerSet is the registrations that are peers.
type peerSet map[registry.ID]*registry.Registration

// newPeerSet leaves out whoever enrolled with the gateway's own key: the tunnel
// would take none of a list with such a peer.
func newPeerSet(snapshot *registry.Snapshot, own [32]byte) peerSet {
	set := make(peerSet)
	for _, reg := range snapshot.All() {
		if reg.PublicKey == own || reg.PublicKey == ([32]byte{}) {
			continue
		}
		if reg.State == registry.Pending || reg.State == registry.Approved {
			set[reg.ID] = reg
		}
	}
	return set
}

func keyOf(reg *registry.Registration) peerKey {
	return peerKey{reg.PublicKey, reg.Prefix4, reg.Prefix6, reg.CreatedAt}
}

// equal is false for the set before the first: even no peers are set once.
func (s peerSet) equal(other peerSet) bool {
	if other == nil || len(s) != len(other) {
		return false
	}
	for id, reg := range s {
		if o := other[id]; o == nil || keyOf(o) != keyOf(reg) {
			return false
		}
	}
	return true
}

func (s peerSet) peers(db *registry.DB) []wireguard.Peer {
	peers := make([]wireguard.Peer, 0, len(s))
	for _, reg := range s {
		psk := db.PresharedKey(reg.ID)
		if psk.IsZero() {
			continue // gone since the snapshot; without the key it is no peer
		}
		peer := wireguard.Peer{PublicKey: reg.PublicKey, PresharedKey: psk, Endpoint: reg.Endpoint}
		for _, prefix := range []netip.Prefix{reg.Prefix4, reg.Prefix6} {
			if prefix.IsValid() {
				peer.Prefixes = append(peer.Prefixes, prefix)
			}
		}
		peers = append(peers, peer)
	}
	return peers
}

// recordPeers persists what has changed since the registry last heard.
func recordPeers(ctx context.Context, db *registry.DB, t *wireguard.Tunnel) error {
	stats, err := t.Stats()
	if err != nil {
		return err
	}
	seen := make(map[registry.ID]registry.PeerState)
	for _, reg := range db.Snapshot().All() {
		s, ok := stats[reg.PublicKey]
		if !ok || s.LastHandshake.IsZero() || reg.State == registry.Revoked {
			continue
		}
		if s.Endpoint != reg.Endpoint || !sameInstant(s.LastHandshake, reg.LastHandshake) {
			seen[reg.ID] = registry.PeerState{Endpoint: s.Endpoint, Handshake: s.LastHandshake}
		}
	}
	if len(seen) == 0 {
		return nil
	}
	return db.RecordPeers(ctx, seen)
}

// sameInstant allows for what a database keeps of a time.
func sameInstant(a, b time.Time) bool { return a.Sub(b).Abs() < time.Second }
