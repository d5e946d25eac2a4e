package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// regression are those of PostgreSQL's own tests that need nothing but SQL and do
// not take long; each leaves what some behind it use.
var regression = strings.Fields(`
	test_setup boolean char name varchar text int4 float8 bit numeric uuid enum money
	strings date timetz timestamptz interval inet
	create_table copy copyselect copydml insert_conflict select_having union
	portals portals_p2 arrays namespace transactions
	limit plpgsql copy2 temp prepare truncate rowtypes returning with xml
	async guc sequence json advisory_lock psql psql_crosstab`)

// PostgreSQL's own regression tests print through the gateway what they print
// without one. What they should print is PostgreSQL's own business.
func TestPostgres_RegressionTestsAreAsWithoutAGateway(t *testing.T) {
	dir := scratch(t)
	script := fmt.Sprintf(`
		export PGUSER=%s PGDATABASE=regression PGTZ=PST8PDT PGDATESTYLE='Postgres, MDY' PGAPPNAME=regress
		export PG_ABS_SRCDIR=%[2]s PG_ABS_BUILDDIR=/tmp PG_LIBDIR=/nowhere PG_DLSUFFIX=.so
		cd %[2]s
		for f in %[3]s; do
			psql -Xqaw -v HIDE_TABLEAM=on -v HIDE_TOAST_COMPRESSION=on <sql/$f.sql >%[4]s/$1/$f 2>&1
		done`, regressUser, w.prepared.regress, strings.Join(regression, " "), dir)
	for side, run := range map[string]func(*testing.T, string) ran{"direct": w.direct, "gateway": w.run} {
		must(t, os.Mkdir(filepath.Join(dir, side), 0o777))
		must(t, os.Chmod(filepath.Join(dir, side), 0o777))
		_, err := w.server.SQL(t.Context(), "postgres", `
			DROP DATABASE IF EXISTS regression;
			CREATE DATABASE regression TEMPLATE template0;
			ALTER DATABASE regression SET bytea_output = 'hex';
			ALTER DATABASE regression SET intervalstyle = 'postgres_verbose';
			ALTER DATABASE regression SET timezone_abbreviations = 'Default';
			ALTER DATABASE regression SET max_parallel_workers_per_gather = 0;`)
		must(t, err)
		if r := run(t, "sh -c "+lab.Quote(script)+" sh "+side); r.code != 0 && r.code != 3 {
			t.Fatalf("%s: %v", side, r)
		}
	}
	lines := 0
	for _, name := range regression {
		want, err := os.ReadFile(filepath.Join(dir, "direct", name))
		must(t, err)
		got, err := os.ReadFile(filepath.Join(dir, "gateway", name))
		must(t, err)
		lines += strings.Count(string(want), "\n")
		if len(want) < 500 || strings.Contains(string(want), "connection to server") {
			t.Errorf("%s has not run: %s", name, want)
		}
		if string(got) != string(want) {
			t.Errorf("%s: %s", name, difference(ran{stdout: string(got)}, ran{stdout: string(want)}))
		}
	}
	t.Logf("%d tests, %d lines", len(regression), lines)
}
