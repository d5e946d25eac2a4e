package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// chunkSizes are the numbers of rows one INSERT carries. A batch is written
// with the largest that fit; parsing a statement of a thousand parameters anew
// for each batch would cost a quarter of the whole.
var chunkSizes = [...]int{256, 64, 16, 4, 1}

// minAlike is how many rows have to be alike for an INSERT that binds what they
// share once; fewer are written with those before and behind them.
const minAlike = 4

// The columns of an INSERT.
const (
	actionColumns = 15
	resultColumns = 5
)

const insertActions = `INSERT INTO actions (id, time, registration, profile,
	endpoint, credential, protocol, summary, verdict, rule, reason,
	status, bytes_in, bytes_out, duration) VALUES `

// inserts are the prepared statements of the log's writer, which alone uses
// them. Binding a value costs as much as storing it, and most rows differ from
// the one before in few: alike binds what a stretch of rows has in common once.
type inserts struct {
	alike, actions, results [len(chunkSizes)]*sql.Stmt
	spans                   *spanMarks
	args                    []any  // what is bound next
	texts                   [9]any // per column, the last text bound
}

func prepareInserts(ctx context.Context, db *sql.DB) (*inserts, error) {
	in := &inserts{args: make([]any, 0, actionColumns*chunkSizes[0])}
	for i, rows := range chunkSizes {
		for _, p := range []struct {
			to   *[len(chunkSizes)]*sql.Stmt
			text string
		}{
			{&in.alike, insertActions + alikePlaceholders(rows)},
			{&in.actions, insertActions + placeholders(actionColumns, rows)},
			{&in.results, `INSERT OR IGNORE INTO action_results (action, status,
				bytes_in, bytes_out, duration) VALUES ` + placeholders(resultColumns, rows)},
		} {
			var err error
			if p.to[i], err = db.PrepareContext(ctx, p.text); err != nil {
				return nil, err
			}
		}
	}
	var err error
	in.spans, err = newSpanMarks(ctx, db)
	return in, err
}

// batch writes rows and results in tx. Where tx is not committed in the end,
// call forget.
func (in *inserts) batch(ctx context.Context, tx *sql.Tx, rows []queuedRow, results []result) error {
	for rest := rows; len(rest) > 0; {
		write, n := in.writeAlike, alike(rest)
		if n < minAlike {
			write, n = in.writeMixed, mixed(rest)
		}
		err := inChunks(rest[:n], func(size int, chunk []queuedRow) error { return write(ctx, tx, size, chunk) })
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := in.spans.mark(ctx, tx, rows); err != nil {
		return err
	}
	return inChunks(results, func(size int, chunk []result) error {
		args := in.args[:0]
		for i := range chunk {
			r := &chunk[i]
			args = append(args, r.action, r.Status, r.BytesIn, r.BytesOut, int64(r.Duration))
		}
		return in.exec(ctx, tx, in.results[size], args)
	})
}

// alike is how many rows, from the first, have consecutive IDs and differ only in
// who acted when, on what, and how it ended.
func alike(rows []queuedRow) int {
	first := &rows[0]
	for i := range rows {
		a := &rows[i]
		if a.ID != first.ID+int64(i) || a.Profile != first.Profile || a.Endpoint != first.Endpoint ||
			a.Credential != first.Credential || a.Protocol != first.Protocol || a.Verdict != first.Verdict || a.Rule != first.Rule || a.Reason != first.Reason {
			return i
		}
	}
	return len(rows)
}

// mixed is how many rows there are before minAlike that are alike.
func mixed(rows []queuedRow) int {
	for i := 0; i < len(rows); {
		n := alike(rows[i:])
		if n >= minAlike {
			return i
		}
		i += n
	}
	return len(rows)
}

func (in *inserts) writeAlike(ctx context.Context, tx *sql.Tx, size int, rows []queuedRow) error {
	a := &rows[0]
	args := append(in.args[:0], a.Profile, a.Endpoint, a.Credential, a.Protocol, a.Verdict, a.Rule, a.Reason, a.ID-1)
	for i := range rows {
		a := &rows[i]
		args = append(args, micros(a.Time), in.text(0, string(a.Registration)), in.text(7, a.Summary))
		args = in.result(args, a)
	}
	return in.exec(ctx, tx, in.alike[size], args)
}

func (in *inserts) writeMixed(ctx context.Context, tx *sql.Tx, size int, rows []queuedRow) error {
	args := in.args[:0]
	for i := range rows {
		a := &rows[i]
		args = append(args, a.ID, micros(a.Time), in.text(0, string(a.Registration)), in.text(1, a.Profile),
			in.text(2, a.Endpoint), in.text(3, a.Credential), in.text(4, a.Protocol), in.text(7, a.Summary),
			in.text(5, a.Verdict), in.text(6, a.Rule), a.Reason)
		args = in.result(args, a)
	}
	return in.exec(ctx, tx, in.actions[size], args)
}

// result appends what the last four columns of a row have.
func (in *inserts) result(args []any, a *queuedRow) []any {
	if !a.ended {
		return append(args, nil, nil, nil, nil)
	}
	return append(args, in.text(8, a.result.Status), a.result.BytesIn, a.result.BytesOut, int64(a.result.Duration))
}

// text returns s as an argument. Most rows have the texts of the one before: that
// is an allocation less for each.
func (in *inserts) text(column int, s string) any {
	if last, ok := in.texts[column].(string); !ok || last != s {
		in.texts[column] = s
	}
	return in.texts[column]
}

func (in *inserts) exec(ctx context.Context, tx *sql.Tx, stmt *sql.Stmt, args []any) error {
	_, err := tx.StmtContext(ctx, stmt).ExecContext(ctx, args...)
	clear(args) // do not keep the rows' strings
	return err
}

// forget drops what batch assumed to be stored.
func (in *inserts) forget() { in.spans.forget() }

// inChunks cuts rows into pieces of the chunk sizes, in order.
func inChunks[T any](rows []T, write func(size int, chunk []T) error) error {
	for size, n := range chunkSizes {
		for ; len(rows) >= n; rows = rows[n:] {
			if err := write(size, rows[:n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// placeholders returns "(?,?),(?,?)" for rows of so many columns.
func placeholders(columns, rows int) string {
	row := "(" + strings.Repeat("?,", columns-1) + "?)"
	return strings.Repeat(row+",", rows-1) + row
}

// alikePlaceholders are those of rows alike. What they have in common is in
// parameters 1 to 8, of which the last, the ID before theirs, comes first: so that
// the others are counted from there, and have no names that the driver looks up.
func alikePlaceholders(rows int) string {
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "(?8+%d,?,?,?1,?2,?3,?4,?,?5,?6,?7,?,?,?,?)", i+1)
	}
	return b.String()
}
