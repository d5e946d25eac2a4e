package registry

import (
	"strings"
	"testing"
	"time"
)

// However long the log is, a page of it costs about a page: no statement sorts,
// and a whole table is only walked where every row of it is wanted.
func TestActions_QueriesWalkAnIndex(t *testing.T) {
	_, read := rawMigrated(t)
	for n := range 1 << 6 {
		var f ActionFilter
		set := func(bit int, do func()) {
			if n>>bit&1 == 1 {
				do()
			}
		}
		set(0, func() { f.Registration = "r_x" })
		set(1, func() { f.Endpoint = "https.one" })
		set(2, func() { f.Verdict = verdictDeny })
		set(3, func() { f.Since = time.Unix(1, 0) })
		set(4, func() { f.Before = 9 })
		set(5, func() { f.After = 3 })
		query, args := f.query(2)
		rows, err := read.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
		if err != nil {
			t.Fatalf("%+v: %v", f, err)
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		said := strings.Join(plan, "; ")
		outer := "SEARCH s USING PRIMARY KEY"
		switch {
		case f.Verdict == verdictDeny:
			outer = "SEARCH a USING INDEX actions_not_allowed"
		case f.Registration == "" && f.Endpoint == "":
			outer = "a" // SCAN, or SEARCH where IDs are bounded
			if f.Before != 0 || f.After != 0 || !f.Since.IsZero() {
				outer = "SEARCH a USING INTEGER PRIMARY KEY"
			}
		}
		if strings.Contains(said, "TEMP B-TREE") || !strings.Contains(plan[0], outer) {
			t.Errorf("%+v: %s", f, said)
		}
	}
}
