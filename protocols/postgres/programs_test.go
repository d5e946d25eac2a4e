package postgres_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestPsql_WithoutAPassword(t *testing.T) {
	l, id := ordinary(t)
	at := l.listen(id)
	for _, way := range []string{"", "sslmode=require", "sslmode=disable", "sslmode=prefer", "gssencmode=prefer", "password=anything"} {
		out, err := l.psql(at, "scram_user", "orders", "SELECT current_user, current_database();", way)
		if err != nil || out != "scram_user|orders" {
			t.Fatalf("%s: %q, %v\nlogged: %s\nrows: %q", way, out, err, l.said.String(), l.rows(id))
		}
	}
	if out, err := l.psql(at, "scram_user", "orders", "\\d\n\\dt *.*\n\\l\n\\du\n\\df pg_catalog.abs\n\\conninfo"); err != nil || !strings.Contains(out, "SSL connection") {
		t.Errorf("%q, %v", out, err)
	}
	want := []string{"allow connect scram_user@orders: connected", "allow SELECT current_user, current_database();: SELECT 1"}
	if rows := l.rows(id); !slices.Equal(rows[:2], want) {
		t.Errorf("logged %q, want %q first", rows[:2], want)
	}
}

// What psql says through the gateway is what it says without one, errors and
// notices and the state of transactions included.
func TestPsql_SaysWhatItSaysWithoutAGateway(t *testing.T) {
	c := startCluster(t)
	l, id := ordinary(t)
	at := l.listen(id)
	script := `
SET client_min_messages = log;
DROP TABLE IF EXISTS said;
CREATE TABLE said (id serial PRIMARY KEY, word text NOT NULL UNIQUE);
INSERT INTO said (word) VALUES ('a'), ('b') RETURNING *;
INSERT INTO said (word) VALUES ('a');
BEGIN; INSERT INTO said (word) VALUES ('c'); SELECT 1/0;
SELECT 'never';
COMMIT;
SELECT count(*) FROM said; SELECT 1 AS one; SELECT;
;
BEGIN; SAVEPOINT s; SELECT 1/0; ROLLBACK TO s; SELECT 'alive'; END;
DO $$ BEGIN RAISE NOTICE 'noticed %', 1; RAISE WARNING 'warned'; END $$;
COPY said (word) FROM STDIN;
x
y
\.
COPY said (word) FROM STDIN;
x
\.
COPY said TO STDOUT;
\copy said (word) from program 'printf "p\nq\n"'
SELECT word FROM said ORDER BY 1 \gdesc
\echo :LAST_ERROR_SQLSTATE :ROW_COUNT
SELECT repeat('x', 300000);
LISTEN heard; NOTIFY heard, 'payload';
PREPARE p(int) AS SELECT $1 + 1; EXECUTE p(41); DEALLOCATE p; EXECUTE p(1);
DECLARE outside CURSOR FOR SELECT 1;
BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 5); FETCH 2 FROM c; MOVE 1 FROM c; FETCH ALL FROM c; COMMIT;
SET statement_timeout = 50; SELECT pg_sleep(10); RESET statement_timeout;
SELECT lo_create(4242); SELECT lo_unlink(4242);
\set FETCH_COUNT 2
SELECT generate_series(1, 5);
SELECT * FROM nowhere;
DROP TABLE said;
SELECT 'unterminated
;
`
	run := func(conninfo string) (string, string) {
		out, errs, err := program(t, script, "psql", "-X", "-q", "-A", "-v", "VERBOSITY=verbose", conninfo)
		if err != nil {
			t.Fatalf("psql: %v\n%s", err, errs)
		}
		return pidless(out), pidless(errs)
	}
	directly, directErrs := run("host=127.0.0.1 port=" + c.port + " user=scram_user dbname=orders sslmode=require password=" + password)
	out, errs := run(l.conninfo(at, "scram_user", "orders"))
	if out != directly {
		t.Errorf("it wrote\n%s\ninstead of\n%s", out, directly)
	}
	if errs != directErrs {
		t.Errorf("it complained\n%s\ninstead of\n%s", errs, directErrs)
	}
}

