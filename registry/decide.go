package registry

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Decide answers a pending approval. Of two operators one wins; the other gets
// ErrState, as does whoever comes too late. Allowing one of kind "host_key"
// accepts the key in the same transaction. A nil error means that the decision is
// on disk, and only then does whoever waits learn of it.
func (db *DB) Decide(ctx context.Context, id ApprovalID, allow bool, reason, operator string) error {
	if err := db.decide(ctx, id, allow, reason, operator, nil); err != nil {
		return fmt.Errorf("deciding approval %q: %w", id, err)
	}
	return nil
}

// DecideFor allows a pending action as Decide does, and with it grants, in the
// same transaction, what its rule holds of its registration at its endpoint from
// now on. Other approvals that wait already stay waiting. What no rule asked, host
// keys among it, cannot be granted (ErrInvalid), and 256 grants at most are in
// force (ErrTooManyGrants).
func (db *DB) DecideFor(ctx context.Context, id ApprovalID, reason, operator string, terms GrantTerms) error {
	if err := db.decide(ctx, id, true, reason, operator, &terms); err != nil {
		return fmt.Errorf("deciding approval %q: %w", id, err)
	}
	return nil
}

// OverError is why an approval could not be decided: it had ended before, as Held
// says. It is an ErrState.
type OverError struct{ Held Held }

func (e *OverError) Error() string        { return ErrState.Error() + ": it is " + string(e.Held.State) }
func (e *OverError) Is(target error) bool { return target == ErrState }

func (db *DB) decide(ctx context.Context, id ApprovalID, allow bool, reason, operator string, terms *GrantTerms) error {
	end, err := db.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	now := db.clock()
	h := db.approvals.pending[id]
	if h == nil || !now.Before(h.ExpiresAt) {
		a, err := db.Approval(ctx, id)
		if err != nil {
			return err
		}
		if h != nil {
			a.State, a.DecidedAt = ApprovalExpired, now // in a moment
		}
		for _, ended := range db.approvals.unsaved { // the disk does not know
			if ended.ID == id {
				a = ended.Held
			}
		}
		return &OverError{a}
	}
	state := ApprovalDenied
	if allow {
		state = ApprovalAllowed
	}
	reason, operator = cleanText(reason, maxHeldReason), cleanText(operator, maxOperator)
	decided := h.Held
	decided.State, decided.Reason, decided.Operator, decided.DecidedAt = state, reason, operator, now
	var grant *liveGrant
	if terms != nil {
		if grant, err = newGrant(decided, *terms, now); err != nil {
			return err
		}
		if len(db.Grants()) >= maxGrants {
			return ErrTooManyGrants
		}
	}
	accept := allow && h.Kind == ApproveHostKey
	key := h.hostKey
	key.Endpoint, key.Approval, key.AcceptedAt = h.Endpoint, id, now
	err = db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := storeEnd(ctx, tx, decided); err != nil {
			return err
		}
		if grant != nil {
			return storeGrant(ctx, tx, grant.Grant)
		}
		if accept {
			return storeHostKey(ctx, tx, key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if grant != nil {
		db.addGrant(grant)
	}
	if accept {
		db.approvals.keys.Store(db.approvals.keys.Load().with(key))
	}
	h.end(state, reason, operator, now)
	db.approvals.gone(h)
	return nil
}

// PendingApprovals returns how many approvals wait, from memory.
func (db *DB) PendingApprovals() int { return int(db.approvals.waiting.Load()) }

// ApprovalChanges counts the approvals that came and went since Open: where it
// differs, something waits that did not, or does not any more.
func (db *DB) ApprovalChanges() uint64 { return db.approvals.changes.Load() }

// Approval returns one approval, or ErrNoApproval.
func (db *DB) Approval(ctx context.Context, id ApprovalID) (Held, error) {
	a, err := scanApproval(db.read.QueryRowContext(ctx, selectApprovals+" WHERE id = ?", id))
	if errors.Is(err, sql.ErrNoRows) {
		return Held{}, ErrNoApproval
	}
	if err != nil {
		return Held{}, fmt.Errorf("reading approval %q: %w", id, err)
	}
	return a, nil
}

// ApprovalFilter selects approvals; zero fields select all. Newest first.
type ApprovalFilter struct {
	States []ApprovalState
	Before int64 // cursor: those with a lower Seq; 0: from the newest
	Limit  int   // 1 to 500; 0: 256, as many as can be pending

	OldestFirst bool // and then Before is not looked at
}

// Approvals lists the approvals in a state, or with an empty one all, newest
// first: 256 at most, and so all that are pending.
func (db *DB) Approvals(ctx context.Context, state ApprovalState) ([]Held, error) {
	if state == "" {
		return db.FindApprovals(ctx, ApprovalFilter{})
	}
	return db.FindApprovals(ctx, ApprovalFilter{States: []ApprovalState{state}})
}

// FindApprovals lists approvals. It reads at most Limit rows for each state.
func (db *DB) FindApprovals(ctx context.Context, f ApprovalFilter) ([]Held, error) {
	if f.Limit == 0 {
		f.Limit = maxHeld
	}
	if f.Limit < 1 || f.Limit > 500 || f.Before < 0 {
		return nil, fmt.Errorf("listing approvals: %w: limit %d, before %d", ErrInvalid, f.Limit, f.Before)
	}
	var list []Held
	for _, state := range f.States {
		some, err := db.listApprovals(ctx, f, "state = ?", state)
		if err != nil {
			return nil, fmt.Errorf("listing approvals: %w", err)
		}
		list = append(list, some...)
	}
	if len(f.States) == 0 {
		var err error
		if list, err = db.listApprovals(ctx, f, "? = ''", ""); err != nil {
			return nil, fmt.Errorf("listing approvals: %w", err)
		}
	}
	slices.SortFunc(list, func(a, b Held) int {
		if f.OldestFirst {
			return cmp.Compare(a.Seq, b.Seq)
		}
		return cmp.Compare(b.Seq, a.Seq)
	})
	return list[:min(len(list), f.Limit)], nil
}

func (db *DB) listApprovals(ctx context.Context, f ApprovalFilter, where string, state ApprovalState) ([]Held, error) {
	before, order := int64(math.MaxInt64), "DESC"
	if f.Before > 0 {
		before = f.Before
	}
	if f.OldestFirst {
		before, order = math.MaxInt64, "ASC"
	}
	rows, err := db.read.QueryContext(ctx, approvalsQuery(where, order), state, before, f.Limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Held
	for rows.Next() {
		a, err := scanApproval(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, rows.Err()
}

func approvalsQuery(where, order string) string {
	return selectApprovals + " WHERE " + where + " AND seq < ? ORDER BY seq " + order + " LIMIT ?"
}

const selectApprovals = `SELECT seq, id, registration, endpoint, kind, rule, summary, detail, state, reason, operator,
	created_at, decided_at, expires_at FROM approvals`

func scanApproval(row interface{ Scan(...any) error }) (Held, error) {
	var a Held
	var detail string
	var created, decided, expires int64
	if err := row.Scan(&a.Seq, &a.ID, &a.Registration, &a.Endpoint, &a.Kind, &a.Rule, &a.Summary, &detail, &a.State, &a.Reason, &a.Operator,
		&created, &decided, &expires); err != nil {
		return Held{}, err
	}
	a.Detail = []byte(detail)
	a.CreatedAt, a.DecidedAt, a.ExpiresAt = fromMicros(created), fromMicros(decided), fromMicros(expires)
	return a, nil
}
