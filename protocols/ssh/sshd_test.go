package ssh_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
)

// sshd is Debian's server on a port of loopback, with a host key of its own. It
// lets root in with one key.
type sshd struct {
	address string
	host    xssh.PublicKey
	key     string // the file that lets in
	dir     string
}

// startSSHD starts one; lines are added to its configuration.
func startSSHD(t testing.TB, lines ...string) *sshd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test needs root, for sshd")
	}
	must(t, os.MkdirAll("/run/sshd", 0o755)) // where sshd separates its privileges
	s := &sshd{dir: t.TempDir()}
	must(t, os.Chmod(s.dir, 0o755))
	must(t, os.Chmod(filepath.Dir(s.dir), 0o755))
	hostKey, hostPEM := newKeyPEM(t, "")
	userKey, userPEM := newKeyPEM(t, "")
	s.host, s.key = hostKey.PublicKey(), userPEM
	write := func(name, text string) string {
		path := filepath.Join(s.dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	s.address = ln.Addr().String()
	must(t, ln.Close())
	_, port, _ := net.SplitHostPort(s.address)
	config := write("sshd_config", strings.Join(append([]string{
		"Port " + port, "ListenAddress 127.0.0.1",
		"HostKey " + write("host", hostPEM),
		"AuthorizedKeysFile " + write("authorized_keys", line(userKey.PublicKey())+"\n"),
		"PidFile none", "StrictModes no", "UsePAM no", "UseDNS no", "PrintMotd no", "PrintLastLog no",
		"PermitRootLogin prohibit-password", "PasswordAuthentication no", "MaxSessions 200", "MaxStartups 200",
		"AcceptEnv LANG LC_* FOO", "Subsystem sftp internal-sftp",
	}, lines...), "\n")+"\n")
	log := filepath.Join(s.dir, "log")
	server := exec.Command("/usr/sbin/sshd", "-D", "-f", config, "-E", log)
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also where the test is cut off
	must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("sshd:\n%s", text)
		}
	})
	for end := time.Now().Add(wait); ; {
		conn, err := net.Dial("tcp4", s.address)
		if err == nil {
			_ = conn.Close()
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("sshd does not listen: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// policy is that of a gateway with the server as ssh.build, and a credential that
// lets in, in profile ci; more are further attributes of the endpoint.
func (s *sshd) policy(more ...string) string {
	return endpoint("build", host, s.address, s.host, more...) + `
		credential "ssh_key" "deploy" {
			endpoint = ssh.build
			user = "root"
		}
		profile "ci" { credentials = [ssh_key.deploy] }`
}

// program returns the command that runs a program of OpenSSH as on an agent host:
// it knows the gateway's authority, and has no key.
func (l *lab) program(address *net.TCPAddr, name string, args ...string) *exec.Cmd {
	l.t.Helper()
	known := filepath.Join(l.t.TempDir(), "known_hosts")
	must(l.t, os.WriteFile(known, []byte("@cert-authority * "+line(l.keys.authority.PublicKey())+"\n"), 0o600))
	options := []string{
		"-F", "none",
		"-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes",
		"-o", "IdentityFile=none", "-o", "IdentityAgent=none", "-o", "HostKeyAlias=" + host,
		"-o", fmt.Sprintf("Port=%d", address.Port), "-o", "HostName=127.0.0.1",
	}
	return exec.Command(name, append(options, args...)...)
}

func TestSSHD_CommandsRunAndTellHowTheyEnd(t *testing.T) {
	server := startSSHD(t)
	l := newLab(t, server.policy())
	l.SetSecret("ssh_key.deploy", "private_key", server.key)
	id := l.Approve("a", "ci")
	at := l.bridge(id, host)
	for _, tc := range []struct {
		command, in, out, err string
		code                  int
	}{
		{"echo hello; id -un", "", "hello\nroot\n", "", 0},
		{"cat", "text\x00binary\xff", "text\x00binary\xff", "", 0},
		{"echo no >&2; exit 3", "", "", "no\n", 3},
		{"exit 255", "", "", "", 255},
	} {
		cmd := l.program(at, "ssh", "build", tc.command)
		var out, errs strings.Builder
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(tc.in), &out, &errs
		err := cmd.Run()
		if cmd.ProcessState.ExitCode() != tc.code || out.String() != tc.out || errs.String() != tc.err {
			t.Errorf("%q: %v, said %q and %q\nlogged: %s", tc.command, err, out.String(), errs.String(), l.said.String())
		}
	}
}

// OpenSSH prefers a cipher that costs the gateway several times as much. It is
// offered the other where it has that, and any that it insists on.
func TestSSHD_OpenSSHUsesTheFastestCipher(t *testing.T) {
	l, at := sshdLab(t)
	for _, tc := range []struct{ option, cipher string }{
		{"", "aes128-gcm@openssh.com"},
		{"-c chacha20-poly1305@openssh.com", "chacha20-poly1305@openssh.com"},
		{"-c aes256-ctr", "aes256-ctr"},
		{"-c aes256-gcm@openssh.com", "aes256-gcm@openssh.com"},
	} {
		out, err := l.shell(at, "$SSH -v "+tc.option+" build true 2>&1 | grep -m1 'server->client cipher'")
		if err != nil || !strings.Contains(out, "cipher: "+tc.cipher+" ") {
			t.Errorf("%q: %v, %s", tc.option, err, out)
		}
	}
}
