package e2e

import (
	"context"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// A newcomer with nothing but README.md, two hosts and the binary: the policy
// and the commands are read out of it, only the names are the newcomer's own.
func TestNewcomer_TheREADMEWorksAsWritten(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(pattern string) string {
		t.Helper()
		m := regexp.MustCompile("(?s)" + pattern).FindSubmatch(readme)
		if m == nil {
			t.Fatalf("README.md has no %s", pattern)
		}
		return string(m[1])
	}
	policy := block("```hcl\n(.*?)```")
	start := block("```\n(sudo clawpatrol gateway)\n```")
	use := block("```\n(eval [^`]*)```")

	own := strings.NewReplacer("gw.example.com", lab.GatewayHost, "api.github.com", "api.newcomer.example.com", "sudo ", "")
	ctx := t.Context()
	l, err := lab.New(ctx, lab.Config{Bin: lab.Binary()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	up := new(lab.Upstream)
	if err := l.ServeHTTPS(ctx, "api.newcomer.example.com", 0, up); err != nil {
		t.Fatal(err)
	}
	// The gateway host trusts the lab's public CA, as any host trusts the real ones.
	if err := l.PKI.Trust(ctx, l.Gateway); err != nil {
		t.Fatal(err)
	}

	// On the gateway: the file and one command.
	if err := l.Gateway.Script(ctx, "mkdir -p /etc/clawpatrol"); err != nil {
		t.Fatal(err)
	}
	if err := l.Gateway.WriteFile("/etc/clawpatrol/gateway.hcl", own.Replace(policy), 0o644); err != nil {
		t.Fatal(err)
	}
	gw := l.Gateway.Command(context.WithoutCancel(ctx), "sh", "-c", "exec "+own.Replace(start))
	out := new(lab.Output)
	gw.Stdout, gw.Stderr = out, out
	if err := gw.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = gw.Process.Signal(syscall.SIGTERM)
		if err := gw.Wait(); err != nil {
			t.Errorf("the gateway ended with %v:\n%s", err, out)
		}
	})
	m, err := out.Wait(ctx, 20*time.Second, `(?m)^on an agent host: sudo (clawpatrol join .*)$`)
	if err != nil {
		t.Fatal(err)
	}
	join := m[1]

	// In the browser: password, token.
	op, err := l.FirstRun(ctx, "127.0.0.1:8080", "a password of the newcomer's")
	if err != nil {
		t.Fatal(err)
	}
	const token = "ghp_theNewcomersRealToken"
	if err := op.SetCredential(ctx, "bearer", "github_token", token); err != nil {
		t.Fatal(err)
	}

	// On the agent host: join.
	agentOut := new(lab.Output)
	joining := l.Agents[0].Command(context.WithoutCancel(ctx), "sh", "-c", "exec "+join)
	joining.Stdout, joining.Stderr = agentOut, agentOut
	if err := joining.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = joining.Process.Signal(syscall.SIGINT)
		_ = joining.Wait() // interrupted
	})
	code, err := agentOut.Wait(ctx, 20*time.Second, `(?m)^user code: (\S+)`)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := op.Registrations(ctx)
	if err != nil || len(rs) != 1 || rs[0].UserCode != code[1] {
		t.Fatalf("registrations %+v, %v; want one with code %s", rs, err, code[1])
	}
	if err := op.Approve(ctx, rs[0], "ci"); err != nil {
		t.Fatal(err)
	}
	if _, err := agentOut.Wait(ctx, 30*time.Second, `(?m)^ready`); err != nil {
		t.Fatal(err)
	}

	// And use it.
	got, err := l.Agents[0].Run(ctx, "sh", "-ec", own.Replace(use))
	if err != nil || !strings.HasPrefix(got, "ok") {
		t.Errorf("%s\nanswered %q, %v", own.Replace(use), got, err)
	}
	seen := up.Seen()
	if len(seen) != 1 || seen[0].Method != http.MethodGet || seen[0].Header.Get("Authorization") != "Bearer "+token {
		t.Errorf("the upstream saw %+v", seen)
	}
}
