package postgres_test

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A read_only credential with PostgreSQL's own grammar: an agent looks around and
// reads, and nothing that writes, hides what it does or leaves the mode gets
// through.
func TestReadOnly_ByTheGrammar(t *testing.T) {
	c := startCluster(t)
	c.admin(t, "orders", `DROP SCHEMA IF EXISTS shop CASCADE; CREATE SCHEMA shop; CREATE TABLE shop.goods (id int PRIMARY KEY, name text); CREATE SEQUENCE shop.seq;
		INSERT INTO shop.goods VALUES (1, 'one'); GRANT ALL ON SCHEMA shop TO reader; GRANT ALL ON ALL TABLES IN SCHEMA shop TO reader; GRANT ALL ON shop.seq TO reader;`)
	l := newLab(t, c.policy("reader", "read_only = true"))
	l.SetSecret("postgres.reader", "password", password)
	id := l.Approve("a", "ci")
	if out, err := l.psql(l.listen(id), "reader", "orders", "\\d shop.goods\n\\dt *.*\n\\l\n\\du\n\\df shop.*\n\\dn+\nSELECT name FROM shop.goods;\nCOPY shop.goods TO STDOUT;\nEXPLAIN SELECT 1;\nBEGIN; SELECT count(*) FROM shop.goods; COMMIT;\nSHOW transaction_read_only;"); err != nil || !strings.Contains(out, "1\tone") || !strings.HasSuffix(out, "on") {
		t.Errorf("looking around: %q, %v", out, err)
	}
	conn := l.connect(id, "reader", "orders")
	for _, sql := range []string{
		"INSERT INTO shop.goods VALUES (2, 'two')", "UPDATE shop.goods SET name = 'x'", "DELETE FROM shop.goods", "TRUNCATE shop.goods",
		"WITH gone AS (DELETE FROM shop.goods RETURNING *) SELECT * FROM gone", "SELECT 1; DELETE FROM shop.goods", "EXPLAIN ANALYZE DELETE FROM shop.goods",
		"SELECT nextval('shop.seq')", "SELECT setval('shop.seq', 9)", "DO $$ BEGIN DELETE FROM shop.goods; END $$", "CALL something()",
		"SET default_transaction_read_only = off", "BEGIN READ WRITE", "SET TRANSACTION READ WRITE", "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
		"SELECT set_config('transaction_read_only', 'off', false)", "SELECT set_config('transaction_' || 'read_only', 'off', false)",
		"SET ROLE postgres", "SET SESSION AUTHORIZATION postgres", "ALTER ROLE reader PASSWORD 'known'", "COPY shop.goods FROM STDIN",
		"COPY (SELECT 1) TO PROGRAM 'cat'", "PREPARE p AS DELETE FROM shop.goods", "CREATE TABLE t (i int)", "SELECT 1 INTO t", "LOCK shop.goods",
		"SET client_encoding = 'SJIS'", "SET standard_conforming_strings = off", "this is not SQL", "SELECT lo_create(0)", "SELECT pg_terminate_backend(1)",
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeDescribeExec} {
			var e *pgconn.PgError
			_, err := conn.Exec(t.Context(), sql, mode)
			if !errors.As(err, &e) || e.Code != "42501" || !strings.HasPrefix(e.Message, "denied by the gateway: ") || e.Detail != "rule: read_only" {
				t.Errorf("%s: %v", sql, err)
			}
			if conn.PgConn().TxStatus() != 'I' {
				t.Fatalf("%s: transaction status %c", sql, conn.PgConn().TxStatus())
			}
		}
	}
	if rows := c.admin(t, "orders", "SELECT count(*), min(name) FROM shop.goods"); rows != "1|one" {
		t.Errorf("there is %s", rows)
	}
	all := strings.Join(l.rows(id), "\n")
	for _, literal := range []string{"'two'", "known", "9)"} {
		if strings.Contains(all, literal) {
			t.Errorf("%q is in the log", literal)
		}
	}
}

