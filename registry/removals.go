package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// maxRemovals is how many removals are remembered of each kind: of registrations
// that had been blocked, and of others. Whoever can start registrations makes
// more of the latter as they like.
const maxRemovals = 50

// Removal is a registration that was removed because nobody approved it in time.
type Removal struct {
	ID            ID         `json:"id"`
	Name          string     `json:"name"`
	Source        netip.Addr `json:"source"`
	CreatedAt     time.Time  `json:"created_at"`
	RemovedAt     time.Time  `json:"removed_at"`
	BlockedReason string     `json:"blocked_reason"` // empty: it was pending
	BlockedAt     time.Time  `json:"blocked_at"`
}

// settingRemovals is the row of settings that holds them as a JSON array.
const settingRemovals = "removals"

// Removals returns what was removed since an operator last said to have seen it,
// newest first.
func (db *DB) Removals() []Removal { return slices.Clone(*db.removals.Load()) }

// SeenRemovals forgets the removals up to this time, which an operator has seen.
func (db *DB) SeenRemovals(ctx context.Context, upTo time.Time) error {
	end, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	left := slices.DeleteFunc(db.Removals(), func(r Removal) bool { return !r.RemovedAt.After(upTo) })
	if err := db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error { return storeRemovals(ctx, tx, left) }); err != nil {
		return fmt.Errorf("forgetting what was removed: %w", err)
	}
	db.removals.Store(&left)
	return nil
}

// withRemoved returns the removals after those of these records.
func (db *DB) withRemoved(records []*record, now time.Time) []Removal {
	all := make([]Removal, 0, len(records)+2*maxRemovals)
	for _, r := range records {
		all = append(all, Removal{ID: r.ID, Name: r.Name, Source: r.Source, CreatedAt: r.CreatedAt, RemovedAt: now, BlockedReason: r.BlockedReason, BlockedAt: r.BlockedAt})
	}
	slices.Reverse(all) // records are oldest first
	all = append(all, *db.removals.Load()...)
	var blocked, others int
	return slices.DeleteFunc(all, func(r Removal) bool {
		n := &others
		if r.BlockedReason != "" {
			n = &blocked
		}
		*n++
		return *n > maxRemovals
	})
}

func storeRemovals(ctx context.Context, tx *sql.Tx, all []Removal) error {
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO settings (name, value) VALUES (?, ?)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, settingRemovals, string(text))
	return err
}

func (db *DB) loadRemovals(ctx context.Context) error {
	var text string
	var all []Removal
	err := db.write.QueryRowContext(ctx, "SELECT value FROM settings WHERE name = ?", settingRemovals).Scan(&text)
	if err == nil {
		err = json.Unmarshal([]byte(text), &all)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return damaged("what was removed cannot be read: "+err.Error(), err)
	}
	db.removals.Store(&all)
	return nil
}

// logRemoved says in the log what nobody approved in time.
func (db *DB) logRemoved(r *record) {
	if r.State == Blocked {
		db.log.Warn("registration removed: it was blocked, and nobody approved it in time", "registration", r.ID, "name", r.Name, "source", r.Source, "reason", r.BlockedReason)
		return
	}
	db.log.Info("registration removed: nobody approved it in time", "registration", r.ID, "name", r.Name, "source", r.Source)
}
