package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Limits of what waits for an operator.
const (
	maxHeld                = 256 // pending in all
	maxHeldPerRegistration = 16
	maxHolders             = 64 // who wait for one of them
	asksPerSecond          = 1  // new ones of a registration: each is a row, synced twice
	asksBurst              = 32
	heldLifetime           = 10 * time.Minute // where the request does not say

	maxHeldSummary = 512     // bytes
	maxHeldDetail  = 8 << 10 // bytes
	maxHeldReason  = 512     // bytes
	maxOperator    = 128     // bytes

	// What has ended is kept: whatever an operator decided, and apart from it what
	// nobody did, so that an agent cannot push out the one with the other.
	keptDecided   = 10000
	keptUndecided = 1000
)

// ApprovalID names something that waits, or waited, for an operator.
type ApprovalID string

// ApprovalKind is what an operator is asked.
type ApprovalKind string

// The kinds of approvals.
const (
	ApproveHostKey ApprovalKind = "host_key" // whether a host key is the host's
	ApproveAction  ApprovalKind = "action"   // whether an action may happen
)

// ApprovalState is what has become of an approval.
type ApprovalState string

// The states of approvals. All but the first are final.
const (
	ApprovalPending   ApprovalState = "pending"
	ApprovalAllowed   ApprovalState = "allowed"
	ApprovalDenied    ApprovalState = "denied"
	ApprovalExpired   ApprovalState = "expired"   // nobody decided in time
	ApprovalWithdrawn ApprovalState = "withdrawn" // whoever waited has gone
)

// Held is something held until an operator decides, as a value nobody
// changes.
type Held struct {
	Seq          int64 // rises with each approval
	ID           ApprovalID
	Registration ID
	Endpoint     string // its reference
	Kind         ApprovalKind
	Rule         string // of kind "action": the one that held it
	Summary      string // for people
	Detail       json.RawMessage
	State        ApprovalState
	Reason       string // the operator's, for who asked
	Operator     string // who decided

	CreatedAt, ExpiresAt time.Time
	DecidedAt            time.Time // when it ended; zero: it has not
}

// HeldRequest is what Hold asks an operator.
type HeldRequest struct {
	Registration ID
	Endpoint     string
	Kind         ApprovalKind
	Rule         string        // of kind "action": the name of the rule that holds it; empty: it is never granted beforehand
	Summary      string        // at most 512 bytes
	Detail       any           // encodes as a JSON object of at most 8 KiB, of kind "action" an ActionDetail; nil: an empty one
	HostKey      HostKey       // of kind "host_key": what is accepted; Host, Port and Key
	Timeout      time.Duration // 0: 10 minutes
}

// Decision is how a held request ended. The zero value denies.
type Decision struct {
	ID     ApprovalID
	State  ApprovalState
	Reason string
}

// Allowed reports whether an operator said yes.
func (d Decision) Allowed() bool { return d.State == ApprovalAllowed }

// Errors of Hold and Decide.
var (
	ErrTooManyHeld = errors.New("too many requests wait for an operator already")
	ErrNoApproval  = errors.New("no such approval")
)

// approvals is what waits.
type approvals struct {
	pending map[ApprovalID]*holding // under writing
	asked   map[ID]*rate.Limiter    // who asked of late; under writing
	unsaved []*holding              // ended, and the disk does not know; under writing
	waiting atomic.Int64            // len(pending)
	changes atomic.Uint64           // how often pending has changed
	keys    atomic.Pointer[hostKeys]

	grants    atomic.Pointer[[]*liveGrant] // replaced under writing
	takenBack []Grant                      // and the disk does not know; under writing
}

// holding is one pending approval and who waits for it.
type holding struct {
	Held
	hostKey HostKey
	holders int           // under writing
	ended   chan struct{} // closed when it has: State and Reason stay from then on
}

// Hold asks an operator and waits for the answer: Allowed, denied, or nobody
// decided in time. The error is ctx's where that ends first, and then nothing is
// asked any more. A host key that a registration asks about a second time while it
// waits is one approval; of actions each is its own. At most 16 of a registration and 256 in all wait, and a registration
// asks something new at most 32 times at once and then once a second
// (ErrTooManyHeld). Nobody is asked what a grant covers: it is Allowed, under the
// ID of the approval that the grant was the answer to, and the use is on disk
// where uses are numbered.
func (db *DB) Hold(ctx context.Context, r HeldRequest) (Decision, error) {
	h, granted, err := db.hold(ctx, r)
	if err != nil {
		return Decision{}, fmt.Errorf("asking an operator: %w", err)
	}
	if h == nil {
		return granted, nil
	}
	select {
	case <-h.ended:
	case <-ctx.Done():
		db.leave(h)
	case <-db.closing:
		return Decision{}, fmt.Errorf("asking an operator: %w", ErrClosed)
	}
	select {
	case <-h.ended: // also where it ended at the same instant as ctx
		if h.State != ApprovalWithdrawn {
			return Decision{ID: h.ID, State: h.State, Reason: h.Reason}, nil
		}
	default: // others still wait
	}
	return Decision{}, fmt.Errorf("waiting for an operator: %w", context.Cause(ctx))
}

