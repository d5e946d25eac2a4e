package ssh_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"net"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/secret"
)

const passwordText = "correct-Horse/battery 42"

func runCommand(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

// withPassword starts an upstream and a gateway with a password for it.
func withPassword(t testing.TB, change func(*upstream)) (*lab, *upstream) {
	t.Helper()
	u := newUpstream(t, "", nil, password("deploy", passwordText), change)
	l := newLab(t, u.policy("ssh_password"))
	l.SetSecret("ssh_password.deploy", "password", passwordText)
	l.Approve("a", "ci")
	return l, u
}

func TestAuth_WhateverAnAgentOffersIsAcceptedUnseen(t *testing.T) {
	l, _, _ := pair(t, nil)
	offers := map[string][]xssh.AuthMethod{
		"nothing":              nil,
		"a key":                {xssh.PublicKeys(newKey(t))},
		"a password":           {xssh.Password("what the agent types")},
		"keyboard-interactive": {xssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, errors.New("asked") })},
	}
	for name, methods := range offers {
		config := l.config("whoever")
		config.Auth = methods
		if _, told, err := l.try(l.id(), host, config); err != nil {
			t.Errorf("%s: %v %s", name, err, told)
		}
	}
	if strings.Contains(l.said.String()+l.Log(), "what the agent types") {
		t.Error("the agent's password was logged")
	}
}

func TestAuth_TheCredentialLetsIn(t *testing.T) {
	plain, plainPEM := newKeyPEM(t, "")
	sealed, sealedPEM := newKeyPEM(t, "opens it")
	authority := newKey(t)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	rsaKey, err := xssh.NewSignerFromKey(private)
	must(t, err)
	block, err := xssh.MarshalPrivateKey(private, "")
	must(t, err)
	cert := &xssh.Certificate{Key: plain.PublicKey(), CertType: xssh.UserCert, ValidPrincipals: []string{"deploy"}, ValidBefore: xssh.CertTimeInfinity}
	must(t, cert.SignCert(rand.Reader, authority))
	algorithm := ""
	for name, tc := range map[string]struct {
		accepts func(*upstream)
		slots   map[string]string
		says    string // "": it lets in
		kind    string
	}{
		"a key":             {nil, map[string]string{"private_key": plainPEM}, "", xssh.KeyAlgoED25519},
		"a passphrase":      {func(u *upstream) { allow(u, sealed.PublicKey()) }, map[string]string{"private_key": sealedPEM, "passphrase": "opens it"}, "", xssh.KeyAlgoED25519},
		"a wrong one":       {func(u *upstream) { allow(u, sealed.PublicKey()) }, map[string]string{"private_key": sealedPEM, "passphrase": "does not"}, "is not a key that can be used", ""},
		"none":              {func(u *upstream) { allow(u, sealed.PublicKey()) }, map[string]string{"private_key": sealedPEM}, "is not a key that can be used", ""},
		"RSA":               {func(u *upstream) { allow(u, rsaKey.PublicKey()) }, map[string]string{"private_key": string(pem.EncodeToMemory(block))}, "", xssh.KeyAlgoRSASHA512},
		"a certificate":     {func(u *upstream) { allow(u, cert) }, map[string]string{"private_key": plainPEM, "certificate": line(cert)}, "", xssh.KeyAlgoED25519},
		"a key not wanted":  {func(u *upstream) { allow(u, sealed.PublicKey()) }, map[string]string{"private_key": plainPEM}, "it did not accept the credential for deploy", ""},
		"what is no key":    {nil, map[string]string{"private_key": "SECRET nonsense"}, "is not a key that can be used", ""},
		"one without a key": {nil, map[string]string{"passphrase": "x"}, "has no private_key set", ""},
	} {
		t.Run(name, func(t *testing.T) {
			algorithm = ""
			u := newUpstream(t, "deploy", plain.PublicKey(), func(u *upstream) {
				if tc.accepts != nil {
					tc.accepts(u)
				}
				u.config.VerifiedPublicKeyCallback = func(_ xssh.ConnMetadata, _ xssh.PublicKey, p *xssh.Permissions, a string) (*xssh.Permissions, error) {
					algorithm = a
					return p, nil
				}
			})
			l := newLab(t, u.policy("ssh_key"))
			slots := make(map[string]secret.Secret)
			for slot, value := range tc.slots {
				slots[slot] = secret.New([]byte(value))
			}
			must(t, l.DB.SetCredential(t.Context(), "ssh_key.deploy", slots))
			client, told, err := l.try(l.Approve("a", "ci"), host, l.config("x"))
			if tc.says == "" {
				must(t, err)
				if _, _, err := output(t, client, "echo in"); err != nil || algorithm != tc.kind {
					t.Errorf("%v, signed by %s", err, algorithm)
				}
				return
			}
			if err == nil || !strings.Contains(told, tc.says) {
				t.Errorf("%v, told %q", err, told)
			}
			for _, value := range tc.slots {
				if strings.Contains(told+l.said.String()+l.Log(), value) {
					t.Error("the secret was shown")
				}
			}
		})
	}
}

