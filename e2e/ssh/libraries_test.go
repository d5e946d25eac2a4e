package ssh

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// paramiko knows no CA and reads one file; it offers a password, as programs do
// that must offer something.
const paramikoScript = `
import hashlib, io, os, paramiko
client = paramiko.SSHClient()
client.load_system_host_keys()
client.set_missing_host_key_policy(paramiko.RejectPolicy())
client.connect("build.example.com", username="deploy", password="whatever", look_for_keys=False, allow_agent=False, timeout=20)
stdin, stdout, stderr = client.exec_command("cat; echo problem >&2; exit 3")
data = os.urandom(1000000)
stdin.write(data)
stdin.channel.shutdown_write()
assert stdout.read() == data
assert stderr.read() == b"problem\n"
assert stdout.channel.recv_exit_status() == 3
sftp = client.open_sftp()
sftp.putfo(io.BytesIO(data), "/tmp/DIR/p")
back = io.BytesIO()
sftp.getfo("/tmp/DIR/p", back)
assert back.getvalue() == data
assert sftp.listdir("/tmp/DIR") == ["p"]
sftp.remove("/tmp/DIR/p")
client.close()
print("all good")
`

func TestSSH_Paramiko(t *testing.T) {
	dir := strings.TrimPrefix(scratch(t), "/tmp/")
	script := strings.ReplaceAll(paramikoScript, "DIR", dir)
	out := w.works(t, "clawpatrol trust --ssh >/dev/null; trap 'clawpatrol trust --ssh --undo >/dev/null' EXIT; "+python+" -W ignore -c "+lab.Quote(script))
	if out != "all good\n" {
		t.Errorf("%q", out)
	}
}

// dial is Go's client on the agent host. It knows what join installed.
func dial(t *testing.T, host string, auth ...ssh.AuthMethod) *ssh.Client {
	t.Helper()
	c, err := dialErr(t, host, nil, auth...)
	must(t, err)
	return c
}

func dialErr(t *testing.T, host string, banner ssh.BannerCallback, auth ...ssh.AuthMethod) (*ssh.Client, error) {
	t.Helper()
	known, err := knownhosts.New(w.agent.Path("/etc/ssh/ssh_known_hosts"))
	must(t, err)
	out := w.works(t, "getent ahostsv4 "+host)
	conn, err := w.agent.Dial(t.Context(), "tcp", net.JoinHostPort(strings.Fields(out)[0], "22"))
	must(t, err)
	c, chans, reqs, err := ssh.NewClientConn(conn, host+":22", &ssh.ClientConfig{User: "deploy", Auth: auth, HostKeyCallback: known, BannerCallback: banner, Timeout: 20 * time.Second})
	if err != nil {
		conn.Close()
		return nil, err
	}
	client := ssh.NewClient(c, chans, reqs)
	t.Cleanup(func() { client.Close() })
	return client, nil
}

func TestSSH_Go(t *testing.T) {
	_, anyKey, err := lab.SSHKey()
	must(t, err)
	signer, err := ssh.ParsePrivateKey([]byte(anyKey))
	must(t, err)
	for name, auth := range map[string][]ssh.AuthMethod{
		"none": nil, "any password": {ssh.Password("whatever")}, "any key": {ssh.PublicKeys(signer)},
		"any answers": {ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
			return make([]string, len(questions)), nil
		})},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			s, err := dial(t, buildHost, auth...).NewSession()
			must(t, err)
			if out, err := s.Output("id -un"); err != nil || string(out) != "deploy\n" {
				t.Errorf("%q %v", out, err)
			}
		})
	}

	c := dial(t, buildHost)
	for command, want := range map[string]struct {
		status int
		signal string
	}{"exit 1": {1, ""}, "exit 255": {255, ""}, "kill -TERM $$": {0, "TERM"}, "kill -9 $$": {0, "KILL"}} {
		s, err := c.NewSession()
		must(t, err)
		exit := new(ssh.ExitError)
		if err := s.Run(command); !errors.As(err, &exit) || exit.Signal() != want.signal || want.signal == "" && exit.ExitStatus() != want.status {
			t.Errorf("%s: %v", command, err)
		}
	}

	// A signal that is sent.
	s, err := c.NewSession()
	must(t, err)
	out, err := s.StdoutPipe()
	must(t, err)
	must(t, s.Start("trap 'echo got it; exit 4' USR1; echo ready; while :; do sleep 0.05; done"))
	line := make([]byte, len("ready\n"))
	_, err = io.ReadFull(out, line)
	must(t, err)
	must(t, s.Signal(ssh.SIGUSR1))
	exit := new(ssh.ExitError)
	rest, err := io.ReadAll(out)
	must(t, err)
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 4 || string(rest) != "got it\n" {
		t.Errorf("%q %v", rest, err)
	}

	// Many requests of one connection.
	files, err := sftp.NewClient(c, sftp.UseConcurrentWrites(true))
	must(t, err)
	defer files.Close()
	dir, data := scratch(t), bytes.Repeat([]byte("0123456789abcdef"), 300_000)
	f, err := files.Create(dir + "/a")
	must(t, err)
	_, err = f.ReadFrom(bytes.NewReader(data))
	must(t, errors.Join(err, f.Close()))
	f, err = files.Open(dir + "/a")
	must(t, err)
	var back bytes.Buffer
	_, err = f.WriteTo(&back)
	must(t, errors.Join(err, f.Close()))
	if !bytes.Equal(back.Bytes(), data) {
		t.Error("what came back differs")
	}

	// A keepalive is answered.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	answered := make(chan error, 1)
	go func() { _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); answered <- err }()
	select {
	case err := <-answered:
		must(t, err)
	case <-ctx.Done():
		t.Error("no answer to a keepalive")
	}
}