// hold joins what waits already, or stores a new row. Where it returns no
// holding and no error, a grant has decided.
func (db *DB) hold(ctx context.Context, r HeldRequest) (*holding, Decision, error) {
	a, err := newApproval(r)
	if err != nil {
		return nil, Decision{}, err
	}
	end, err := db.begin(ctx)
	if err != nil {
		return nil, Decision{}, err
	}
	defer end()
	now := db.clock()
	if reg, ok := db.Snapshot().ByID(r.Registration); !ok || reg.State != Approved {
		return nil, Decision{}, fmt.Errorf("%w: registration %q is not approved", ErrState, r.Registration)
	}
	if d, ok, err := db.useGrant(ctx, a, now); ok || err != nil {
		return nil, d, err
	}
	h, err := db.wait(ctx, r, a, now)
	return h, Decision{}, err
}

// wait adds a holder to what waits already, or stores a new row. The caller holds
// writing.
func (db *DB) wait(ctx context.Context, r HeldRequest, a Held, now time.Time) (*holding, error) {
	mine := 0
	for _, h := range db.approvals.pending {
		if h.Registration != a.Registration || !now.Before(h.ExpiresAt) {
			continue
		}
		// Two actions that look the same need not be: an operator sees no body and no
		// literal. One answer allows one of them.
		if h.Kind == ApproveHostKey && h.same(a, r.HostKey) {
			if h.holders >= maxHolders {
				return nil, ErrTooManyHeld
			}
			h.holders++
			return h, nil
		}
		mine++
	}
	if mine >= maxHeldPerRegistration || len(db.approvals.pending) >= maxHeld || !db.approvals.mayAsk(a.Registration, now) {
		return nil, ErrTooManyHeld
	}
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = heldLifetime
	}
	a.CreatedAt, a.ExpiresAt = now, now.Add(timeout)
	h := &holding{Held: a, hostKey: r.HostKey, holders: 1, ended: make(chan struct{})}
	err := db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := forgetApprovals(ctx, tx); err != nil {
			return err
		}
		stored, err := tx.ExecContext(ctx, `INSERT INTO approvals (id, registration, endpoint, kind, rule, summary, detail,
				state, reason, operator, created_at, decided_at, expires_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', '', '', ?, 0, ?)`,
			a.ID, a.Registration, a.Endpoint, a.Kind, a.Rule, a.Summary, string(a.Detail), micros(a.CreatedAt), micros(a.ExpiresAt))
		if err == nil {
			h.Seq, err = stored.LastInsertId()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	db.approvals.pending[a.ID] = h
	db.approvals.waiting.Store(int64(len(db.approvals.pending)))
	db.approvals.changes.Add(1)
	return h, nil
}

// mayAsk counts one more question of a registration. Whoever comes and goes must
// not keep the disk busy, nor push out what others asked. The caller holds
// writing.
func (a *approvals) mayAsk(id ID, now time.Time) bool {
	for other, l := range a.asked {
		if l.TokensAt(now) >= asksBurst {
			delete(a.asked, other)
		}
	}
	l := a.asked[id]
	if l == nil {
		l = rate.NewLimiter(asksPerSecond, asksBurst)
		a.asked[id] = l
	}
	return l.AllowN(now, 1)
}

// newApproval is r, checked and made fit for the database.
func newApproval(r HeldRequest) (Held, error) {
	detail := []byte("{}")
	if r.Detail != nil {
		var err error
		if detail, err = json.Marshal(r.Detail); err != nil {
			return Held{}, fmt.Errorf("%w: the detail: %v", ErrInvalid, err)
		}
	}
	switch {
	case len(detail) > maxHeldDetail || detail[0] != '{':
		return Held{}, fmt.Errorf("%w: the detail is no JSON object, or has more than %d bytes", ErrInvalid, maxHeldDetail)
	case r.Registration == "" || !validKey(r.Endpoint) || r.Summary == "":
		return Held{}, fmt.Errorf("%w: an approval without registration, endpoint or summary", ErrInvalid)
	case r.Kind != ApproveHostKey && r.Kind != ApproveAction:
		return Held{}, fmt.Errorf("%w: approvals of kind %q", ErrInvalid, r.Kind)
	case r.Rule != "" && (r.Kind != ApproveAction || !validKey(r.Rule)):
		return Held{}, fmt.Errorf("%w: rule %q with an approval of kind %q", ErrInvalid, r.Rule, r.Kind)
	case (r.Kind == ApproveHostKey) != r.HostKey.valid():
		return Held{}, fmt.Errorf("%w: a host key belongs to an approval of kind %q", ErrInvalid, ApproveHostKey)
	}
	return Held{
		ID:           ApprovalID("a_" + strings.ToLower(rand.Text())),
		Registration: r.Registration,
		Endpoint:     r.Endpoint,
		Kind:         r.Kind,
		Rule:         r.Rule,
		Summary:      cleanText(r.Summary, maxHeldSummary),
		Detail:       detail,
		State:        ApprovalPending,
	}, nil
}

