package postgres_test

import (
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
)

// withEndpoint is a lab with scram_user's credential and these settings of the
// endpoint.
func withEndpoint(t *testing.T, more ...string) (*lab, registry.ID) {
	t.Helper()
	l := newLab(t, startCluster(t).endpoint(more...)+credential("scram_user")+"profile \"ci\" { credentials = [postgres.scram_user] }")
	l.SetSecret("postgres.scram_user", "password", password)
	return l, l.Approve("a", "ci")
}

func TestSettings_PassAsFarAsTheEndpointSays(t *testing.T) {
	l, id := withEndpoint(t, `options = ["search_path", "statement_timeout", "my.tenant"]`)
	at := l.listen(id)
	for _, tc := range []struct{ options, show, want string }{
		{"application_name=mine", "application_name", "mine"},
		{"client_encoding=LATIN1", "client_encoding", "LATIN1"},
		{`options='-c search_path=a,\\ b'`, "search_path", "a, b"},
		{"options='--statement-timeout=7s -cTimeZone=UTC'", "statement_timeout", "7s"},
		{"options='-c my.tenant=42'", "my.tenant", "42"},
		{"options=-cextra_float_digits=2", "extra_float_digits", "2"},
	} {
		if out, err := l.psql(at, "scram_user", "orders", "SHOW "+tc.show, tc.options); err != nil || out != tc.want {
			t.Errorf("%s: %s is %q, %v", tc.options, tc.show, out, err)
		}
	}
	for _, options := range []string{
		"options='-c work_mem=1GB'", "options=-crole=postgres", "options=--session-authorization=postgres", "options='-c'", "options='-d 5'", "options=-W",
		"options='-c search_path'", "options='-c SEARCH_PATH=x -c log_statement=none'", "options=-cdefault_transaction_read_only=off", "replication=true",
	} {
		if out, err := l.psql(at, "scram_user", "orders", "SELECT 1", options); err == nil || !strings.Contains(err.Error(), "at the start of a session") && !strings.Contains(err.Error(), "options: ") && !strings.Contains(err.Error(), "replication connections are not allowed here") { // the server refuses some too
			t.Errorf("%s: %q, %v", options, out, err)
		}
	}
}

func TestSettings_ReplicationWhereTheEndpointSays(t *testing.T) {
	l, id := withEndpoint(t, "replication = true")
	at := l.listen(id)
	out, err := l.psql(at, "scram_user", "orders", "IDENTIFY_SYSTEM", "replication=database")
	if err != nil || !strings.HasSuffix(out, "|orders") {
		t.Errorf("%q, %v", out, err)
	}
	// COPY in both directions, until the receiver has had enough.
	conninfo := l.conninfo(at, "scram_user", "orders")
	receive := func(args ...string) string {
		out, errs, err := program(t, "", "pg_recvlogical", append(args, "-S", "passing", "-d", conninfo)...)
		if err != nil {
			t.Errorf("pg_recvlogical %q: %v\n%s", args, err, errs)
		}
		return out
	}
	receive("--create-slot", "-P", "test_decoding")
	c := startCluster(t)
	c.admin(t, "orders", "DROP TABLE IF EXISTS decoded; CREATE TABLE decoded (i int); INSERT INTO decoded SELECT generate_series(1, 5000)")
	out = receive("--start", "-f", "-", "--endpos", c.admin(t, "orders", "SELECT pg_current_wal_lsn()"))
	if n := strings.Count(out, "table public.decoded: INSERT"); n != 5000 {
		t.Errorf("decoded %d rows", n)
	}
	receive("--drop-slot")
}

func TestLog_LiteralsOnlyWhereTheEndpointSays(t *testing.T) {
	for more, logged := range map[string]bool{"log_literals = false": false, "log_literals = true": true} {
		l, id := withEndpoint(t, more)
		conn := l.connect(id, "scram_user", "orders")
		_, err := conn.PgConn().Exec(t.Context(), "SELECT 'hunter2',\n 4711, $$hunter2$$, E'hunter2' -- hunter2\n").ReadAll()
		must(t, err)
		_, err = conn.Exec(t.Context(), "SELECT $1::text, 'hunter2'", "hunter3")
		must(t, err)
		_, err = conn.Exec(t.Context(), "SELECT 'hunter2")
		if err == nil {
			t.Error("no error")
		}
		rows := strings.Join(l.rows(id), "\n")
		if strings.Contains(rows, "hunter2") != logged || strings.Contains(rows, "4711") != logged || strings.Contains(rows, "hunter3") {
			t.Errorf("%s: %s", more, rows)
		}
		if strings.Contains(l.said.String()+l.Log(), "hunter") {
			t.Errorf("%s: a literal is in the gateway's log", more)
		}
	}
}
