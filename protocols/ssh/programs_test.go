package ssh_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// sshdLab is a gateway before Debian's sshd, and where an agent reaches it.
func sshdLab(t testing.TB, more ...string) (*lab, *net.TCPAddr) {
	t.Helper()
	server := startSSHD(t)
	l := newLab(t, server.policy(more...))
	l.SetSecret("ssh_key.deploy", "private_key", server.key)
	return l, l.bridge(l.Approve("a", "ci"), host)
}

// shell runs a line of bash in which $SSH, $SCP and $SFTP are OpenSSH's on an
// agent host, and returns what it says.
func (l *lab) shell(at *net.TCPAddr, script string) (string, error) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 3*wait)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = l.t.TempDir()
	for _, name := range []string{"ssh", "scp", "sftp"} {
		cmd.Env = append(cmd.Env, strings.ToUpper(name)+"="+strings.Join(l.program(at, name).Args, " "))
	}
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "HOME="+cmd.Dir, "DIR="+l.t.TempDir(), "GIT_CONFIG_NOSYSTEM=1")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return strings.ReplaceAll(string(out), "\r", ""), err
}

func TestPrograms(t *testing.T) {
	echo := listenEcho(t)
	l, at := sshdLab(t, fmt.Sprintf("forward = [%q]", echo.String()))
	for name, tc := range map[string]struct{ script, says string }{
		"nobody reads any more":      {`set +o pipefail; $SSH build yes | head -1`, "y\n"},
		"nobody takes any more":      {`set +o pipefail; head -c 30000000 /dev/zero | $SSH build 'head -c 3 | wc -c'`, "3\n"},
		"binary both ways":           {`head -c 3000000 /dev/urandom > a; $SSH build cat < a > b; cmp a b && echo same`, "same\n"},
		"a signal":                   {`$SSH build 'kill -TERM $$' || echo $?`, "255\n"},
		"scp":                        {`head -c 300000 /dev/urandom > a; $SCP -q a build:$DIR/b; $SCP -q build:$DIR/b c; cmp a c && echo same`, "same\n"},
		"scp as it was":              {`head -c 300000 /dev/urandom > a; $SCP -O -q a build:$DIR/b; $SCP -O -q build:$DIR/b c; cmp a c && echo same`, "same\n"},
		"sftp":                       {`echo text > a; printf "put a $DIR/a\nrename $DIR/a $DIR/b\nget $DIR/b c\n" | $SFTP -q -b - build >/dev/null; cat c`, "text\n"},
		"rsync":                      {`mkdir a; for i in $(seq 200); do echo $i > a/$i; done; rsync -a -e "$SSH" a/ build:$DIR/; rsync -a -e "$SSH" build:$DIR/ b/; diff -r a b && echo same`, "same\n"},
		"git":                        {`export GIT_SSH_COMMAND="$SSH"; git init -q --bare $DIR/r.git; git clone -q build:$DIR/r.git w 2>/dev/null; cd w; git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first; git push -q origin HEAD:main; git ls-remote origin main | cut -f2`, "refs/heads/main\n"},
		"one connection for several": {`M="-o ControlPath=$DIR/m"; $SSH $M -MNf build; for i in 1 2 3 4 5; do $SSH $M build "echo $i" & done; wait; $SSH $M -O exit build 2>/dev/null`, ""},
		"no agent, no x11":           {`$SSH -A build 'echo "[${SSH_AUTH_SOCK-}]"'; $SSH -Y build 'echo "[${DISPLAY-}]"' 2>/dev/null`, "[]\n[]\n"},
		"variables":                  {`export LC_TEST=yes FOO=no; $SSH -o SendEnv=LC_TEST -o SendEnv=FOO build 'echo $LC_TEST $FOO'`, "yes\n"},
		"forwarding":                 {fmt.Sprintf(`echo there and back | timeout 5 $SSH -W %s build`, echo), "there and back\n"},
		"forwarding elsewhere":       {`$SSH -W 127.0.0.1:1 build < /dev/null 2>&1 | grep -o "clawpatrol: .*" || true`, "clawpatrol: the policy does not allow forwarding to this target\n"},
		"remote forwarding":          {`$SSH -o ExitOnForwardFailure=yes -R 1:localhost:1 build true 2>&1 || echo $?`, "Error: remote port forwarding failed for listen port 1\n255\n"},
		"a terminal":                 {`$SSH -tt build 'test -t 0 && tput cols || echo $TERM' < /dev/null 2>/dev/null`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := l.shell(at, tc.script)
			if name == "one connection for several" {
				lines := strings.Fields(out)
				slices.Sort(lines)
				if strings.Join(lines, "") != "12345" {
					t.Errorf("%v: %q", err, out)
				}
				return
			}
			if err != nil || tc.says != "" && out != tc.says {
				t.Errorf("%v: said %q", err, out)
			}
		})
	}
	if strings.Contains(l.said.String(), "level=ERROR") {
		t.Error(l.said.String())
	}
	rows := l.summaries(l.id())
	for _, what := range []string{"allow subsystem sftp", "allow sftp write ", "allow sftp rename ", "allow sftp read ", "allow exec git-upload-pack ", "allow exec rsync --server ", "deny request tcpip-forward", "deny forward 127.0.0.1:1"} {
		if !slices.ContainsFunc(rows, func(r string) bool { return strings.HasPrefix(r, what) }) {
			t.Errorf("no row %q in\n%s", what, strings.Join(rows, "\n"))
		}
	}
}

