package ssh

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// What a session does through the gateway is what it does without one.
func TestSSH_SessionsAreAsWithoutAGateway(t *testing.T) {
	for _, command := range []string{
		"true", "false", "exit 255", "exit 42", "kill -TERM $$", "kill -9 $$", "kill -SEGV $$",
		"no-such-program", "echo out; echo err >&2; exit 3", "printf 'no newline'", "seq 100000",
		"printf '\\0\\377\\376 binary'", "echo $SSH_TTY; tty", "echo \"a 'b' $HOME\"", "",
	} {
		line := "ssh " + buildHost + " " + lab.Quote(command) + " </dev/null"
		if command == "" {
			line = "echo 'echo from a shell; exit 5' | ssh -T " + buildHost
		}
		ended := begin(t, line)
		want := w.direct(t, line)
		if got := ends(t, ended); got != want {
			t.Errorf("%s\nthrough the gateway: %.2000v\nwithout: %.2000v", line, got, want)
		}
	}
}

func TestSSH_CarriesBytesAsTheyAre(t *testing.T) {
	dir := scratch(t)
	data := make([]byte, 20<<20)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	must(t, os.WriteFile(dir+"/data", data, 0o644))
	want := hashOf(data)
	if got := strings.Fields(w.works(t, "ssh "+buildHost+" sha256sum <"+dir+"/data"))[0]; got != want {
		t.Errorf("stdin: %s, want %s", got, want)
	}
	if got := strings.Fields(w.works(t, "ssh "+buildHost+" cat "+dir+"/data | sha256sum"))[0]; got != want {
		t.Errorf("stdout: %s, want %s", got, want)
	}
	if got := strings.Fields(w.works(t, "ssh "+buildHost+" cat <"+dir+"/data | sha256sum"))[0]; got != want {
		t.Errorf("both: %s, want %s", got, want)
	}
	if got := strings.Fields(w.works(t, "ssh -o RekeyLimit=1M "+buildHost+" cat <"+dir+"/data | sha256sum"))[0]; got != want {
		t.Errorf("both, with new keys every MiB: %s, want %s", got, want)
	}
	if got := strings.Fields(w.works(t, "ssh "+buildHost+" 'cat "+dir+"/data >&2' 2>&1 >/dev/null </dev/null | sha256sum"))[0]; got != want {
		t.Errorf("stderr: %s, want %s", got, want)
	}
}

func TestSSH_EnvironmentIsAllowListed(t *testing.T) {
	got := w.works(t, "ssh -o SetEnv='LC_ANY=yes FORBIDDEN=yes' "+buildHost+` 'echo "<$LC_ANY> <$FORBIDDEN>"' </dev/null`)
	if got != "<yes> <>\n" {
		t.Errorf("%q", got)
	}
	// The server itself would take both.
	if r := w.direct(t, "ssh -o SetEnv='LC_ANY=yes FORBIDDEN=yes' "+buildHost+` 'echo "<$LC_ANY> <$FORBIDDEN>"' </dev/null`); r.stdout != "<yes> <yes>\n" {
		t.Errorf("without a gateway: %v", r)
	}
}

// terminal is a line that the agent's user runs at a terminal, by script(1).
type terminal struct {
	t    *testing.T
	out  *lab.Output
	keys io.WriteCloser
	done chan int
}

func newTerminal(t *testing.T, line string) *terminal {
	t.Helper()
	cmd := asAgent(t.Context(), w.agent.Host, "exec script -qec "+lab.Quote(line)+" /dev/null")
	term := &terminal{t: t, out: new(lab.Output), done: make(chan int, 1)}
	cmd.Stdout, cmd.Stderr = term.out, term.out
	var err error
	term.keys, err = cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	go func() {
		_ = cmd.Wait() // its status is what counts
		term.done <- cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() { _ = cmd.Cancel() })
	return term
}

func (term *terminal) wait(pattern string) []string {
	term.t.Helper()
	m, err := term.out.Wait(term.t.Context(), 20*time.Second, pattern)
	must(term.t, err)
	term.out.Mark()
	return m
}

func (term *terminal) press(keys string) {
	term.t.Helper()
	_, err := io.WriteString(term.keys, keys)
	must(term.t, err)
}

func (term *terminal) end() int {
	term.t.Helper()
	select {
	case code := <-term.done:
		return code
	case <-time.After(20 * time.Second):
		term.t.Fatalf("it does not end:\n%s", term.out)
		return -1
	}
}

func TestSSH_CtrlCReachesTheCommand(t *testing.T) {
	term := newTerminal(t, "ssh -t "+buildHost+` "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 0.05; done"`)
	term.wait("ready")
	term.press("\x03")
	term.wait("interrupted")
	if code := term.end(); code != 7 {
		t.Errorf("status %d\n%s", code, term.out)
	}
}

func TestSSH_ShellAtATerminal(t *testing.T) {
	term := newTerminal(t, "stty cols 91 rows 37; ssh "+buildHost)
	term.wait(`\$ `)
	term.press("echo \"$(tty) $TERM $(stty size)\" | sed 's/^/is /'\r")
	term.wait(`is /dev/pts/\d+ xterm 37 91`)
	term.press("exit 9\r")
	if code := term.end(); code != 9 {
		t.Errorf("status %d\n%s", code, term.out)
	}
}

func TestSSH_ResizeReachesTheTerminal(t *testing.T) {
	file := scratch(t) + "/tty"
	term := newTerminal(t, fmt.Sprintf(`tty >%s; stty cols 80 rows 24; ssh -t %s "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"`, file, buildHost))
	term.wait("ready")
	tty, err := os.ReadFile(file)
	must(t, err)
	must(t, w.agent.Script(t.Context(), "stty -F "+lab.Quote(strings.TrimSpace(string(tty)))+" cols 101 rows 41"))
	term.wait("41 101")
	term.end()
}
