package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// What one page of the log costs at most, whatever is asked for and however few
// rows match: so many rows are looked at, then the page ends and says how far
// it came. Figures are in docs/performance.md.
const (
	maxWalkedRows   = 64 << spanBits // in the order of their IDs, or of the spans that have the registration or endpoint
	maxWalkedText   = 32 << spanBits // where a text is looked for in them
	maxWalkedDenied = 8 << 10        // of those that were not allowed, which lie apart
	maxWalkedSpans  = 8 << 10        // that are asked whether they have a row of interest
	maxDeniedSpans  = 2 << 10        // in which rows that were not allowed are looked for
	maxWalkedTimes  = 10_000         // times, where a point in time is looked up
)

// maxText is how long ActionFilter.Text may be, in bytes: what comparing a text
// costs grows with both.
const maxText = 64

// ActionFilter selects rows; zero fields select all. Newest first.
type ActionFilter struct {
	Registration ID
	Endpoint     string
	Verdict      string
	Rule         string
	Credential   string
	Text         string    // somewhere in summary, reason or status; a-z also matches A-Z; at most 64 bytes
	Since        time.Time // that time and later
	Until        time.Time // before that time
	Before       int64     // cursor: IDs below this one; 0: from the newest
	After        int64     // IDs above this one: what has been appended since
	Limit        int       // 1 to 500; 0: 100
}

// ActionPage is a part of the log.
type ActionPage struct {
	Actions []LoggedAction
	Next    int64 // Before of the page that follows; 0: there is none

	// Searched is set where the page ends before it is full, since enough rows had
	// been looked at: none that matches and is not on this page or an earlier one
	// has an ID as great as the row of this time. Those that follow may be empty too.
	Searched time.Time
}

// Actions returns the rows of one page. Where f has few rows in a long log, there
// may be more of them than the page came to: see ActionPage.
func (db *DB) Actions(ctx context.Context, f ActionFilter) ([]LoggedAction, error) {
	page, err := db.ActionPage(ctx, f)
	return page.Actions, err
}

// ActionPage reads a page of the log.
func (db *DB) ActionPage(ctx context.Context, f ActionFilter) (ActionPage, error) {
	page, err := db.readActions(ctx, f)
	if err != nil {
		return ActionPage{}, fmt.Errorf("reading the action log: %w", err)
	}
	return page, nil
}

// check refuses what is out of bounds, and fills in the limit.
func (f *ActionFilter) check() error {
	if f.Limit == 0 {
		f.Limit = 100
	}
	if f.Limit < 1 || f.Limit > 500 || f.Before < 0 || f.After < 0 || len(f.Text) > maxText {
		return fmt.Errorf("%w: limit %d, before %d, after %d, %d bytes of text", ErrInvalid, f.Limit, f.Before, f.After, len(f.Text))
	}
	return nil
}

func (db *DB) readActions(ctx context.Context, f ActionFilter) (page ActionPage, err error) {
	if err := f.check(); err != nil {
		return page, err
	}
	asked, err := db.idRange(ctx, f)
	if err != nil || asked.empty() {
		return page, err
	}
	walked, err := db.bound(ctx, f, asked)
	if err != nil {
		return page, err
	}
	query, args := f.query(walked)
	if page.Actions, err = db.scanActions(ctx, query, args); err != nil {
		return page, err
	}
	switch n := len(page.Actions); {
	case n == f.Limit && page.Actions[n-1].ID > asked.low:
		page.Next = page.Actions[n-1].ID
	case n < f.Limit && walked.low > asked.low:
		page.Next = walked.low
		var at int64
		// There is such a row, unless the oldest were removed just now.
		err := db.read.QueryRowContext(ctx, "SELECT time FROM actions WHERE id >= ? ORDER BY id LIMIT 1", walked.low).Scan(&at)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return page, err
		}
		page.Searched = fromMicros(at)
	}
	return page, nil
}

// Action reads one row; ErrNoAction where there is none, or none any more.
func (db *DB) Action(ctx context.Context, id int64) (LoggedAction, error) {
	list, err := db.scanActions(ctx, selectActions+" WHERE a.id = ?", []any{id})
	switch {
	case err != nil:
		return LoggedAction{}, fmt.Errorf("reading an action: %w", err)
	case len(list) == 0:
		return LoggedAction{}, ErrNoAction
	}
	return list[0], nil
}

// ErrNoAction says that the log has no row with this ID.
var ErrNoAction = errors.New("no such action")

// ActionsAfter returns rows above f.After, oldest first: those that match of the
// next few thousand, at most f.Limit. It has looked at every row up to through,
// the After of the next call. f.Before is not looked at.
func (db *DB) ActionsAfter(ctx context.Context, f ActionFilter) (list []LoggedAction, through int64, err error) {
	if err := f.check(); err != nil {
		return nil, 0, fmt.Errorf("following the action log: %w", err)
	}
	f.Before = 0
	// What was removed is not walked through: who comes back after it would be long.
	var first int64
	if err := db.read.QueryRowContext(ctx, "SELECT first FROM action_log_start").Scan(&first); err != nil {
		return nil, 0, fmt.Errorf("following the action log: %w", err)
	}
	low := max(f.After+1, first)
	walked := idRange{low, min(db.LastAction(), low+followStep-1)}
	if walked.empty() {
		return nil, f.After, nil
	}
	query, args := f.follow(walked)
	if list, err = db.scanActions(ctx, query, args); err != nil {
		return nil, 0, fmt.Errorf("following the action log: %w", err)
	}
	if len(list) == f.Limit {
		return list, list[len(list)-1].ID, nil
	}
	return list, walked.high, nil
}

