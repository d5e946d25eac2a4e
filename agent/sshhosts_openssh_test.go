package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"
)

// certify makes a host certificate for one host, as the gateway does.
func certify(t *testing.T, authority, host ssh.Signer, name string) ssh.Signer {
	t.Helper()
	c := &ssh.Certificate{
		Key: host.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: []string{name},
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
	}
	if err := c.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewCertSigner(c, host)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serveSSH answers every session of an SSH connection with "hello".
func serveSSH(t *testing.T, addr string, keys ...ssh.Signer) {
	t.Helper()
	cfg := &ssh.ServerConfig{NoClientAuth: true}
	for _, k := range keys {
		cfg.AddHostKey(k)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				_, chans, requests, err := ssh.NewServerConn(c, cfg)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(requests)
				for n := range chans {
					ch, requests, err := n.Accept()
					if err != nil {
						return
					}
					for r := range requests {
						_ = r.Reply(true, nil)
						if r.Type == "exec" || r.Type == "subsystem" {
							_, _ = io.WriteString(ch, "hello")
							_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
							ch.Close()
						}
					}
				}
			}()
		}
	}()
}

// nameHosts makes names resolve to 127.0.0.1, in this test's mount namespace.
func nameHosts(t *testing.T, names ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte("127.0.0.1 localhost "+strings.Join(names, " ")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/etc/hosts", 0); err != nil {
			t.Error(err)
		}
	})
}

// openSSH runs the real ssh, which may ask nobody.
func openSSH(t *testing.T, user, system, host, port string) error {
	t.Helper()
	program, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal("this test needs OpenSSH: ", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "-F", "/dev/null", "-p", port, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile="+user, "-o", "GlobalKnownHostsFile="+system, "agent@"+host, "true")
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, &said)
	}
	if out.String() != "hello" {
		return fmt.Errorf("it said %q", &out)
	}
	return nil
}

