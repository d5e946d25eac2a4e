package registry

import (
	"context"
	"database/sql"
	"strings"
)

// chunkSizes are the numbers of rows one INSERT carries. A batch is written
// with the largest that fit; parsing a statement of a thousand parameters anew
// for each batch would cost a quarter of the whole.
var chunkSizes = [...]int{256, 64, 16, 4, 1}

// The columns of an INSERT.
const (
	actionColumns = 15
	resultColumns = 5
)

// inserts are the prepared statements of the log's writer, which alone uses
// them.
type inserts struct {
	actions, results [len(chunkSizes)]*sql.Stmt
	spans            *spanMarks
	args             []any  // what is bound next
	texts            [8]any // per column, the last text bound
}

func prepareInserts(ctx context.Context, db *sql.DB) (*inserts, error) {
	in := &inserts{args: make([]any, 0, actionColumns*chunkSizes[0])}
	var err error
	for i, rows := range chunkSizes {
		if in.actions[i], err = db.PrepareContext(ctx, `INSERT INTO actions (id, time, registration, profile,
			endpoint, credential, protocol, summary, verdict, rule, reason,
			status, bytes_in, bytes_out, duration) VALUES `+placeholders(actionColumns, rows)); err != nil {
			return nil, err
		}
		if in.results[i], err = db.PrepareContext(ctx, `INSERT OR IGNORE INTO action_results (action, status,
			bytes_in, bytes_out, duration) VALUES `+placeholders(resultColumns, rows)); err != nil {
			return nil, err
		}
	}
	in.spans, err = newSpanMarks(ctx, db)
	return in, err
}

// batch writes rows and results in tx. Where tx is not committed in the end,
// call forget.
func (in *inserts) batch(ctx context.Context, tx *sql.Tx, rows []queuedRow, results []result) error {
	err := inChunks(rows, func(size int, chunk []queuedRow) error {
		args := in.args[:0]
		for i := range chunk {
			a := &chunk[i]
			args = append(args, a.ID, micros(a.Time), in.text(0, string(a.Registration)), in.text(1, a.Profile),
				in.text(2, a.Endpoint), in.text(3, a.Credential), in.text(4, a.Protocol), a.Summary,
				in.text(5, a.Verdict), in.text(6, a.Rule), a.Reason)
			if a.ended {
				args = append(args, in.text(7, a.result.Status), a.result.BytesIn, a.result.BytesOut, int64(a.result.Duration))
			} else {
				args = append(args, nil, nil, nil, nil)
			}
		}
		return in.exec(ctx, tx, in.actions[size], args)
	})
	if err != nil {
		return err
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
