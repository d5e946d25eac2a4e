package registry

import (
	"context"
	"time"
)

// Action is one row of the action log: what was decided. It is appended before
// the action goes ahead; ActionResult follows when it has ended.
type Action struct {
	ID           int64 // assigned by Append
	Time         time.Time
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

// Append queues a row and returns its ID. It waits only while the bounded queue
// is full.
func (db *DB) Append(ctx context.Context, row Action) (int64, error) {
	panic("registry: not built yet")
}

// Finish queues the result of the action with this ID. It never waits: a full
// queue of results drops the oldest and counts it.
func (db *DB) Finish(id int64, r ActionResult) { panic("registry: not built yet") }

// Sync returns when every row queued before the call is on disk.
func (db *DB) Sync(ctx context.Context) error { panic("registry: not built yet") }

// ActionFilter selects rows; zero fields select all. Newest first.
type ActionFilter struct {
	Registration ID
	Endpoint     string
	Verdict      string
	Since        time.Time
	Before       int64 // cursor: IDs below this one; 0: from the newest
	Limit        int   // 1 to 500; 0: 100
}

// Actions reads the log.
func (db *DB) Actions(ctx context.Context, f ActionFilter) ([]LoggedAction, error) {
	panic("registry: not built yet")
}
