package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// untilEchoed is a line that goes on trying until the tunnel carries it.
const untilEchoed = "until probe echo tcp 192.0.2.10:7007 %s 2>/dev/null; do sleep 0.1; done"

func theDaemon(t *testing.T) int {
	t.Helper()
	var pid int
	if err := lab.Eventually(t.Context(), 10*time.Second, func() error {
		pids := daemons()
		if len(pids) != 1 {
			return fmt.Errorf("daemons: %v", pids)
		}
		pid = pids[0]
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestRun_DaemonKilledLeavesTheCommandWithoutANetwork(t *testing.T) {
	s := start(t, "clawpatrol", "run", "sh", "-c", fmt.Sprintf(untilEchoed, "before")+`; echo connected; read go
		ip -o link; probe echo tcp 192.0.2.10:7007 after-tcp; probe echo udp 192.0.2.10:7007 after-udp; probe echo udp [2001:db8:c::10]:7007 after-udp6; getent hosts api.example.com; echo finished`)
	s.wait("connected")
	if err := syscall.Kill(theDaemon(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.wait("the daemon that held the tunnel is gone")
	s.press("go\n")
	s.wait("finished")
	if code := s.end(); code != 0 {
		t.Errorf("status %d", code)
	}
	out := s.out.String()
	if strings.Contains(out, "clawpatrol0") || strings.Contains(out, "\nafter-") || seenDatagram("after-udp") {
		t.Errorf("it had a network:\n%s", out)
	}
	// The next run starts another.
	inside(t, "probe echo tcp 192.0.2.10:7007 again").ok(t)
}

// registration is that of the ordinary user.
func registration(t *testing.T) lab.Registration {
	t.Helper()
	regs, err := gateway.Operator.Registrations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(regs, func(r lab.Registration) bool { return r.Name == "run-"+userID })
	if i < 0 {
		t.Fatalf("not among %+v", regs)
	}
	return regs[i]
}

func TestRun_GatewayRestartedMidRun(t *testing.T) {
	s := start(t, "clawpatrol", "run", "sh", "-c", fmt.Sprintf(untilEchoed, "before")+"; echo connected; read go; probe echo udp 192.0.2.10:7007 while-the-gateway-is-down; echo tried; read go; "+fmt.Sprintf(untilEchoed, "after")+"; echo finished")
	s.wait("connected")
	// It writes down every two seconds where its agents are, for it to call them.
	if err := lab.Eventually(t.Context(), 10*time.Second, func() error {
		if registration(t).LastHandshake == nil {
			return errors.New("no handshake is known")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := gateway.Kill(); err != nil {
		t.Fatal(err)
	}
	// Meanwhile nothing finds another way out.
	s.press("go\n")
	s.wait("tried")
	if seenDatagram("while-the-gateway-is-down") {
		t.Error("a datagram left past the gateway")
	}
	gateway.Log.Mark()
	if err := gateway.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	s.press("go\n")
	s.wait("finished")
	if code := s.end(); code != 0 {
		t.Errorf("status %d:\n%s", code, s.out)
	}
}

// However a run ends, nothing of it stays: its processes, its address.
func TestRun_InterruptedRunLeavesNothing(t *testing.T) {
	inside(t, "true").ok(t)
	descriptors := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", theDaemon(t)))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := descriptors()
	for i := range 18 { // more than there are addresses
		marker := fmt.Sprintf("600.%d", i)
		s := start(t, "clawpatrol", "run", "sh", "-c", "sleep "+marker+" & setsid sleep "+marker+" & echo ready; wait")
		s.wait("ready")
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		s.end()
		if err := lab.Eventually(t.Context(), 10*time.Second, func() error {
			if pids := processes("sleep\x00" + marker); len(pids) > 0 {
				return fmt.Errorf("still there: %v", pids)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	inside(t, "true").ok(t)
	if err := lab.Eventually(t.Context(), 10*time.Second, func() error {
		if now := descriptors(); now > before {
			return fmt.Errorf("the daemon has %d descriptors, and had %d", now, before)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	t.Run("a background process ends with the command", func(t *testing.T) {
		inside(t, "setsid sleep 601.5 >/dev/null 2>&1 & true").ok(t)
		if pids := processes("sleep\x00601.5"); len(pids) > 0 {
			t.Errorf("still there: %v", pids)
		}
	})
}

// processes are those of the machine whose arguments begin so.
func processes(args string) (pids []string) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if b, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil && strings.HasPrefix(string(b), args+"\x00") {
			pids = append(pids, e.Name())
		}
	}
	return pids
}

func TestRun_DaemonIsOneAndEndsWhenIdle(t *testing.T) {
	if err := lab.Eventually(t.Context(), 5*time.Second, func() error {
		endDaemons()
		if len(daemons()) > 0 {
			return errors.New("a daemon is left")
		}
		// A process that ends loses its command line before its locks.
		lock, err := os.Open(host.Path(stateDir + "/private/lock"))
		if err != nil {
			return err
		}
		defer lock.Close()
		return syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}); err != nil {
		t.Fatal(err)
	}
	// The name of the last one's socket stays behind.
	socket := host.Path(stateDir + "/private/run.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	first := start(t, "clawpatrol", "run-daemon", "--state", stateDir, "--idle", "4s")
	if err := lab.Eventually(t.Context(), 10*time.Second, func() error {
		_, err := os.Stat(socket)
		return err
	}); err != nil {
		t.Fatalf("%v\n%s", err, first.out)
	}
	// Another sees that there is one, and ends.
	if code := start(t, "clawpatrol", "run-daemon", "--state", stateDir).end(); code != 0 {
		t.Errorf("the second daemon ended with %d", code)
	}
	inside(t, "probe echo tcp 192.0.2.10:7007 served").ok(t)
	if code := first.end(); code != 0 {
		t.Errorf("the idle daemon ended with %d:\n%s", code, first.out)
	}
	// A dozen that start at once start one.
	runs := make([]*started, 12)
	for i := range runs {
		runs[i] = start(t, "clawpatrol", "run", "probe", "echo", "tcp", "192.0.2.10:7007", "started-at-once")
	}
	for _, r := range runs {
		if code := r.end(); code != 0 {
			t.Errorf("status %d:\n%s", code, r.out)
		}
	}
	theDaemon(t)
}

func TestI07_BlockedRegistrationRunsNothing(t *testing.T) {
	inside(t, "probe echo tcp 192.0.2.10:7007 before-the-block").ok(t)
	id := registration(t).ID
	if err := gateway.Operator.Block(t.Context(), id, "a test"); err != nil {
		t.Fatal(err)
	}
	// Nothing passes from now on, and as soon as the daemon has asked it says why.
	if err := lab.Eventually(t.Context(), 60*time.Second, func() error {
		r := inside(t, "probe echo udp 192.0.2.10:7007 while-blocked")
		if r.code != 1 || !strings.Contains(r.errs, "the registration is blocked") {
			return fmt.Errorf("while blocked: %+v", r)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if seenDatagram("while-blocked") {
		t.Error("a blocked registration sent a datagram")
	}
	if err := gateway.Operator.Approve(t.Context(), lab.Registration{ID: id}, "ci"); err != nil {
		t.Fatal(err)
	}
	if err := lab.Eventually(t.Context(), 60*time.Second, func() error {
		if r := inside(t, "probe echo tcp 192.0.2.10:7007 approved-again"); r.code != 0 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}
