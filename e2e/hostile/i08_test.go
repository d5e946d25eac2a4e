package hostile

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The attack: copy all that an agent host knows, and use it elsewhere.
func TestI08_ACopiedJoinCredentialMovesNoByteAndBlocks(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	l, err := lab.New(ctx, lab.Config{Bin: lab.Binary(), Agents: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	world := new(lab.Upstream)
	if err := l.ServeHTTPS(ctx, "web.example.org", 3, world); err != nil {
		t.Fatal(err)
	}
	gw, err := l.StartGateway(ctx, `
endpoint "https" "api" { hosts = ["api.example.com"] }
credential "bearer" "api" { endpoint = https.api }
profile "ci" { credentials = [bearer.api] }
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", gw.Log.Tail(40))
		}
	})
	victim, err := l.Join(ctx, l.Agents[0], gw, "ci")
	if err != nil {
		t.Fatal(err)
	}
	other, err := l.Join(ctx, l.Agents[2], gw, "ci")
	if err != nil {
		t.Fatal(err)
	}
	const ask = "curl -4sS --max-time 10 https://web.example.org/"
	for _, a := range []*lab.Joined{victim, other} {
		if _, err := a.Shell(ctx, ask); err != nil {
			t.Fatal(err)
		}
	}
	download, err := startDownload(t, victim)
	if err != nil {
		t.Fatal(err)
	}

	const state = "/var/lib/clawpatrol-agent"
	archive, err := victim.Run(ctx, "sh", "-c", "tar -C "+state+" -cf - . | base64 -w0")
	if err != nil {
		t.Fatal(err)
	}
	thief := l.Agents[1]
	if err := thief.WriteFile("/tmp/stolen", archive, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := thief.Script(ctx, "install -d -m 700 "+state+"; base64 -d /tmp/stolen | tar -C "+state+" -xf -"); err != nil {
		t.Fatal(err)
	}
	// Our program would hold still where the gateway sees it outside the pin: the
	// thief makes it believe otherwise.
	if err := thief.Script(ctx, "sed -i 's/198\\.51\\.100\\.2/198.51.101.2/; s/2001:db8:100::2/2001:db8:101::2/' "+state+"/private/state.json"); err != nil {
		t.Fatal(err)
	}
	world.Forget()
	began := time.Now()
	up := thief.Command(ctx, l.Bin, "up")
	said := new(lab.Output)
	up.Stdout, up.Stderr = said, said
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = up.Process.Kill(); _ = up.Wait() })
	var r lab.Registration
	if err := lab.Eventually(ctx, 30*time.Second, func() error {
		if r, err = gw.Operator.Registration(ctx, victim.Registration); err == nil && r.State != "blocked" {
			err = fmt.Errorf("it is %s; up says:\n%s", r.State, said)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("blocked %v after the thief began: %s", time.Since(began).Round(time.Millisecond), r.BlockedReason)
	if !strings.Contains(r.BlockedReason, "198.51.101.") && !strings.Contains(r.BlockedReason, "2001:db8:101:") {
		t.Errorf("blocked because %q", r.BlockedReason)
	}
	if err := download.stalls(t); err != nil {
		t.Error(err)
	}
	// By force, through whatever tunnel it has.
	if out, err := thief.Run(ctx, "sh", "-c", "ip route replace 192.0.2.13 dev clawpatrol0 && curl -4skS --max-time 5 --resolve web.example.org:443:192.0.2.13 https://web.example.org/stolen"); err == nil {
		t.Errorf("the thief was answered: %s", out)
	}
	if seen := world.Seen(); len(seen) != 0 {
		t.Errorf("the world heard %+v", seen)
	}
	if _, err := other.Shell(ctx, ask); err != nil {
		t.Errorf("the other registration: %v", err)
	}

	// The agent host comes back by a decision only.
	if _, err := victim.Shell(ctx, "curl -4sS --max-time 3 https://web.example.org/"); err == nil {
		t.Error("the agent host was answered while it is blocked")
	}
	_ = up.Process.Kill()
	if err := gw.Operator.Approve(ctx, lab.Registration{ID: victim.Registration, UserCode: victim.UserCode}, "ci"); err != nil {
		t.Fatal(err)
	}
	if err := lab.Eventually(ctx, 40*time.Second, func() error {
		_, err := victim.Shell(ctx, "curl -4sS --max-time 3 https://web.example.org/")
		return err
	}); err != nil {
		t.Errorf("after the re-approval: %v", err)
	}
}
