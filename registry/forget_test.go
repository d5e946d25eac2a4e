package registry

import (
	"context"
	"database/sql"
	"testing"
)

// However often an agent asks and goes away, what operators decided stays.
func TestI20_DecisionsAreNotPushedOutByWhatNobodyDecided(t *testing.T) {
	write, _ := rawMigrated(t)
	insertApprovals(t, write, "allowed", 20)
	insertApprovals(t, write, "pending", 5)
	insertApprovals(t, write, "withdrawn", 3*keptUndecided)
	insertApprovals(t, write, "expired", 10)
	insertApprovals(t, write, "denied", keptDecided)
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

// Nor are they off the list, where all that nobody decided came after them.
func TestI20_DecisionsAreListedBelowWhatNobodyDecided(t *testing.T) {
	write, read := rawMigrated(t)
	insertApprovals(t, write, "allowed", 100)
	insertApprovals(t, write, "withdrawn", keptUndecided)
	insertApprovals(t, write, "pending", maxHeld)
	all, err := (&DB{read: read}).Approvals(t.Context(), "")
	if err != nil || len(all) != 100+keptUndecided+maxHeld || all[len(all)-1].State != ApprovalAllowed {
		t.Errorf("%d are listed, %v", len(all), err)
	}
	insertApprovals(t, write, "denied", maxApprovals)
	if all, err = (&DB{read: read}).Approvals(t.Context(), ""); err != nil || len(all) != maxApprovals {
		t.Errorf("%d are listed, %v", len(all), err)
	}
}

// insertApprovals writes n rows that ended, or wait, in one state.
func insertApprovals(t *testing.T, db *sql.DB, state string, n int) {
	t.Helper()
	if _, err := db.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
		INSERT INTO approvals (id, registration, endpoint, kind, summary, detail, state, reason, operator, created_at, decided_at, expires_at)
		SELECT ?2 || i, 'r', 'e', 'action', 's', '{}', ?2, '', '', 1, 1, 1 FROM n`, n, state); err != nil {
		t.Fatal(err)
	}
}

func countState(t *testing.T, db *sql.DB, state string) (n int) {
	t.Helper()
	if err := db.QueryRow("SELECT count(*) FROM approvals WHERE state = ?", state).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
