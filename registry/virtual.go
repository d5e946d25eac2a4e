package registry

import (
	"context"
	"database/sql"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// virtualUseInterval is how far the stored last use may lag behind, so that
	// an address costs at most one write in that time; virtualSaveInterval is
	// how often that is looked at.
	virtualUseInterval  = 10 * time.Minute
	virtualSaveInterval = time.Minute

	// virtualRest is how long a virtual address waits after its last use before
	// it may stand for another host: longer than any resolver keeps the answer.
	// A day, and what a crash may have kept from being stored.
	virtualRest = 24*time.Hour + virtualUseInterval + 2*virtualSaveInterval

	maxHost = 253 // bytes, RFC 1035 section 2.3.4 without the trailing dot
)

// virtualTables are the virtual addresses of each registration.
type virtualTables struct {
	byID  sync.Map  // ID -> *virtualTable
	saved time.Time // when last uses were last stored; under writing
}

// virtualTable is one registration's. Entries are added under both locks, so
// either is enough for reading.
type virtualTable struct {
	allocating sync.Mutex // held across the database write
	mu         sync.RWMutex
	byHost     map[string]*virtualEntry
	byPosition []*virtualEntry // [0] is unused
}

type virtualEntry struct {
	position int
	host     string
	lastUse  atomic.Int64 // microseconds
	stored   atomic.Int64 // last use as it stands in the database
}

func (e *virtualEntry) use(now time.Time) {
	if us := now.UnixMicro(); us > e.lastUse.Load() {
		e.lastUse.Store(us)
	}
}

func (v *virtualTables) of(id ID) *virtualTable {
	if t, ok := v.byID.Load(id); ok {
		return t.(*virtualTable)
	}
	t, _ := v.byID.LoadOrStore(id, &virtualTable{byHost: map[string]*virtualEntry{}, byPosition: []*virtualEntry{nil}})
	return t.(*virtualTable)
}

func (v *virtualTables) drop(id ID) { v.byID.Delete(id) }

func (t *virtualTable) host(host string) *virtualEntry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byHost[host]
}

func (t *virtualTable) position(n int) *virtualEntry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n >= len(t.byPosition) {
		return nil
	}
	return t.byPosition[n]
}

func (t *virtualTable) put(e *virtualEntry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.byPosition) <= e.position {
		t.byPosition = append(t.byPosition, nil)
	}
	if old := t.byPosition[e.position]; old != nil {
		delete(t.byHost, old.host)
	}
	t.byPosition[e.position] = e
	t.byHost[e.host] = e
}

// free picks a position for a new host: one never used, else the one unused for
// longest, if that is a day.
func (t *virtualTable) free(positions int, now time.Time) (int, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var oldest *virtualEntry
	for n, e := range t.byPosition {
		switch {
		case n == 0:
		case e == nil:
			return n, true
		case oldest == nil || e.lastUse.Load() < oldest.lastUse.Load():
			oldest = e
		}
	}
	if next := len(t.byPosition); next <= positions {
		return next, true
	}
	if oldest == nil || now.UnixMicro()-oldest.lastUse.Load() < virtualRest.Microseconds() {
		return 0, false
	}
	return oldest.position, true
}

// VirtualAddresses returns the pair that stands for host towards this
// registration, allocating it on first use. The pair is persisted, stays with
// the host while it is in use and is not given to another host within 24 hours
// of its last use. ErrTableFull: all 4096 of the registration are in use.
// ErrNotFound, ErrState: the registration is unknown, or not approved. The
// ranges are the last quarter of each subnet; the same address means different
// hosts to different registrations.
func (db *DB) VirtualAddresses(ctx context.Context, id ID, host string) (v4, v6 netip.Addr, err error) {
	e, err := db.virtualEntry(ctx, id, host)
	if err != nil {
		return v4, v6, fmt.Errorf("finding a virtual address for %q: %w", host, err)
	}
	v4, v6 = db.plan.virtualPair(e.position)
	return v4, v6, nil
}

