package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Limits of grants.
const (
	MinGrant     = time.Minute
	MaxGrant     = 24 * time.Hour
	MaxGrantUses = 1000

	maxGrants  = 256  // in force
	keptGrants = 1000 // rows of those that are over

	// grantSlack is by how much a clock may be set back under a grant. Where it is
	// set back to before that the grant is not in force: it would last too long.
	grantSlack = time.Minute
)

// GrantID names a grant.
type GrantID string

// Grant is what an operator allowed beyond the one action that asked: what the
// same rule holds of the same registration at the same endpoint. The rule is
// known by its name: whatever the policy calls so is covered, and a rule that
// the policy no longer has holds nothing, so that its grant is never asked.
type Grant struct {
	ID           GrantID
	Approval     ApprovalID // the one that was answered so
	Registration ID
	Endpoint     string // its reference
	Rule         string
	Operator     string
	Reason       string

	CreatedAt, ExpiresAt time.Time
	EndedAt              time.Time // taken back, or the registration was blocked or revoked; zero: neither

	Uses int // 0: any number
	Used int // of one with any number the last second may be missing after a crash
}

// GrantTerms are for how long and how often an operator allows. Each may be zero,
// not both.
type GrantTerms struct {
	For  time.Duration // MinGrant to MaxGrant; 0: MaxGrant
	Uses int           // 1 to MaxGrantUses, the action that asked not counted; 0: any number
}

// Errors of grants.
var (
	ErrNoGrant       = errors.New("no such grant is in force")
	ErrTooManyGrants = errors.New("too many grants are in force")
)

func (t GrantTerms) valid() bool {
	return t != (GrantTerms{}) && (t.For == 0 || t.For >= MinGrant && t.For <= MaxGrant) && t.Uses >= 0 && t.Uses <= MaxGrantUses
}

// liveGrant is a grant in force. Grant.Used is not kept, used is.
type liveGrant struct {
	Grant
	used  atomic.Int64 // changed under writing
	saved int64        // of used, on disk; under writing
}

func (g *liveGrant) now() Grant {
	v := g.Grant
	v.Used = int(g.used.Load())
	return v
}

func (g *liveGrant) live(now time.Time) bool {
	return !g.over(now) && !now.Before(g.CreatedAt.Add(-grantSlack))
}

func (g *liveGrant) over(now time.Time) bool {
	return !now.Before(g.ExpiresAt) || g.Uses > 0 && g.used.Load() >= int64(g.Uses)
}

func (g *liveGrant) covers(a Held) bool {
	return a.Kind == ApproveAction && a.Rule != "" && g.Rule == a.Rule && g.Registration == a.Registration && g.Endpoint == a.Endpoint
}

