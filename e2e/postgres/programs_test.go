package postgres

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The first thing that anybody does: no password, no question, no option.
func TestPostgres_PlainPsqlWorks(t *testing.T) {
	for _, line := range []string{
		"env -u PGSSLROOTCERT psql -XwAtc 'SELECT current_user'",
		"PGSSLMODE=disable psql -XwAtc 'SELECT current_user'",
		"PGSSLMODE=require psql -XwAtc 'SELECT current_user'",
		"PGSSLMODE=verify-full psql -XwAtc 'SELECT current_user'",
		"PGSSLMODE=verify-full PGPASSWORD=anything psql -XAtc 'SELECT current_user'",
		"PGGSSENCMODE=prefer psql -XwAtc 'SELECT current_user'",
		"psql -XwAt 'postgresql://orders_app:nonsense@" + ordersHost + "/orders?sslmode=require' -c 'SELECT current_user'",
	} {
		before := accepted(appUser)
		r := w.run(t, line)
		if r != (ran{appUser + "\n", "", 0}) {
			t.Errorf("%s: %v", line, r)
		}
		if n := accepted(appUser) - before; n != 1 {
			t.Errorf("%s: the server has let %s in %d times", line, appUser, n)
		}
	}
	if out := w.works(t, "find ~ -type f -size +0 -newer /etc/hostname ! -name '.bash*' ! -name .profile"); out != "" {
		t.Errorf("the agent's user has got %q", out)
	}
}

func TestPostgres_EveryMethodOfTheServer(t *testing.T) {
	for user, method := range map[string]string{appUser: "scram-sha-256", md5User: "md5", certUser: "cert"} {
		r := w.run(t, "psql -XwAt -U "+user+" -c 'SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()'")
		if r != (ran{user + "|t\n", "", 0}) {
			t.Errorf("%s: %v", user, r)
		}
		if !regexp.MustCompile(user + `.*connection authenticated: identity="[^"]*` + user + `" method=` + method).MatchString(w.server.Log.String()) {
			t.Errorf("the server has not authenticated %s by %s:\n%s", user, method, w.server.Log.Tail(10))
		}
	}
}

func TestPostgres_WhoIsAskedForDecides(t *testing.T) {
	for _, c := range []struct{ line, stdout, stderr string }{
		{"psql -XwAtc 'SELECT current_user, current_database()' -U orders_ro", "orders_ro|orders\n", ""},
		{"psql -XwAtc 'SELECT current_database()' -d copy", "copy\n", ""},
		{"psql -XwAtc 'SELECT 1' -U postgres", "", `no credential here is for the user "postgres"`},
		{"psql -XwAtc 'SELECT 1' -U orders_md5 -d copy", "", `database "copy"`},
		{"psql -XwAtc 'SELECT 1' -d postgres", "", `database "postgres"`},
		{"psql -XwAtc 'SELECT current_user, current_database()' -h " + mappedHost + " -U alice -d anything", "orders_app|orders\n", ""},
	} {
		r := w.run(t, c.line)
		if r.stdout != c.stdout || !strings.Contains(r.stderr, c.stderr) || (r.code == 0) != (c.stderr == "") {
			t.Errorf("%s: %v", c.line, r)
		}
	}
}

// What psql prints through the gateway is what it prints without one.
func TestPostgres_PsqlIsAsWithoutAGateway(t *testing.T) {
	script, err := os.ReadFile("testdata/session.sql")
	must(t, err)
	r := w.same(t, psql(string(script), "-e -P pager=off 2>&1 | sed 's/pg_temp_[0-9]*/pg_temp/; s/lo_get([0-9]*)/lo_get(N)/'"))
	if !strings.HasSuffix(r.stdout, "the end\n") {
		t.Errorf("it did not come to its end:\n%s", r.stdout)
	}
	for _, line := range []string{
		"psql -Xw -c '\\d orders' -c '\\df' -c '\\dt+ pg_catalog.pg_am' -c '\\du' -c '\\l' 2>&1",
		"psql -Xw -c 'SELECT 1' -c 'SELECT nonsense' -c 'SELECT 3' 2>&1",
		"psql -Xw -1 -v ON_ERROR_STOP=1 -c 'CREATE TABLE never()' -c 'SELECT 1/0' 2>&1; psql -Xwc '\\d never' 2>&1",
		"PGOPTIONS='-c work_mem=8MB -c application_name=mine' PGTZ=Asia/Tokyo PGDATESTYLE=German psql -XwAt -c 'SHOW work_mem' -c 'SHOW application_name' -c 'SHOW timezone' -c 'SHOW datestyle'",
		"PGCLIENTENCODING=LATIN1 psql -XwAtc \"SELECT chr(233)\" | od -c",
		"psql -Xw -c \"SELECT pg_terminate_backend(pg_backend_pid())\" 2>&1",
		"pg_isready",
		"yes 'SELECT 1;' | head -n 2000 | psql -XqAtw | sort | uniq -c",
	} {
		w.same(t, line)
	}
}

// Rows and COPY data go through without being kept, however much they are.
func TestPostgres_RowsAreStreamed(t *testing.T) {
	before := memory(t)
	out := w.works(t, `psql -XqAtwc "COPY (SELECT repeat('x', 1023) FROM generate_series(1, 32 * 1024)) TO STDOUT" | wc -c`)
	if strings.TrimSpace(out) != fmt.Sprint(32<<20) {
		t.Errorf("%s bytes", out)
	}
	if out := w.works(t, `psql -XqAtwc "SELECT repeat('x', 160 * 1024 * 1024)" | wc -c`); strings.TrimSpace(out) != fmt.Sprint(160<<20+1) {
		t.Errorf("one row: %s bytes", out)
	}
	out = w.works(t, `(echo 'CREATE TEMPORARY TABLE t (v text); COPY t FROM STDIN;'; yes 0123456789012345678901234567890123456789012345678901234567890 | head -c 31m; printf '\n\\.\nSELECT count(*) FROM t;\n') | psql -XqAtw`)
	if strings.TrimSpace(out) != fmt.Sprint(1<<19+1) {
		t.Errorf("copied in: %q rows", out)
	}
	if grown := memory(t) - before; grown > 128<<20 {
		t.Errorf("the gateway has grown by %d MiB", grown>>20)
	}
}

