package registry_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// However rows lie beside each other, alike or not, one column or another, each is
// stored as it was appended.
func TestActions_OfAnyMixtureAreStoredAsAppended(t *testing.T) {
	for _, steady := range []int{1, 3, 5, 30, 300} { // how many rows there are, about, until one thing changes
		t.Run(fmt.Sprint(steady), func(t *testing.T) {
			db := openIn(t, stateDir(t), nil)
			random := rand.New(rand.NewPCG(7, uint64(steady)))
			either := func(column string) string { return fmt.Sprintf("%s-%d", column, random.IntN(2)) }
			began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
			context := registry.Action{Profile: "p", Endpoint: "e", Credential: "c", Protocol: "x", Verdict: "allow", Rule: "r", Reason: "y"}
			change := []func(){
				func() { context.Profile = either("profile") },
				func() { context.Endpoint = either("endpoint") },
				func() { context.Credential = either("credential") },
				func() { context.Protocol = either("protocol") },
				func() { context.Verdict = []string{"allow", "deny"}[random.IntN(2)] },
				func() { context.Rule = either("rule") },
				func() { context.Reason = either("reason") },
			}
			want := make(map[int64]registry.LoggedAction)
			const rows = 700
			for i := range rows {
				if random.IntN(steady) == 0 {
					change[random.IntN(len(change))]()
				}
				row := registry.LoggedAction{Action: context}
				row.Registration = registry.ID(either("registration"))
				row.Summary = either("summary")
				row.Time = began.Add(time.Duration(i) * time.Millisecond)
				row.ID = appendRow(t, db, row.Action)
				if random.IntN(4) > 0 {
					row.Result = &registry.ActionResult{Status: either("status"), BytesIn: random.Int64N(9), BytesOut: random.Int64N(9), Duration: time.Duration(random.Int64N(9))}
					db.Finish(row.ID, *row.Result)
				}
				want[row.ID] = row
			}
			flush(t, db)
			got := append(actions(t, db, registry.ActionFilter{Limit: 500}), actions(t, db, registry.ActionFilter{Limit: 500, Before: rows - 499})...)
			if len(got) != rows {
				t.Fatalf("%d rows are stored, want %d", len(got), rows)
			}
			for _, row := range got {
				stored, appended := row.Action, want[row.ID].Action
				if stored != appended {
					t.Errorf("stored   %+v\nappended %+v", stored, appended)
				}
				switch result := want[row.ID].Result; {
				case (row.Result == nil) != (result == nil), result != nil && *row.Result != *result:
					t.Errorf("row %d ended with %+v, want %+v", row.ID, row.Result, result)
				}
			}
		})
	}
}
