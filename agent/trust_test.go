package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each distribution's store gets the CA in its own way, and loses it again.
func TestTrust_Stores(t *testing.T) {
	ca := newTestCA(t)
	for _, s := range trustStores {
		t.Run(s.dir, func(t *testing.T) {
			root := t.TempDir()
			for _, d := range []string{s.dir, "/usr/bin"} {
				if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(root, "/usr/bin", s.refresh), nil, 0o755); err != nil {
				t.Fatal(err)
			}
			before := snapshotFiles(t, root)
			var runs []string
			file := filepath.Join(root, s.dir, trustFile)
			a := New(Config{Root: root, StateDir: t.TempDir(), Run: func(_ context.Context, name string, args ...string) error {
				_, err := os.Stat(file)
				runs = append(runs, fmt.Sprint(name, args, err == nil))
				return nil
			}})
			if err := os.MkdirAll(a.paths.public(), 0o755); err != nil {
				t.Fatal(err)
			}
			j := tempJournal(t)
			for _, force := range []bool{false, false, true} {
				store, err := a.installTrust(t.Context(), j, ca.pem(), force)
				if err != nil || store != filepath.Join(s.dir, trustFile) {
					t.Fatalf("%q, %v", store, err)
				}
			}
			if b, err := os.ReadFile(file); err != nil || string(b) != fileMark+ca.pem() {
				t.Errorf("%q, %v", b, err)
			}
			if err := a.undo(t.Context(), j, scopeEnrolment); err != nil {
				t.Fatal(err)
			}
			if after := snapshotFiles(t, root); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			// The first, the forced one, and the one after the file is gone.
			p := "/usr/bin/" + s.refresh
			if want := fmt.Sprint([]string{p + "[] true", p + "[] true", p + "[] false"}); fmt.Sprint(runs) != want {
				t.Errorf("ran %v; want %s", runs, want)
			}
		})
	}
}

// A host whose store is not known, or whose refresh fails, is told, and never
// that the CA is installed.
func TestTrust_NoStoreAndFailure(t *testing.T) {
	ca := newTestCA(t)
	root := t.TempDir()
	a := New(Config{Root: root, StateDir: t.TempDir()})
	if err := os.MkdirAll(a.paths.public(), 0o755); err != nil {
		t.Fatal(err)
	}
	if store, err := a.installTrust(t.Context(), tempJournal(t), ca.pem(), true); err != nil || store != "" {
		t.Errorf("no store: %q, %v", store, err)
	}
	if b, err := os.ReadFile(a.paths.bundle()); err != nil || string(b) != ca.pem() {
		t.Errorf("the bundle: %q, %v", b, err)
	}
	g := newTestGateway(t, nil, "127.0.0.1")
	g.setApprove(true)
	root = newRoot(t)
	before := snapshot(t, root)
	b, out := newAgent(t, g, root)
	b.cfg.Run = func(context.Context, string, ...string) error { return fmt.Errorf("disk full") }
	if err := b.Join(t.Context(), request(g)); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("join: %v", err)
	}
	if s := out.String(); strings.Contains(s, "installed") || strings.Contains(s, "ready") {
		t.Errorf("it said:\n%s", s)
	}
	b.cfg.Run = fakeRefresh(root)
	if err := b.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// A JVM with roots of its own gets a copy with ours; the distribution's follows
// the system's store.
func TestTrust_Java(t *testing.T) {
	for name, c := range map[string]struct {
		cacerts string // where lib/security/cacerts leads; "": a file
		want    bool
	}{"its own roots": {"", true}, "the distribution's": {"/etc/ssl/certs/java/cacerts", false}} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			home := filepath.Join(root, "/opt/jdk")
			for _, d := range []string{filepath.Join(home, "bin"), filepath.Join(home, "lib/security"), filepath.Join(root, "/usr/bin"), filepath.Join(root, "/etc/ssl/certs/java")} {
				if err := os.MkdirAll(d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cacerts := filepath.Join(home, "lib/security/cacerts")
			if c.cacerts != "" {
				if err := os.Symlink(filepath.Join(root, c.cacerts), cacerts); err != nil {
					t.Fatal(err)
				}
				cacerts = filepath.Join(root, c.cacerts)
			}
			for path, content := range map[string]string{filepath.Join(home, "bin/keytool"): "", cacerts: "roots"} {
				if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(filepath.Join(home, "bin/keytool"), filepath.Join(root, "/usr/bin/keytool")); err != nil {
				t.Fatal(err)
			}
			a := New(Config{Root: root, StateDir: t.TempDir(), Run: func(_ context.Context, name string, args ...string) error {
				f, err := os.OpenFile(args[len(args)-3], os.O_APPEND|os.O_WRONLY, 0) // -keystore FILE -storepass PW
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = f.WriteString("+ours")
				return err
			}})
			if err := os.MkdirAll(a.paths.public(), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := a.writeJavaStore(t.Context()); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(a.paths.javaStore())
			if got := err == nil && string(b) == "roots+ours"; got != c.want {
				t.Errorf("store %q, %v; want one: %v", b, err, c.want)
			}
		})
	}
}

// Debian's update-ca-certificates leaves links and Java's entry behind when a
// certificate goes; leave does not.
func TestTrust_LeaveForgetsLinksAndJava(t *testing.T) {
	ca := newTestCA(t)
	root := newRoot(t)
	for _, d := range []string{filepath.Dir(javaHook), "/etc/ssl/certs"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, javaHook), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	others := filepath.Join(root, "/etc/ssl/certs/0.0")
	if err := os.Symlink("other.pem", others); err != nil {
		t.Fatal(err)
	}
	before := snapshotFiles(t, root)
	var java []string
	a := New(Config{Root: root, StateDir: t.TempDir(), Run: func(_ context.Context, name string, args ...string) error {
		if filepath.Base(name) != "update-ca-certificates" {
			java = append(java, fmt.Sprint(name, args))
			return nil
		}
		if _, err := os.Stat(filepath.Join(root, debianCerts, trustFile)); err != nil {
			return nil
		}
		for link, to := range map[string]string{debianLink: filepath.Join(debianCerts, trustFile), "82965258.0": debianLink} {
			if err := os.Symlink(to, filepath.Join(root, systemCerts, link)); err != nil {
				return err
			}
		}
		return nil
	}})
	if err := os.MkdirAll(a.paths.public(), 0o755); err != nil {
		t.Fatal(err)
	}
	j := tempJournal(t)
	if _, err := a.installTrust(t.Context(), j, ca.pem(), false); err != nil {
		t.Fatal(err)
	}
	if err := a.undo(t.Context(), j, scopeEnrolment); err != nil {
		t.Fatal(err)
	}
	if after := snapshotFiles(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if want := []string{"/bin/sh[-c echo '-/etc/ssl/certs/clawpatrol.pem' | " + javaHook + "]"}; fmt.Sprint(java) != fmt.Sprint(want) {
		t.Errorf("ran %q; want %q", java, want)
	}
}
