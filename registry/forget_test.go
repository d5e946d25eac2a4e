package registry

import (
	"context"
	"database/sql"
	"errors"
	"strings"
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

// Nor are they hidden: what operators decided is listed without the rest, a page
// at a time, and no page reads more than it shows.
func TestI20_DecisionsAreListedWithoutWhatNobodyDecided(t *testing.T) {
	write, read := rawMigrated(t)
	insertApprovals(t, write, "allowed", 100)
	insertApprovals(t, write, "withdrawn", keptUndecided)
	insertApprovals(t, write, "denied", 20)
	insertApprovals(t, write, "pending", maxHeld)
	db := &DB{read: read}
	list := func(f ApprovalFilter) []Held {
		t.Helper()
		all, err := db.FindApprovals(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	decided := []ApprovalState{ApprovalAllowed, ApprovalDenied}
	n, before := 0, int64(0)
	for {
		some := list(ApprovalFilter{States: decided, Before: before, Limit: 50})
		for _, a := range some {
			if before != 0 && a.Seq >= before || a.State == ApprovalAllowed && n < 20 || a.State == ApprovalDenied && n >= 20 {
				t.Errorf("the %dth is %s, %d after %d", n, a.State, a.Seq, before)
			}
			before = a.Seq
			n++
		}
		if len(some) < 50 {
			break
		}
	}
	if n != 120 {
		t.Errorf("%d decisions are listed", n)
	}
	if all := list(ApprovalFilter{}); len(all) != maxHeld || all[0].State != ApprovalPending {
		t.Errorf("%d are listed", len(all))
	}
	oldest := list(ApprovalFilter{States: []ApprovalState{ApprovalPending}, OldestFirst: true, Limit: 2})
	if len(oldest) != 2 || oldest[0].ID != "pending1" || oldest[1].ID != "pending2" {
		t.Errorf("%+v", oldest)
	}
	for _, f := range []ApprovalFilter{{Limit: -1}, {Limit: 501}, {Before: -1}} {
		if _, err := db.FindApprovals(t.Context(), f); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", f, err)
		}
	}
	for _, where := range []string{"state = ?", "? = ''"} {
		for _, order := range []string{"ASC", "DESC"} {
			rows, err := read.Query("EXPLAIN QUERY PLAN "+approvalsQuery(where, order), "denied", 1000, 50)
			if err != nil {
				t.Fatal(err)
			}
			for rows.Next() {
				var id, parent, unused int
				var plan string
				if err := rows.Scan(&id, &parent, &unused, &plan); err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(plan, "USING INDEX approvals_by_state (state=? AND seq<?)") && !strings.Contains(plan, "USING INTEGER PRIMARY KEY (rowid<?)") {
					t.Errorf("%s, %s: %s", where, order, plan)
				}
			}
			if err := rows.Err(); err != nil {
				t.Fatal(err)
			}
		}
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
