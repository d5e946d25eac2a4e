package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// serveNobody is a Config.Runs that closes what connects.
func serveNobody(host tun.Device, _ Shared) (tun.Device, func(context.Context, *net.UnixListener), error) {
	return host, func(ctx context.Context, ln *net.UnixListener) {
		defer context.AfterFunc(ctx, func() { ln.Close() })()
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			c.Close()
		}
	}, nil
}

// The attack: a descriptor that takes long to close (SO_LINGER, FUSE), for the
// process that holds the host's tunnel to close. The kernel refuses the sender.
func TestRunSocketRefusesDescriptors(t *testing.T) {
	root := newRoot(t)
	a := New(Config{StateDir: t.TempDir(), Root: root})
	j, err := openJournal(filepath.Join(t.TempDir(), "journal"), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := a.listenForRuns(j, everyUser)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dir, err := os.Open(filepath.Join(root, filepath.Dir(RunSocket)))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(RunSocket)), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var known error
	if err := raw.Control(func(fd uintptr) { _, known = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS) }); err != nil {
		t.Fatal(err)
	}
	if known != nil {
		t.Skipf("this kernel cannot refuse descriptors (Linux before 6.16): %v", known)
	}
	message := []byte(`{"run":true}`)
	if _, _, err := c.WriteMsgUnix(message, unix.UnixRights(int(dir.Fd())), nil); !errors.Is(err, unix.EPERM) {
		t.Errorf("a message with a descriptor: %v, want %v", err, unix.EPERM)
	}
	if _, err := c.Write(message); err != nil {
		t.Errorf("one without: %v", err)
	}
}

// The socket is there while the tunnel is held, for whom root has named, and for
// nobody by default.
func TestRunUsers(t *testing.T) {
	root := newRoot(t)
	g := newTestGateway(t, nil, "127.0.0.1")
	g.setApprove(true)
	before := snapshot(t, root)
	path := filepath.Join(root, RunSocket)
	a, _ := newAgent(t, g, root)
	a.cfg.Runs = serveNobody
	hold := func(users string) *running {
		out := new(output)
		a.cfg.Out = out
		req := request(g)
		req.RunUsers = users
		r := start(t, a, out, func(ctx context.Context) error { return a.Join(ctx, req) })
		eventually(t, "ready", func() bool { return strings.Contains(out.String(), "\nready\n") })
		return r
	}
	end := func(r *running) {
		t.Helper()
		if err := a.Down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.wait(t); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("down left %s: %v", filepath.Dir(path), err)
		}
	}
	for _, c := range []struct {
		users string
		mode  fs.FileMode
	}{{"", 0}, {"all", 0o666}, {"", 0o666}, {"0", 0o660}, {"none", 0}, {"", 0}} {
		r := hold(c.users)
		st, err := os.Lstat(path)
		switch {
		case c.mode == 0 && !errors.Is(err, fs.ErrNotExist):
			t.Errorf("%q: there is a socket: %v", c.users, err)
		case c.mode != 0 && (err != nil || st.Mode() != fs.ModeSocket|c.mode):
			t.Errorf("%q: %v, %v; want the mode %04o", c.users, st, err, c.mode)
		}
		if st, err := a.Status(t.Context()); err != nil || (st.RunUsers != "") != (c.mode != 0) {
			t.Errorf("%q: status %+v, %v", c.users, st, err)
		}
		if err := a.AllowRuns("all"); !errors.Is(err, errHeld) {
			t.Errorf("while it is held: %v", err)
		}
		end(r)
	}
	// A mistake is found before anything is done.
	req := request(g)
	req.RunUsers = "no-such-group"
	for _, err := range []error{a.Join(t.Context(), req), a.AllowRuns("no-such-group")} {
		if !errors.Is(err, ErrUsage) || HintOf(err) == "" {
			t.Errorf("a group that is not there: %v", err)
		}
	}
	// One that is not there any more costs nobody the tunnel.
	st, err := loadState(a.paths)
	if err != nil {
		t.Fatal(err)
	}
	st.RunUsers = "gone"
	if err := saveState(a.paths, st); err != nil {
		t.Fatal(err)
	}
	r := hold("")
	if !strings.Contains(a.cfg.Out.(*output).String(), "nobody may run here") {
		t.Errorf("it did not say that nobody may run:\n%s", a.cfg.Out)
	}
	end(r)
	if err := a.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter leave:\n%s", before, after)
	}
}
