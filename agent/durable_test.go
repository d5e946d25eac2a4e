package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Attack: the state directory is below one of another user's, who replaces it
// by one with a journal of their own, which root then "undoes".
func TestState_BelowAnotherUsersDirectoryIsRefused(t *testing.T) {
	const other = 65534
	theirs := filepath.Join(t.TempDir(), "theirs")
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(theirs, other, other); err != nil {
		t.Fatal("this user namespace has no second user: run the tests as root")
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	sticky := filepath.Join(t.TempDir(), "sticky") // like /tmp: only an owner may rename
	if err := os.Mkdir(sticky, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(sticky, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(sticky, "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(link, other, other); err != nil {
		t.Fatal(err)
	}
	way := filepath.Join(t.TempDir(), "way") // ours, to theirs
	if err := os.Symlink(theirs, way); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{theirs, open, link, way} {
		a := New(Config{StateDir: filepath.Join(dir, "state"), Root: newRoot(t)})
		for name, f := range map[string]func(context.Context) error{
			"up": a.Up, "down": a.Down, "leave": a.Leave,
			"status": func(ctx context.Context) error { _, err := a.Status(ctx); return err },
			"join": func(ctx context.Context) error {
				return a.Join(ctx, JoinRequest{URL: "https://127.0.0.1:1", CAFingerprint: "sha256:" + strings.Repeat("00", 32)})
			},
		} {
			if dir != theirs && name != "join" {
				continue // there is no state to be refused
			}
			if name != "join" {
				if err := os.MkdirAll(a.paths.private(), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := f(t.Context()); err == nil || !strings.Contains(err.Error(), "checking "+dir) || HintOf(err) == "" {
				t.Errorf("%s with %s: %v; want it refused, with a hint", name, a.paths.dir, err)
			}
		}
	}
	if err := checkWay(filepath.Join(sticky, "state")); err != nil {
		t.Errorf("in a sticky directory: %v", err)
	}
}

// What env prints and the service's unit name holds wherever it is used.
func TestNew_StateDirIsAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	if a := New(Config{StateDir: "here"}); !filepath.IsAbs(a.paths.dir) || !filepath.IsAbs(a.paths.bundle()) {
		t.Errorf("the state directory is %s", a.paths.dir)
	}
}
