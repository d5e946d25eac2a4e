package policy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests step a watcher by hand. The kernel queues an event before the call
// that caused it returns, so what was done before a step is what the step sees.

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// startWatcher watches path.
func startWatcher(t *testing.T, path string) *watcher {
	t.Helper()
	w, err := newWatcher(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.close)
	return w
}

// expect takes steps until the kernel has no more events, and compares how often
// the file was reported as replaced.
func (w *watcher) expect(t *testing.T, what string, want int) {
	t.Helper()
	got := 0
	for more := true; more; more = w.pending(t) {
		replaced, err := w.wait(time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if replaced {
			got++
		}
	}
	if got != want {
		t.Errorf("%s: reported %d times, want %d", what, got, want)
	}
}

// pending reports whether there are events that were not read yet (FIONREAD,
// which Linux also calls TIOCINQ).
func (w *watcher) pending(t *testing.T) bool {
	t.Helper()
	raw, err := w.events.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if ctlErr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
	return n > 0
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// replace writes beside path and renames over it.
func replace(t *testing.T, path, content string) {
	t.Helper()
	put(t, path+".new", content)
	rename(t, path+".new", path)
}

func TestI18_WatchNoticesAtomicReplacement(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.hcl")
	put(t, path, "first")
	w := startWatcher(t, path)
	w.expect(t, "nothing happened", 0)
	for i := range 3 {
		replace(t, path, fmt.Sprint(i))
		w.expect(t, "replaced", 1)
	}
	replace(t, path, "a")
	replace(t, path, "b")
	w.expect(t, "replaced twice before anybody looked", 1)
	rename(t, path, path+".away")
	w.expect(t, "renamed away", 0)
	rename(t, path+".away", path)
	w.expect(t, "renamed back", 1)
}

// However a file is written in place, half of it must never become the policy.
func TestI18_WatchIgnoresPartialWrites(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "gateway.hcl")
	put(t, path, "first")
	w := startWatcher(t, path)

	put(t, path, "truncated and written again")
	w.expect(t, "written in place", 0)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "another mode", 0)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "removed", 0)
	put(t, path, "created anew, half a policy so far")
	w.expect(t, "created", 0)
	replace(t, filepath.Join(dir, "gateway.hcl.bak"), "a neighbour")
	w.expect(t, "a neighbour replaced", 0)
	replace(t, path, "whole")
	w.expect(t, "replaced", 1)
}

// A file that is not there yet is noticed when it is renamed into place; so is
// one whose directory is not there yet.
func TestWatchWaitsForTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "gateway.hcl")
	w := startWatcher(t, path)
	replace(t, path, "first")
	w.expect(t, "came into being", 1)

	late := filepath.Join(dir, "late")
	w = startWatcher(t, filepath.Join(late, "gateway.hcl"))
	w.expect(t, "no directory", 0)
	ready := filepath.Join(dir, "ready")
	if err := os.Mkdir(ready, 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(ready, "gateway.hcl"), "first")
	rename(t, ready, late)
	w.expect(t, "came with its directory", 1)
}

// generations makes directories, each with a gateway.hcl.
func generations(t *testing.T, n int) []string {
	t.Helper()
	base := t.TempDir()
	var dirs []string
	for i := range n {
		d := filepath.Join(base, fmt.Sprint(i))
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(d, "gateway.hcl"), fmt.Sprint(i))
		dirs = append(dirs, d)
	}
	return dirs
}

// link makes path a symbolic link to target, atomically.
func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path+".new"); err != nil {
		t.Fatal(err)
	}
	rename(t, path+".new", path)
}

func TestWatchFollowsTheDirectory(t *testing.T) {
	g := generations(t, 3)
	conf := filepath.Join(t.TempDir(), "conf")
	rename(t, g[0], conf)
	path := filepath.Join(conf, "gateway.hcl")
	w := startWatcher(t, path)

	rename(t, conf, conf+".old")
	w.expect(t, "directory renamed away", 0)
	rename(t, g[1], conf)
	w.expect(t, "directory replaced", 1)
	replace(t, path, "in the new directory")
	w.expect(t, "replaced in the new directory", 1)
	replace(t, filepath.Join(conf+".old", "gateway.hcl"), "in the old directory")
	w.expect(t, "replaced in the old directory", 0)
	if err := os.RemoveAll(conf); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "directory removed", 0)
	if err := os.Mkdir(conf, 0o700); err != nil { // perhaps with the old one's inode number
		t.Fatal(err)
	}
	w.expect(t, "directory made anew", 0)
	replace(t, path, "in the directory made anew")
	w.expect(t, "replaced in the directory made anew", 1)
	rename(t, conf, conf+".older")
	rename(t, g[2], conf)
	w.expect(t, "directory came back", 1)
}

func TestWatchFollowsLinks(t *testing.T) {
	g := generations(t, 3)
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	link(t, g[0], data)
	// As Kubernetes mounts a config map: the file is a link through a link that
	// is replaced.
	mounted := filepath.Join(dir, "gateway.hcl")
	link(t, "data/gateway.hcl", mounted)
	w := startWatcher(t, mounted)
	// As some deployments switch versions: the directory is the link.
	through := startWatcher(t, filepath.Join(data, "gateway.hcl"))

	for _, target := range g[1:] {
		link(t, target, data)
		w.expect(t, "link beside the file's", 1)
		through.expect(t, "link to the directory", 1)
	}
	link(t, g[2], data)
	w.expect(t, "the same file again", 0)
	through.expect(t, "the same file again", 0)
	link(t, filepath.Join(g[0], "gateway.hcl"), mounted)
	w.expect(t, "the file's own link", 1)
}

// Watch reports what its watcher sees, and ends with its context.
func TestWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gateway.hcl")
	put(t, path, "first")
	ctx, cancel := context.WithCancel(context.Background())
	changed := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, path, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	deadline := time.After(patience)
	again := time.NewTicker(50 * time.Millisecond) // Watch may not have begun before the first
	defer again.Stop()
	for noticed := false; !noticed; {
		replace(t, path, "next")
		select {
		case <-changed:
			noticed = true
		case <-again.C:
		case <-deadline:
			t.Fatal("the replacement was not noticed")
		}
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("Watch does not end with its context")
	}
}
