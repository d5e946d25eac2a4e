package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
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
}

// LogHealth returns how the action log is doing.
func (db *DB) LogHealth() LogHealth { return db.actions.health() }

// ActionFilter selects rows; zero fields select all. Newest first.
type ActionFilter struct {
	Registration ID
	Endpoint     string
	Verdict      string
	Since        time.Time
	Before       int64 // cursor: IDs below this one; 0: from the newest
	After        int64 // IDs above this one: what has been appended since
	Limit        int   // 1 to 500; 0: 100
}

// Actions reads the log.
func (db *DB) Actions(ctx context.Context, f ActionFilter) ([]LoggedAction, error) {
	actions, err := db.readActions(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("reading the action log: %w", err)
	}
	return actions, nil
}

func (db *DB) readActions(ctx context.Context, f ActionFilter) ([]LoggedAction, error) {
	if f.Limit == 0 {
		f.Limit = 100
	}
	if f.Limit < 1 || f.Limit > 500 || f.Before < 0 || f.After < 0 {
		return nil, fmt.Errorf("%w: limit %d, before %d, after %d", ErrInvalid, f.Limit, f.Before, f.After)
	}
	var where []string
	var args []any
	and := func(condition string, arg ...any) {
		where = append(where, condition)
		args = append(args, arg...)
	}
	if f.Registration != "" {
		and("a.registration = ?", f.Registration)
	}
	if f.Endpoint != "" {
		and("a.endpoint = ?", f.Endpoint)
	}
	if f.Verdict != "" {
		and("a.verdict = ?", f.Verdict)
		if f.Verdict != verdictAllow {
			and("a.verdict <> 'allow'") // lets SQLite use the partial index
		}
	}
	if !f.Since.IsZero() {
		// The bound on id stops the walk through another index at the first row
		// in question: times rise with IDs, but for the clock's corrections.
		and("a.id >= (SELECT min(id) FROM actions INDEXED BY actions_by_time WHERE time >= ?)", micros(f.Since))
		and("+a.time >= ?", micros(f.Since)) // the + keeps SQLite from choosing that index again
	}
	if f.Before != 0 {
		and("a.id < ?", f.Before)
	}
	if f.After != 0 {
		and("a.id > ?", f.After)
	}
	query := `SELECT a.id, a.time, a.registration, a.profile, a.endpoint, a.credential, a.protocol,
		a.summary, a.verdict, a.rule, a.reason, r.status, r.bytes_in, r.bytes_out, r.duration
		FROM actions a LEFT JOIN action_results r ON r.action = a.id`
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	rows, err := db.read.QueryContext(ctx, query+" ORDER BY a.id DESC LIMIT ?", append(args, f.Limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var actions []LoggedAction
	for rows.Next() {
		var a LoggedAction
		var at int64
		var status sql.NullString
		var in, out, duration sql.NullInt64
		if err := rows.Scan(&a.ID, &at, &a.Registration, &a.Profile, &a.Endpoint, &a.Credential, &a.Protocol,
			&a.Summary, &a.Verdict, &a.Rule, &a.Reason, &status, &in, &out, &duration); err != nil {
			return nil, err
		}
		a.Time = fromMicros(at)
		if status.Valid {
			a.Result = &ActionResult{status.String, in.Int64, out.Int64, time.Duration(duration.Int64)}
		}
		actions = append(actions, a)
	}
	return actions, rows.Err()
}
