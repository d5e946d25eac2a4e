package ssh_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/protocols/ssh"
)

// hostPolicy is a gateway's with u as an endpoint that is known as attributes say.
func hostPolicy(u *upstream, attributes string) string {
	return fmt.Sprintf("endpoint \"ssh\" \"build\" {\n hosts = [%q]\n address = %q\n %s\n}\n", host, u.address, attributes) + `
		credential "ssh_key" "deploy" {
			endpoint = ssh.build
			user = "deploy"
		}
		profile "ci" { credentials = [ssh_key.deploy] }`
}

// hostCert signs a host certificate for a key.
func hostCert(t testing.TB, authority, key xssh.Signer, change func(*xssh.Certificate)) xssh.Signer {
	t.Helper()
	cert := &xssh.Certificate{
		Key: key.PublicKey(), CertType: xssh.HostCert, ValidPrincipals: []string{host},
		ValidAfter: uint64(time.Now().Add(-time.Hour).Unix()), ValidBefore: uint64(time.Now().Add(time.Hour).Unix()),
	}
	if change != nil {
		change(cert)
	}
	must(t, cert.SignCert(rand.Reader, authority))
	signer, err := xssh.NewCertSigner(cert, key)
	must(t, err)
	return signer
}

// I04: nothing of the credential is used before the host key is known to be right.
func TestI04_AHostKeyThatIsNotKnownGetsNoCredential(t *testing.T) {
	authority, stranger := newKey(t), newKey(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	plain := func(k xssh.Signer) xssh.Signer { return k }
	for name, tc := range map[string]struct {
		shows func(key xssh.Signer) xssh.Signer
		knows func(key xssh.PublicKey) string
		ok    bool
		says  string
	}{
		"pinned": {plain, func(k xssh.PublicKey) string { return fmt.Sprintf("host_keys = [%q]", line(k)) }, true, ""},
		"one of several": {plain, func(k xssh.PublicKey) string {
			return fmt.Sprintf("host_keys = [%q, %q]", line(stranger.PublicKey()), line(k))
		}, true, ""},
		"another": {plain, func(xssh.PublicKey) string {
			return fmt.Sprintf("host_keys = [%q]", line(stranger.PublicKey()))
		}, false, "its host key is not the one that the policy knows"},
		"certified": {func(k xssh.Signer) xssh.Signer { return hostCert(t, authority, k, nil) },
			func(xssh.PublicKey) string { return fmt.Sprintf("host_ca = [%q]", line(authority.PublicKey())) }, true, ""},
		"certified by pattern": {func(k xssh.Signer) xssh.Signer {
			return hostCert(t, authority, k, func(c *xssh.Certificate) { c.ValidPrincipals = []string{"*.example.com"} })
		}, func(xssh.PublicKey) string { return fmt.Sprintf("host_ca = [%q]", line(authority.PublicKey())) }, true, ""},
		"certified for another host": {func(k xssh.Signer) xssh.Signer {
			return hostCert(t, authority, k, func(c *xssh.Certificate) { c.ValidPrincipals = []string{"other.example.com"} })
		}, func(xssh.PublicKey) string { return fmt.Sprintf("host_ca = [%q]", line(authority.PublicKey())) }, false, "its certificate is for another host"},
		"certified for any host": {func(k xssh.Signer) xssh.Signer {
			return hostCert(t, authority, k, func(c *xssh.Certificate) { c.ValidPrincipals = nil })
		}, func(xssh.PublicKey) string { return fmt.Sprintf("host_ca = [%q]", line(authority.PublicKey())) }, false, "its certificate is for another host"},
		"certified in the past": {func(k xssh.Signer) xssh.Signer {
			return hostCert(t, authority, k, func(c *xssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Minute).Unix()) })
		}, func(xssh.PublicKey) string { return fmt.Sprintf("host_ca = [%q]", line(authority.PublicKey())) }, false, "its certificate is not valid now"},
		"certified as a user": {func(k xssh.Signer) xssh.Signer {
			return hostCert(t, authority, k, func(c *xssh.Certificate) { c.CertType = xssh.UserCert })
		}, func(xssh.PublicKey) string { return fmt.Sprintf("host_ca = [%q]", line(authority.PublicKey())) }, false, "not a host's"},
		"certified by a stranger": {func(k xssh.Signer) xssh.Signer { return hostCert(t, stranger, k, nil) },
			func(xssh.PublicKey) string { return fmt.Sprintf("host_ca = [%q]", line(authority.PublicKey())) }, false, "unknown authority"},
		"certified by a stranger, and pinned": {func(k xssh.Signer) xssh.Signer { return hostCert(t, stranger, k, nil) },
			func(k xssh.PublicKey) string { return fmt.Sprintf("host_keys = [%q]", line(k)) }, true, ""},
		"in known_hosts": {plain, func(k xssh.PublicKey) string {
			return fmt.Sprintf("known_hosts_file = %q", file("known", host+" "+line(k)+"\n"))
		}, true, ""},
		"of another host in known_hosts": {plain, func(k xssh.PublicKey) string {
			return fmt.Sprintf("known_hosts_file = %q\nhost_ca = [%q]", file("other", "127.0.0.1,other.example.com "+line(k)+"\n"), line(authority.PublicKey()))
		}, false, "its host key is not one that the policy knows"},
		"revoked in known_hosts": {plain, func(k xssh.PublicKey) string {
			return fmt.Sprintf("known_hosts_file = %q\nhost_keys = [%q]", file("revoked", "@revoked * "+line(k)+"\n"+host+" "+line(k)+"\n"), line(k))
		}, false, "its host key is revoked"},
		"certified, and revoked": {func(k xssh.Signer) xssh.Signer { return hostCert(t, authority, k, nil) }, func(k xssh.PublicKey) string {
			return fmt.Sprintf("known_hosts_file = %q\nhost_ca = [%q]", file("revoked", "@revoked * "+line(k)+"\n"), line(authority.PublicKey()))
		}, false, "its host key is revoked"},
		"certified by a revoked authority": {func(k xssh.Signer) xssh.Signer { return hostCert(t, authority, k, nil) }, func(xssh.PublicKey) string {
			return fmt.Sprintf("known_hosts_file = %q\nhost_ca = [%q]", file("revoked", "@revoked * "+line(authority.PublicKey())+"\n"), line(authority.PublicKey()))
		}, false, "the authority of its host key is revoked"},
		"certified in known_hosts, and revoked": {func(k xssh.Signer) xssh.Signer { return hostCert(t, authority, k, nil) }, func(k xssh.PublicKey) string {
			return fmt.Sprintf("known_hosts_file = %q", file("revoked", "@revoked * "+line(k)+"\n@cert-authority *.example.com "+line(authority.PublicKey())+"\n"))
		}, false, "its host key is revoked"},
		"certified in known_hosts by a revoked authority": {func(k xssh.Signer) xssh.Signer { return hostCert(t, authority, k, nil) }, func(xssh.PublicKey) string {
			return fmt.Sprintf("known_hosts_file = %q", file("revoked", "@revoked * "+line(authority.PublicKey())+"\n@cert-authority *.example.com "+line(authority.PublicKey())+"\n"))
		}, false, "the authority of its host key is revoked"},
		"certified in known_hosts": {func(k xssh.Signer) xssh.Signer { return hostCert(t, authority, k, nil) }, func(xssh.PublicKey) string {
			return fmt.Sprintf("known_hosts_file = %q", file("ca", "@cert-authority *.example.com "+line(authority.PublicKey())+"\n"))
		}, true, ""},
		"for an operator, and there is none": {plain, func(xssh.PublicKey) string { return `host_keys = "approve"` }, false, "its host key is not one that the policy knows"},
	} {
		t.Run(name, func(t *testing.T) {
			key, private := newKeyPEM(t, "")
			var own xssh.Signer
			u := newUpstream(t, "deploy", key.PublicKey(), func(u *upstream) {
				own = u.host
				u.host = tc.shows(own)
			})
			l := newLab(t, hostPolicy(u, tc.knows(own.PublicKey())))
			l.SetSecret("ssh_key.deploy", "private_key", private)
			id := l.Approve("a", "ci")
			_, told, err := l.try(id, host, l.config("x"))
			switch {
			case tc.ok && err != nil:
				t.Errorf("%v: %s\n%s", err, told, l.said.String())
			case !tc.ok && err == nil:
				t.Error("the connection was made")
			case !tc.ok && !strings.Contains(told, tc.says):
				t.Errorf("told %q", told)
			case !tc.ok && u.attempts.Load() > 0:
				t.Error("the upstream was shown the credential")
			case !tc.ok && !strings.Contains(told+l.said.String(), xssh.FingerprintSHA256(own.PublicKey())):
				t.Errorf("no fingerprint: %q", l.said.String())
			}
		})
	}
}