// allow lets deploy in with key.
func allow(u *upstream, key xssh.PublicKey) {
	u.config.PublicKeyCallback = func(m xssh.ConnMetadata, k xssh.PublicKey) (*xssh.Permissions, error) {
		if m.User() == "deploy" && string(k.Marshal()) == string(key.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("no")
	}
}

func TestAuth_PasswordsAreAnsweredToOneQuestion(t *testing.T) {
	ask := func(questions []string, shown []bool) func(*upstream) {
		return func(u *upstream) {
			u.config.PasswordCallback = nil
			u.config.KeyboardInteractiveCallback = func(m xssh.ConnMetadata, client xssh.KeyboardInteractiveChallenge) (*xssh.Permissions, error) {
				answers, err := client("", "SECRET words", questions, shown)
				if err != nil || len(answers) != 1 || answers[0] != passwordText {
					return nil, errors.New("no")
				}
				return nil, nil
			}
		}
	}
	for name, tc := range map[string]struct {
		change func(*upstream)
		ok     bool
	}{
		"password":       {nil, true},
		"one question":   {ask([]string{"Password: "}, []bool{false}), true},
		"a shown answer": {ask([]string{"Your name: "}, []bool{true}), false},
		"two questions":  {ask([]string{"Password: ", "Code: "}, []bool{false, false}), false},
		"no question":    {ask(nil, nil), false},
		"the same once more": {func(u *upstream) {
			u.config.PasswordCallback = nil
			u.config.KeyboardInteractiveCallback = func(m xssh.ConnMetadata, client xssh.KeyboardInteractiveChallenge) (*xssh.Permissions, error) {
				for range 2 {
					if _, err := client("", "", []string{"Password: "}, []bool{false}); err != nil {
						return nil, err
					}
				}
				return nil, nil
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := withPassword(t, func(u *upstream) {
				if tc.change != nil {
					tc.change(u)
				}
			})
			_, told, err := l.try(l.id(), host, l.config("x"))
			if (err == nil) != tc.ok || strings.Contains(told, "SECRET") {
				t.Errorf("%v, told %q", err, told)
			}
		})
	}
}

func TestAuth_TheAgentsNameChooses(t *testing.T) {
	key, private := newKeyPEM(t, "")
	var user string
	u := newUpstream(t, "", nil, func(u *upstream) {
		u.config.PublicKeyCallback = func(m xssh.ConnMetadata, k xssh.PublicKey) (*xssh.Permissions, error) {
			if user = m.User(); string(k.Marshal()) != string(key.PublicKey().Marshal()) {
				return nil, errors.New("no")
			}
			return nil, nil
		}
	})
	l := newLab(t, endpoint("build", host, u.address, u.host.PublicKey())+`
		credential "ssh_key" "one" {
			endpoint = ssh.build
			user = "git"
		}
		credential "ssh_key" "list" {
			endpoint = ssh.build
			users = ["deploy", "admin"]
		}
		credential "ssh_key" "two" {
			endpoint = ssh.build
			user = "git"
		}
		profile "one" { credentials = [ssh_key.one] }
		profile "list" { credentials = [ssh_key.list] }
		profile "all" { credentials = [ssh_key.one, ssh_key.list, ssh_key.two] }`)
	for _, name := range []string{"one", "two", "list"} {
		l.SetSecret("ssh_key."+name, "private_key", private)
	}
	for _, tc := range []struct{ profile, login, user, credential, says string }{
		{"one", "whoever", "git", "ssh_key.one", ""},
		{"list", "admin", "admin", "ssh_key.list", ""},
		{"list", "root", "", "", "no credential here is for the user root; there is deploy, admin"},
		{"all", "deploy", "deploy", "ssh_key.list", ""},
		{"all", "clawpatrol-two", "git", "ssh_key.two", ""},
		{"all", "git", "", "", "no credential here is for the user git; there is clawpatrol-one, deploy, admin, clawpatrol-two"},
		{"all", "clawpatrol-list", "", "", "no credential here is for the user clawpatrol-list"},
		{"all", strings.Repeat("x", 300), "", "", "a user name has at most 256 bytes"},
	} {
		user = ""
		id := l.Approve(tc.profile, tc.profile)
		_, told, err := l.try(id, host, l.config(tc.login))
		if (err == nil) != (tc.says == "") || user != tc.user || !strings.Contains(told, tc.says) {
			t.Errorf("%s as %.20s: %v, user %q, told %q", tc.profile, tc.login, err, user, told)
			continue
		}
		if tc.says == "" {
			if row := l.Actions(id)[0]; row.Credential != tc.credential || row.Summary != "connect "+tc.user+"@"+host {
				t.Errorf("%s as %s: logged %q with %q", tc.profile, tc.login, row.Summary, row.Credential)
			}
		}
	}
}

// What is no longer safe is not spoken, with agents or upstreams.
func TestAuth_OldAlgorithmsAreNotSpoken(t *testing.T) {
	l, _, _ := pair(t, nil)
	old := xssh.InsecureAlgorithms()
	for _, kex := range old.KeyExchanges {
		config := l.config("x")
		config.KeyExchanges = []string{kex}
		if _, _, err := l.try(l.id(), host, config); !noCommon(err) {
			t.Errorf("%s: %v", kex, err)
		}
	}
	for _, cipher := range old.Ciphers {
		config := l.config("x")
		config.Ciphers = []string{cipher}
		if _, _, err := l.try(l.id(), host, config); !noCommon(err) {
			t.Errorf("%s: %v", cipher, err)
		}
	}
	l, u, _ := pair(t, func(u *upstream) { u.config.KeyExchanges = []string{xssh.InsecureKeyExchangeDH14SHA1} })
	_, told, err := l.try(l.id(), host, l.config("x"))
	if err == nil || !strings.Contains(told, "it offers no key exchange that is still safe") || u.attempts.Load() > 0 {
		t.Errorf("%v, told %q", err, told)
	}
}

// A client need not speak first, nor tell what it offers before it has been told.
func TestAuth_AShyClient(t *testing.T) {
	l, _, _ := pair(t, nil)
	shy := &shyConn{Conn: l.Serve(l.handler, l.id(), host, 22)}
	c, channels, requests, err := xssh.NewClientConn(shy, host+":22", l.config("x"))
	must(t, err)
	client := xssh.NewClient(c, channels, requests)
	defer client.Close()
	if out, _, err := output(t, client, "echo hello"); out != "hello\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// shyConn sends nothing before it has got a version, and no more than a version
// before it has got an offer.
type shyConn struct {
	net.Conn
	heard atomic.Int64
	sent  int
}

func (s *shyConn) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.heard.Add(int64(n))
	return n, err
}

func (s *shyConn) Write(p []byte) (int, error) {
	if s.sent++; s.sent == 2 {
		for end := time.Now().Add(wait); s.heard.Load() < 200 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	return s.Conn.Write(p)
}

// A key with a passphrase is opened once, not at every connection; another one in
// its place is another one.
func TestAuth_AKeyIsOpenedOnce(t *testing.T) {
	first, firstPEM := newKeyPEM(t, "opens it")
	second, secondPEM := newKeyPEM(t, "opens it")
	used := ""
	u := newUpstream(t, "", nil, func(u *upstream) {
		u.config.PublicKeyCallback = func(_ xssh.ConnMetadata, k xssh.PublicKey) (*xssh.Permissions, error) {
			used = xssh.FingerprintSHA256(k)
			return nil, nil
		}
	})
	l := newLab(t, u.policy("ssh_key"))
	id := l.Approve("a", "ci")
	for _, tc := range []struct {
		pem, passphrase string
		print           string
	}{
		{firstPEM, "opens it", xssh.FingerprintSHA256(first.PublicKey())},
		{firstPEM, "opens it", xssh.FingerprintSHA256(first.PublicKey())},
		{firstPEM, "does not", ""},
		{secondPEM, "opens it", xssh.FingerprintSHA256(second.PublicKey())},
		{firstPEM, "opens it", xssh.FingerprintSHA256(first.PublicKey())},
	} {
		slots := map[string]secret.Secret{"private_key": secret.New([]byte(tc.pem)), "passphrase": secret.New([]byte(tc.passphrase))}
		must(t, l.DB.SetCredential(t.Context(), "ssh_key.deploy", slots))
		used = ""
		_, told, err := l.try(id, host, l.config("x"))
		if (err == nil) != (tc.print != "") || used != tc.print {
			t.Errorf("%q: %v, %q, with %s", tc.passphrase, err, told, used)
		}
	}
	if n := l.handler.Opened(); n != 4 {
		t.Errorf("opened %d times", n)
	}
}
