package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/ca"
)

func open(t testing.TB, dir string, now func() time.Time) *ca.CA {
	t.Helper()
	c, err := ca.Open(ca.Config{Dir: dir, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func leaf(t testing.TB, c *ca.CA, host string) *tls.Certificate {
	t.Helper()
	l, err := c.Leaf(host)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newDir(t testing.TB) string { return filepath.Join(t.TempDir(), "ca") }

func TestOpenMakesOnePairAndKeepsIt(t *testing.T) {
	dir := newDir(t)
	first := open(t, dir, nil)
	second := open(t, dir, nil)
	if first.Fingerprint() != second.Fingerprint() || !bytes.Equal(first.CertPEM(), second.CertPEM()) {
		t.Error("the second Open made another CA")
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, dir + "/ca.key": 0o600, dir + "/ca.crt": 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
	}
	if _, err := os.Stat(dir + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the scratch directory is still there: %v", err)
	}
}

func TestOpenAtOnceMakesOnePair(t *testing.T) {
	dir := newDir(t)
	var wg sync.WaitGroup
	prints := make([]string, 8)
	for i := range prints {
		wg.Go(func() {
			c, err := ca.Open(ca.Config{Dir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			prints[i] = c.Fingerprint()
		})
	}
	wg.Wait()
	for _, p := range prints {
		if p != prints[0] {
			t.Fatalf("two CAs: %s and %s", prints[0], p)
		}
	}
}

// A crash between writing and renaming leaves only the scratch directory.
func TestI17_CrashWhileMakingThePairNeedsNoRepair(t *testing.T) {
	dir := newDir(t)
	if err := os.MkdirAll(dir+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+".new/ca.key", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir, nil)
	open(t, dir, nil)
}

func TestOpenRefusesAPairItCannotTrust(t *testing.T) {
	other := newDir(t)
	open(t, other, nil)
	cases := map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string
	}{
		"key missing":         {remove("ca.key"), "ca.key is missing"},
		"certificate missing": {remove("ca.crt"), "ca.crt is missing"},
		"key empty":           {write("ca.key", ""), "ca.key is damaged"},
		"key cut short":       {truncate("ca.key"), "ca.key is damaged"},
		"certificate garbage": {write("ca.crt", "hello"), "ca.crt is damaged"},
		"certificate endless": {write("ca.crt", strings.Repeat("x", 1<<20)), "ca.crt is damaged"},
		"key of another CA":   {copyFrom(other, "ca.key"), "does not belong"},
		"certificate twice":   {double("ca.crt"), "more than one"},
		"key readable by all": {chmod("ca.key", 0o644), "mode 0644"},
		"directory open":      {chmod("", 0o755), "mode 0755"},
		"leaf as certificate": {leafAsCA, "not a CA"},
		"key is an RSA file":  {write("ca.key", rsaLike), "ca.key is damaged"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			open(t, dir, nil)
			tc.spoil(t, dir)
			before := snapshot(t, dir)
			_, err := ca.Open(ca.Config{Dir: dir})
			if err == nil {
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q does not say %q", err, tc.want)
			}
			var h interface{ Hint() string }
			if !errors.As(err, &h) || h.Hint() == "" {
				t.Errorf("error %q has no hint", err)
			}
			if after := snapshot(t, dir); after != before {
				t.Error("Open changed the files")
			}
		})
	}
}

const rsaLike = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, name))) }
}

func write(name, text string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
}

func truncate(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, name), 100)) }
}

func chmod(name string, mode os.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) { must(t, os.Chmod(filepath.Join(dir, name), mode)) }
}

func copyFrom(other, name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		data, err := os.ReadFile(filepath.Join(other, name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
}

func double(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		data, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), append(data, data...), 0o600))
	}
}

