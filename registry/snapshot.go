package registry

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Snapshot is the registrations at one instant, immutable. The zero Snapshot is
// empty.
type Snapshot struct {
	all  []*record // oldest first
	byID map[ID]*record

	// By the bits of their ranges: a /28 is the first 28 of 32 bits, a /64 the
	// first 64. Ranges of revoked registrations are not in here.
	by4 map[uint32]*Registration
	by6 map[uint64]*Registration

	nextExpiry time.Time // zero: nothing expires
}

// Snapshot returns the present one: an atomic load, no database.
func (db *DB) Snapshot() *Snapshot { return db.snapshot.Load() }

// ByAddr finds the registration whose /28 or /64 holds the tunnel address a.
// Revoked registrations are not found. Neither is an IPv4-mapped IPv6 address
// or one with a zone: the tunnel carries no such thing.
func (s *Snapshot) ByAddr(a netip.Addr) (*Registration, bool) {
	var r *Registration
	switch {
	case a.Is4():
		r = s.by4[key4(a)]
	case a.Is6() && !a.Is4In6() && a.Zone() == "":
		r = s.by6[key6(a)]
	}
	return r, r != nil
}

func key4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:]) >> (32 - rangeBits4)
}

func key6(a netip.Addr) uint64 {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]) // rangeBits6 is 64
}

// ByID finds a registration, revoked ones included.
func (s *Snapshot) ByID(id ID) (*Registration, bool) {
	r, ok := s.byID[id]
	if !ok {
		return nil, false
	}
	return &r.Registration, true
}

// All returns every registration, oldest first.
func (s *Snapshot) All() []*Registration {
	all := make([]*Registration, len(s.all))
	for i, r := range s.all {
		all[i] = &r.Registration
	}
	return all
}

// records returns those of these IDs.
func (s *Snapshot) records(ids []ID) []*record {
	list := make([]*record, 0, len(ids))
	for _, id := range ids {
		if r := s.byID[id]; r != nil {
			list = append(list, r)
		}
	}
	return list
}

// newSnapshot indexes records, which are in order of age.
func newSnapshot(all []*record) *Snapshot {
	s := &Snapshot{
		all:  all,
		byID: make(map[ID]*record, len(all)),
		by4:  make(map[uint32]*Registration, len(all)),
		by6:  make(map[uint64]*Registration, len(all)),
	}
	for _, r := range all {
		s.byID[r.ID] = r
		if !r.held() {
			continue
		}
		s.by4[key4(r.Prefix4.Addr())] = &r.Registration
		s.by6[key6(r.Prefix6.Addr())] = &r.Registration
		if e := r.ExpiresAt; !e.IsZero() && (s.nextExpiry.IsZero() || e.Before(s.nextExpiry)) {
			s.nextExpiry = e
		}
	}
	return s
}

// with returns the snapshot after put was added or replaced and remove taken
// out.
func (s *Snapshot) with(put []*record, remove []ID) *Snapshot {
	changed := make(map[ID]*record, len(put)+len(remove))
	for _, r := range put {
		changed[r.ID] = r
	}
	for _, id := range remove {
		changed[id] = nil
	}
	all := make([]*record, 0, len(s.all)+len(put))
	for _, r := range s.all {
		if next, ok := changed[r.ID]; ok {
			delete(changed, r.ID)
			r = next
		}
		if r != nil {
			all = append(all, r)
		}
	}
	added := slices.DeleteFunc(slices.Collect(maps.Values(changed)), func(r *record) bool { return r == nil })
	slices.SortFunc(added, func(a, b *record) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return newSnapshot(append(all, added...))
}

// watchers are the channels of Changed.
type watchers struct {
	mu    sync.Mutex
	chans map[chan struct{}]struct{} // guarded by mu
}

// Changed returns a channel that receives after each newly published Snapshot;
// several changes may coalesce into one receive. stop releases it.
func (db *DB) Changed() (c <-chan struct{}, stop func()) {
	w := &db.watchers
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chans == nil {
		w.chans = make(map[chan struct{}]struct{})
	}
	w.chans[ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.chans, ch)
	}
}

// notify leaves each watcher one token, unless it has one it has not taken.
func (w *watchers) notify() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.chans {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}
