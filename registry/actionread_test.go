package registry

import (
	"database/sql"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// filters calls do with every combination of conditions.
func filters(do func(ActionFilter)) {
	for n := range 1 << 10 {
		f := ActionFilter{Limit: 100}
		for bit, set := range []func(){
			func() { f.Registration = "r_x" },
			func() { f.Endpoint = "https.one" },
			func() { f.Verdict = verdictDeny },
			func() { f.Since = time.Unix(1, 0) },
			func() { f.Until = time.Unix(1<<40, 0) },
			func() { f.Before = 1 << 40 },
			func() { f.After = 3 },
			func() { f.Rule = "reads" },
			func() { f.Credential = "bearer.one" },
			func() { f.Text = "50%_\\" },
		} {
			if n>>bit&1 == 1 {
				set()
			}
		}
		do(f)
	}
}

// plan is how SQLite answers a query.
func plan(t *testing.T, db *sql.DB, query string, args []any) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var steps []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return steps
}

// However long the log is and whatever is asked for, a page costs about a page:
// no statement sorts, or walks a whole table.
func TestActions_QueriesWalkAnIndex(t *testing.T) {
	_, read := rawMigrated(t)
	ids := idRange{5, 1 << 20}
	filters(func(f ActionFilter) {
		var want []string
		switch {
		case f.spanned() && f.denied():
			want = []string{"SEARCH s USING PRIMARY KEY (field=? AND value=? AND span>? AND span<?)", "SEARCH a USING INDEX actions_not_allowed (verdict=? AND rowid>? AND rowid<?)"}
		case f.spanned():
			want = []string{"SEARCH s USING PRIMARY KEY (field=? AND value=? AND span>? AND span<?)", "SEARCH a USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"}
		case f.denied():
			want = []string{"SEARCH a USING INDEX actions_not_allowed (verdict=? AND rowid>? AND rowid<?)"}
		default:
			want = []string{"SEARCH a USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"}
		}
		query, args := f.query(ids)
		wantPlan(t, f, plan(t, read, query, args), want)
		query, args = f.follow(ids)
		wantPlan(t, f, plan(t, read, query, args), []string{"SEARCH a USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"})
		if f.denied() {
			query, args = f.deniedBound(ids)
			steps := plan(t, read, query, args)
			wantPlan(t, f, steps, nil)
			if !strings.Contains(strings.Join(steps, "; "), "COVERING INDEX actions_not_allowed") {
				t.Errorf("%+v: the bound reads rows: %q", f, steps)
			}
		}
		if f.spanned() {
			query, args = f.spanQuery(ids)
			wantPlan(t, f, plan(t, read, query, args), []string{"SEARCH s USING PRIMARY KEY (field=? AND value=? AND span>? AND span<?)"})
		}
	})
	for _, query := range []string{sinceQuery, untilQuery} {
		for _, step := range plan(t, read, query, []any{int64(1), maxWalkedTimes}) {
			if strings.Contains(step, "TEMP B-TREE") || strings.Contains(step, "SCAN actions") {
				t.Errorf("%s: %s", query, step)
			}
		}
	}
}

// A point in time is looked for beside it and at the far end, a few rows each.
func TestActions_TimesOfAClockThatWasSetBack(t *testing.T) {
	write, _ := rawMigrated(t)
	insert := func(id, at int64) {
		t.Helper()
		if _, err := write.ExecContext(t.Context(), `INSERT INTO actions (id, time, registration, profile, endpoint, credential, protocol, summary, verdict, rule, reason)
			VALUES (?, ?, '', '', '', '', '', '', 'allow', '', '')`, id, at); err != nil {
			t.Fatal(err)
		}
	}
	check := func(query string, at, want int64) {
		t.Helper()
		var got sql.NullInt64
		if err := write.QueryRowContext(t.Context(), query, at, 2).Scan(&got); err != nil || got.Int64 != want {
			t.Errorf("%d: ID %v, want %d (%v)", at, got, want, err)
		}
	}
	for id, at := range []int64{2: 10, 22, 20, 30, 40, 50} {
		if id >= 2 {
			insert(int64(id), at)
		}
	}
	check(sinceQuery, 20, 3)
	check(untilQuery, 30, 4)
	check(sinceQuery, 51, 0)
	check(untilQuery, 10, 0)
	insert(1, 900) // the clock was far ahead
	check(sinceQuery, 20, 1)
	insert(8, 1) // and far behind
	check(untilQuery, 30, 8)
}

// wantPlan checks that a plan begins with these steps, sorts nothing and walks
// no table whole.
func wantPlan(t *testing.T, f ActionFilter, steps, want []string) {
	t.Helper()
	if len(steps) < len(want) || !slices.Equal(steps[:len(want)], want) {
		t.Errorf("%+v: %q, want %q", f, steps, want)
	}
	for _, step := range steps {
		if strings.Contains(step, "TEMP B-TREE") || strings.HasPrefix(step, "SCAN") {
			t.Errorf("%+v: %q", f, steps)
		}
	}
}

