package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

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
	// Rows since then have this ID or a greater one: the walk stops there. Times
	// rise with IDs, but for the clock's corrections.
	var since sql.NullInt64
	if !f.Since.IsZero() {
		if err := db.read.QueryRowContext(ctx, "SELECT min(id) FROM actions INDEXED BY actions_by_time WHERE time >= ?",
			micros(f.Since)).Scan(&since); err != nil {
			return nil, err
		}
		if !since.Valid {
			return nil, nil
		}
	}
	query, args := f.query(since.Int64)
	rows, err := db.read.QueryContext(ctx, query, args...)
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

// query returns the statement for f and its arguments; no row since f.Since has
// an ID below since. It never sorts: it walks IDs downwards, within the spans of
// a registration or endpoint, or along the index of what was not allowed.
func (f ActionFilter) query(since int64) (string, []any) {
	var where []string
	var args []any
	and := func(condition string, arg ...any) {
		where = append(where, condition)
		args = append(args, arg...)
	}
	from, order := "actions a", "a.id DESC"
	denied := f.Verdict != "" && f.Verdict != verdictAllow
	spans := !denied && (f.Registration != "" || f.Endpoint != "") // the index of what was denied leads to fewer rows
	if spans {
		from = "action_spans s CROSS JOIN actions a" // in this order: SQLite keeps it
		order = "s.span DESC, a.id DESC"
		and(fmt.Sprintf("a.id BETWEEN s.span << %[1]d AND (s.span << %[1]d) + %[2]d", spanBits, 1<<spanBits-1))
	}
	if f.Registration != "" {
		and("a.registration = ?", f.Registration)
	}
	if f.Endpoint != "" {
		and("a.endpoint = ?", f.Endpoint)
	}
	switch {
	case spans && f.Registration == "":
		and("s.field = ? AND s.value = ?", fieldEndpoint, f.Endpoint)
	case spans:
		and("s.field = ? AND s.value = ?", fieldRegistration, f.Registration)
		if f.Endpoint != "" {
			and(`EXISTS (SELECT 1 FROM action_spans e
				WHERE e.field = ? AND e.value = ? AND e.span = s.span)`, fieldEndpoint, f.Endpoint)
		}
	}
	if f.Verdict != "" {
		and("a.verdict = ?", f.Verdict)
		if denied {
			and("a.verdict <> 'allow'") // lets SQLite use the partial index
		}
	}
	// bound adds a condition on the ID, and the one on the span that follows.
	bound := func(comparison string, id int64) {
		and("a.id "+comparison+" ?", id)
		if spans {
			and("s.span "+comparison[:1]+"= ?", id>>spanBits)
		}
	}
	if !f.Since.IsZero() {
		bound(">=", since)
		and("+a.time >= ?", micros(f.Since)) // the + keeps SQLite from choosing the index on times
	}
	if f.Before != 0 {
		bound("<", f.Before)
	}
	if f.After != 0 {
		bound(">", f.After)
	}
	query := `SELECT a.id, a.time, a.registration, a.profile, a.endpoint, a.credential, a.protocol,
		a.summary, a.verdict, a.rule, a.reason, coalesce(a.status, r.status), coalesce(a.bytes_in, r.bytes_in),
		coalesce(a.bytes_out, r.bytes_out), coalesce(a.duration, r.duration)
		FROM ` + from + " LEFT JOIN action_results r ON r.action = a.id"
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	return query + " ORDER BY " + order + " LIMIT ?", append(args, f.Limit)
}
