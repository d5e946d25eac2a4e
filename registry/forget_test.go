package registry

import (
	"context"
	"database/sql"
	"testing"
)

// However often an agent asks and goes away, what operators decided stays.
func TestI20_DecisionsAreNotPushedOutByWhatNobodyDecided(t *testing.T) {
	write, _ := rawMigrated(t)
	insert := func(state string, n int) {
		t.Helper()
		if _, err := write.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
			INSERT INTO approvals (id, registration, endpoint, kind, summary, detail, state, reason, operator, created_at, decided_at, expires_at)
			SELECT ?2 || i, 'r', 'e', 'action', 's', '{}', ?2, '', '', 1, 1, 1 FROM n`, n, state); err != nil {
			t.Fatal(err)
		}
	}
	insert("allowed", 20)
	insert("pending", 5)
	insert("withdrawn", 3*keptUndecided)
	insert("expired", 10)
	insert("denied", keptDecided)
	for range 2 {
		tx, err := write.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := forgetApprovals(context.Background(), tx); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	for state, want := range map[string]int{"pending": 5, "expired": 10, "withdrawn": keptUndecided - 10 - 1, "allowed": 0, "denied": keptDecided - 1} {
		if got := countState(t, write, state); got != want {
			t.Errorf("%d rows are %s, not %d", got, state, want)
		}
	}
}

func countState(t *testing.T, db *sql.DB, state string) (n int) {
	t.Helper()
	if err := db.QueryRow("SELECT count(*) FROM approvals WHERE state = ?", state).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
