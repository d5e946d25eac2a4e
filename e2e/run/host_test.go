package run

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// Another ordinary user, in the group that root has let run on the host's
// enrolment.
const (
	runnerID    = "4002"
	runnerHome  = "/var/home/runner"
	runnerGroup = "runners"
)

// joinedHost joins the second agent host as root, for the runs of the group.
func joinedHost(t *testing.T, args ...string) *lab.Joined {
	t.Helper()
	h := theLab.Agents[1]
	if err := h.Script(t.Context(), "getent group "+runnerGroup+" >/dev/null || { groupadd "+runnerGroup+"; useradd --uid "+runnerID+" --home-dir "+runnerHome+" --create-home --shell /bin/bash --groups "+runnerGroup+" runner; }"); err != nil {
		t.Fatal(err)
	}
	j, err := theLab.StartJoin(t.Context(), h, gateway, args...)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Approve(t.Context(), gateway, "ci"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := h.Run(context.WithoutCancel(t.Context()), "clawpatrol", "leave"); err != nil {
			t.Error(err)
		}
	})
	return j
}

// runnerArgs are a command of that user's, with his groups.
func runnerArgs(args ...string) []string {
	return append([]string{"setpriv", "--reuid", runnerID, "--regid", runnerID, "--init-groups",
		"env", "-i", "-C", runnerHome, "HOME=" + runnerHome, "USER=runner", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "TERM=dumb"}, args...)
}

// startRunner starts a shell line of that user's in `clawpatrol run`, and waits
// until it has printed pattern.
func startRunner(t *testing.T, h *lab.Host, line, pattern string) *lab.Output {
	t.Helper()
	return outside(t, h.Command(context.WithoutCancel(t.Context()), runnerArgs("clawpatrol", "run", "sh", "-c", line)...), pattern)
}

