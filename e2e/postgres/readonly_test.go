package postgres

import (
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// What a read_only credential refuses, while the role itself may. Each is tried in
// a session of its own, for what it leaves there.
var refused = []string{
	"INSERT INTO orders (customer) VALUES ('x')",
	"UPDATE orders SET amount = 0",
	"DELETE FROM orders",
	"TRUNCATE orders",
	"WITH gone AS (DELETE FROM orders RETURNING *) SELECT count(*) FROM gone",
	"SELECT * INTO TEMP copied FROM orders",
	"CREATE TABLE mine ()",
	"DROP TABLE orders",
	"SELECT 1; DELETE FROM orders",
	"EXPLAIN ANALYZE DELETE FROM orders",
	"PREPARE p AS DELETE FROM orders",
	"COPY orders (customer) FROM STDIN",
	"COPY (DELETE FROM orders RETURNING id) TO STDOUT",
	"COPY orders TO PROGRAM 'cat'",
	"DO $$ BEGIN DELETE FROM orders; END $$",
	"SELECT nextval('orders_id_seq')",
	"SELECT lo_create(0)",
	"SELECT pg_catalog.set_config('transaction_read_only', 'off', false)",
	"SET TRANSACTION READ WRITE",
	"BEGIN READ WRITE",
	"START TRANSACTION READ WRITE",
	"SET transaction_read_only = off",
	"SET default_transaction_read_only = off",
	`SET "default_transaction_read_only" = off`,
	"SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
	"RESET default_transaction_read_only",
	"SET ROLE other_team",
	"SET SESSION AUTHORIZATION DEFAULT",
	"ALTER ROLE orders_ro PASSWORD 'mine'",
	"/* SELECT */ DELETE FROM orders -- SELECT",
	"SELECT pg_terminate_backend(1)",
}

var allowed = []string{
	"SELECT count(*) FROM orders",
	"WITH o AS (SELECT * FROM orders) SELECT count(*) FROM o",
	"BEGIN; SELECT 1; COMMIT",
	"BEGIN READ ONLY; SELECT 1; ROLLBACK",
	"EXPLAIN SELECT * FROM orders",
	"SHOW default_transaction_read_only",
	"SET statement_timeout = 1000",
	"COPY (SELECT 1) TO STDOUT",
	"TABLE orders LIMIT 1",
	"RESET ALL",   // to what the session began with,
	"DISCARD ALL", // which is read only
	"VALUES (1)",
	"DECLARE c CURSOR WITH HOLD FOR SELECT 1; FETCH c; CLOSE c",
}

func TestPostgres_ReadOnlyRefusesWrites(t *testing.T) {
	var script strings.Builder
	for _, sql := range refused {
		// Each with what follows it: the session stays usable.
		script.WriteString("\\echo " + "'" + strings.ReplaceAll(sql, "'", "''") + "'\n" + strings.ReplaceAll(sql, "; ", "\\; ") + ";\n\\echo :SQLSTATE\n")
	}
	r := w.run(t, psql(script.String()+"SELECT 'usable';", "-At -U "+readOnlyUser))
	lines := strings.Split(r.stdout, "\n")
	for i, sql := range refused {
		if len(lines) <= 2*i+1 || lines[2*i] != sql || lines[2*i+1] != "42501" {
			t.Fatalf("%s: %.1000q\n%s", sql, lines[min(2*i, len(lines)):], r.stderr)
		}
	}
	if !strings.HasSuffix(r.stdout, "usable\n") {
		t.Errorf("%v", r)
	}
	for line := range strings.Lines(r.stderr) {
		if strings.HasPrefix(line, "ERROR") && !strings.Contains(line, "denied by the gateway: ") {
			t.Errorf("the server itself refused: %s", line)
		}
	}
	for _, sql := range allowed {
		if r := w.run(t, "psql -Xqw -U "+readOnlyUser+" -c "+lab.Quote(sql)); r.code != 0 {
			t.Errorf("%s: %v", sql, r)
		}
	}
	if r := w.run(t, "psql -Xw -U "+readOnlyUser+" -c '\\d' -c '\\d orders' -c '\\df' -c '\\dn+' -c '\\l' -c '\\dt *.*'"); r.code != 0 {
		t.Errorf("introspection: %v", r)
	}
	must(t, sqlIs(t, "SELECT count(*), sum(amount) FROM orders", "1000|625625.00"))
}

// A function's body is the server's to judge: the session itself is read only.
func TestPostgres_ReadOnlyHoldsInFunctionBodies(t *testing.T) {
	for _, before := range []string{"SELECT 1", "RESET ALL", "DISCARD ALL", "RESET SESSION AUTHORIZATION"} {
		r := w.run(t, "psql -Xqw -U "+readOnlyUser+" -c '"+before+"' -c \"SELECT add_order('x')\"")
		if r.code == 0 || !strings.Contains(r.stderr, "cannot execute INSERT in a read-only transaction") {
			t.Errorf("%s: %v", before, r)
		}
	}
	must(t, sqlIs(t, "SELECT count(*) FROM orders", "1000"))
}

// A refusal leaves the transaction as an error of the server's own would.
func TestPostgres_RefusalsKeepTransactionsTruthful(t *testing.T) {
	r := w.run(t, psql("BEGIN;\nDELETE FROM orders;\nSELECT 'in a failed transaction';\nROLLBACK;\nSELECT 'after';", "-At -U "+readOnlyUser))
	if r.stdout != "after\n" || !strings.Contains(r.stderr, "current transaction is aborted") {
		t.Errorf("%v", r)
	}
	// In a pipeline, by a driver: what follows the refusal is skipped up to the Sync.
	const script = `
import psycopg
with psycopg.connect("user=` + readOnlyUser + `", autocommit=True) as con:
    try:
        with con.pipeline() as p:
            a = con.execute("SELECT %s::int", (1,))
            b = con.execute("DELETE FROM orders WHERE id = %s", (1,))
            c = con.execute("SELECT %s::int", (3,))
            p.sync()
    except psycopg.Error as e:
        print(e.sqlstate)
    print(con.info.transaction_status.name, con.execute("SELECT 'usable'").fetchone())
    con.autocommit = False
    try:
        con.execute("UPDATE orders SET amount = %s", (0,))
    except psycopg.Error as e:
        print(e.sqlstate, con.info.transaction_status.name)
    con.rollback()
    print(con.execute("SELECT count(*) FROM orders").fetchone())
`
	if r := w.run(t, python+" - <<'END'\n"+script+"END"); r.stdout != "42501\nIDLE ('usable',)\n42501 INERROR\n(1000,)\n" {
		t.Errorf("%v", r)
	}
}
