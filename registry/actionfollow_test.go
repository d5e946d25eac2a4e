package registry_test

import (
	"path/filepath"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
)

// Who comes back to the live log after its rows were removed does not walk through
// where they were.
func TestActionsAfter_BeginsWhereTheLogDoes(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := writer(t, filepath.Join(dir, "clawpatrol.db")).Exec("UPDATE action_log_start SET first = 1000001"); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, nil)
	id := appendRow(t, db, registry.Action{Verdict: "allow", Summary: "x"})
	flush(t, db)
	list, through, err := db.ActionsAfter(t.Context(), registry.ActionFilter{After: 5, Limit: 10})
	if err != nil || len(list) != 1 || list[0].ID != id || through != id {
		t.Errorf("row %d: %+v, through %d, %v", id, list, through, err)
	}
}
