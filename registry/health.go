package registry

import (
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// SilentAfter is how long an agent host may say nothing. A tunnel that is up
	// sends a keepalive every 25 s.
	SilentAfter = 90 * time.Second

	// DormantAfter is how long an approved registration may be without a
	// handshake. A tunnel that is up has one every two minutes; a host that works
	// once a quarter has one every 92 days.
	DormantAfter = 100 * 24 * time.Hour

	// dormantGrace is how long the gateway must have listened in vain itself:
	// after a long stop, or a leap of its clock, hosts look absent that are not.
	dormantGrace = 24 * time.Hour

	// dormantInterval is how often dormant registrations are looked for.
	dormantInterval = time.Minute
)

// PeerHealth is what the tunnel says of a registration's peer.
type PeerHealth struct {
	LastHandshake     time.Time // zero: none
	BytesIn, BytesOut uint64    // since the peer was added: from the agent host, to it
}

// Health is how a registration's tunnel has fared since the registry was opened.
// It is kept in memory only, but for LastHandshake.
type Health struct {
	LastHandshake     time.Time // ever; zero: never
	BytesIn, BytesOut uint64    // of WireGuard's own messages: from the agent host, to it
	Handshakes        int
	Silent            bool // approved, and nothing came for SilentAfter
}

// vitals is what is known of every registration that the tunnel has a peer for.
// Its times are as the clock gave them, so that a clock that is set changes no
// duration.
type vitals struct {
	opened time.Time

	mu     sync.Mutex
	of     map[ID]*vital // guarded by mu
	looked time.Time     // for dormant registrations; under writing
}

type vital struct {
	last   PeerHealth // as reported last
	in     uint64     // of peers before this one
	out    uint64
	shakes int
	heard  time.Time // when BytesIn last rose; zero: never
	shook  time.Time // when LastHandshake last rose; zero: never
}

func newVitals(now time.Time) *vitals {
	return &vitals{opened: now, of: make(map[ID]*vital)}
}

// ReportHealth takes in what the tunnel says of all its peers. It writes
// nothing. Call it every few seconds: handshakes of one peer between two calls
// count as one.
func (db *DB) ReportHealth(peers map[ID]PeerHealth) {
	now, s := db.now(), db.Snapshot()
	db.vitals.mu.Lock()
	defer db.vitals.mu.Unlock()
	for id, peer := range peers {
		v := db.vitals.of[id]
		if v == nil {
			v = new(vital)
			db.vitals.of[id] = v
		}
		v.take(peer, now)
	}
	for id, v := range db.vitals.of {
		if r := s.byID[id]; r == nil || !r.held() {
			delete(db.vitals.of, id)
		} else if _, ok := peers[id]; !ok {
			v.startOver()
		}
	}
}

// startOver prepares for a peer that counts from zero.
func (v *vital) startOver() {
	v.in += v.last.BytesIn
	v.out += v.last.BytesOut
	v.last.BytesIn, v.last.BytesOut = 0, 0
}

// take adds a report, of the same peer as the one before or of another that took
// its place and counts from zero.
func (v *vital) take(peer PeerHealth, now time.Time) {
	if peer.BytesIn < v.last.BytesIn || peer.BytesOut < v.last.BytesOut {
		v.startOver()
	}
	if peer.BytesIn > v.last.BytesIn {
		v.heard = now
	}
	v.last.BytesIn, v.last.BytesOut = peer.BytesIn, peer.BytesOut
	if peer.LastHandshake.After(v.last.LastHandshake) {
		v.last.LastHandshake = peer.LastHandshake
		v.shakes++
		v.shook = now
	}
}

// Health returns a registration's. That of an unknown one is zero.
func (db *DB) Health(id ID) Health {
	r, now := db.Snapshot().byID[id], db.now()
	if r == nil {
		return Health{}
	}
	db.vitals.mu.Lock()
	defer db.vitals.mu.Unlock()
	h := Health{LastHandshake: r.LastHandshake}
	since := latest(db.vitals.opened, r.ApprovedAt)
	if v := db.vitals.of[id]; v != nil {
		h.LastHandshake = latest(h.LastHandshake, v.last.LastHandshake).UTC()
		h.BytesIn, h.BytesOut, h.Handshakes = v.in+v.last.BytesIn, v.out+v.last.BytesOut, v.shakes
		since = latest(since, v.heard)
	}
	h.Silent = r.State == Approved && now.Sub(since) >= SilentAfter
	return h
}

// dormant reports whether an approved registration has been absent for so long
// that somebody should say again that it is wanted. The caller holds writing.
func (db *DB) dormant(r *record, now time.Time) bool {
	if r.State != Approved || now.Sub(latest(r.LastHandshake, r.ApprovedAt)) < DormantAfter {
		return false
	}
	db.vitals.mu.Lock()
	defer db.vitals.mu.Unlock()
	listening := db.vitals.opened
	if v := db.vitals.of[r.ID]; v != nil {
		listening = latest(listening, v.shook)
	}
	return db.now().Sub(listening) >= dormantGrace
}

// blockDormant blocks approved registrations that have been absent for
// DormantAfter: a credential that nobody uses must not wait for whoever finds
// it. Nothing is lost by it, and an operator's approval brings it back. The
// caller holds writing.
func (db *DB) blockDormant(ctx context.Context, now time.Time) error {
	if since := db.now().Sub(db.vitals.looked); since >= 0 && since < dormantInterval {
		return nil
	}
	db.vitals.looked = db.now()
	a := amendment{tightening: true}
	for _, r := range db.Snapshot().all {
		if db.dormant(r, now) {
			next := *r
			next.block(fmt.Sprintf("dormant: no handshake for %d days", DormantAfter/(24*time.Hour)), now)
			a.put = append(a.put, &next)
			db.log.Warn("registration blocked: no handshake for too long", "registration", r.ID, "name", r.Name, "last_handshake", r.LastHandshake, "approved", r.ApprovedAt)
		}
	}
	return db.apply(ctx, a, now)
}

// latest returns the later of two times.
func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