// longLog opens a registry whose log has n rows that SQLite made: every tenth was
// denied, one in 5000 is of r_rare, registrations, endpoints and credentials take
// turns, and rows are 80 ms apart up to now.
func longLog(t testing.TB, n int, now time.Time) *DB {
	t.Helper()
	cfg := Config{Dir: filepath.Join(t.TempDir(), "state"), Now: func() time.Time { return now },
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")}}
	db, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n LIMIT ?1)
			INSERT INTO actions (id, time, registration, profile, endpoint, credential, protocol, summary, verdict, rule, reason, status, bytes_in, bytes_out, duration)
			SELECT id, ?2 - (?1 - id) * 80000, iif(id % 5000 = 7, 'r_rare', printf('r_%026d', id % 20)), 'ci', printf('https.e%d', id % 7), printf('bearer.e%d', id % 7), 'https',
			printf('GET api.github.com/repos/example/project/issues/%d', id), iif(id % 10 = 0, 'deny', 'allow'), iif(id % 10 = 0, 'no-writes', ''),
			iif(id % 10 = 0, 'this endpoint is read only', ''), '200', 312, 1337, 1000000 FROM n`,
		"INSERT INTO action_spans SELECT DISTINCT 'registration', registration, id >> 10 FROM actions WHERE ?1 = ?1 AND ?2 = ?2",
		"INSERT INTO action_spans SELECT DISTINCT 'endpoint', endpoint, id >> 10 FROM actions WHERE ?1 = ?1 AND ?2 = ?2",
	} {
		if _, err := db.write.ExecContext(t.Context(), statement, n, micros(now)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// I16: whatever a filter asks for, one page looks at a bounded part of the log,
// and says how far it came; page by page everything is looked at, once.
func TestI16_AFilterCostsBoundedWork(t *testing.T) {
	const rows = 3 * maxWalkedRows
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	db := longLog(t, rows, now)
	for _, test := range []struct {
		name  string
		f     ActionFilter
		found int
		pages int // at least
	}{
		{"a text nobody wrote", ActionFilter{Text: "zebra"}, 0, 6},
		{"a rule nobody has", ActionFilter{Rule: "zebra"}, 0, 3},
		{"a credential nobody has", ActionFilter{Credential: "zebra"}, 0, 3},
		{"a rule that allows nothing", ActionFilter{Rule: "no-writes", Verdict: verdictAllow}, 0, 3},
		{"a verdict that is not there", ActionFilter{Verdict: "approve"}, 0, 1},
		{"a registration that is not there", ActionFilter{Registration: "r_none"}, 0, 1},
		{"an endpoint that is not there", ActionFilter{Endpoint: "https.none"}, 0, 1},
		{"a registration in every span, with a text nobody wrote", ActionFilter{Registration: ID(fmt.Sprintf("r_%026d", 1)), Text: "zebra"}, 0, 6},
		{"what was denied, by a rule nobody has", ActionFilter{Verdict: verdictDeny, Rule: "zebra"}, 0, rows / 10 / maxWalkedDenied},
		{"what was denied to a registration, by a rule nobody has", ActionFilter{Verdict: verdictDeny, Registration: ID(fmt.Sprintf("r_%026d", 0)), Rule: "zebra"}, 0, 1},
		{"a rare registration", ActionFilter{Registration: "r_rare"}, (rows + 4993) / 5000, 1},
		{"a rare registration's text", ActionFilter{Registration: "r_rare", Text: "ISSUES/5007"}, 1, 1},
		{"a few rows, by their text", ActionFilter{Text: "Issues/10007"}, 11, 6},
		{"a time before the log", ActionFilter{Until: now.Add(-1000 * time.Hour)}, 0, 1},
		{"a time after the log", ActionFilter{Since: now.Add(time.Hour)}, 0, 1},
		{"a minute long ago", ActionFilter{Since: now.Add(-200 * time.Minute), Until: now.Add(-199 * time.Minute)}, 750, 2},
		{"a registration and an endpoint that never meet", ActionFilter{Registration: "r_rare", Endpoint: "https.none"}, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, found, pages, last := test.f, 0, 0, int64(rows+1)
			f.Limit = 500
			for {
				f.Before = 0
				if pages > 0 {
					f.Before = last
				}
				asked, err := db.idRange(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				if !asked.empty() {
					walked, err := db.bound(t.Context(), f, asked)
					if err != nil {
						t.Fatal(err)
					}
					if n := lookedAt(t, db, f, walked); int64(n) > f.maxRows() {
						t.Fatalf("a page looks at %d rows", n)
					}
				}
				page, err := db.ActionPage(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				pages++
				found += len(page.Actions)
				if short := page.Next != 0 && len(page.Actions) < f.Limit; short == page.Searched.IsZero() {
					t.Fatalf("%d rows, next %d, searched back to %v", len(page.Actions), page.Next, page.Searched)
				}
				if page.Next == 0 {
					break
				}
				if page.Next >= last {
					t.Fatalf("the page after %d begins at %d", last, page.Next)
				}
				last = page.Next
			}
			if found != test.found || pages < test.pages {
				t.Errorf("%d rows in %d pages, want %d in at least %d", found, pages, test.found, test.pages)
			}
		})
	}
}

// lookedAt counts the rows that a page within ids goes through: the same walk
// without the conditions that are looked at row by row, and without the limit.
func lookedAt(t *testing.T, db *DB, f ActionFilter, ids idRange) (n int) {
	t.Helper()
	from, _, c := f.walk(ids)
	if err := db.read.QueryRowContext(t.Context(), "SELECT count(*) FROM "+from+c.String(), c.args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Following looks at a few thousand rows a step, in order, and loses none.
func TestI16_FollowingCostsBoundedWork(t *testing.T) {
	const rows = 3*followStep + 5
	db := longLog(t, rows, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	for _, test := range []struct {
		f     ActionFilter
		found int
		steps int
	}{
		{ActionFilter{Limit: 500}, rows, (rows + 499) / 500},
		{ActionFilter{Rule: "zebra"}, 0, 4},
		{ActionFilter{Verdict: verdictDeny, Limit: 500}, rows / 10, 4},
		{ActionFilter{After: rows - 10}, 10, 1},
		{ActionFilter{After: rows + 10}, 0, 0},
	} {
		found, steps, after := 0, 0, test.f.After
		for ; after < rows; steps++ {
			test.f.After = after
			list, through, err := db.ActionsAfter(t.Context(), test.f)
			if err != nil {
				t.Fatal(err)
			}
			if through <= after || through > after+followStep {
				t.Fatalf("after %d: through %d", after, through)
			}
			for _, a := range list {
				if a.ID <= after || a.ID > through {
					t.Fatalf("row %d between %d and %d", a.ID, after, through)
				}
				after = a.ID
			}
			found, after = found+len(list), through
		}
		if found != test.found || steps != test.steps {
			t.Errorf("%+v: %d rows in %d steps, want %d in %d", test.f, found, steps, test.found, test.steps)
		}
	}
}

// BenchmarkActions is what a page of a log of a million rows costs. docs/performance.md
// has a run of it.
func BenchmarkActions(b *testing.B) {
	const rows = 1_000_000
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	db := longLog(b, rows, now)
	busy := ID(fmt.Sprintf("r_%026d", 1))
	denied := ID(fmt.Sprintf("r_%026d", 0))
	for _, bench := range []struct {
		name string
		f    ActionFilter
	}{
		{"none", ActionFilter{}},
		{"none, in the middle", ActionFilter{Before: rows / 2}},
		{"registration", ActionFilter{Registration: busy}},
		{"registration, rare", ActionFilter{Registration: "r_rare"}},
		{"registration, not there", ActionFilter{Registration: "r_none"}},
		{"endpoint", ActionFilter{Endpoint: "https.e1"}},
		{"endpoint, not there", ActionFilter{Endpoint: "https.none"}},
		{"registration and endpoint", ActionFilter{Registration: busy, Endpoint: "https.e1"}},
		{"verdict deny", ActionFilter{Verdict: verdictDeny}},
		{"verdict allow", ActionFilter{Verdict: verdictAllow}},
		{"deny and registration", ActionFilter{Verdict: verdictDeny, Registration: denied}},
		{"deny and registration, none", ActionFilter{Verdict: verdictDeny, Registration: busy}},
		{"deny and rule, none", ActionFilter{Verdict: verdictDeny, Rule: "zebra"}},
		{"rule", ActionFilter{Rule: "no-writes"}},
		{"rule, not there", ActionFilter{Rule: "zebra"}},
		{"credential", ActionFilter{Credential: "bearer.e1"}},
		{"credential, not there", ActionFilter{Credential: "zebra"}},
		{"text", ActionFilter{Text: "issues/99"}},
		{"text, not there", ActionFilter{Text: "zebra"}},
		{"text, nearly everywhere", ActionFilter{Text: "issues/x"}},
		{"text, repetitive", ActionFilter{Text: strings.Repeat("a", 63) + "b"}},
		{"text and registration, not there", ActionFilter{Registration: busy, Text: "zebra"}},
		{"since", ActionFilter{Since: now.Add(-time.Hour)}},
		{"since and until, in the middle", ActionFilter{Since: now.Add(-12 * time.Hour), Until: now.Add(-11 * time.Hour)}},
		{"since, until and text, not there", ActionFilter{Since: now.Add(-12 * time.Hour), Until: now.Add(-5 * time.Hour), Text: "zebra"}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, err := db.ActionPage(b.Context(), bench.f); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
		})
	}
}
