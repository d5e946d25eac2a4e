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

// inserts are the prepared statements of the log's writer.
type inserts struct {
	actions, results [len(chunkSizes)]*sql.Stmt
}

func prepareInserts(ctx context.Context, db *sql.DB) (*inserts, error) {
	in := &inserts{}
	for i, rows := range chunkSizes {
		var err error
		if in.actions[i], err = db.PrepareContext(ctx, `INSERT INTO actions (id, time, registration, profile,
			endpoint, credential, protocol, summary, verdict, rule, reason) VALUES `+placeholders(11, rows)); err != nil {
			return nil, err
		}
		if in.results[i], err = db.PrepareContext(ctx, `INSERT OR IGNORE INTO action_results (action, status,
			bytes_in, bytes_out, duration) VALUES `+placeholders(5, rows)); err != nil {
			return nil, err
		}
	}
	return in, nil
}

// batch writes rows and results.
func (in *inserts) batch(ctx context.Context, tx *sql.Tx, rows []Action, results []result) error {
	err := inChunks(rows, func(size int, chunk []Action) error {
		args := make([]any, 0, 11*len(chunk))
		for i := range chunk {
			a := &chunk[i]
			args = append(args, a.ID, micros(a.Time), string(a.Registration), a.Profile, a.Endpoint, a.Credential,
				a.Protocol, a.Summary, a.Verdict, a.Rule, a.Reason)
		}
		_, err := tx.StmtContext(ctx, in.actions[size]).ExecContext(ctx, args...)
		return err
	})
	if err != nil {
		return err
	}
	return inChunks(results, func(size int, chunk []result) error {
		args := make([]any, 0, 5*len(chunk))
		for i := range chunk {
			r := &chunk[i]
			args = append(args, r.action, r.Status, r.BytesIn, r.BytesOut, int64(r.Duration))
		}
		_, err := tx.StmtContext(ctx, in.results[size]).ExecContext(ctx, args...)
		return err
	})
}

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