// Grants lists the grants in force, oldest first, from memory.
func (db *DB) Grants() []Grant {
	now := db.clock()
	var list []Grant
	for _, g := range db.grants() {
		if g.live(now) {
			list = append(list, g.now())
		}
	}
	slices.SortStableFunc(list, func(a, b Grant) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return list
}

// GrantOf returns the grant that an approval was answered with, in force or not,
// or ErrNoGrant.
func (db *DB) GrantOf(ctx context.Context, id ApprovalID) (Grant, error) {
	for _, g := range db.grants() {
		if g.Approval == id {
			return g.now(), nil
		}
	}
	g, err := scanGrant(db.read.QueryRowContext(ctx, selectGrants+" WHERE approval = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return Grant{}, ErrNoGrant
	}
	if err != nil {
		return Grant{}, fmt.Errorf("reading the grant of approval %q: %w", id, err)
	}
	return g, nil
}

// EndGrant takes a grant back. One that is over already is ErrNoGrant. Where the
// disk refuses the change, EndGrant returns the error, and the grant is over all
// the same for as long as this process runs.
func (db *DB) EndGrant(ctx context.Context, id GrantID) error {
	err := func() error {
		end, err := db.begin(ctx)
		if err != nil {
			return err
		}
		defer end()
		now := db.clock()
		i := slices.IndexFunc(db.grants(), func(g *liveGrant) bool { return g.ID == id && g.live(now) })
		if i < 0 {
			return ErrNoGrant
		}
		ended := db.grants()[i].now() // with its last uses, which the disk may not know
		ended.EndedAt = now
		db.approvals.takenBack = append(db.approvals.takenBack, ended)
		db.keepGrants(func(g *liveGrant) bool { return g.ID != id })
		if err := db.saveGrants(); err != nil {
			return fmt.Errorf("in force, but not stored yet: %w", err)
		}
		return nil
	}()
	if err != nil {
		return fmt.Errorf("taking back grant %q: %w", id, err)
	}
	return nil
}

// newGrant is what answering h with terms grants.
func newGrant(h Held, terms GrantTerms, now time.Time) (*liveGrant, error) {
	if !terms.valid() {
		return nil, fmt.Errorf("%w: a grant for %s, %d uses", ErrInvalid, terms.For, terms.Uses)
	}
	if h.Kind != ApproveAction || h.Rule == "" {
		return nil, fmt.Errorf("%w: no rule asked", ErrInvalid)
	}
	if terms.For == 0 {
		terms.For = MaxGrant
	}
	return &liveGrant{Grant: Grant{
		ID: GrantID("g_" + strings.ToLower(rand.Text())), Approval: h.ID, Registration: h.Registration, Endpoint: h.Endpoint, Rule: h.Rule,
		Operator: h.Operator, Reason: h.Reason, CreatedAt: now, ExpiresAt: now.Add(terms.For), Uses: terms.Uses,
	}}, nil
}

// grants are those in force, and perhaps some that are over since a moment. The
// caller must not change the slice.
func (db *DB) grants() []*liveGrant { return *db.approvals.grants.Load() }

// useGrant answers a from a grant, if one covers it. What it returns as used is
// on disk. The caller holds writing.
func (db *DB) useGrant(ctx context.Context, a Held, now time.Time) (d Decision, ok bool, err error) {
	var best *liveGrant
	for _, g := range db.grants() {
		if g.covers(a) && g.live(now) && (best == nil || g.Uses == 0) { // one without a number is not used up
			best = g
		}
	}
	if best == nil {
		return Decision{}, false, nil
	}
	used := best.used.Load() + 1
	if best.Uses > 0 {
		err := db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error { return storeUsed(ctx, tx, best.ID, used) })
		if err != nil {
			return Decision{}, false, err
		}
		best.saved = used
	}
	best.used.Store(used)
	db.approvals.changes.Add(1)
	return Decision{ID: best.Approval, State: ApprovalAllowed, Reason: best.Reason}, true, nil
}

// addGrant puts a stored grant in force. The caller holds writing.
func (db *DB) addGrant(g *liveGrant) {
	list := append(slices.Clone(db.grants()), g)
	db.approvals.grants.Store(&list)
}

// keepGrants lets the other grants go. The caller holds writing.
func (db *DB) keepGrants(keep func(*liveGrant) bool) {
	list := slices.DeleteFunc(slices.Clone(db.grants()), func(g *liveGrant) bool { return !keep(g) })
	if len(list) != len(db.grants()) {
		db.approvals.grants.Store(&list)
		db.approvals.changes.Add(1)
	}
}

// expireGrants lets go what is over, once what the disk must know of it is there.
// The caller holds writing.
func (db *DB) expireGrants(now time.Time) error {
	err := db.saveGrants()
	if err == nil {
		db.keepGrants(func(g *liveGrant) bool { return !g.over(now) })
	}
	return err
}

// saveGrants stores which grants were taken back, and how often those were used
// that may be used any number of times. The caller holds writing.
func (db *DB) saveGrants() error {
	behind := slices.DeleteFunc(slices.Clone(db.grants()), func(g *liveGrant) bool { return g.saved == g.used.Load() })
	if len(behind) == 0 && len(db.approvals.takenBack) == 0 {
		return nil
	}
	err := db.commit(context.Background(), func(ctx context.Context, tx *sql.Tx) error {
		for _, g := range behind {
			if err := storeUsed(ctx, tx, g.ID, g.used.Load()); err != nil {
				return err
			}
		}
		for _, g := range db.approvals.takenBack {
			if _, err := tx.ExecContext(ctx, "UPDATE grants SET ended_at = ?, used = ? WHERE id = ? AND ended_at = 0", micros(g.EndedAt), g.Used, g.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("storing what became of grants: %w", err)
	}
	for _, g := range behind {
		g.saved = g.used.Load()
	}
	db.approvals.takenBack = nil
	return nil
}

func storeUsed(ctx context.Context, tx *sql.Tx, id GrantID, used int64) error {
	_, err := tx.ExecContext(ctx, "UPDATE grants SET used = ? WHERE id = ?", used, id)
	return err
}

// storeGrant stores g, and forgets the oldest of what is over.
func storeGrant(ctx context.Context, tx *sql.Tx, g Grant) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM grants WHERE (ended_at <> 0 OR expires_at <= ?1 OR uses <> 0 AND used >= uses) AND id NOT IN
		(SELECT id FROM grants WHERE ended_at <> 0 OR expires_at <= ?1 OR uses <> 0 AND used >= uses ORDER BY created_at DESC LIMIT ?2)`,
		micros(g.CreatedAt), keptGrants); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO grants (id, approval, registration, endpoint, rule, operator, reason,
			created_at, expires_at, uses, used, ended_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)`,
		g.ID, g.Approval, g.Registration, g.Endpoint, g.Rule, g.Operator, g.Reason, micros(g.CreatedAt), micros(g.ExpiresAt), g.Uses)
	return err
}

// endGrants ends a registration's grants: they do not outlive its approval.
// The caller holds writing.
func (db *DB) endGrants(ctx context.Context, tx *sql.Tx, id ID, now time.Time) error {
	for _, g := range db.grants() {
		if g.Registration == id {
			if err := storeUsed(ctx, tx, g.ID, g.used.Load()); err != nil {
				return err
			}
		}
	}
	_, err := tx.ExecContext(ctx, "UPDATE grants SET ended_at = ? WHERE registration = ? AND ended_at = 0", micros(now), id)
	return err
}

const selectGrants = `SELECT id, approval, registration, endpoint, rule, operator, reason,
	created_at, expires_at, ended_at, uses, used FROM grants`

func scanGrant(row interface{ Scan(...any) error }) (Grant, error) {
	var g Grant
	var created, expires, ended int64
	if err := row.Scan(&g.ID, &g.Approval, &g.Registration, &g.Endpoint, &g.Rule, &g.Operator, &g.Reason,
		&created, &expires, &ended, &g.Uses, &g.Used); err != nil {
		return Grant{}, err
	}
	g.CreatedAt, g.ExpiresAt, g.EndedAt = fromMicros(created), fromMicros(expires), fromMicros(ended)
	return g, nil
}

// loadGrants reads the grants in force.
func (db *DB) loadGrants(ctx context.Context) error {
	rows, err := db.write.QueryContext(ctx, selectGrants+" WHERE ended_at = 0 AND expires_at > ? AND (uses = 0 OR used < uses) ORDER BY created_at", micros(db.clock()))
	if err != nil {
		return err
	}
	defer rows.Close()
	list := []*liveGrant{}
	for rows.Next() {
		g, err := scanGrant(rows)
		if err != nil {
			return err
		}
		live := &liveGrant{Grant: g, saved: int64(g.Used)}
		live.used.Store(int64(g.Used))
		list = append(list, live)
	}
	db.approvals.grants.Store(&list)
	return rows.Err()
}
