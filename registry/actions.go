package registry

import (
	"context"
	"fmt"
	"time"
)

// Limits of an action row's text, in bytes.
const (
	maxSummary = 512 // also of Reason
	maxField   = 256 // of every other
)

// The verdicts of an action that has been decided.
const (
	verdictAllow = "allow"
	verdictDeny  = "deny"
)

// Action is one row of the action log: what was decided. It is appended before
// the action goes ahead; ActionResult follows when it has ended. Text that is
// too long is cut, control characters in it are replaced.
type Action struct {
	ID           int64     // assigned by Append
	Time         time.Time // zero: when it is appended
	Registration ID
	Profile      string
	Endpoint     string // ref
	Credential   string // ref
	Protocol     string
	Summary      string // at most 512 bytes, no secrets, no query values
	Verdict      string // "allow", "deny"
	Rule         string
	Reason       string
}

// ActionResult is how an action ended.
type ActionResult struct {
	Status   string // e.g. "200", "upstream_unreachable"
	BytesIn  int64  // from the agent
	BytesOut int64  // to the agent
	Duration time.Duration
}

// LoggedAction is an Action as read back; Result is nil while it runs.
type LoggedAction struct {
	Action
	Result *ActionResult
}

// Append queues a row and returns its ID, which is greater than those of all
// rows before it. It waits only while the bounded queue is full, and fails
// while the disk refuses rows (ErrLogFailed).
func (db *DB) Append(ctx context.Context, row Action) (int64, error) {
	if row.Verdict != verdictAllow && row.Verdict != verdictDeny {
		return 0, fmt.Errorf("appending to the action log: %w: verdict %q", ErrInvalid, row.Verdict)
	}
	row = row.clean()
	if row.Time.IsZero() {
		row.Time = db.now()
	}
	row.Time = row.Time.UTC().Truncate(time.Microsecond)
	id, err := db.actions.append(ctx, row)
	if err != nil {
		return 0, fmt.Errorf("appending to the action log: %w", err)
	}
	return id, nil
}

// clean bounds the row's text.
func (a Action) clean() Action {
	a.Registration = ID(cleanText(string(a.Registration), maxField))
	for _, field := range []*string{&a.Profile, &a.Endpoint, &a.Credential, &a.Protocol, &a.Rule} {
		*field = cleanText(*field, maxField)
	}
	a.Summary = cleanText(a.Summary, maxSummary)
	a.Reason = cleanText(a.Reason, maxSummary)
	return a
}

// Finish queues the result of the action with this ID. It never waits: a full
// queue of results drops the oldest and counts it. The first result of an
// action stands.
func (db *DB) Finish(id int64, r ActionResult) {
	r.Status = cleanText(r.Status, maxField)
	db.actions.finish(id, r)
}

// Sync returns when every row queued before the call is on disk, or says why
// they are not.
func (db *DB) Sync(ctx context.Context) error {
	if err := db.actions.sync(ctx); err != nil {
		return fmt.Errorf("syncing the action log: %w", err)
	}
	return nil
}

// LogHealth says how the action log is doing.
type LogHealth struct {
	Queued         int    // rows waiting for the disk
	DroppedResults uint64 // since Open
	Err            error  // why the last transaction failed; nil: it did not
	Removed        Removed
}

// LogHealth returns how the action log is doing.
func (db *DB) LogHealth() LogHealth { return db.actions.health() }

// LastAction returns the ID of the newest row that is on disk; 0: there is none.
func (db *DB) LastAction() int64 {
	l := db.actions
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stored
}