// leafAsCA puts a certificate for the right key in place that is not a CA's.
func leafAsCA(t *testing.T, dir string) {
	l := leaf(t, open(t, dir, nil), "example.com")
	key, err := x509.MarshalPKCS8PrivateKey(l.PrivateKey)
	must(t, err)
	must(t, os.WriteFile(dir+"/ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: l.Certificate[0]}), 0o600))
	must(t, os.WriteFile(dir+"/ca.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
}

func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		fmt.Fprintf(&b, "%s %x\n", e.Name(), data)
	}
	return b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCACertificateProfile(t *testing.T) {
	c := open(t, newDir(t), nil).Certificate()
	if !c.IsCA || !c.MaxPathLenZero || c.MaxPathLen != 0 || !c.BasicConstraintsValid {
		t.Error("not a CA with path length 0")
	}
	if c.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("key usage %b", c.KeyUsage)
	}
	if len(c.SubjectKeyId) != 20 {
		t.Error("no subject key id")
	}
	if !strings.HasPrefix(c.Subject.CommonName, "Claw Patrol CA ") || len(c.Subject.CommonName) != len("Claw Patrol CA ")+8 {
		t.Errorf("common name %q", c.Subject.CommonName)
	}
	for _, ext := range c.Extensions {
		switch ext.Id.String() {
		case "2.5.29.19", "2.5.29.15": // basic constraints, key usage
			if !ext.Critical {
				t.Errorf("extension %s is not critical", ext.Id)
			}
		case "2.5.29.30":
			t.Error("name constraints")
		}
	}
	if other := open(t, newDir(t), nil).Certificate(); other.Subject.CommonName == c.Subject.CommonName {
		t.Error("two CAs with one name")
	}
}

func TestLeafProfile(t *testing.T) {
	now := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	c := open(t, newDir(t), func() time.Time { return now })
	serials := map[string]bool{}
	for host, want := range map[string]string{
		"api.example.com": "api.example.com", "API.Example.COM.": "api.example.com",
		"xn--bcher-kva.example": "xn--bcher-kva.example", "_srv.example": "_srv.example", "localhost": "localhost",
		"192.0.2.1": "192.0.2.1", "2001:db8::0:1": "2001:db8::1", "::ffff:192.0.2.7": "192.0.2.7",
	} {
		l := leaf(t, c, host)
		x := l.Leaf
		names := append([]string{}, x.DNSNames...)
		for _, ip := range x.IPAddresses {
			names = append(names, ip.String())
		}
		if len(names) != 1 || names[0] != want {
			t.Errorf("%s: SANs %q, want just %q", host, names, want)
		}
		if len(x.EmailAddresses)+len(x.URIs) != 0 || x.IsCA {
			t.Errorf("%s: more than a leaf", host)
		}
		if len(x.ExtKeyUsage) != 1 || x.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
			t.Errorf("%s: extended key usage %v", host, x.ExtKeyUsage)
		}
		if !bytes.Equal(x.AuthorityKeyId, c.Certificate().SubjectKeyId) || len(x.SubjectKeyId) == 0 {
			t.Errorf("%s: key identifiers", host)
		}
		if !x.NotBefore.Equal(now.Add(-time.Hour)) || !x.NotAfter.Equal(now.Add(7*24*time.Hour)) {
			t.Errorf("%s: valid %s to %s", host, x.NotBefore, x.NotAfter)
		}
		if key, ok := l.PrivateKey.(*ecdsa.PrivateKey); !ok || key.Curve != elliptic.P256() || !key.PublicKey.Equal(x.PublicKey) {
			t.Errorf("%s: key", host)
		}
		if bits := x.SerialNumber.BitLen(); bits < 127 || bits > 128 || serials[x.SerialNumber.String()] && names[0] != "api.example.com" {
			t.Errorf("%s: serial %v", host, x.SerialNumber)
		}
		serials[x.SerialNumber.String()] = true
		if len(l.Certificate) != 2 || !bytes.Equal(l.Certificate[1], c.Certificate().Raw) {
			t.Errorf("%s: the chain is not leaf and CA", host)
		}
	}
}

func TestLeafRefusesWhatIsNotAHost(t *testing.T) {
	c := open(t, newDir(t), nil)
	for _, host := range []string{
		"", ".", "..", "a..b", "*.example.com", "-a.example", "a-.example", "exa mple.com", "a\x00b", "a/b", "a:443",
		"[::1]", "fe80::1%eth0", "user@host", "bücher.example", "1.2.3", "1.2.3.4.5", "example.0x7f", "256.1.1.1",
		strings.Repeat("a", 64) + ".com", strings.Repeat("a.", 127) + "com", strings.Repeat("x", 1<<20),
	} {
		if l, err := c.Leaf(host); err == nil {
			t.Errorf("minted %q for %q", l.Leaf.DNSNames, host)
		} else if len(err.Error()) > 2000 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
	}
}

func TestLeafIsCachedAndRenewedBeforeItExpires(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	now := start
	c := open(t, newDir(t), func() time.Time { return now })
	first := leaf(t, c, "a.example")
	for _, step := range []struct {
		after time.Duration
		same  bool
	}{
		{0, true}, {4 * 24 * time.Hour, true}, {112 * time.Hour, true},
		{112*time.Hour + time.Second, false},                     // less than a third of 168 h remains
		{30 * 24 * time.Hour, false}, {-30 * time.Minute, false}, // a clock set back
	} {
		now = start.Add(step.after)
		got := leaf(t, c, "a.example")
		if (got == first) != step.same {
			t.Errorf("%v after minting: same leaf %v, want %v", step.after, got == first, step.same)
		}
		if now.After(got.Leaf.NotAfter) || now.Before(got.Leaf.NotBefore) {
			t.Errorf("%v after minting: the leaf is not valid", step.after)
		}
	}
}

func TestLeafNeverOutlivesTheCA(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	dir := newDir(t)
	c := open(t, dir, func() time.Time { return now })
	end := c.Certificate().NotAfter
	now = end.Add(-time.Hour)
	l := leaf(t, c, "a.example")
	if !l.Leaf.NotAfter.Equal(end) {
		t.Errorf("leaf ends %s, CA %s", l.Leaf.NotAfter, end)
	}
	if leaf(t, c, "a.example") != l {
		t.Error("a leaf that cannot be longer is minted again and again")
	}
	now = end.Add(time.Second)
	if _, err := c.Leaf("a.example"); err == nil {
		t.Error("an expired CA signed")
	}
	if _, err := ca.Open(ca.Config{Dir: dir, Now: func() time.Time { return now }}); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("opening an expired CA: %v", err)
	}
	if _, err := ca.Open(ca.Config{Dir: dir, Now: func() time.Time { return end.Add(-30 * 365 * 24 * time.Hour) }}); err == nil || !strings.Contains(err.Error(), "not valid before") {
		t.Errorf("opening a CA of the future: %v", err)
	}
}

