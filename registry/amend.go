package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"
)

// amendment is a change to the registrations.
type amendment struct {
	put    []*record
	remove []ID
	// first runs in the transaction before the rest of it, which its error undoes.
	// It may still complete the records in put.
	first func(ctx context.Context, tx *sql.Tx) error
	// tightening: it only takes rights away, so it holds in memory even where
	// the disk refuses it, until the disk takes it.
	tightening bool
}

// amend is the one way registrations change. f sees the newest snapshot and
// returns what is to change; it does no I/O. Expired registrations are gone by
// then, unless the disk refused to remove them.
// The change is stored in one transaction and published once that has
// committed, both in the order in which amend was entered.
func (db *DB) amend(ctx context.Context, f func(s *Snapshot, now time.Time) (amendment, error)) error {
	end, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	now := db.clock()
	if err := db.expire(ctx, now); err != nil {
		db.log.Error("registry: removing expired registrations failed", "err", err)
	}
	a, err := f(db.Snapshot(), now)
	if err != nil {
		return err
	}
	return db.apply(ctx, a, now)
}

// apply stores and publishes a. The caller holds writing.
func (db *DB) apply(ctx context.Context, a amendment, now time.Time) error {
	if len(a.put) == 0 && len(a.remove) == 0 && a.first == nil {
		return nil
	}
	old := db.Snapshot()
	var removals []Removal
	if len(a.remove) > 0 {
		removals = db.withRemoved(old.records(a.remove), now)
	}
	err := db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if a.first != nil {
			if err := a.first(ctx, tx); err != nil {
				return err
			}
		}
		for _, r := range a.put {
			if err := storeRecord(ctx, tx, r); err != nil {
				return err
			}
			// Also where a block that the disk refused is lifted before it was stored.
			if r.State != Approved || db.unsaved[r.ID] {
				if err := db.endGrants(ctx, tx, r.ID, now); err != nil {
					return err
				}
			}
		}
		for _, id := range a.remove {
			if err := retireRecord(ctx, tx, old.byID[id], now); err != nil {
				return err
			}
		}
		if len(a.remove) > 0 {
			return storeRemovals(ctx, tx, removals)
		}
		return nil
	})
	if err != nil && !a.tightening {
		return fmt.Errorf("storing the registration: %w", err)
	}
	for _, r := range a.put {
		if err != nil {
			db.unsaved[r.ID] = true
		} else {
			delete(db.unsaved, r.ID)
		}
		if !r.held() {
			db.virtual.drop(r.ID)
		}
		if r.State != Approved {
			db.keepGrants(func(g *liveGrant) bool { return g.Registration != r.ID })
		}
	}
	db.behind.Store(len(db.unsaved) > 0)
	for _, id := range a.remove {
		db.retired[old.byID[id].slot] = now
		db.virtual.drop(id)
		db.logRemoved(old.byID[id])
	}
	if len(a.remove) > 0 {
		db.removals.Store(&removals)
	}
	db.snapshot.Store(old.with(a.put, a.remove))
	db.watchers.notify()
	if err != nil {
		return fmt.Errorf("in force, but not stored yet: %w", err)
	}
	return nil
}

// expire removes registrations that nobody approved in time. The caller holds
// writing.
func (db *DB) expire(ctx context.Context, now time.Time) error {
	s := db.Snapshot()
	if s.nextExpiry.IsZero() || now.Before(s.nextExpiry) {
		return nil
	}
	var a amendment
	for _, r := range s.all {
		if r.expired(now) {
			a.remove = append(a.remove, r.ID)
		}
	}
	return db.apply(ctx, a, now)
}

// saveUnsaved retries what apply could put in force but not store. The caller
// holds writing.
func (db *DB) saveUnsaved(ctx context.Context, now time.Time) error {
	var a amendment // in force already, so there is nothing to tighten
	for id := range db.unsaved {
		if r := db.Snapshot().byID[id]; r != nil {
			a.put = append(a.put, r)
		}
	}
	return db.apply(ctx, a, now)
}

func storeRecord(ctx context.Context, tx *sql.Tx, r *record) error {
	profiles, err := namesJSON(r.Profiles)
	if err != nil {
		return err
	}
	invited, err := namesJSON(r.Invited)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO registrations (id, name, state, user_code, public_key, mac_sealed, psk_sealed, slot,
			source, pin4, pin6, claimed4, claimed6, pin_sealed, profiles, transport, endpoint,
			last_handshake, created_at, expires_at, approved_at, blocked_at, blocked_reason, revoked_at,
			pin_udp4, pin_udp6, seen4, seen6, seen_udp4, seen_udp6, blocks, newest, invite, invited)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET state = excluded.state,
			mac_sealed = excluded.mac_sealed, psk_sealed = excluded.psk_sealed,
			pin4 = excluded.pin4, pin6 = excluded.pin6,
			claimed4 = excluded.claimed4, claimed6 = excluded.claimed6, pin_sealed = excluded.pin_sealed,
			profiles = excluded.profiles, endpoint = excluded.endpoint,
			last_handshake = excluded.last_handshake, expires_at = excluded.expires_at,
			approved_at = excluded.approved_at, blocked_at = excluded.blocked_at,
			blocked_reason = excluded.blocked_reason, revoked_at = excluded.revoked_at,
			pin_udp4 = excluded.pin_udp4, pin_udp6 = excluded.pin_udp6,
			seen4 = excluded.seen4, seen6 = excluded.seen6,
			seen_udp4 = excluded.seen_udp4, seen_udp6 = excluded.seen_udp6,
			blocks = excluded.blocks, newest = excluded.newest, invited = excluded.invited`,
		r.ID, r.Name, r.State, r.UserCode, r.PublicKey[:], r.macSealed, r.pskSealed, r.slot,
		addrText(r.Source), addrText(r.Pin.IPv4), addrText(r.Pin.IPv6), r.claimed4, r.claimed6, r.PinSealed,
		profiles, r.Transport, endpointText(r.Endpoint),
		micros(r.LastHandshake), micros(r.CreatedAt), micros(r.ExpiresAt), micros(r.ApprovedAt),
		micros(r.BlockedAt), r.BlockedReason, micros(r.RevokedAt),
		addrText(r.Pin.UDP4), addrText(r.Pin.UDP6), addrText(r.Seen.IPv4), addrText(r.Seen.IPv6),
		addrText(r.Seen.UDP4), addrText(r.Seen.UDP6), r.Blocks, r.Newest[:], r.Invite, invited)
	if err == nil && !r.held() {
		_, err = tx.ExecContext(ctx, "DELETE FROM virtual_addresses WHERE registration = ?", r.ID)
	}
	return err
}

// namesJSON is how lists of names are stored.
func namesJSON(names []string) (string, error) {
	if len(names) == 0 {
		return "[]", nil
	}
	b, err := json.Marshal(names)
	return string(b), err
}

// retireRecord deletes an expired registration and remembers its range.
func retireRecord(ctx context.Context, tx *sql.Tx, r *record, now time.Time) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM registrations WHERE id = ?", r.ID); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO retired_ranges (slot, freed_at) VALUES (?, ?)
		ON CONFLICT (slot) DO UPDATE SET freed_at = excluded.freed_at`, r.slot, micros(now))
	return err
}

