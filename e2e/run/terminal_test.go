package run

import (
	"context"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// started is a command that runs beside the test.
type started struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *lab.Output
	keys io.WriteCloser
}

func start(t *testing.T, args ...string) *started {
	t.Helper()
	// The context outlives the test's own, for what the cleanup does.
	s := &started{t: t, cmd: as(context.WithoutCancel(t.Context()), host, userID, userHome, args...), out: new(lab.Output)}
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	var err error
	if s.keys, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	return s
}

// terminal runs a shell line with a terminal, by script(1).
func terminal(t *testing.T, line string) *started {
	return start(t, "script", "-qec", line, "/dev/null")
}

func (s *started) wait(pattern string) []string {
	s.t.Helper()
	m, err := s.out.Wait(s.t.Context(), 20*time.Second, pattern)
	if err != nil {
		s.t.Fatal(err)
	}
	s.out.Mark()
	return m
}

func (s *started) press(keys string) {
	s.t.Helper()
	if _, err := io.WriteString(s.keys, keys); err != nil {
		s.t.Fatal(err)
	}
}

func (s *started) end() int {
	s.t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	select {
	case <-done:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(20 * time.Second):
		s.t.Fatalf("it did not end:\n%s", s.out)
		return -1
	}
}

// Each signal reaches the command once, and its status comes back.
func TestRun_SignalsReachTheCommand(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1, "QUIT": syscall.SIGQUIT} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "clawpatrol", "run", "sh", "-c", "trap 'echo got "+name+"; exit 42' "+name+"; echo ready; while :; do sleep 0.05; done")
			s.wait("ready")
			if err := s.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if code := s.end(); code != 42 || strings.Count(s.out.String(), "got "+name) != 1 {
				t.Fatalf("status %d:\n%s", code, s.out)
			}
		})
	}
	t.Run("untrapped", func(t *testing.T) {
		s := start(t, "clawpatrol", "run", "sh", "-c", "echo ready; exec sleep 600")
		s.wait("ready")
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		if code := s.end(); code != 128+15 {
			t.Fatalf("status %d:\n%s", code, s.out)
		}
	})
}

func TestRun_TheTerminalIsTheCommands(t *testing.T) {
	t.Run("it is one", func(t *testing.T) {
		s := terminal(t, "clawpatrol run sh -c 'test -t 0 && test -t 1 && test -t 2 && tty && stty size && echo fine'")
		s.wait("fine")
		if code := s.end(); code != 0 {
			t.Fatalf("status %d:\n%s", code, s.out)
		}
	})
	t.Run("Ctrl-C", func(t *testing.T) {
		s := terminal(t, "exec clawpatrol run bash -c 'n=0; trap \"n=\\$((n+1))\" INT; echo ready; while [ $n = 0 ]; do sleep 0.05; done; sleep 0.3; echo count=$n; exit 5'")
		s.wait("ready")
		s.press("\x03")
		s.wait("count=1")
		if code := s.end(); code != 5 {
			t.Fatalf("status %d:\n%s", code, s.out)
		}
	})
	t.Run("Ctrl-Z and fg", func(t *testing.T) {
		s := terminal(t, "bash --norc -i")
		s.press("clawpatrol run sh -c 'echo rea''dy; while [ ! -e ~/stopped ]; do sleep 0.05; done; rm ~/stopped; echo went''-on; exit 6'\n")
		s.wait("ready")
		s.press("\x1a")
		s.wait("Stopped")
		s.press("touch ~/stopped; fg\n")
		s.wait("went-on")
		s.press("echo status=$?; exit\n")
		s.wait("status=6")
		s.end()
	})
	t.Run("an interactive shell inside", func(t *testing.T) {
		s := terminal(t, "clawpatrol run bash --norc -i")
		s.press("echo in''side; sleep 600\n")
		s.wait("inside")
		s.press("\x1a")
		s.wait("Stopped")
		s.press("disown -a; echo still''-here; exit 7\n")
		s.wait("still-here")
		if code := s.end(); code != 7 || strings.Contains(s.out.String(), "no job control") {
			t.Fatalf("status %d:\n%s", code, s.out)
		}
	})
	t.Run("a pipeline", func(t *testing.T) {
		s := terminal(t, "clawpatrol run echo from-inside | clawpatrol run tr a-z A-Z")
		s.wait("FROM-INSIDE")
		if code := s.end(); code != 0 {
			t.Fatalf("status %d:\n%s", code, s.out)
		}
	})
}
