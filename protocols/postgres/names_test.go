package postgres_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// unknown is the summary of what is not known to run.
const unknown = "execute a statement prepared before"

// An agent gives a name a harmless text in a message that the server skips or
// refuses, and executes what the name stood for before. Its row has to say what
// ran, or that it is not known.
func TestLog_NamesNoOtherStatementThanRan(t *testing.T) {
	type messages = []pgproto3.FrontendMessage
	parse := func(name, sql string) pgproto3.FrontendMessage { return &pgproto3.Parse{Name: name, Query: sql} }
	bind := func(portal, name string) pgproto3.FrontendMessage {
		return &pgproto3.Bind{DestinationPortal: portal, PreparedStatement: name}
	}
	run := func(portal string) pgproto3.FrontendMessage { return &pgproto3.Execute{Portal: portal} }
	q := func(sql string) pgproto3.FrontendMessage { return &pgproto3.Query{String: sql} }
	shut := func(kind byte, name string) pgproto3.FrontendMessage {
		return &pgproto3.Close{ObjectType: kind, Name: name}
	}
	sync, fails := &pgproto3.Sync{}, bind("", "nowhere")
	const ran, other = "DELETE FROM named", "SELECT count(*) FROM named"
	const sleep, late = "SELECT pg_sleep(0.3)", "a stray end of COPY"
	long := strings.Repeat("a", 63)
	longer := long + strings.Repeat("b", 20<<10)

	for name, tc := range map[string]struct {
		rounds []messages // the answers to each are read before the next
		want   string     // the row of what deleted; empty: ran or unknown
	}{
		"lockstep":             {[]messages{{parse("a", ran), sync}, {bind("", "a"), run(""), sync}}, ran},
		"lockstep, unnamed":    {[]messages{{parse("", ran), sync}, {bind("", ""), run(""), sync}}, ran},
		"all in one":           {[]messages{{parse("a", ran), bind("p", "a"), run("p"), sync}}, ran},
		"after another failed": {[]messages{{parse("a", ran), sync}, {q("nonsense")}, {fails, sync}, {bind("", "a"), run(""), sync}}, ran},
		"its group failed behind it": {[]messages{
			{parse("a", ran), bind("", "a"), parse("b", "nonsense"), sync}, {bind("", "a"), run(""), sync},
		}, ran},
		"named again":            {[]messages{{parse("a", other), sync}, {shut('S', "a"), parse("a", ran), sync}, {bind("", "a"), run(""), sync}}, ran},
		"deallocated, and again": {[]messages{{parse("a", other), sync}, {q("DEALLOCATE a")}, {parse("a", ran), sync}, {bind("", "a"), run(""), sync}}, ran},
		"refused, then another":  {[]messages{{parse("a", "nonsense"), sync}, {parse("a", ran), sync}, {bind("", "a"), run(""), sync}}, ran},
		"skipped, as is known":   {[]messages{{parse("a", ran), sync}, {fails, &pgproto3.Flush{}}, {shut('S', "a"), parse("a", other), sync}, {bind("", "a"), run(""), sync}}, ""},

		"unnamed, skipped":    {[]messages{{parse("", ran), sync}, {fails, parse("", other), sync}, {bind("", ""), run(""), sync}}, ""},
		"named, skipped":      {[]messages{{parse("a", ran), sync}, {fails, shut('S', "a"), parse("a", other), sync}, {bind("", "a"), run(""), sync}}, ""},
		"named, in one go":    {[]messages{{parse("a", ran), sync, fails, shut('S', "a"), parse("a", other), sync, bind("", "a"), run(""), sync}}, ""},
		"named, half in one":  {[]messages{{parse("a", ran), sync}, {fails, shut('S', "a"), parse("a", other), sync, bind("", "a"), run(""), sync}}, ""},
		"taken":               {[]messages{{parse("a", ran), sync}, {parse("a", other), sync}, {bind("", "a"), run(""), sync}}, ""},
		"taken, in one go":    {[]messages{{parse("a", ran), sync, parse("a", other), sync, bind("", "a"), run(""), sync}}, ""},
		"taken, then failing": {[]messages{{parse("b", "SELECT 1"), parse("a", ran), sync}, {parse("c", "SELECT 1"), parse("a", other), sync}, {bind("", "a"), run(""), sync}}, ""},
		"a portal, skipped": {[]messages{
			{q("BEGIN")}, {parse("a", ran), parse("b", other), bind("p", "a"), sync}, {q("SAVEPOINT s")},
			{q("ROLLBACK TO s"), fails, bind("p", "b"), sync, q("ROLLBACK TO s"), run("p"), sync}, {q("COMMIT")},
		}, ""},
		"a portal bound and lost": {[]messages{
			{parse("a", ran), parse("b", other), sync}, {bind("", "a"), fails, bind("", "b"), sync, bind("", "a"), run(""), sync},
		}, ""},
		// The gateway takes the first Sync for a part of the COPY, and so the answer to
		// it for that of the next group.
		late: {[]messages{
			{parse("a", ran), sync},
			{q("COPY named FROM STDIN"), &pgproto3.CopyData{Data: []byte("x\n")}, parse("", sleep), bind("", ""), run(""), sync, &pgproto3.CopyDone{}},
			{parse("", sleep), bind("", ""), run(""), fails, shut('S', "a"), parse("a", other), sync},
			{bind("", "a"), run(""), sync},
		}, ""},
		"a name without an end": {[]messages{
			{parse("b", other), parse(longer, ran), bind("", "b"), bind("", longer), run(""), sync},
		}, ""},
		"a long name named again": {[]messages{{parse(long, other), sync}, {shut('S', long), parse(longer, ran), sync}, {bind("", long), run(""), sync}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := startCluster(t)
			l, id := ordinary(t)
			c.admin(t, "orders", "DROP TABLE IF EXISTS named; CREATE TABLE named (i int); INSERT INTO named VALUES (1), (2); GRANT ALL ON named TO scram_user")
			conn := l.connect(id, "scram_user", "orders").PgConn()
			heard := ""
			owed := 0
			for i, round := range tc.rounds {
				must(t, sendAll(conn.Frontend(), round...))
				ready := owed + answers(round)
				if owed = 0; name == late && (i == 1 || i == 2) {
					owed = 1
				}
				heard += transcript(t, conn.Frontend(), ready-owed) + "; "
			}
			if left := c.admin(t, "orders", "SELECT count(*) FROM named"); left != "0" || !strings.Contains(heard, "DELETE 2") {
				t.Fatalf("the attack is none: %s rows are left after %s", left, heard)
			}
			must(t, conn.Close(t.Context()))
			rows := l.rows(id)
			told := 0
			for _, row := range rows {
				summary, _ := strings.CutPrefix(row[:strings.LastIndex(row, ": ")], "allow ")
				switch {
				case strings.HasSuffix(row, ": DELETE 2"), summary == ran, summary == unknown:
					told++
				}
				if strings.HasSuffix(row, ": DELETE 2") && summary != ran && (tc.want != "" || summary != unknown) {
					t.Errorf("logged %q", row)
				}
			}
			if told == 0 {
				t.Errorf("what ran is not in %q\nafter %s", rows, heard)
			}
		})
	}
}

// answers counts the ReadyForQuery that messages lead to.
func answers(of []pgproto3.FrontendMessage) int {
	n := 0
	for _, m := range of {
		switch m.(type) {
		case *pgproto3.Sync, *pgproto3.Query:
			n++
		}
	}
	return n
}
