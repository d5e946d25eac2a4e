package sandbox

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

// One that comes too late says so, and leaves the log to the one that serves.
func TestServeStarted_LeavesAnothersLogAlone(t *testing.T) {
	a := agent.NewForRun(agent.Config{StateDir: filepath.Join(t.TempDir(), "state")})
	if err := os.MkdirAll(a.PrivateDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create(filepath.Join(a.PrivateDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(a.PrivateDir(), logName)
	if err := os.WriteFile(log, []byte("of the other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	said, told, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	if err := serveStarted(t.Context(), DaemonConfig{Agent: a}, told); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(said); err != nil || string(b) != daemonHeld {
		t.Errorf("it said %q, %v", b, err)
	}
	if b, err := os.ReadFile(log); err != nil || string(b) != "of the other\n" {
		t.Errorf("the log is %q, %v", b, err)
	}
}

// Every way in which the host's tunnel is not to be had says what to do.
func TestExplainHost(t *testing.T) {
	for hint, got := range map[string]error{
		"not one of those": explainHost(unix.EACCES, true),
		"--run-users":      explainHost(unix.ENOENT, true),
		"clawpatrol up":    explainHost(unix.ENOENT, false),
	} {
		if !strings.Contains(agent.HintOf(got), hint) {
			t.Errorf("%v: hint %q, want %q", got, agent.HintOf(got), hint)
		}
	}
	if !strings.Contains(agent.HintOf(explainHost(unix.ECONNREFUSED, true)), "no process holds") {
		t.Error("a socket that nobody answers on has no hint")
	}
}