func TestSSHD_ControlCInterrupts(t *testing.T) {
	l, _ := sshdLab(t)
	session, err := l.connect(l.id(), "x").NewSession()
	must(t, err)
	must(t, session.RequestPty("xterm", 24, 80, xssh.TerminalModes{xssh.ECHO: 0}))
	in, err := session.StdinPipe()
	must(t, err)
	out, err := session.StdoutPipe()
	must(t, err)
	must(t, session.Start("trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.1; done"))
	lines := bufio.NewReader(out)
	_, err = lines.ReadString('\n')
	must(t, err)
	_, err = io.WriteString(in, "\x03")
	must(t, err)
	said, err := lines.ReadString('\n')
	if err != nil || !strings.HasSuffix(said, "caught\r\n") {
		t.Errorf("%v: said %q", err, said)
	}
	if err := session.Wait(); exitCode(err) != 7 {
		t.Errorf("it ended with %v", err)
	}
}

// A window that is made larger is, upstream too. Requests and data come through the
// library by ways of their own, so data may overtake: the host looks until it is so.
func TestSSHD_TheTerminalFollowsTheAgents(t *testing.T) {
	l, _ := sshdLab(t)
	session, err := l.connect(l.id(), "x").NewSession()
	must(t, err)
	must(t, session.RequestPty("xterm", 24, 80, xssh.TerminalModes{xssh.ECHO: 0}))
	_, err = session.StdinPipe() // which stays open
	must(t, err)
	out, err := session.StdoutPipe()
	must(t, err)
	must(t, session.Start(`stty size; n=0; while [ "$(stty size)" = "24 80" ] && [ $n -lt 400 ]; do sleep 0.05; n=$((n+1)); done; stty size`))
	lines := bufio.NewReader(out)
	first, err := lines.ReadString('\n')
	must(t, err)
	must(t, session.WindowChange(50, 132))
	second, err := lines.ReadString('\n')
	must(t, err)
	must(t, session.Wait())
	if first != "24 80\r\n" || second != "50 132\r\n" {
		t.Errorf("said %q, then %q", first, second)
	}
}

// Keys are changed at least twenty times on both halves, while data flows both
// ways.
func TestSSHD_ManyRekeysKeepTheStreamsWhole(t *testing.T) {
	l, _ := sshdLab(t)
	const size = 64 << 20
	l.handler.SetRekeyAfter(size / 24)
	session, err := l.connect(l.id(), "x").NewSession()
	must(t, err)
	random := rand.NewChaCha8([32]byte{1})
	sent, got := sha256.New(), sha256.New()
	session.Stdin = io.TeeReader(io.LimitReader(random, size), sent)
	session.Stdout = got
	done := make(chan error, 1)
	go func() { done <- session.Run("cat") }()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(6 * wait):
		t.Fatal("it hangs")
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("what came back is not what went")
	}
}

// The upstream's own limits are the agent's to see, and its jobs live on.
func TestSSHD_ACommandThatLeavesSomethingRunning(t *testing.T) {
	l, at := sshdLab(t)
	file := filepath.Join(t.TempDir(), "late")
	started := time.Now()
	out, err := l.shell(at, `timeout 15 $SSH build '(sleep 1; echo late > `+file+`) >/dev/null 2>&1 & echo now'`)
	if err != nil || out != "now\n" || time.Since(started) > wait {
		t.Errorf("%v: %q", err, out)
	}
	l.Eventually(wait, "the job goes on", func() bool { _, err := os.Stat(file); return err == nil })
}