// loadRegistrations reads everything the snapshot holds.
func (db *DB) loadRegistrations(ctx context.Context) error {
	rows, err := db.write.QueryContext(ctx, `
		SELECT id, name, state, user_code, public_key, mac_sealed, psk_sealed, slot,
			source, pin4, pin6, claimed4, claimed6, pin_sealed, profiles, transport, endpoint,
			last_handshake, created_at, expires_at, approved_at, blocked_at, blocked_reason, revoked_at,
			pin_udp4, pin_udp6, seen4, seen6, seen_udp4, seen_udp6, blocks, newest, invite, invited
		FROM registrations ORDER BY seq`)
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []*record
	for rows.Next() {
		r, err := db.scanRecord(rows)
		if err != nil {
			return damaged(fmt.Sprintf("registration %q cannot be read: %v", r.ID, err), err)
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	db.snapshot.Store(newSnapshot(all))
	return db.loadRetired(ctx)
}

func (db *DB) scanRecord(rows *sql.Rows) (*record, error) {
	r := &record{}
	var key, newest []byte
	var source, pin4, pin6, udp4, udp6, seen4, seen6, seenUDP4, seenUDP6, profiles, invited, endpoint string
	var handshake, created, expires, approved, blocked, revoked int64
	if err := rows.Scan(&r.ID, &r.Name, &r.State, &r.UserCode, &key, &r.macSealed, &r.pskSealed, &r.slot,
		&source, &pin4, &pin6, &r.claimed4, &r.claimed6, &r.PinSealed, &profiles, &r.Transport, &endpoint,
		&handshake, &created, &expires, &approved, &blocked, &r.BlockedReason, &revoked,
		&udp4, &udp6, &seen4, &seen6, &seenUDP4, &seenUDP6, &r.Blocks, &newest, &r.Invite, &invited); err != nil {
		return r, err
	}
	r.alike = skeleton(r.Name)
	copy(r.PublicKey[:], key) // the schema checks the lengths
	copy(r.Newest[:], newest)
	if err := json.Unmarshal([]byte(profiles), &r.Profiles); err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(invited), &r.Invited); err != nil {
		return r, err
	}
	var err error
	for text, to := range map[*string]*netip.Addr{
		&source: &r.Source, &pin4: &r.Pin.IPv4, &pin6: &r.Pin.IPv6, &udp4: &r.Pin.UDP4, &udp6: &r.Pin.UDP6,
		&seen4: &r.Seen.IPv4, &seen6: &r.Seen.IPv6, &seenUDP4: &r.Seen.UDP4, &seenUDP6: &r.Seen.UDP6,
	} {
		if *text != "" {
			if *to, err = netip.ParseAddr(*text); err != nil {
				return r, err
			}
		}
	}
	if endpoint != "" {
		if r.Endpoint, err = netip.ParseAddrPort(endpoint); err != nil {
			return r, err
		}
	}
	r.Prefix4, r.Prefix6 = db.plan.prefixes(r.slot)
	r.LastHandshake, r.CreatedAt, r.ExpiresAt = fromMicros(handshake), fromMicros(created), fromMicros(expires)
	r.ApprovedAt, r.BlockedAt, r.RevokedAt = fromMicros(approved), fromMicros(blocked), fromMicros(revoked)
	if !r.held() {
		return r, nil
	}
	if r.mac, err = db.seal.open(macPlace(r.ID), r.macSealed); err != nil {
		return r, err
	}
	r.psk, err = db.seal.open(pskPlace(r.ID), r.pskSealed)
	return r, err
}

func (db *DB) loadRetired(ctx context.Context) error {
	rows, err := db.write.QueryContext(ctx, "SELECT slot, freed_at FROM retired_ranges")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var slot int
		var freed int64
		if err := rows.Scan(&slot, &freed); err != nil {
			return err
		}
		db.retired[slot] = fromMicros(freed)
	}
	return rows.Err()
}

func macPlace(id ID) place { return place{kindRegistration, string(id), "mac_key"} }
func pskPlace(id ID) place { return place{kindRegistration, string(id), "preshared_key"} }

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func endpointText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
