package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// One row a statement, by whatever protocol, with its literals replaced.
func TestPostgres_StatementsAreLogged(t *testing.T) {
	w.works(t, psql(`SELECT 'literal-one', 4711081547 AS logged_simple;
BEGIN; UPDATE orders SET customer = customer WHERE id IN (1, 2, 3) AND 'logged_update' <> ''; ROLLBACK;
COPY (SELECT 'literal-two' AS logged_copy FROM generate_series(1, 1000)) TO STDOUT;`, ">/dev/null"))
	w.run(t, "psql -Xwc 'SELECT logged_error FROM nowhere'")
	w.run(t, "psql -Xw -U "+readOnlyUser+" -c 'DELETE FROM logged_refusal'")
	w.works(t, python+` -c 'import psycopg; psycopg.connect("").execute("SELECT %s AS logged_extended", ("literal-three",))'`)
	must(t, lab.Eventually(t.Context(), patience, func() error {
		rows, err := w.gateway.Operator.Actions(t.Context())
		if err != nil {
			return err
		}
		var missing []string
		for _, want := range []lab.Action{
			{Verdict: "allow", Summary: "connect orders_app@orders", Status: "connected", Credential: "postgres.app"},
			{Verdict: "allow", Summary: "logged_simple", Status: "SELECT 1", Credential: "postgres.app"},
			{Verdict: "allow", Summary: "UPDATE orders SET customer", Status: "UPDATE 3", Credential: "postgres.app"},
			{Verdict: "allow", Summary: "logged_copy", Status: "COPY 1000", Credential: "postgres.app"},
			{Verdict: "allow", Summary: "logged_error", Status: "42P01", Credential: "postgres.app"},
			{Verdict: "allow", Summary: "logged_extended", Status: "SELECT 1", Credential: "postgres.app"},
			{Verdict: "deny", Summary: "DELETE FROM logged_refusal"},
		} {
			found := false
			for _, row := range rows {
				found = found || row.Protocol == "postgres" && row.Verdict == want.Verdict && strings.Contains(row.Summary, want.Summary) &&
					(want.Status == "" || row.Status == want.Status) && (want.Credential == "" || row.Credential == want.Credential) && row.Registration == w.agent.Registration && row.Endpoint == "postgres.orders"
			}
			if !found {
				missing = append(missing, want.Summary)
			}
		}
		if missing != nil {
			return fmt.Errorf("no row of %q in %+v", missing, rows[:min(len(rows), 30)])
		}
		return nil
	}))
	for _, literal := range []string{"literal-one", "4711081547", "literal-two", "literal-three"} {
		for _, path := range []string{"/api/actions?limit=500", "/actions"} {
			text, err := w.gateway.Operator.Text(t.Context(), path)
			must(t, err)
			if strings.Contains(text, literal) {
				t.Errorf("%s is in %s", literal, path)
			}
		}
	}
}

// A secret that an operator replaces is the next session's.
func TestPostgres_NewPasswordIsUsedAtOnce(t *testing.T) {
	const name = "/api/credentials/postgres/broken"
	set := func(password string) {
		t.Helper()
		must(t, w.gateway.Operator.Do(context.WithoutCancel(t.Context()), "PUT", name, map[string]any{"slots": map[string]string{"password": password}}, nil))
	}
	set(passwords[appUser])
	t.Cleanup(func() { set(passwords["broken"]) })
	must(t, lab.Eventually(t.Context(), patience, func() error {
		if r := w.run(t, "psql -XwAtc 'SELECT 1' -h "+brokenHost); r.stdout != "1\n" {
			return errors.New(r.String())
		}
		return nil
	}))
}
