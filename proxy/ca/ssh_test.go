package ca_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/secret"
)

func newSSH(t testing.TB, fill byte) *ca.SSH {
	t.Helper()
	s, err := ca.NewSSH(secret.New(bytes.Repeat([]byte{fill}, 32)))
	must(t, err)
	return s
}

// What agents are shown is ed25519, the same after every start, and no two
// endpoints, nor the CA and an endpoint, nor two gateways share a key.
func TestI12_SSHKeysAreEd25519AndStay(t *testing.T) {
	one, again, other := newSSH(t, 1), newSSH(t, 1), newSSH(t, 2)
	if one.Authority() != again.Authority() || one.Authority() == other.Authority() || !strings.HasPrefix(one.Authority(), "ssh-ed25519 AAAA") {
		t.Errorf("authorities: %s, %s, %s", one.Authority(), again.Authority(), other.Authority())
	}
	line := func(s *ca.SSH, ref string) string {
		plain, certificate, err := s.HostSigners(ref, "build.example.com")
		must(t, err)
		cert := certificate.PublicKey().(*ssh.Certificate)
		if plain.PublicKey().Type() != ssh.KeyAlgoED25519 || !bytes.Equal(cert.Key.Marshal(), plain.PublicKey().Marshal()) {
			t.Errorf("%s: a key of type %s, or certificate for another", ref, plain.PublicKey().Type())
		}
		if cert.SignatureKey.Type() != ssh.KeyAlgoED25519 || !strings.Contains(s.Authority(), line64(cert.SignatureKey)) {
			t.Errorf("%s: the certificate is not the authority's", ref)
		}
		return line64(plain.PublicKey())
	}
	if line(one, "ssh.build") != line(again, "ssh.build") {
		t.Error("after another start the host key is another")
	}
	seen := map[string]bool{line64(parse(t, one.Authority())): true}
	for _, l := range []string{line(one, "ssh.build"), line(one, "ssh.build2"), line(other, "ssh.build")} {
		if seen[l] {
			t.Error("a key is used twice")
		}
		seen[l] = true
	}
}

// A certificate names exactly one host, for a limited time, and is a host's.
func TestSSHCertificateIsForOneHostAndSevenDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSSH(t, 1)
		checker := &ssh.CertChecker{IsHostAuthority: func(auth ssh.PublicKey, _ string) bool {
			return bytes.Equal(auth.Marshal(), parse(t, s.Authority()).Marshal())
		}}
		for asked, named := range map[string]string{"Build.Example.com.": "build.example.com", "192.0.2.7": "192.0.2.7", "2001:DB8::7": "2001:db8::7", "::ffff:192.0.2.8": "192.0.2.8"} {
			_, signer, err := s.HostSigners("ssh.build", asked)
			must(t, err)
			cert := signer.PublicKey().(*ssh.Certificate)
			if len(cert.ValidPrincipals) != 1 || cert.ValidPrincipals[0] != named || cert.CertType != ssh.HostCert || len(cert.CriticalOptions)+len(cert.Extensions) != 0 {
				t.Errorf("%s: %+v", asked, cert)
			}
			if err := checker.CheckHostKey(net.JoinHostPort(named, "2222"), nil, cert); err != nil {
				t.Errorf("%s: %v", asked, err)
			}
			if err := checker.CheckHostKey("evil.example.com:22", nil, cert); err == nil {
				t.Errorf("%s: accepted for another host", asked)
			}
		}
		_, signer, err := s.HostSigners("ssh.build", "build.example.com")
		must(t, err)
		cert := signer.PublicKey().(*ssh.Certificate)
		for after, good := range map[time.Duration]bool{-61 * time.Minute: false, -59 * time.Minute: true, 167 * time.Hour: true, 169 * time.Hour: false} {
			checker.Clock = func() time.Time { return time.Now().Add(after) }
			if err := checker.CheckCert("build.example.com", cert); (err == nil) != good {
				t.Errorf("after %v: %v", after, err)
			}
		}
	})
}

func TestSSHRefusesWhatIsNoSeedEndpointOrHost(t *testing.T) {
	for _, n := range []int{0, 31, 33} {
		if s, err := ca.NewSSH(secret.New(make([]byte, n))); s != nil || err == nil {
			t.Errorf("a seed of %d bytes", n)
		}
	}
	s := newSSH(t, 1)
	for _, host := range []string{"", "*.example.com", "build.example.com:22", "a b", "*", "fe80::1%eth0"} {
		if plain, certificate, err := s.HostSigners("ssh.build", host); plain != nil || certificate != nil || err == nil {
			t.Errorf("%q got a certificate", host)
		}
		if line := s.KnownHost("ssh.build", host, 22); line != "" {
			t.Errorf("%q got the line %q", host, line)
		}
	}
	if plain, certificate, err := s.HostSigners("", "build.example.com"); plain != nil || certificate != nil || err == nil || s.KnownHost("", "build.example.com", 22) != "" {
		t.Error("no endpoint got a key")
	}
}

// The lines are what a program that reads known_hosts looks for.
func TestSSHKnownHostLines(t *testing.T) {
	s := newSSH(t, 1)
	plain, _, err := s.HostSigners("ssh.build", "build.example.com")
	must(t, err)
	for _, test := range []struct {
		host string
		port uint16
		name string
	}{
		{"Build.example.com", 22, "build.example.com"},
		{"build.example.com", 2222, "[build.example.com]:2222"},
		{"192.0.2.7", 22, "192.0.2.7"},
		{"2001:db8::7", 22, "2001:db8::7"},
		{"2001:db8::7", 2222, "[2001:db8::7]:2222"},
	} {
		line := s.KnownHost("ssh.build", test.host, test.port)
		if !strings.HasPrefix(line, test.name+" ssh-ed25519 AAAA") || strings.ContainsAny(line, "\r\n") {
			t.Errorf("%s %d: %q", test.host, test.port, line)
		}
		file := filepath.Join(t.TempDir(), "known_hosts")
		must(t, os.WriteFile(file, []byte(line+"\n"), 0o600))
		check, err := knownhosts.New(file)
		must(t, err)
		// As x/crypto's clients ask: the address in lower case, with its port.
		address := net.JoinHostPort(strings.ToLower(test.host), strconv.Itoa(int(test.port)))
		if err := check(address, &net.TCPAddr{}, plain.PublicKey()); err != nil {
			t.Errorf("%q for %s: %v", line, address, err)
		}
	}
}

func line64(k ssh.PublicKey) string {
	return strings.TrimSpace(strings.TrimPrefix(string(ssh.MarshalAuthorizedKey(k)), k.Type()))
}

func parse(t testing.TB, line string) ssh.PublicKey {
	t.Helper()
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
	must(t, err)
	return k
}
