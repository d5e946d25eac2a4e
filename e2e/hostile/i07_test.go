package hostile

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The attack: use the tunnel before anybody has approved, and after a block.
func TestI07_PendingGetsNothingBlockCutsRevokeEnds(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	mallory, err := theLab.StartJoin(ctx, theLab.Agents[2], gateway, "--name", "mallory")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mallory.Stop(); err != nil {
			t.Error(err)
		}
		if err := mallory.Script(ctx, theLab.Bin+" leave"); err != nil {
			t.Error(err)
		}
	}()
	// The handshake may come up: that is how the pin is sealed. Nothing else may.
	if err := lab.Eventually(ctx, 15*time.Second, func() error {
		r, err := gateway.Operator.Registration(ctx, mallory.Registration)
		if err == nil && r.LastHandshake == nil {
			err = fmt.Errorf("no handshake yet")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	nothing := func(state string) {
		t.Helper()
		mark := "i07-" + state   // what earlier attacks left behind asks too
		var tries sync.WaitGroup // each waits for its time to run out
		for what, line := range map[string]string{
			"TCP":         "curl -4skS --max-time 3 https://192.0.2.13/" + mark,
			"TCP6":        "curl -6skS --max-time 3 'https://[2001:db8:c::13]/" + mark + "'",
			"ICMP":        "ping -c1 -W2 192.0.2.10",
			"ICMP6":       "ping -6 -c1 -W2 2001:db8:c::10",
			"DNS":         "dig +time=2 +tries=1 " + mark + ".example.org @192.0.2.53 | grep status:",
			"DNS gateway": "dig +time=2 +tries=1 " + mark + ".example.org @10.55.0.1 | grep status:",
			"DNS TCP":     "dig +tcp +time=2 +tries=1 " + mark + ".example.org @10.55.0.1 | grep status:",
		} {
			// Through the tunnel by force: a pending agent host has not turned its
			// routes yet, and a hostile one does as it pleases.
			tries.Go(func() {
				if out, err := mallory.Run(ctx, "sh", "-c", line); err == nil {
					t.Errorf("%s: %s was answered: %s", state, what, out)
				}
			})
		}
		tries.Wait()
		for _, r := range upstream.Seen() {
			if r.URI == "/"+mark {
				t.Errorf("%s: the upstream saw %+v", state, r)
			}
		}
		if slices.Contains(theLab.Names.Queries(), mark+".example.org.") {
			t.Errorf("%s: the world's resolver was asked", state)
		}
	}
	if err := mallory.Script(ctx, `
		ip route replace 192.0.2.0/24 dev clawpatrol0; ip route replace 10.55.0.1 dev clawpatrol0
		ip -6 route replace 2001:db8:c::/64 dev clawpatrol0`); err != nil {
		t.Fatal(err)
	}
	nothing("pending")

	if err := mallory.Approve(ctx, gateway, "ci"); err != nil {
		t.Fatal(err)
	}
	download, err := startDownload(t, mallory)
	if err != nil {
		t.Fatal(err)
	}
	if err := gateway.Operator.Block(ctx, mallory.Registration, "test of I07"); err != nil {
		t.Fatal(err)
	}
	if err := download.stalls(t); err != nil {
		t.Error(err)
	}
	nothing("blocked")
	r, err := gateway.Operator.Registration(ctx, mallory.Registration)
	if err != nil || r.State != "blocked" || !strings.Contains(r.BlockedReason, "I07") {
		t.Errorf("after the block: %+v, %v", r, err)
	}
	if err := gateway.Operator.Revoke(ctx, mallory.Registration); err != nil {
		t.Fatal(err)
	}
	nothing("revoked")
	if err := gateway.Operator.Approve(ctx, r, "ci"); err == nil {
		t.Error("a revoked registration could be approved")
	}
}