// memory is the most that the gateway has had in memory.
func memory(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.gateway.PID()))
	must(t, err)
	var kib int
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	_, err = fmt.Sscan(rest, &kib)
	must(t, err)
	return kib << 10
}

func TestPostgres_Pgbench(t *testing.T) {
	w.works(t, "pgbench -i -q -s 1 2>&1")
	t.Cleanup(func() {
		_, err := w.server.SQL(context.Background(), "orders", "DROP TABLE pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history")
		must(t, err)
	})
	dir := scratch(t)
	must(t, os.WriteFile(dir+"/pipeline.sql", []byte("\\startpipeline\nSELECT 1;\nSELECT abalance FROM pgbench_accounts WHERE aid = 7;\nUPDATE pgbench_tellers SET tbalance = tbalance + 1 WHERE tid = 1;\n\\endpipeline\n"), 0o644))
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, what := range []string{"-S", "", "-f " + dir + "/pipeline.sql"} {
			if mode == "simple" && strings.HasPrefix(what, "-f") {
				continue // there are no pipelines of simple queries
			}
			out := w.works(t, fmt.Sprintf("pgbench -n -M %s %s -c 8 -t 25 2>&1", mode, what))
			if !strings.Contains(out, "number of transactions actually processed: 200/200") || !strings.Contains(out, "number of failed transactions: 0 ") {
				t.Errorf("%s %s:\n%s", mode, what, out)
			}
		}
	}
	if out := w.works(t, "pgbench -n -S -C -c 4 -t 10 2>&1"); !strings.Contains(out, "actually processed: 40/40") {
		t.Errorf("a connection for each:\n%s", out)
	}
}

func TestPostgres_DumpsAndRestores(t *testing.T) {
	dir := scratch(t)
	w.same(t, "pg_dump -w | grep -v restrict")
	empty := "psql -Xqwd copy -c 'DROP SCHEMA public CASCADE; CREATE SCHEMA public' 2>/dev/null"
	for name, lines := range map[string]string{
		"custom":    "pg_dump -w -Fc -f " + dir + "/c orders; pg_restore -w --no-comments -d copy " + dir + "/c",
		"directory": "pg_dump -w -Fd -j 3 -f " + dir + "/d orders; pg_restore -w --no-comments -j 3 -d copy " + dir + "/d",
		"plain":     "pg_dump -w --inserts orders | psql -Xqwd copy -v ON_ERROR_STOP=1 >/dev/null",
	} {
		got := w.works(t, "set -e; "+empty+"; "+lines+`
			for db in orders copy; do psql -XqAtwd $db -c 'SELECT count(*), sum(amount), max(customer) FROM orders' -c 'SELECT count(*) FROM large'; done`)
		const want = "1000|625625.00|customer 999\n200\n"
		if got != want+want {
			t.Errorf("%s: %q", name, got)
		}
	}
	w.works(t, empty)
}

// COPY both ways, where the endpoint lets replication through.
func TestPostgres_Replicates(t *testing.T) {
	dir := scratch(t)
	out := w.works(t, `set -e
		stream="-w -h `+streamHost+` -U `+streamUser+`"
		pg_recvlogical $stream -d orders --slot=changes --create-slot -P test_decoding
		psql -Xqwc "INSERT INTO orders (customer) VALUES ('changed')" -c "DELETE FROM orders WHERE customer = 'changed'"
		end=$(psql -XqAtwc 'SELECT pg_current_wal_lsn()')
		psql -Xqwc 'SELECT pg_logical_emit_message(true, $$test$$, $$after$$)' >/dev/null
		pg_recvlogical $stream -d orders --slot=changes --start --endpos=$end -f -
		pg_recvlogical $stream -d orders --slot=changes --drop-slot`)
	if !strings.Contains(out, "table public.orders: INSERT: id[integer]:") || !strings.Contains(out, "table public.orders: DELETE:") {
		t.Errorf("%q", out)
	}
	w.works(t, "pg_basebackup -w -h "+streamHost+" -U "+streamUser+" -D "+dir+"/backup -X stream -c fast && pg_verifybackup "+dir+"/backup")
}

func TestPostgres_CtrlCCancels(t *testing.T) {
	term := newTerminal(t, "psql -Xw")
	term.wait("orders=> ")
	term.press("SELECT pg_sleep(60);\r")
	must(t, lab.Eventually(t.Context(), patience, func() error {
		return sqlIs(t, "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60);' AND state = 'active'", "1")
	}))
	term.press("\x03")
	term.wait("canceling statement due to user request")
	term.press("SELECT 'still ' || 'here';\r")
	term.wait("still here")
	term.press("\\q\r")
	term.end()
}

// sqlIs asks the server itself.
func sqlIs(t *testing.T, query, want string) error {
	t.Helper()
	got, err := w.server.SQL(t.Context(), "orders", query)
	if err == nil && strings.TrimSpace(got) != want {
		err = fmt.Errorf("%s: %q, want %q", query, strings.TrimSpace(got), want)
	}
	return err
}
