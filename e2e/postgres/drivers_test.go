package postgres

import (
	"os"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The drivers that agents' programs use, doing all that drivers do: what they
// print through the gateway is what they print without one.
func TestPostgres_DriversDoNotNoticeTheGateway(t *testing.T) {
	const scripts = "/usr/local/lib/drivers"
	for _, h := range []*lab.Host{w.agent.Host, w.lab.World} {
		must(t, h.Script(t.Context(), "mkdir -p "+scripts))
		for _, name := range []string{"psycopg2_steps.py", "psycopg_steps.py", "node_steps.js"} {
			text, err := os.ReadFile("testdata/" + name)
			must(t, err)
			must(t, h.WriteFile(scripts+"/"+name, string(text), 0o644))
		}
	}
	for _, driver := range []struct{ name, line, last string }{
		{"pgx", w.prepared.drivers + "/pgx", "error ERROR 57014 canceling statement due to user request\nstatus I\n"},
		{"pq", w.prepared.drivers + "/pq", "after 42\n"},
		{"psycopg2", python + " " + scripts + "/psycopg2_steps.py", "57014 QueryCanceled\n"},
		{"psycopg", python + " " + scripts + "/psycopg_steps.py", "57014 canceling statement due to user request\n"},
		{"node-postgres", "node --no-deprecation " + scripts + "/node_steps.js", "57014 canceling statement due to statement timeout\n"},
	} {
		t.Run(driver.name, func(t *testing.T) {
			r := w.same(t, "PGSSLMODE=verify-full "+driver.line)
			if !strings.HasSuffix(r.stdout, driver.last) {
				t.Errorf("it did not come to its end:\n%s\n%s", r.stdout, r.stderr)
			}
		})
	}
}

// What Debian's server and its libpq are too old for, the gateway speaks to the
// drivers that are not.
func TestPostgres_NewerDriversGetWhatIsNewer(t *testing.T) {
	for _, env := range []string{"PGSSLMODE=verify-full PGSSLNEGOTIATION=direct", "PGSSLMODE=disable PGMINPROTOCOLVERSION=3.2 PGMAXPROTOCOLVERSION=3.2"} {
		if r := w.run(t, env+" "+w.prepared.drivers+"/pgx"); r.code != 0 || !strings.HasSuffix(r.stdout, "due to user request\nstatus I\n") {
			t.Errorf("%s: %v", env, r)
		}
	}
}
