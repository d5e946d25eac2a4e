package registry

import (
	"context"
	"database/sql"
)

// spanBits is the binary logarithm of the number of IDs in a span. It stands in
// the database: another number needs a migration.
const spanBits = 10

// Fields that rows are found by without reading the whole log.
const (
	fieldRegistration = "registration"
	fieldEndpoint     = "endpoint"
)

// spanMarks records in action_spans which registrations and endpoints the rows
// of a span have. It remembers what the newest span is marked with.
type spanMarks struct {
	insert *sql.Stmt
	span   int64
	marked map[spanMark]bool
}

type spanMark struct{ field, value string }

func newSpanMarks(ctx context.Context, db *sql.DB) (*spanMarks, error) {
	insert, err := db.PrepareContext(ctx, "INSERT OR IGNORE INTO action_spans (field, value, span) VALUES (?, ?, ?)")
	return &spanMarks{insert: insert, marked: make(map[spanMark]bool)}, err
}

// mark marks the spans of rows, which are in the order of their IDs.
func (m *spanMarks) mark(ctx context.Context, tx *sql.Tx, rows []queuedRow) error {
	for i := range rows {
		a := &rows[i]
		if span := a.ID >> spanBits; span != m.span {
			m.span = span
			clear(m.marked)
		}
		for _, mark := range [...]spanMark{{fieldRegistration, string(a.Registration)}, {fieldEndpoint, a.Endpoint}} {
			if mark.value == "" || m.marked[mark] {
				continue
			}
			if _, err := tx.StmtContext(ctx, m.insert).ExecContext(ctx, mark.field, mark.value, m.span); err != nil {
				return err
			}
			m.marked[mark] = true
		}
	}
	return nil
}

// forget makes mark insert again what may not have been committed.
func (m *spanMarks) forget() { clear(m.marked) }