// A host with several keys shows the one that is known.
func TestHostKey_TheKnownKindIsAskedFor(t *testing.T) {
	server := startSSHD(t)
	extra := filepath.Join(server.dir, "ecdsa")
	out, err := runCommand("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", extra)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	second := startSSHD(t, "HostKey "+extra)
	text, err := os.ReadFile(extra + ".pub")
	must(t, err)
	ecdsa, _, _, _, err := xssh.ParseAuthorizedKey(text)
	must(t, err)
	for _, known := range []xssh.PublicKey{second.host, ecdsa} {
		second.host = known
		l := newLab(t, second.policy())
		l.SetSecret("ssh_key.deploy", "private_key", second.key)
		if _, told, err := l.try(l.Approve("a", "ci"), host, l.config("x")); err != nil {
			t.Errorf("%s: %v %s", known.Type(), err, told)
		}
	}
}

// desk is where operators accept host keys, of a test.
type desk struct {
	mu       sync.Mutex
	accepted [][]byte
	asked    []ssh.HostKeyRequest
	decide   func(context.Context, ssh.HostKeyRequest) error
}

func (d *desk) Accepted(string, string, uint16) [][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.accepted
}

func (d *desk) Hold(ctx context.Context, r ssh.HostKeyRequest) error {
	d.mu.Lock()
	d.asked = append(d.asked, r)
	d.mu.Unlock()
	if err := d.decide(ctx, r); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.accepted = [][]byte{r.Key}
	return nil
}

