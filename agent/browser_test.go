package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The real certutil says what the database holds.
func TestTrustBrowsers(t *testing.T) {
	for _, store := range []string{"", ".pki/nssdb", ".local/share/pki/nssdb"} {
		t.Run(store, func(t *testing.T) {
			home := t.TempDir()
			t.Setenv("HOME", home)
			if store != "" {
				if err := os.MkdirAll(filepath.Join(home, store), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			a := New(Config{StateDir: t.TempDir()})
			if _, err := a.TrustBrowsers(t.Context()); err == nil || HintOf(err) == "" {
				t.Errorf("not enrolled: %v", err)
			}
			if err := os.MkdirAll(a.paths.public(), 0o755); err != nil {
				t.Fatal(err)
			}
			// Twice the same, then that of another gateway: the latest is there, alone.
			first, second := newTestCA(t), newTestCA(t)
			var db string
			for _, ca := range []*testCA{first, first, second} {
				if err := os.WriteFile(a.paths.ca(), []byte(ca.pem()), 0o644); err != nil {
					t.Fatal(err)
				}
				var err error
				if db, err = a.TrustBrowsers(t.Context()); err != nil {
					t.Fatal(err)
				}
				got := certutil(t, "-L", "-d", "sql:"+db, "-n", browserNick, "-a")
				if strings.ReplaceAll(got, "\r", "") != ca.pem() {
					t.Errorf("the database has\n%s", got)
				}
			}
			if want := filepath.Join(home, store); store != "" && db != want || !strings.HasPrefix(db, home) {
				t.Errorf("it is in %s, want %s", db, want)
			}
			if list := certutil(t, "-L", "-d", "sql:"+db); strings.Count(list, browserNick) != 1 || !strings.Contains(list, "C,,") {
				t.Errorf("the database lists\n%s", list)
			}
			if _, err := a.DistrustBrowsers(t.Context()); err != nil {
				t.Fatal(err)
			}
			if list := certutil(t, "-L", "-d", "sql:"+db); strings.Contains(list, browserNick) {
				t.Errorf("afterwards the database lists\n%s", list)
			}
			if _, err := a.DistrustBrowsers(t.Context()); err != nil {
				t.Errorf("a second time: %v", err)
			}
		})
	}
}

func certutil(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("certutil", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("certutil %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// Where certutil is missing, the hint names the package.
func TestTrustBrowsers_WithoutCertutil(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	if _, err := New(Config{StateDir: t.TempDir(), Root: t.TempDir()}).TrustBrowsers(t.Context()); !strings.Contains(HintOf(err), "libnss3-tools") {
		t.Errorf("error %v, hint %q", err, HintOf(err))
	}
}