// pidless takes out what differs from session to session.
func pidless(s string) string {
	var kept []string
	for line := range strings.Lines(s) {
		if head, _, ok := strings.Cut(line, "from server process with PID"); ok {
			line = head
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "")
}

func TestPgbench_InEveryMode(t *testing.T) {
	l, id := ordinary(t)
	at := l.listen(id)
	conninfo := l.conninfo(at, "scram_user", "other")
	if _, errs, err := program(t, "", "pgbench", "-i", "-s", "1", "-q", conninfo); err != nil {
		t.Fatalf("pgbench -i: %v\n%s\nlogged: %s", err, errs, l.said.String())
	}
	for _, mode := range []string{"simple", "extended", "prepared"} {
		for _, script := range []string{"select-only", "tpcb-like"} {
			out, errs, err := program(t, "", "pgbench", "-n", "-M", mode, "-b", script, "-c", "4", "-t", "25", conninfo)
			if err != nil || !strings.Contains(out, "number of transactions actually processed: 100/100") {
				t.Errorf("%s, %s: %v\n%s\n%s", mode, script, err, out, errs)
			}
		}
	}
	pipeline := filepath.Join(t.TempDir(), "pipeline.sql")
	must(t, os.WriteFile(pipeline, []byte("\\startpipeline\nSELECT 1;\nBEGIN;\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 7;\nEND;\nSELECT 2;\n\\endpipeline\n"), 0o600))
	if out, errs, err := program(t, "", "pgbench", "-n", "-M", "extended", "-f", pipeline, "-c", "2", "-t", "50", conninfo); err != nil || !strings.Contains(out, "100/100") {
		t.Errorf("pipelines: %v\n%s\n%s", err, out, errs)
	}
	for _, row := range l.rows(id) {
		if strings.HasSuffix(row, ": running") || strings.HasSuffix(row, ": done") {
			t.Fatalf("a row does not say how its statement ended: %s", row)
		}
	}
}

func TestPgDump_AndRestore(t *testing.T) {
	c := startCluster(t)
	c.admin(t, "postgres", "DROP DATABASE IF EXISTS restored; CREATE DATABASE restored OWNER scram_user;")
	l, id := ordinary(t, `databases = ["orders", "restored"]`)
	at := l.listen(id)
	if _, err := l.psql(at, "scram_user", "orders", `SET client_min_messages = warning; DROP SCHEMA IF EXISTS dumped CASCADE; CREATE SCHEMA dumped;
		CREATE TABLE dumped.t (id int PRIMARY KEY, body text, raw bytea);
		INSERT INTO dumped.t SELECT i, repeat('z', i), decode(md5(i::text), 'hex') FROM generate_series(1, 3000) i;
		CREATE INDEX ON dumped.t (body); CREATE VIEW dumped.v AS SELECT id FROM dumped.t;`); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"c", "d"} {
		file := filepath.Join(t.TempDir(), "dump")
		if _, errs, err := program(t, "", "pg_dump", "-F", format, "-n", "dumped", "-f", file, l.conninfo(at, "scram_user", "orders")); err != nil {
			t.Fatalf("pg_dump -F %s: %v\n%s", format, err, errs)
		}
		if _, errs, err := program(t, "", "pg_restore", "--clean", "--if-exists", "-j", "2", "-d", l.conninfo(at, "scram_user", "restored"), file); err != nil {
			t.Fatalf("pg_restore -F %s: %v\n%s", format, err, errs)
		}
		sum := "SELECT count(*), md5(string_agg(t::text, '|' ORDER BY id)) FROM dumped.t t"
		if was, is := c.admin(t, "orders", sum), c.admin(t, "restored", sum); was != is || !strings.HasPrefix(is, "3000|") {
			t.Errorf("dumped %s, restored %s", was, is)
		}
	}
}

// Pools open their connections all at once.
func TestPool_ManyConnectionsAtOnce(t *testing.T) {
	l, id := ordinary(t)
	const n = 60 // the server has 80
	var ready sync.WaitGroup
	conns := make([]*pgx.Conn, n)
	errs := make([]error, n)
	for i := range n {
		config := l.config(id, "scram_user", "orders")
		ready.Go(func() { conns[i], errs[i] = pgx.ConnectConfig(t.Context(), config) })
	}
	ready.Wait()
	for i, conn := range conns {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		must(t, conn.Ping(t.Context()))
		must(t, conn.Close(t.Context()))
	}
}