func (db *DB) virtualEntry(ctx context.Context, id ID, host string) (*virtualEntry, error) {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || len(host) > maxHost || !plain(host) {
		return nil, fmt.Errorf("%w: the host name", ErrInvalid)
	}
	if err := db.mayResolve(id); err != nil {
		return nil, err
	}
	t := db.virtual.of(id)
	if e := t.host(host); e != nil {
		e.use(db.now())
		return e, nil
	}
	t.allocating.Lock()
	defer t.allocating.Unlock()
	now := db.clock()
	if e := t.host(host); e != nil {
		e.use(now)
		return e, nil
	}
	position, ok := t.free(db.plan.virtuals, now)
	if !ok {
		return nil, ErrTableFull
	}
	end, err := db.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := db.mayResolve(id); err != nil { // as it may have changed meanwhile
		return nil, err
	}
	e := &virtualEntry{position: position, host: host}
	e.lastUse.Store(now.UnixMicro())
	e.stored.Store(now.UnixMicro())
	if err := db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO virtual_addresses (registration, position, host, last_use)
			VALUES (?, ?, ?, ?) ON CONFLICT (registration, position)
			DO UPDATE SET host = excluded.host, last_use = excluded.last_use`, id, position, host, micros(now))
		return err
	}); err != nil {
		return nil, err
	}
	t.put(e)
	return e, nil
}

// mayResolve says why a registration gets no virtual addresses.
func (db *DB) mayResolve(id ID) error {
	switch r := db.Snapshot().byID[id]; {
	case r == nil:
		return ErrNotFound
	case r.State != Approved:
		return fmt.Errorf("%w: the registration is %s", ErrState, r.State)
	}
	return nil
}

// VirtualHost returns the host that a virtual address stands for towards this
// registration, from memory. It counts as a use of the address.
func (db *DB) VirtualHost(id ID, a netip.Addr) (host string, ok bool) {
	position, ok := db.plan.virtualPosition(a)
	if !ok {
		return "", false
	}
	t, ok := db.virtual.byID.Load(id)
	if !ok {
		return "", false
	}
	e := t.(*virtualTable).position(position)
	if e == nil {
		return "", false
	}
	e.use(db.now())
	return e.host, true
}

// saveVirtualUse stores the last uses that have moved by more than lag since
// they were stored. The caller holds writing.
func (db *DB) saveVirtualUse(ctx context.Context, now time.Time, lag time.Duration) error {
	if lag > 0 && now.Sub(db.virtual.saved) < virtualSaveInterval {
		return nil
	}
	db.virtual.saved = now
	type use struct {
		id ID
		e  *virtualEntry
		at int64
	}
	var uses []use
	db.virtual.byID.Range(func(id, t any) bool {
		t.(*virtualTable).mu.RLock()
		defer t.(*virtualTable).mu.RUnlock()
		for _, e := range t.(*virtualTable).byPosition {
			if e == nil {
				continue
			}
			if at := e.lastUse.Load(); at-e.stored.Load() > lag.Microseconds() {
				uses = append(uses, use{id.(ID), e, at})
			}
		}
		return true
	})
	if len(uses) == 0 {
		return nil
	}
	err := db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		for _, u := range uses {
			if _, err := tx.ExecContext(ctx,
				"UPDATE virtual_addresses SET last_use = ? WHERE registration = ? AND position = ? AND host = ?",
				u.at, u.id, u.e.position, u.e.host); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, u := range uses {
		u.e.stored.Store(u.at)
	}
	return nil
}

func (db *DB) loadVirtual(ctx context.Context) error {
	rows, err := db.write.QueryContext(ctx, "SELECT registration, position, host, last_use FROM virtual_addresses")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id ID
		var last int64
		e := &virtualEntry{}
		if err := rows.Scan(&id, &e.position, &e.host, &last); err != nil {
			return err
		}
		e.stored.Store(last)
		e.lastUse.Store(last)
		db.virtual.of(id).put(e)
	}
	return rows.Err()
}