func TestHostKey_AnOperatorAcceptsIt(t *testing.T) {
	key, private := newKeyPEM(t, "")
	u := newUpstream(t, "deploy", key.PublicKey())
	d := &desk{decide: func(context.Context, ssh.HostKeyRequest) error {
		if u.attempts.Load() > 0 {
			t.Error("the credential was shown before")
		}
		return nil
	}}
	l := newLab(t, hostPolicy(u, `host_keys = "approve"`), func(c *ssh.Config) { c.HostKeys = d })
	l.SetSecret("ssh_key.deploy", "private_key", private)
	id := l.Approve("a", "ci")
	_, told, err := l.try(id, host, l.config("x"))
	must(t, err)
	print := xssh.FingerprintSHA256(u.host.PublicKey())
	if !strings.Contains(told, "an operator has to accept the host key of build.example.com first: it is "+print) {
		t.Errorf("told %q", told)
	}
	r := d.asked[0]
	if r.Registration != id || r.Endpoint != "ssh.build" || r.Host != host || r.Port != 22 || string(r.Key) != string(u.host.PublicKey().Marshal()) || len(r.Known) != 0 {
		t.Errorf("asked %+v", r)
	}
	// The next one is not asked about; a changed one is, with the old one beside it.
	if _, _, err := l.try(id, host, l.config("x")); err != nil || len(d.asked) != 1 {
		t.Errorf("%v, asked %d times", err, len(d.asked))
	}
	d.mu.Lock()
	d.accepted = [][]byte{newKey(t).PublicKey().Marshal()}
	d.mu.Unlock()
	d.decide = func(_ context.Context, r ssh.HostKeyRequest) error {
		if len(r.Known) != 1 {
			t.Errorf("a changed key: %+v", r)
		}
		return errors.New("an operator denied it: looks odd")
	}
	_, told, err = l.try(id, host, l.config("x"))
	if err == nil || !strings.Contains(told, "an operator denied it: looks odd") {
		t.Errorf("%v, told %q", err, told)
	}
	l.Eventually(wait, "the refusal is in the log", func() bool {
		a := l.Actions(id)
		return a[1].Result != nil && a[1].Result.Status == "host_key_refused"
	})
	if a := l.Actions(id)[0]; a.Verdict != "deny" || !strings.Contains(a.Reason, "looks odd") || !strings.HasPrefix(a.Summary, "host key build.example.com") {
		t.Errorf("what the operator denied is logged as %+v", a)
	}
}

// An agent that hangs up while an operator is asked withdraws the question.
func TestHostKey_NobodyWaitsForAnAgentThatHasGone(t *testing.T) {
	key, private := newKeyPEM(t, "")
	u := newUpstream(t, "deploy", key.PublicKey())
	asked, withdrawn := make(chan struct{}), make(chan struct{})
	d := &desk{decide: func(ctx context.Context, _ ssh.HostKeyRequest) error {
		close(asked)
		<-ctx.Done()
		close(withdrawn)
		return ctx.Err()
	}}
	l := newLab(t, hostPolicy(u, `host_keys = "approve"`), func(c *ssh.Config) { c.HostKeys = d })
	l.SetSecret("ssh_key.deploy", "private_key", private)
	conn := l.Serve(l.handler, l.Approve("a", "ci"), host, 22)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _, _, _ = xssh.NewClientConn(conn, host+":22", l.config("x"))
	}()
	<-asked
	_ = conn.Close()
	select {
	case <-withdrawn:
	case <-time.After(wait):
		t.Error("it still waits")
	}
	<-ended
}