// same reports whether h asks what a asks. Registration is equal already.
func (h *holding) same(a Held, key HostKey) bool {
	return h.Endpoint == a.Endpoint && h.Kind == a.Kind && h.Rule == a.Rule && h.Summary == a.Summary &&
		string(h.Detail) == string(a.Detail) && h.hostKey.same(key)
}

// leave is a holder's going. Nobody is asked for the sake of nobody.
func (db *DB) leave(h *holding) {
	end, err := db.begin(context.Background())
	if err != nil {
		return // closing: it is withdrawn at the next start
	}
	defer end()
	if h.holders--; h.holders == 0 && h.State == ApprovalPending {
		db.finish(h, ApprovalWithdrawn, "", "", db.clock())
		_ = db.saveApprovals() // tried again each second
	}
}

// finish ends h in memory, and notes that the disk has to learn of it. The caller
// holds writing.
func (db *DB) finish(h *holding, state ApprovalState, reason, operator string, now time.Time) {
	h.end(state, reason, operator, now)
	db.approvals.unsaved = append(db.approvals.unsaved, h)
	db.approvals.gone(h)
}

func (h *holding) end(state ApprovalState, reason, operator string, now time.Time) {
	h.State, h.Reason, h.Operator, h.DecidedAt = state, reason, operator, now
}

// gone lets h's holders go. The caller holds writing.
func (a *approvals) gone(h *holding) {
	delete(a.pending, h.ID)
	a.waiting.Store(int64(len(a.pending)))
	a.changes.Add(1)
	close(h.ended)
}

// expireApprovals ends what nobody decided in time. The caller holds writing.
func (db *DB) expireApprovals(now time.Time) error {
	for _, h := range db.approvals.pending {
		if !now.Before(h.ExpiresAt) {
			db.finish(h, ApprovalExpired, "no operator decided in time", "", now)
		}
	}
	return errors.Join(db.saveApprovals(), db.expireGrants(now))
}

// saveApprovals stores what ended without a decision. What the disk refuses stays
// ended, and is tried again each second; at most as many wait for that as ended
// rows are kept. The caller holds writing.
func (db *DB) saveApprovals() error {
	ended := db.approvals.unsaved
	if len(ended) == 0 {
		return nil
	}
	err := db.commit(context.Background(), func(ctx context.Context, tx *sql.Tx) error {
		for _, h := range ended {
			if err := storeEnd(ctx, tx, h.Held); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		if n := len(ended) - keptUndecided; n > 0 {
			db.approvals.unsaved = append([]*holding(nil), ended[n:]...)
		}
		return fmt.Errorf("storing what became of approvals: %w", err)
	}
	db.approvals.unsaved = nil
	return nil
}

func storeEnd(ctx context.Context, tx *sql.Tx, a Held) error {
	_, err := tx.ExecContext(ctx, "UPDATE approvals SET state = ?, reason = ?, operator = ?, decided_at = ? WHERE id = ? AND state = 'pending'",
		a.State, a.Reason, a.Operator, micros(a.DecidedAt), a.ID)
	return err
}

// forgetApprovals makes room for one row more.
func forgetApprovals(ctx context.Context, tx *sql.Tx) error {
	for _, old := range []struct {
		states string
		kept   int
	}{
		{"'allowed', 'denied'", keptDecided},
		{"'expired', 'withdrawn'", keptUndecided},
	} {
		if _, err := tx.ExecContext(ctx, `DELETE FROM approvals WHERE state IN (`+old.states+`) AND seq <= coalesce(
			(SELECT seq FROM approvals WHERE state IN (`+old.states+`) ORDER BY seq DESC LIMIT 1 OFFSET ?), -1)`, old.kept-1); err != nil {
			return err
		}
	}
	return nil
}

// loadApprovals withdraws what was pending when the gateway stopped: its holders
// are gone.
func (db *DB) loadApprovals(ctx context.Context) error {
	db.approvals.pending = make(map[ApprovalID]*holding)
	db.approvals.asked = make(map[ID]*rate.Limiter)
	_, err := db.write.ExecContext(ctx, "UPDATE approvals SET state = 'withdrawn', decided_at = ? WHERE state = 'pending'", micros(db.clock()))
	return err
}
