package statement_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
)

// server is a PostgreSQL of our own, which listens on a UNIX socket.
type server struct {
	dir string
}

// programs is where Debian has PostgreSQL's programs.
func programs(t testing.TB) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Fatal("PostgreSQL is not installed: apt-get install postgresql")
	}
	return found[len(found)-1]
}

// startServer starts a server until the test ends.
func startServer(t testing.TB) *server {
	t.Helper()
	// Not t.TempDir: the path of a socket is short.
	dir, err := os.MkdirTemp("", "statement")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	as := unprivileged(t, dir)
	bin, data := programs(t), filepath.Join(dir, "data")
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, as
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
	run("pg_ctl", "-D", data, "-w", "-l", filepath.Join(dir, "log"), "-o", "-c listen_addresses= -c fsync=off -k "+dir, "start")
	t.Cleanup(func() {
		stop := exec.Command(filepath.Join(bin, "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
		stop.Dir, stop.SysProcAttr = dir, as
		if out, err := stop.CombinedOutput(); err != nil {
			t.Errorf("stopping the server: %v\n%s", err, out)
		}
	})
	return &server{dir: dir}
}

// unprivileged returns as whom to run the server, which refuses to run as root.
func unprivileged(t testing.TB, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// psql runs a script, and returns its standard output and errors.
func (s *server) psql(t testing.TB, script string, env ...string) (stdout, stderr string) {
	t.Helper()
	cmd := exec.Command("psql", "-X", "-q", "-A", "-t", "-h", s.dir, "-U", "postgres")
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(script)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("psql: %v\n%s", err, errs.String())
	}
	return out.String(), errs.String()
}

// world is what the statements of the differential test are about.
const world = `
CREATE SCHEMA sales;
CREATE TABLE sales.orders (id serial PRIMARY KEY, customer text NOT NULL DEFAULT 'x', total numeric CHECK (total > 0));
CREATE TABLE lines (id int REFERENCES sales.orders, n int);
INSERT INTO sales.orders (total) VALUES (1), (2);
INSERT INTO lines VALUES (1, 1);
CREATE VIEW open_orders AS SELECT * FROM sales.orders;
CREATE MATERIALIZED VIEW sums AS SELECT sum(total) FROM sales.orders;
CREATE FUNCTION sneaky() RETURNS int LANGUAGE sql AS 'INSERT INTO lines VALUES (1, 2) RETURNING n';
CREATE FUNCTION sneaky_operator(int, int) RETURNS int LANGUAGE sql AS 'SELECT sneaky()';
CREATE OPERATOR <#> (LEFTARG = int, RIGHTARG = int, FUNCTION = sneaky_operator);
CREATE PROCEDURE tidy() LANGUAGE sql AS 'DELETE FROM lines';
CREATE ROLE other;
SELECT lo_create(4711);
`

// changing are statements that change something: a read-only transaction refuses
// most of them, and the rest reaches beyond the database.
var changing = []string{
	"INSERT INTO lines VALUES (1, 1)", "INSERT INTO lines SELECT * FROM lines", "INSERT INTO lines DEFAULT VALUES RETURNING *",
	"UPDATE lines SET n = 2", "DELETE FROM lines", "MERGE INTO lines l USING sales.orders o ON l.id = o.id WHEN MATCHED THEN DELETE",
	"WITH d AS (DELETE FROM lines RETURNING *) SELECT * FROM d", "SELECT * FROM lines FOR UPDATE", "SELECT * FROM lines FOR KEY SHARE",
	"SELECT * INTO copied FROM lines", "CREATE TABLE a (b int)", "CREATE TEMP TABLE a (b int)", "CREATE TABLE a AS SELECT 1", "CREATE TABLE a AS TABLE lines WITH NO DATA",
	"TRUNCATE lines", "TRUNCATE sales.orders CASCADE", "DROP TABLE lines", "DROP VIEW open_orders", "DROP SCHEMA sales CASCADE",
	"ALTER TABLE lines ADD c int", "ALTER TABLE lines RENAME TO l", "ALTER TABLE lines OWNER TO other", "ALTER TABLE lines SET SCHEMA sales", "ALTER INDEX sales.orders_pkey RENAME TO x",
	"CREATE INDEX ON lines (n)", "CREATE VIEW v AS SELECT 1", "CREATE SCHEMA x", "CREATE SEQUENCE x", "ALTER SEQUENCE sales.orders_id_seq RESTART",
	"CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE OR REPLACE PROCEDURE tidy() LANGUAGE sql AS 'SELECT 1'", "ALTER FUNCTION sneaky() STABLE", "DROP FUNCTION sneaky_operator CASCADE",
	"CREATE TYPE x AS ENUM ('a')", "CREATE TYPE x AS (a int)", "CREATE TYPE x AS RANGE (subtype = int)", "CREATE DOMAIN x AS int", "CREATE AGGREGATE x (int) (sfunc = int4pl, stype = int)", "CREATE CAST (text AS int) WITH INOUT",
	"CREATE COLLATION x FROM \"C\"", "CREATE STATISTICS x ON id, n FROM lines", "CREATE RULE r AS ON DELETE TO lines DO INSTEAD NOTHING", "CREATE TRIGGER t BEFORE UPDATE ON lines EXECUTE FUNCTION suppress_redundant_updates_trigger()",
	"CREATE POLICY p ON lines", "CREATE PUBLICATION p", "CREATE ACCESS METHOD x TYPE INDEX HANDLER bthandler", "CREATE FOREIGN DATA WRAPPER x", "CREATE SERVER s FOREIGN DATA WRAPPER x",
	"CREATE TEXT SEARCH CONFIGURATION x (COPY = english)", "CREATE EVENT TRIGGER x ON sql_drop EXECUTE FUNCTION f()", "CREATE EXTENSION hstore", "CREATE LANGUAGE x HANDLER f", "CREATE OPERATOR FAMILY x USING btree", "CREATE CONVERSION x FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
	"CREATE ROLE x", "ALTER ROLE other PASSWORD 'x'", "ALTER ROLE other SET work_mem = '1MB'", "DROP ROLE other", "GRANT other TO postgres", "GRANT SELECT ON lines TO other", "REVOKE ALL ON ALL TABLES IN SCHEMA sales FROM other", "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO other", "REASSIGN OWNED BY other TO postgres", "DROP OWNED BY other",
	"CREATE DATABASE x", "DROP DATABASE x", "ALTER DATABASE postgres SET work_mem = '1MB'", "CREATE TABLESPACE x LOCATION '/nowhere'", "ALTER SYSTEM SET work_mem = '1MB'",
	"COMMENT ON TABLE lines IS 'x'", "SECURITY LABEL ON TABLE lines IS 'x'", "REFRESH MATERIALIZED VIEW sums", "REINDEX TABLE lines", "CLUSTER sales.orders USING orders_pkey", "VACUUM lines", "ANALYZE lines", "CHECKPOINT", "NOTIFY x", "LOCK TABLE lines",
	"COPY lines FROM '/dev/null'", "COPY lines TO '/dev/null'", "COPY lines TO PROGRAM 'true'", "COPY (INSERT INTO lines VALUES (1, 1) RETURNING *) TO STDOUT",
	"EXPLAIN ANALYZE INSERT INTO lines VALUES (1, 1)", "EXPLAIN (ANALYZE, TIMING off) CREATE TABLE a AS SELECT 1", "EXPLAIN (ANALYZE on) DELETE FROM lines",
	"PREPARE p AS DELETE FROM lines", "EXECUTE writer", "EXPLAIN ANALYZE EXECUTE writer", "CREATE TABLE a AS EXECUTE writer",
	"SELECT nextval('sales.orders_id_seq')", "SELECT setval('sales.orders_id_seq', 9)", "SELECT * FROM nextval('sales.orders_id_seq')", "SELECT 1 WHERE nextval('sales.orders_id_seq') > 0", "SELECT CASE WHEN true THEN nextval('sales.orders_id_seq') END",
	"SELECT lo_create(0)", "SELECT lo_creat(-1)", "SELECT lo_unlink(4711)", "SELECT lo_put(4711, 0, 'x')", "SELECT lo_from_bytea(0, 'x')", "SELECT lo_truncate(lo_open(4711, 131072), 0)", "SELECT lo_import('/dev/null')", "SELECT pg_notify('x', '')",
	"SELECT sneaky()", "SELECT * FROM sneaky()", "SELECT 1 ORDER BY sneaky()", "SELECT 1 <#> 2", "SELECT 1 OPERATOR(public.<#>) 2", "CALL tidy()", "DO 'BEGIN DELETE FROM lines; END'", "DO LANGUAGE plpgsql $$BEGIN EXECUTE 'DELETE FROM lines'; END$$",
	"SELECT query_to_xml('SELECT sneaky()', true, true, '')", "SELECT ts_stat('SELECT sneaky()::text::tsvector')", "SELECT table_to_xml('lines', true, true, '')",
	"SELECT pg_create_logical_replication_slot('x', 'test_decoding')", "SELECT pg_switch_wal()", "SELECT pg_create_restore_point('x')", "SELECT pg_logical_emit_message(true, 'x', 'y')", "SELECT pg_stat_reset()", "SELECT pg_reload_conf()", "SELECT pg_replication_origin_create('x')", "SELECT pg_import_system_collations('public')",
	"UPDATE pg_settings SET setting = 'off' WHERE name = 'work_mem'", "PREPARE TRANSACTION 'x'", "COMMIT PREPARED 'x'", "LOAD 'plpgsql'",
}

// reading are statements that a read-only transaction runs, and ReadOnly lets
// through.
var reading = []string{
	"SELECT * FROM sales.orders o JOIN lines l USING (id) WHERE o.customer LIKE 'x%'", "TABLE lines", "VALUES (1)", "SELECT 1 WHERE EXISTS (SELECT FROM lines)",
	"WITH RECURSIVE r(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r", "SELECT count(*) FILTER (WHERE n > 1) OVER () FROM lines",
	"SELECT now(), random(), gen_random_uuid(), clock_timestamp(), current_user, version()", "SELECT pg_advisory_xact_lock(1)", "SELECT lo_get(4711)", "SELECT currval('sales.orders_id_seq') WHERE false",
	"EXPLAIN DELETE FROM lines", "EXPLAIN ANALYZE SELECT * FROM lines", "COPY lines TO STDOUT", "COPY (SELECT 1) TO STDOUT", "DECLARE c CURSOR FOR SELECT * FROM lines", "SHOW ALL", "SET work_mem = '1MB'", "SET LOCAL search_path = sales",
	"LOCK TABLE lines IN ACCESS SHARE MODE", "LISTEN x", "UNLISTEN *", "PREPARE q AS SELECT * FROM lines WHERE n = $1", "EXECUTE reader", "SAVEPOINT a", "SET CONSTRAINTS ALL DEFERRED", "SET TRANSACTION READ ONLY", "DISCARD PLANS",
	"SELECT jsonb_path_query('{}', '$'), to_tsquery('a') @@ to_tsvector('a'), '{1}'::int[] && '{1}', point '1,2' <-> point '1,2'", "SELECT EXTRACT(year FROM now()), TRIM('x'), OVERLAY('ab' PLACING 'c' FROM 1), SUBSTRING('ab' SIMILAR 'a' ESCAPE '#'), now() AT TIME ZONE 'UTC'",
}

func TestServer(t *testing.T) {
	s := startServer(t)
	s.psql(t, world)
	t.Run("WhatAReadOnlyTransactionRefusesIsSeen", func(t *testing.T) { testWhatAReadOnlyTransactionRefusesIsSeen(t, s) })
	t.Run("ResetsReturnToTheStartupMessage", func(t *testing.T) { testResetsReturnToTheStartupMessage(t, s) })
	t.Run("EveryFunctionIsKnown", func(t *testing.T) { testEveryFunctionIsKnown(t, s) })
}

// What a read-only transaction refuses is Writes or Unknown, and ReadOnly
// refuses it or leaves it to the server.
func testWhatAReadOnlyTransactionRefusesIsSeen(t *testing.T, s *server) {
	all := slices.Concat(changing, reading, introspection(t))
	var script strings.Builder
	script.WriteString("\\set VERBOSITY sqlstate\nPREPARE writer AS DELETE FROM lines;\nPREPARE reader AS TABLE lines;\n")
	for i, sql := range all {
		fmt.Fprintf(&script, "\\warn ## %d\nBEGIN READ ONLY;\n%s\n;\nROLLBACK;\n", i, strings.TrimSuffix(sql, ";"))
	}
	_, errs := s.psql(t, script.String())
	refused := make(map[int]bool)
	at := -1
	for line := range strings.Lines(errs) {
		if _, err := fmt.Sscanf(line, "## %d", &at); err == nil {
			continue
		}
		if strings.Contains(line, "25006") {
			refused[at] = true
		}
	}
	if len(refused) < 80 {
		t.Fatalf("the server refused only %d statements:\n%s", len(refused), errs)
	}
	for i, sql := range all {
		facts := factsOf(t, sql)
		seen := slices.ContainsFunc(facts, func(f statement.Facts) bool { return f.Writes || f.Unknown })
		if (refused[i] || i < len(changing)) && !seen {
			t.Errorf("refused by the server: %v; not seen: %s", refused[i], sql)
		}
		if err := statement.ReadOnly(facts); i >= len(changing) && (err != nil || refused[i]) {
			t.Errorf("%v (refused by the server: %v): %s", err, refused[i], sql)
		}
	}
}

// Without this, ReadOnly might not let RESET ALL and DISCARD ALL through.
func testResetsReturnToTheStartupMessage(t *testing.T, s *server) {
	out, errs := s.psql(t, "RESET ALL; SHOW default_transaction_read_only; DISCARD ALL; SHOW transaction_read_only;", "PGOPTIONS=-c default_transaction_read_only=on")
	if out != "on\non\n" {
		t.Errorf("%q\n%s", out, errs)
	}
}

// harmless are the volatile functions of pg_catalog that change nothing outside
// of the session, but for locks that end with it.
var harmless = []string{
	"amvalidate", "bernoulli", "brinhandler", "bthandler", "clock_timestamp", "current_query", "currtid2", "currval", "cursor_to_xml*",
	"dsnowball_*", "gen_random_uuid", "ginhandler", "gisthandler", "hashhandler", "heap_tableam_handler", "lastval", "lo_close", "lo_get", "lo_lseek*", "lo_tell*", "loread",
	"pg_advisory_*", "pg_try_advisory_*", "pg_blocking_pids", "pg_collation_actual_version", "pg_control_*", "pg_current_*", "pg_database_*", "pg_export_snapshot", "pg_get_*", "pg_hba_file_rules", "pg_ident_file_mappings",
	"pg_indexes_size", "pg_is_*", "pg_isolation_test_session_is_blocked", "pg_jit_available", "pg_last_*", "pg_lock_status", "pg_logical_slot_peek_*", "pg_ls_*", "pg_notification_queue_usage", "pg_partition_*", "pg_prepared_xact",
	"pg_read_*", "pg_relation_size", "pg_safe_snapshot_blocking_pids", "pg_sequence_last_value", "pg_show_*", "pg_sleep*", "pg_stat_clear_snapshot", "pg_stat_file", "pg_stat_get_*", "pg_stat_have_stats",
	"pg_table_size", "pg_tablespace_size", "pg_total_relation_size", "pg_xact_*", "plpgsql_*", "query_to_xml*", "random", "set_config", "setseed", "spghandler", "timeofday", "ts_rewrite", "ts_stat", "txid_status",
}

// A server has no function with side effects that goes for a harmless one, and
// none that this package takes for somebody else's.
func testEveryFunctionIsKnown(t *testing.T, s *server) {
	out, _ := s.psql(t, `SELECT proname, bool_or(provolatile = 'v' AND prorettype <> 'trigger'::regtype) FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND has_function_privilege(oid, 'EXECUTE') GROUP BY 1;`)
	n := 0
	for line := range strings.Lines(out) {
		name, volatile, _ := strings.Cut(strings.TrimSpace(line), "|")
		f := factsOf(t, `SELECT pg_catalog."`+name+`"()`)[0]
		if len(f.Opaque) > 0 {
			t.Errorf("%s is somebody else's", name)
		}
		if volatile == "t" && !f.Writes && !slices.ContainsFunc(harmless, func(h string) bool {
			prefix, any := strings.CutSuffix(h, "*")
			return name == h || any && strings.HasPrefix(name, prefix)
		}) {
			t.Errorf("%s may have side effects", name)
		}
		n++
	}
	if n < 2000 {
		t.Errorf("the server has only %d functions", n)
	}
}