func TestLeafMintsOncePerHost(t *testing.T) {
	c := open(t, newDir(t), nil)
	var wg sync.WaitGroup
	got := make([]*tls.Certificate, 64)
	for i := range got {
		wg.Go(func() { got[i], _ = c.Leaf("once.example") })
	}
	wg.Wait()
	for _, l := range got {
		if l == nil || l != got[0] {
			t.Fatal("concurrent calls got different leaves")
		}
	}
}

func TestLeafCacheIsBounded(t *testing.T) {
	c := open(t, newDir(t), nil)
	kept := leaf(t, c, "kept.example")
	dropped := leaf(t, c, "dropped.example")
	for i := range 4095 {
		leaf(t, c, fmt.Sprintf("h%d.example", i))
		if i%1000 == 0 {
			leaf(t, c, "kept.example")
		}
	}
	if leaf(t, c, "kept.example") != kept {
		t.Error("a leaf in use was dropped")
	}
	if leaf(t, c, "dropped.example") == dropped {
		t.Error("the cache holds more than 4096 leaves")
	}
}

func TestI02_ErrorsAndValuesShowNoKey(t *testing.T) {
	dir := newDir(t)
	open(t, dir, nil)
	key, err := os.ReadFile(dir + "/ca.key")
	must(t, err)
	body := strings.Split(string(key), "\n")[1]
	must(t, os.WriteFile(dir+"/ca.key", []byte(strings.Replace(string(key), "PRIVATE KEY", "SOMETHING", 2)), 0o600))
	_, err = ca.Open(ca.Config{Dir: dir})
	if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), body[:16]) {
		t.Errorf("error %v", err)
	}
}

// FuzzLeaf: whatever the name, Leaf gives one valid SAN or an error.
func FuzzLeaf(f *testing.F) {
	for _, s := range []string{"a.example", "*.a", "1.2.3.4", "::1", "a\x00.b", "A.B.", "fe80::1%lo"} {
		f.Add(s)
	}
	c := open(f, newDir(f), nil)
	f.Fuzz(func(t *testing.T, host string) {
		l, err := c.Leaf(host)
		if err != nil {
			return
		}
		if len(l.Leaf.DNSNames)+len(l.Leaf.IPAddresses) != 1 {
			t.Fatalf("%q: %d SANs", host, len(l.Leaf.DNSNames)+len(l.Leaf.IPAddresses))
		}
		for _, name := range l.Leaf.DNSNames {
			if strings.Contains(name, "*") || net.ParseIP(name) != nil || l.Leaf.VerifyHostname(name) != nil {
				t.Fatalf("%q: SAN %q", host, name)
			}
		}
	})
}

func BenchmarkMint(b *testing.B) {
	c := open(b, newDir(b), nil)
	for i := 0; b.Loop(); i++ {
		leaf(b, c, fmt.Sprintf("h%d.example", i))
	}
}
