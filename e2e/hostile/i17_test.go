package hostile

import (
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// kill -9 at any instant loses nothing that was acknowledged, and the next start
// needs no repair.
func TestI17_KillNineLosesNothing(t *testing.T) {
	ctx := t.Context()
	if _, status := curl(t, ci, "https://api.example.com/before-the-kill"); status != "200" {
		t.Fatalf("status %s", status)
	}
	before, err := gateway.Operator.Registrations(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const rotated = apiToken + "-rotated"
	if err := gateway.Operator.SetCredential(ctx, "bearer", "api_token", rotated); err != nil {
		t.Fatal(err)
	}
	if err := gateway.Kill(); err != nil { // at once after the acknowledgement
		t.Fatal(err)
	}
	gateway.Log.Mark()
	if err := gateway.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := gateway.Operator.SetCredential(ctx, "bearer", "api_token", apiToken); err != nil {
			t.Error(err)
		}
		waitOK(t)
	}()
	after, err := gateway.Operator.Registrations(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Errorf("%d registrations before, %d after", len(before), len(after))
	}
	for i := range after {
		if after[i].ID != before[i].ID || after[i].State != before[i].State {
			t.Errorf("before %+v, after %+v", before[i], after[i])
		}
	}
	upstream.Forget()
	if err := lab.Eventually(ctx, 30*time.Second, func() error {
		_, _, err := tryCurl(ctx, ci, "https://api.example.com/after-the-kill")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, s := range upstream.Seen() {
		if s.Header.Get("Authorization") != "Bearer "+rotated {
			t.Error("the acknowledged secret was lost")
		}
	}
}
