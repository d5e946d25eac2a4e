package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of this many bytes at dir.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill leaves no room in dir, and returns how to give it back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); errors.Is(err, unix.ENOSPC) {
			return func() {
				if err := os.Remove(path); err != nil {
					t.Error(err)
				}
			}
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// A disk without room for the state ends a join before the gateway hears of it.
func TestFullDisk_JoinBeginsNothing(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	root := newRoot(t)
	before := snapshot(t, root)
	disk := t.TempDir()
	smallDisk(t, disk, "512k")
	a, _ := newAgent(t, g, root)
	a = New(Config{StateDir: filepath.Join(disk, "state"), Root: root, Run: a.cfg.Run, Lookup: g.lookup})
	err := a.Join(t.Context(), request(g))
	if err == nil || !strings.Contains(err.Error(), "KiB left") || !strings.Contains(HintOf(err), "room") {
		t.Errorf("it ended with %v", err)
	}
	if g.starts != 0 {
		t.Errorf("%d registrations were opened", g.starts)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := os.Stat(a.paths.dir); err == nil {
		t.Error("the state directory stays")
	}
}

// The state's disk becomes full while the host is joined: the host gets its own
// way back all the same, and leave forgets the rest once there is room.
func TestFullDisk_DownUndoesTheHost(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	g.setApprove(true)
	root := newRoot(t)
	before := snapshot(t, root)
	disk := t.TempDir()
	smallDisk(t, disk, "2m")
	base, out := newAgent(t, g, root)
	a := New(Config{StateDir: filepath.Join(disk, "state"), Root: root, Run: base.cfg.Run, Lookup: g.lookup, Out: out})
	r := start(t, a, out, func(ctx context.Context) error { return a.Join(ctx, request(g)) })
	out.waitFor(t, "ready")
	free := fill(t, disk)
	err := a.Down(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(HintOf(err), "the host itself is as it was") {
		t.Errorf("down: %v, hint %q", err, HintOf(err))
	}
	if err := r.wait(t); err == nil {
		t.Error("join ended as if nothing were wrong")
	}
	if b, err := os.ReadFile(filepath.Join(root, resolvConf)); err != nil || string(b) != testResolvConf {
		t.Errorf("resolv.conf: %v %q", err, b)
	}
	if strings.Contains(snapshot(t, root), LinkName) {
		t.Error("the tunnel is still there")
	}
	free()
	if err := a.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// The host's own disk becomes full: resolv.conf is restored where it stands.
func TestFullDisk_ResolverIsRestored(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	root := newRoot(t)
	smallDisk(t, filepath.Join(root, "etc"), "1m")
	path := filepath.Join(root, resolvConf)
	for p, content := range map[string]string{path: testResolvConf, filepath.Join(root, "/etc/ssl/certs/ca-certificates.crt"): newTestCA(t).pem()} {
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := snapshot(t, root)
	r := join(t, g, root)
	free := fill(t, filepath.Join(root, "etc"))
	if err := r.Down(t.Context()); err != nil {
		t.Errorf("down: %v", err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != testResolvConf || st.Mode() != 0o600 {
		t.Errorf("resolv.conf: %v %v %q", err, st.Mode(), b)
	}
	free()
	if err := r.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