// What turns the mode off by a name that is not the one which is read in the text:
// that of a type whose values are equal to others, of an expression that changes its
// value in between, of a relation that is not the server's own.
func TestReadOnly_SettingsBesideTheirNames(t *testing.T) {
	c := startCluster(t)
	c.admin(t, "orders", `DROP SCHEMA IF EXISTS beside CASCADE; CREATE SCHEMA beside; CREATE TABLE beside.pg_settings (name bpchar);
		INSERT INTO beside.pg_settings VALUES ('default_transaction_read_only'); GRANT ALL ON SCHEMA beside TO reader; GRANT ALL ON beside.pg_settings TO reader;`)
	l := newLab(t, c.policy("reader", "read_only = true"))
	l.SetSecret("postgres.reader", "password", password)
	at := l.listen(l.Approve("a", "ci"))
	for _, sql := range []string{
		"SELECT set_config(name, 'off', false) FROM (SELECT 'default_transaction_read_only'::bpchar AS name) v WHERE name = 'default_transaction_read_only ';",
		"SET application_name = 'x'; SELECT set_config('application_name', 'default_transaction_read_only', false), set_config(name, 'off', false) FROM (SELECT current_setting('application_name') AS name) v WHERE name = 'x';",
		"WITH pg_settings AS (SELECT 'default_transaction_read_only'::bpchar AS name) SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'default_transaction_read_only ';",
		"SELECT set_config(name, 'off', false) FROM beside.pg_settings WHERE name = 'default_transaction_read_only ';",
	} {
		out, err := l.psql(at, "reader", "orders", sql+"\nSHOW transaction_read_only;")
		if strings.TrimSpace(out) != "on" || err == nil || !strings.Contains(err.Error(), "denied by the gateway: ") {
			t.Errorf("%s: %q, %v", sql, out, err)
		}
	}
}

// A function that somebody made turns the mode off: no text shows it, but the
// server says so.
func TestReadOnly_EndsWithTheMode(t *testing.T) {
	c := startCluster(t)
	c.admin(t, "orders", `CREATE OR REPLACE FUNCTION public.leaves() RETURNS text LANGUAGE sql AS $$ SELECT set_config('default_transaction_read_only', 'off', false) $$;
		DROP TABLE IF EXISTS kept; CREATE TABLE kept (i int); GRANT ALL ON kept TO reader;`)
	l := newLab(t, c.policy("reader", "read_only = true"))
	l.SetSecret("postgres.reader", "password", password)
	out, err := l.psql(l.listen(l.Approve("a", "ci")), "reader", "orders", "SELECT public.leaves();\nSELECT 'never';")
	if err == nil || !strings.Contains(err.Error(), "default_transaction_read_only was turned off") || strings.Contains(out, "never") {
		t.Errorf("%q, %v", out, err)
	}
}

// A server, or what stands between, on which the session is not read-only from the
// beginning.
func TestReadOnly_NotWhereTheServerDoesNotSaySo(t *testing.T) {
	for name, tc := range map[string]struct {
		reports []string
		letIn   bool
	}{
		"says so":                    {[]string{"server_version", "16.1 (Debian 16.1-1)", "default_transaction_read_only", "on"}, true},
		"cannot say so":              {[]string{"server_version", "13.9"}, true},
		"does not say so":            {[]string{"server_version", "14.0"}, false},
		"does not say so, in beta":   {[]string{"server_version", "19beta1"}, false},
		"says the opposite":          {[]string{"server_version", "16.1", "default_transaction_read_only", "off"}, false},
		"says the opposite, old":     {[]string{"server_version", "13.9", "default_transaction_read_only", "off"}, false},
		"does not say what it is":    {nil, false},
		"is nothing that has number": {[]string{"server_version", "devel"}, false},
	} {
		l, id := scripted(t, func(up net.Conn) {
			_, _ = io.WriteString(up, message('R', "\x00\x00\x00\x03"))
			readMessage(up)
			said := message('R', "\x00\x00\x00\x00") + message('S', "client_encoding\x00UTF8\x00") + message('S', "standard_conforming_strings\x00on\x00")
			for pair := range slices.Chunk(tc.reports, 2) {
				said += message('S', pair[0]+"\x00"+pair[1]+"\x00")
			}
			_, _ = io.WriteString(up, said+message('K', "\x00\x00\x00\x07secret")+message('Z', "I"))
			readMessage(up)
		}, "read_only = true")
		l.handler.SetReadOnly(func(string) error { return nil })
		conn := l.open(id, "scram_user", "orders")
		heard := readUntil(t, conn, func(kind byte) bool { return kind == 'Z' || kind == 'E' })
		if _, code := lastError(heard); tc.letIn != (code == "") || !tc.letIn && (code != "42501" || !strings.Contains(heard, "does not say that the session is read-only")) {
			t.Errorf("%s: %q", name, heard)
		}
		_ = conn.Close()
	}
}