// goSSH does what Go programs do that read known_hosts files.
func goSSH(t *testing.T, host, port string, files ...string) error {
	t.Helper()
	known, err := knownhosts.New(files...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ssh.Dial("tcp", net.JoinHostPort(host, port), &ssh.ClientConfig{User: "agent", HostKeyCallback: known, Timeout: 20 * time.Second})
	if err == nil {
		c.Close()
	}
	return err
}

// OpenSSH and Go accept what the gateway presents: a certificate by the
// authority's line, the key itself by the exact line, on any port, and also
// where a real key of the host is stored (OpenSSH). Nothing else is accepted.
func TestSSHHosts_OpenSSHAndGoAcceptTheGateway(t *testing.T) {
	nameHosts(t, "build.example.com", "git.example.com", "new.example.com")
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	k, errs := checkSSHHosts(testSSHCA, testSSHHosts)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	authority, build, git, other := testSSHKey("authority"), testSSHKey("build"), testSSHKey("git"), testSSHKey("other")
	all := write("all", string(k.block()))
	exact := write("exact", string(sshHosts{hosts: k.hosts}.block()))
	onlyAuthority := write("authority", string(sshHosts{authority: k.authority}.block()))
	stale := write("stale", "build.example.com "+marshalKey(other.PublicKey())+"\n")
	const none = "/dev/null"

	for i, c := range []struct {
		what         string
		host, port   string
		keys         []ssh.Signer
		user, system string
		good         bool
		inGo         bool // Go comes to the same end
	}{
		{"both keys", "build.example.com", "22", []ssh.Signer{build, certify(t, authority, build, "build.example.com")}, none, all, true, true},
		{"both keys on another port", "git.example.com", "2222", []ssh.Signer{git, certify(t, authority, git, "git.example.com")}, none, all, true, true},
		{"the key only", "build.example.com", "22", []ssh.Signer{build}, none, all, true, true},
		{"the key only on another port", "git.example.com", "2222", []ssh.Signer{git}, none, all, true, true},
		{"the certificate only", "build.example.com", "22", []ssh.Signer{certify(t, authority, build, "build.example.com")}, none, onlyAuthority, true, true},
		{"the certificate of a host without a line", "new.example.com", "22", []ssh.Signer{certify(t, authority, other, "new.example.com")}, none, all, true, true},
		{"in the user's file", "git.example.com", "2222", []ssh.Signer{git, certify(t, authority, git, "git.example.com")}, all, none, true, true},
		// Go takes the certificate first, and does not fall back to the key.
		{"exact lines only", "build.example.com", "22", []ssh.Signer{build, certify(t, authority, build, "build.example.com")}, none, exact, true, false},
		// OpenSSH takes the line without a port for all ports.
		{"the key on a port that is not the endpoint's", "build.example.com", "2222", []ssh.Signer{build}, none, all, true, false},
		{"a real key is stored", "build.example.com", "22", []ssh.Signer{build, certify(t, authority, build, "build.example.com")}, stale, all, true, true},

		{"another key", "build.example.com", "22", []ssh.Signer{other}, none, all, false, true},
		{"another authority's certificate", "build.example.com", "22", []ssh.Signer{certify(t, other, other, "build.example.com"), other}, none, all, false, true},
		{"another host's certificate", "build.example.com", "22", []ssh.Signer{certify(t, authority, other, "git.example.com")}, none, all, false, true},
		{"the key of another host of the gateway's", "git.example.com", "2222", []ssh.Signer{build}, none, all, false, true},
		{"no line", "build.example.com", "22", []ssh.Signer{build, certify(t, authority, build, "build.example.com")}, none, none, false, true},
	} {
		t.Run(c.what, func(t *testing.T) {
			serveSSH(t, net.JoinHostPort("127.0.0.1", c.port), c.keys...)
			if err := openSSH(t, c.user, c.system, c.host, c.port); (err == nil) != c.good {
				t.Errorf("%d: OpenSSH: %v", i, err)
			}
			err := goSSH(t, c.host, c.port, c.user, c.system)
			if (err == nil) != (c.good == c.inGo) {
				t.Errorf("%d: Go: %v", i, err)
			}
			if closed := new(net.OpError); errors.As(err, &closed) {
				t.Errorf("Go did not get as far as the keys: %v", err)
			}
		})
	}
}

// libssh2 knows no authority, reads the user's file only, and takes the first key
// of a host that it finds there: what trust --ssh writes makes it accept the
// gateway, also above keys that were stored before.
func TestTrustSSH_LibSSH2AcceptsTheGateway(t *testing.T) {
	nameHosts(t, "build.example.com", "git.example.com")
	authority, build, git, other := testSSHKey("authority"), testSSHKey("build"), testSSHKey("git"), testSSHKey("other")
	serveSSH(t, "127.0.0.1:22", build, certify(t, authority, build, "build.example.com"))
	serveSSH(t, "127.0.0.1:2222", git, certify(t, authority, git, "git.example.com"))
	stored := "build.example.com ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7\n" +
		"[git.example.com]:2222 " + marshalKey(other.PublicKey()) + "\n"
	a := New(Config{StateDir: t.TempDir()})
	k, _ := checkSSHHosts(testSSHCA, testSSHHosts)
	if err := os.MkdirAll(a.paths.public(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := a.writeSSHHosts(k); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.paths.env(), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		before string
		trust  bool
		good   bool
	}{{"", false, false}, {stored, false, false}, {"", true, true}, {stored, true, true}} {
		home := t.TempDir()
		t.Setenv("HOME", home)
		if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, userKnownHosts), []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.trust {
			if _, _, err := a.TrustSSH(); err != nil {
				t.Fatal(err)
			}
		}
		for _, url := range []string{"sftp://build.example.com/", "sftp://git.example.com:2222/"} {
			out, _ := exec.CommandContext(t.Context(), "curl", "-sS", "--max-time", "20", "-u", "agent:any", url).CombinedOutput()
			// The server has no files: getting that far is what there is to see.
			if got := strings.Contains(string(out), "sftp session"); got != c.good {
				t.Errorf("%s, stored %q, with trust: %v: %s", url, c.before, c.trust, out)
			}
		}
	}
}
