package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// An agent's user, who is not root. /home is not the host's own in the lab.
const (
	agentUser = "agent"
	agentHome = "/var/home/" + agentUser
)

// ran is how a command ended.
type ran struct {
	stdout, stderr string
	code           int
}

func (r ran) String() string {
	return fmt.Sprintf("status %d\nstdout: %q\nstderr: %q", r.code, r.stdout, r.stderr)
}

// environment is all that a program has. PostgreSQL's own directory comes first:
// Debian's wrappers look for clusters of the machine.
func environment(home string, more ...string) []string {
	return append([]string{"env", "-i", "--chdir=" + home, "HOME=" + home, "USER=" + agentUser, "LANG=C.UTF-8", "TERM=xterm", "PSQL_PAGER=",
		"PATH=" + w.prepared.programs + ":/usr/local/bin:/usr/bin:/bin", "NODE_PATH=" + w.prepared.node + "/node_modules",
		"PGHOST=" + ordersHost, "PGUSER=" + appUser, "PGDATABASE=orders"}, more...)
}

// asAgent is a command that the agent's user runs on a host.
func asAgent(ctx context.Context, h *lab.Host, line string) *exec.Cmd {
	args := append([]string{"setpriv", "--reuid=" + agentUser, "--regid=" + agentUser, "--init-groups"},
		environment(agentHome, "PGSSLROOTCERT=/etc/ssl/certs/ca-certificates.crt")...)
	return ending(h.Command(ctx, append(args, "sh", "-c", line)...))
}

// asDirect is the same where there is no gateway, with the passwords at hand.
func asDirect(ctx context.Context, line string) *exec.Cmd {
	return ending(w.lab.World.Command(ctx, append(environment("/root", "PGPASSFILE="+directPasswords, "PGSSLROOTCERT=/etc/lab-ca.pem"), "sh", "-c", line)...))
}

// ending makes a command end with all that it has started, when its context does.
func ending(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr.Setpgid = true
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// runTimeout bounds one line of a program, which hangs then.
const runTimeout = time.Minute

// run runs a line as the agent's user does.
func (w *world) run(t *testing.T, line string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	return collect(t, asAgent(ctx, w.agent.Host, line))
}

// direct runs a line where there is no gateway.
func (w *world) direct(t *testing.T, line string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	return collect(t, asDirect(ctx, line))
}

func collect(t *testing.T, cmd *exec.Cmd) ran {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return ran{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// works runs a line that must end well, and returns its stdout.
func (w *world) works(t *testing.T, line string) string {
	t.Helper()
	r := w.run(t, line)
	if r.code != 0 {
		t.Fatalf("%s\n%.3000v", line, r)
	}
	return r.stdout
}

// same runs a line through the gateway and without one, and wants the same of
// both, which it returns.
func (w *world) same(t *testing.T, line string) ran {
	t.Helper()
	want := w.direct(t, line)
	got := w.run(t, line)
	if got != want {
		name, _, _ := strings.Cut(line, "\n")
		t.Errorf("%s\n%s", name, difference(got, want))
	}
	return want
}

// difference shows where two runs differ, with what stands around it.
func difference(got, want ran) string {
	var b strings.Builder
	if got.code != want.code {
		fmt.Fprintf(&b, "status %d, and without the gateway %d\n", got.code, want.code)
	}
	for _, out := range []struct{ name, got, want string }{{"stdout", got.stdout, want.stdout}, {"stderr", got.stderr, want.stderr}} {
		g, w := strings.SplitAfter(out.got, "\n"), strings.SplitAfter(out.want, "\n")
		at := 0
		for at < len(g) && at < len(w) && g[at] == w[at] {
			at++
		}
		if out.got != out.want {
			around := func(lines []string) string {
				return strings.Join(lines[min(max(0, at-3), len(lines)):min(at+8, len(lines))], "  ")
			}
			fmt.Fprintf(&b, "%s from line %d:\n  %s\nand without the gateway:\n  %s\n", out.name, at+1, around(g), around(w))
		}
	}
	return b.String()
}

// psql runs SQL as psql reads it from its stdin.
func psql(sql, args string) string {
	return "psql -Xqw <<'END_OF_SQL' " + args + "\n" + sql + "\nEND_OF_SQL"
}

// scratch makes a directory of everybody's, on the agent host and in the world. It
// is on disk and not in the lab's memory.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "clawpatrol-postgres-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o777)) // users have other numbers there
	return dir
}

// accepted counts how often the server has let a role in.
func accepted(role string) int {
	return strings.Count(w.server.Log.String(), "connection authorized: user="+role+" ")
}