// Root joins the host; a user whom root lets runs through its tunnel, with a
// network of his own and without an enrolment of his own.
func TestRun_OnAJoinedHost(t *testing.T) {
	ctx := t.Context()
	joined := joinedHost(t, "--run-users", runnerGroup)
	h := joined.Host
	runner := func(args ...string) result { return finish(t, h.Command(ctx, runnerArgs(args...)...)) }
	run := func(line string) result { return runner("clawpatrol", "run", "sh", "-c", line) }

	upstream.Forget()
	if r := run(everything).ok(t); !strings.Contains(r.out, "all of it") || !strings.Contains(r.out, lab.PatternHash(3000000)) {
		t.Fatalf("%+v", r)
	}
	if got := upstream.Seen(); len(got) != 2 || got[1].Header.Get("Authorization") != "Bearer "+apiToken {
		t.Fatalf("upstream saw %+v", got)
	}
	if r := run("probe connect tcp 192.0.2.10:7008").ok(t); !strings.HasPrefix(r.out, lab.GatewayIPv4.String()+":") {
		t.Errorf("the world saw %q", r.out)
	}
	runner("env", "-u", "HOME", "clawpatrol", "run", "probe", "echo", "tcp", "192.0.2.10:7007", "from-nowhere").ok(t)
	// Without a TUN of his own as well.
	noTUN := append([]string{"unshare", "-m", "sh", "-c", `mount --bind /dev/null /dev/net/tun && exec "$@"`, "sh"}, runnerArgs("clawpatrol", "run", "sh", "-c", everything)...)
	if r := finish(t, h.Command(ctx, noTUN...)); !strings.Contains(r.out, "all of it") {
		t.Errorf("without a TUN: %+v", r)
	}
	if out, err := joined.Shell(ctx, `curl -sS https://api.example.com/bytes/3000000 | sha256sum`); err != nil || !strings.Contains(out, lab.PatternHash(3000000)) {
		t.Errorf("the host itself: %q, %v", out, err)
	}
	if r := finish(t, as(ctx, h, "0", "/root", "clawpatrol", "run", "sh", "-c", everything)).ok(t); !strings.Contains(r.out, "all of it") {
		t.Errorf("root: %+v", r)
	}

	t.Run("whom root has not named", func(t *testing.T) {
		r := finish(t, as(ctx, h, userID, userHome, "clawpatrol", "run", "true"))
		if r.code != 1 || !strings.Contains(r.errs, "permission denied") || !strings.Contains(r.errs, "hint: this user is not one of those") {
			t.Errorf("%+v", r)
		}
	})

	outside(t, h.Command(ctx, probePath, "listen", "@abstract-service"), "listening")
	outside(t, h.Command(ctx, probePath, "serve", "tcp", ":7100"), "listening")
	own6, err := h.Run(ctx, "sh", "-c", "ip -o -6 addr show clawpatrol0 scope global | sed 's|.*inet6 ||; s|/.*||'")
	if err != nil {
		t.Fatal(err)
	}
	own6 = strings.TrimSpace(own6)
	for _, line := range []string{"probe connect tcp 127.0.0.1:7100", "probe connect unix @abstract-service", "test -w /run/clawpatrol/run.sock"} {
		runner("sh", "-c", line).ok(t) // outside, all of that works
	}
	for _, line := range []string{
		"probe connect tcp 127.0.0.1:7100", "probe connect tcp [" + own6 + "]:7100", "probe connect unix @abstract-service",
		"ls /run/clawpatrol/run.sock", "ls /var/lib/clawpatrol-agent/private", "umount /run", "ip addr add 10.9.9.9/32 dev lo", "probe ptrace 1", "clawpatrol run true",
	} {
		if r := run(began + line); r.code == 0 || !strings.HasPrefix(r.out, "the-run-began\n") || strings.Contains(r.out, "hello from outside") {
			t.Errorf("it worked, or did not run: %s: %+v", line, r)
		}
	}
	if r := runner("cat", "/var/lib/clawpatrol-agent/private/state.json"); r.code == 0 {
		t.Error("the user can read the host's join credential")
	}
	if r := run("test -r /var/lib/clawpatrol-agent/public/ca.pem && cat /proc/self/status").ok(t); !strings.Contains(r.out, "NoNewPrivs:\t1") {
		t.Errorf("%+v", r)
	}

	t.Run("a forged source is dropped", func(t *testing.T) {
		r := run("probe forge " + own6 + " 2001:db8:c::10 forged-as-host; probe forge :: 2001:db8:c::10 honest-as-run")
		if err := lab.Eventually(ctx, 10*time.Second, func() error {
			if !seenDatagram("honest-as-run") {
				return fmt.Errorf("the honest one did not arrive either: %+v", r)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if seenDatagram("forged-as-host") {
			t.Error("it arrived")
		}
	})

	t.Run("each has its own address, and one user not all", func(t *testing.T) {
		const most = 10
		used := map[string]bool{own6: true}
		for range most {
			out := startRunner(t, h, "ip -o -6 addr show clawpatrol0 scope global; echo has-it; exec sleep 600", "has-it")
			m, err := out.Wait(ctx, time.Second, `inet6 (\S+)/128`)
			if err != nil || used[m[1]] {
				t.Fatalf("%v, %v are used: %v", m, used, err)
			}
			used[m[1]] = true
		}
		if err := failsWith(run("true"), "as many runs as one may have"); err != nil {
			t.Error(err)
		}
		finish(t, as(ctx, h, "0", "/root", "clawpatrol", "run", "true")).ok(t) // another user
	})

	// Blocked: at once nothing is forwarded, and soon nothing begins.
	going := startRunner(t, h, "echo going; while sleep 0.2; do probe echo udp 192.0.2.10:7007 beat-$(date +%s%N) && echo beat; done", "beat")
	if err := gateway.Operator.Block(ctx, joined.Registration, "a test"); err != nil {
		t.Fatal(err)
	}
	if err := lab.Eventually(ctx, 60*time.Second, func() error { return failsWith(run("true"), "the registration is blocked") }); err != nil {
		t.Error(err)
	}
	going.Mark()
	if _, err := going.Wait(ctx, 3*time.Second, "beat"); err == nil {
		t.Errorf("a blocked registration's run goes on:\n%s", going)
	}
	if err := gateway.Operator.Approve(ctx, lab.Registration{ID: joined.Registration, UserCode: joined.UserCode}, "ci"); err != nil {
		t.Fatal(err)
	}
	if _, err := going.Wait(ctx, 60*time.Second, "beat"); err != nil {
		t.Errorf("approved again: %v\n%s", err, going)
	}
	// Killed, nothing leaves a run any more, by any way.
	if err := joined.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := going.Wait(ctx, 10*time.Second, "this run has no network any more"); err != nil {
		t.Error(err)
	}
	if err := failsWith(run("true"), "hint: no process holds this host's tunnel"); err != nil {
		t.Error(err)
	}
}

// On a host that has joined a user without an enrolment is told what is missing,
// and nothing runs past the tunnel.
func TestRun_OnAJoinedHostThatIsNotShared(t *testing.T) {
	joined := joinedHost(t)
	run := func() result {
		return finish(t, as(t.Context(), joined.Host, userID, userHome, "clawpatrol", "run", "probe", "echo", "tcp", "192.0.2.10:7007", "through"))
	}
	if err := failsWith(run(), "up --run-users GROUP"); err != nil {
		t.Error(err)
	}
	if r := finish(t, as(t.Context(), joined.Host, userID, userHome, "clawpatrol", "up", "--run-users", "all")); r.code != 1 || !strings.Contains(r.errs, "root") {
		t.Errorf("a user opens the tunnel to users: %+v", r)
	}
	if err := joined.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := failsWith(run(), "as root, clawpatrol up"); err != nil {
		t.Error(err)
	}
	for _, args := range [][]string{{"--run-users", "all"}, nil} { // it is remembered
		up := outside(t, joined.Command(context.WithoutCancel(t.Context()), append([]string{"clawpatrol", "up"}, args...)...), "(?m)^ready")
		run().ok(t)
		if _, err := joined.Run(t.Context(), "clawpatrol", "down"); err != nil {
			t.Fatal(err)
		}
		if _, err := up.Wait(t.Context(), 10*time.Second, "tunnel down"); err != nil {
			t.Error(err)
		}
	}
	if r := finish(t, joined.Command(t.Context(), "ls", "/run/clawpatrol")); r.code == 0 {
		t.Errorf("down left %s", r.out)
	}
}
