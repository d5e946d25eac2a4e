package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// killed reports whether the process ended by SIGKILL.
func killed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.Sys().(interface{ Signal() unix.Signal }).Signal() == unix.SIGKILL
}

// A join that is killed between any two of its changes is undone by leave: the
// host is as it was before.
func TestJournal_LeaveRepairsAfterKillAtAnyPoint(t *testing.T) {
	root := newRoot(t)
	g := newTestGateway(t, nil, "127.0.0.1")
	g.setApprove(true)
	before := snapshot(t, root)
	points := 0
	for n := 1; ; n++ {
		state := filepath.Join(t.TempDir(), "state")
		said, whole := runUntilKilled(t, g, root, state, "join", n)
		if whole {
			break
		}
		points++
		a := New(Config{StateDir: state, Root: root, Run: fakeRefresh(root), Lookup: g.lookup})
		if err := a.Leave(t.Context()); err != nil {
			t.Fatalf("leave after a kill at checkpoint %d: %v\n%s", n, err, said)
		}
		if after := snapshot(t, root); after != before {
			t.Fatalf("killed at checkpoint %d\n%s\nbefore join:\n%s\nafter leave:\n%s", n, said, before, after)
		}
		if _, err := os.Stat(state); err == nil {
			t.Fatalf("killed at checkpoint %d: leave left the state directory\n%s", n, said)
		}
	}
	if points < 25 {
		t.Errorf("only %d points: the checkpoints do not cover a join", points)
	}
}

// The next up makes it whole, and its end restores what was there before the
// process that was killed, not what that one left.
func TestJournal_UpRepairsAfterKillAtAnyPoint(t *testing.T) {
	root := newRoot(t)
	g := newTestGateway(t, nil, "127.0.0.1")
	g.setApprove(true)
	before := snapshot(t, root)
	state := filepath.Join(t.TempDir(), "state")
	if said, whole := runUntilKilled(t, g, root, state, "join", 0); !whole {
		t.Fatalf("join did not get ready:\n%s", said)
	}
	joined := snapshot(t, root) // with the CA, without the tunnel
	if joined == before {
		t.Fatal("join left nothing: the comparison proves nothing")
	}
	a := New(Config{StateDir: state, Root: root, Run: fakeRefresh(root), Lookup: g.lookup})
	for n := 1; ; n++ {
		said, whole := runUntilKilled(t, g, root, state, "up", n)
		if whole {
			break
		}
		if again, whole := runUntilKilled(t, g, root, state, "up", 0); !whole {
			t.Fatalf("up after a kill at checkpoint %d:\n%s\n%s", n, said, again)
		}
		if after := snapshot(t, root); after != joined {
			t.Fatalf("killed at checkpoint %d\n%s\nbefore up:\n%s\nafter up and its end:\n%s", n, said, joined, after)
		}
	}
	if err := a.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before join:\n%s\nafter leave:\n%s", before, after)
	}
}

// A leave that is killed is finished by the next.
func TestJournal_LeaveAfterKilledLeave(t *testing.T) {
	root := newRoot(t)
	g := newTestGateway(t, nil, "127.0.0.1")
	g.setApprove(true)
	before := snapshot(t, root)
	for n := 1; ; n++ {
		state := filepath.Join(t.TempDir(), "state")
		// Killed once it is ready: the most there can be to undo.
		said, _ := runUntilKilled(t, g, root, state, "join", -1)
		said2, whole := runUntilKilled(t, g, root, state, "leave", n)
		if !whole {
			a := New(Config{StateDir: state, Root: root, Run: fakeRefresh(root), Lookup: g.lookup})
			if err := a.Leave(t.Context()); err != nil {
				t.Fatalf("leave after a leave killed at checkpoint %d: %v\n%s\n%s", n, err, said, said2)
			}
		}
		if after := snapshot(t, root); after != before {
			t.Fatalf("leave killed at checkpoint %d\n%s\n%s\nbefore:\n%s\nafter:\n%s", n, said, said2, before, after)
		}
		if whole {
			return
		}
	}
}

// runUntilKilled runs a command that kills itself at checkpoint n; 0: it ends by
// itself, after SIGTERM once it is ready; -1: it is killed once it is ready. It
// returns what the command said, and whether it got that far.
func runUntilKilled(t *testing.T, g *testGateway, root, state, command string, n int) (said string, whole bool) {
	t.Helper()
	cmd := hostCommand(t, g, root, state, command, max(n, 0))
	out := new(output)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	signalled := false
	for {
		select {
		case err := <-ended:
			switch {
			case killed(err):
				return out.String(), false
			case err != nil:
				t.Fatalf("%s, to be killed at %d: %v\n%s", command, n, err, out)
			}
			return out.String(), true
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			<-ended
			t.Fatalf("%s, to be killed at %d, does not end:\n%s", command, n, out)
		case <-time.After(5 * time.Millisecond):
			if signalled || !strings.Contains(out.String(), "\nready\n") {
				continue
			}
			signalled = true
			sig := unix.SIGTERM
			if n < 0 {
				sig = unix.SIGKILL
			}
			_ = cmd.Process.Signal(sig)
		}
	}
}

// A line that was being written when the machine went down is not an entry: its
// change was never begun.
func TestJournal_TornLastLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, err := openJournal(path, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []entry{{Step: stepRouting, Scope: scopeTunnel}, {Step: stepLink, Scope: scopeTunnel, Key: LinkName}} {
		if err := j.record(e); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.IndexByte(whole, '\n') + 1
	for cut := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(path, func(string) {})
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		want := 0
		if cut >= first {
			want++
		}
		if cut == len(whole) {
			want++
		}
		if len(j.entries) != want {
			t.Errorf("cut at %d: %d entries; want %d", cut, len(j.entries), want)
		}
	}
}

func FuzzReadJournal(f *testing.F) {
	f.Add([]byte(`{"step":"routing","scope":"tunnel"}` + "\n"))
	f.Add([]byte(`{"step":"file","scope":"enrolment","key":"/etc/x","file":{"kind":"absent"}}` + "\n{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := readJournal(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, e := range entries {
			if err := e.check(); err != nil {
				t.Errorf("accepted %+v: %v", e, err)
			}
		}
	})
}