const followStep = 4 << spanBits // rows that ActionsAfter looks at

func (db *DB) scanActions(ctx context.Context, query string, args []any) ([]LoggedAction, error) {
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

const selectActions = `SELECT a.id, a.time, a.registration, a.profile, a.endpoint, a.credential, a.protocol,
	a.summary, a.verdict, a.rule, a.reason, coalesce(a.status, r.status), coalesce(a.bytes_in, r.bytes_in),
	coalesce(a.bytes_out, r.bytes_out), coalesce(a.duration, r.duration)
	FROM actions a LEFT JOIN action_results r ON r.action = a.id`

// conditions collects what stands behind WHERE.
type conditions struct {
	where []string
	args  []any
}

func (c *conditions) and(condition string, arg ...any) {
	c.where = append(c.where, condition)
	c.args = append(c.args, arg...)
}

func (c *conditions) String() string { return " WHERE " + strings.Join(c.where, " AND ") }

// denied says whether f asks for rows that an index has, and spanned whether its
// rows are looked for in the spans of a registration or endpoint.
func (f *ActionFilter) denied() bool  { return f.Verdict != "" && f.Verdict != verdictAllow }
func (f *ActionFilter) spanned() bool { return f.Registration != "" || f.Endpoint != "" }

// maxRows is how many rows a page of f looks at.
func (f *ActionFilter) maxRows() int64 {
	if f.Text != "" {
		return maxWalkedText
	}
	return maxWalkedRows
}

// walk returns how rows within ids are gone through, newest first: along their
// IDs, or along the index of those that were not allowed, within all of the log
// or within spans. It never sorts.
func (f *ActionFilter) walk(ids idRange) (from, order string, c conditions) {
	from, order = "actions a", "a.id DESC"
	if f.denied() {
		from += " INDEXED BY actions_not_allowed"
		c.and("a.verdict = ? AND a.verdict <> 'allow'", f.Verdict) // the latter lets SQLite use the partial index
	}
	if f.spanned() {
		from = "action_spans s CROSS JOIN " + from // in this order: SQLite keeps it
		order = "s.span DESC, a.id DESC"
		f.spans(&c, ids)
		c.and(fmt.Sprintf("a.id BETWEEN max(s.span << %[1]d, ?) AND min((s.span << %[1]d) + %[2]d, ?)", spanBits, 1<<spanBits-1), ids.low, ids.high)
	} else {
		c.and("a.id BETWEEN ? AND ?", ids.low, ids.high)
	}
	return from, order, c
}

// spans asks for the spans s of ids that have the registration, or the endpoint,
// or both.
func (f *ActionFilter) spans(c *conditions, ids idRange) {
	field, value := fieldRegistration, string(f.Registration)
	if f.Registration == "" {
		field, value = fieldEndpoint, f.Endpoint
	}
	c.and("s.field = ? AND s.value = ? AND s.span BETWEEN ? AND ?", field, value, ids.low>>spanBits, ids.high>>spanBits)
	if f.Registration != "" && f.Endpoint != "" {
		c.and(alsoEndpoint, fieldEndpoint, f.Endpoint)
	}
}

const alsoEndpoint = "EXISTS (SELECT 1 FROM action_spans e WHERE e.field = ? AND e.value = ? AND e.span = s.span)"

// match adds what a row has to be beyond being gone through by walk. Each
// condition is on the row alone: what has no index in it is not looked up.
func (f *ActionFilter) match(c *conditions) {
	for _, field := range []struct{ column, value string }{
		{"registration", string(f.Registration)}, {"endpoint", f.Endpoint}, {"verdict", f.Verdict}, {"rule", f.Rule}, {"credential", f.Credential},
	} {
		if field.value != "" {
			c.and("a."+field.column+" = ?", field.value)
		}
	}
	if !f.Since.IsZero() {
		c.and("+a.time >= ?", micros(f.Since)) // the + keeps SQLite from choosing the index on times
	}
	if !f.Until.IsZero() {
		c.and("+a.time < ?", micros(f.Until))
	}
	if f.Text != "" {
		// Not LIKE: that compares letter by letter from each place anew, which takes
		// up to twenty times as long where a text like "aaaaaab" nearly matches.
		text := lowerASCII(f.Text)
		c.and(`(instr(lower(a.summary), ?) OR instr(lower(a.reason), ?) OR instr(lower(a.status), ?) OR a.status IS NULL
			AND instr(lower((SELECT late.status FROM action_results late WHERE late.action = a.id)), ?))`, text, text, text, text)
	}
}

// lowerASCII is SQLite's lower.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// query returns the statement for the rows of f within ids, and its arguments.
func (f *ActionFilter) query(ids idRange) (string, []any) {
	from, order, c := f.walk(ids)
	f.match(&c)
	query := strings.Replace(selectActions, "actions a", from, 1) + c.String() + " ORDER BY " + order + " LIMIT ?"
	return query, append(c.args, f.Limit)
}

// follow is query with the oldest row first, along the IDs.
func (f *ActionFilter) follow(ids idRange) (string, []any) {
	var c conditions
	c.and("a.id BETWEEN ? AND ?", ids.low, ids.high)
	f.match(&c)
	return selectActions + c.String() + " ORDER BY a.id LIMIT ?", append(c.args, f.Limit)
}
