package postgres_test

import (
	"errors"
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
