package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// maxApprovals bounds what Approvals returns: with all that nobody decided there
// is room for decisions.
const maxApprovals = 2 * keptUndecided

// Decide answers a pending approval. Of two operators one wins; the other gets
// ErrState, as does whoever comes too late. Allowing one of kind "host_key"
// accepts the key in the same transaction. A nil error means that the decision is
// on disk, and only then does whoever waits learn of it.
func (db *DB) Decide(ctx context.Context, id ApprovalID, allow bool, reason, operator string) error {
	if err := db.decide(ctx, id, allow, reason, operator); err != nil {
		return fmt.Errorf("deciding approval %q: %w", id, err)
	}
	return nil
}

func (db *DB) decide(ctx context.Context, id ApprovalID, allow bool, reason, operator string) error {
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
			a.State = ApprovalExpired // in a moment
		}
		return fmt.Errorf("%w: it is %s", ErrState, a.State)
	}
	state := ApprovalDenied
	if allow {
		state = ApprovalAllowed
	}
	reason, operator = cleanText(reason, maxHeldReason), cleanText(operator, maxOperator)
	decided := h.Held
	decided.State, decided.Reason, decided.Operator, decided.DecidedAt = state, reason, operator, now
	accept := allow && h.Kind == ApproveHostKey
	key := h.hostKey
	key.Endpoint, key.Approval, key.AcceptedAt = h.Endpoint, id, now
	err = db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if err := storeEnd(ctx, tx, decided); err != nil {
			return err
		}
		if accept {
			return storeHostKey(ctx, tx, key)
		}
		return nil
	})
	if err != nil {
		return err
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

// Approvals lists the approvals in a state, or with an empty one all, newest
// first: 2000 at most, and of the pending ones always all.
func (db *DB) Approvals(ctx context.Context, state ApprovalState) ([]Held, error) {
	list, err := db.listApprovals(ctx, state)
	if err != nil {
		return nil, fmt.Errorf("listing approvals: %w", err)
	}
	return list, nil
}

func (db *DB) listApprovals(ctx context.Context, state ApprovalState) ([]Held, error) {
	query, args := selectApprovals, []any{maxApprovals}
	if state != "" {
		query, args = query+" WHERE state = ?", []any{state, maxApprovals}
	}
	rows, err := db.read.QueryContext(ctx, query+" ORDER BY seq DESC LIMIT ?", args...)
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

const selectApprovals = `SELECT id, registration, endpoint, kind, summary, detail, state, reason, operator,
	created_at, decided_at, expires_at FROM approvals`

func scanApproval(row interface{ Scan(...any) error }) (Held, error) {
	var a Held
	var detail string
	var created, decided, expires int64
	if err := row.Scan(&a.ID, &a.Registration, &a.Endpoint, &a.Kind, &a.Summary, &detail, &a.State, &a.Reason, &a.Operator,
		&created, &decided, &expires); err != nil {
		return Held{}, err
	}
	a.Detail = []byte(detail)
	a.CreatedAt, a.DecidedAt, a.ExpiresAt = fromMicros(created), fromMicros(decided), fromMicros(expires)
	return a, nil
}
