package agent

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

func tempJournal(t *testing.T) *journal {
	t.Helper()
	j, err := openJournal(filepath.Join(t.TempDir(), "journal"), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func undoFiles(j *journal) error {
	return j.undo(func(e entry) error { return restoreHostFile(j, e) }, scopeTunnel, scopeEnrolment)
}

func testTunnel() *tunnel {
	return &tunnel{cfg: tunnelConfig{dns: []netip.Addr{tunnelDNS4}}, ifindex: 7}
}

// resolv.conf comes in many shapes; each is used, and is there again afterwards.
func TestResolver_ResolvConf(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, path string){
		"a file": func(t *testing.T, path string) {},
		"an odd mode": func(t *testing.T, path string) {
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
		},
		"a link": func(t *testing.T, path string) {
			target := filepath.Join(filepath.Dir(path), "target.conf")
			if err := os.Rename(path, target); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("target.conf", path); err != nil {
				t.Fatal(err)
			}
		},
		"a dangling link": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/nowhere/resolv.conf", path); err != nil {
				t.Fatal(err)
			}
		},
		"nothing": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"a mount": func(t *testing.T, path string) {
			source := filepath.Join(t.TempDir(), "mounted")
			if err := os.WriteFile(source, []byte("nameserver 192.0.2.53\n# "+strings.Repeat("long ", 100)+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(path, 0); err != nil {
					t.Error(err)
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			path := filepath.Join(root, resolvConf)
			prepare(t, path)
			before := snapshotFiles(t, root)
			a := New(Config{Root: root, StateDir: t.TempDir()})
			j := tempJournal(t)
			for range 2 { // the second time it repairs, and changes nothing
				if err := a.pointResolver(t.Context(), j, testTunnel()); err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(path)
				if err != nil || nameservers(b)[0] != tunnelDNS4 || len(nameservers(b)) != 1 {
					t.Errorf("%q, %v", b, err)
				}
			}
			if err := undoFiles(j); err != nil {
				t.Fatal(err)
			}
			if after := snapshotFiles(t, root); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func snapshotFiles(t *testing.T, root string) string {
	var files []string
	for line := range strings.Lines(snapshot(t, root)) {
		if strings.HasPrefix(line, "file ") {
			files = append(files, line)
		}
	}
	return strings.Join(files, "")
}

// A DHCP client writes its own while the tunnel is up: ours comes back, and what
// it wrote is what is restored.
func TestResolver_ReplacedMeanwhile(t *testing.T) {
	root := newRoot(t)
	path := filepath.Join(root, resolvConf)
	a := New(Config{Root: root, StateDir: t.TempDir()})
	j := tempJournal(t)
	if err := a.pointResolver(t.Context(), j, testTunnel()); err != nil {
		t.Fatal(err)
	}
	newer := "nameserver 192.0.2.99\nsearch new\n"
	if err := os.WriteFile(path, []byte(newer), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := a.reassertResolver(t.Context(), j, testTunnel()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != fileMark+"nameserver 10.55.0.1\n"+patience+"search new\n" {
		t.Errorf("%q, %v", b, err)
	}
	if err := undoFiles(j); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != newer {
		t.Errorf("after undoing: %q, %v", b, err)
	}
}

// A file that somebody else has put in the place of ours is theirs.
func TestJournal_LeavesOthersFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	j := tempJournal(t)
	if err := writeHostFile(j, scopeTunnel, path, []byte(fileMark+"ours\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("theirs\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := undoFiles(j); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "theirs\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// A write in place that was cut short, at any byte, and what a crash leaves of a
// replacement.
func TestJournal_TornHostFile(t *testing.T) {
	old, ours := "nameserver 192.0.2.53\n# the rest of a longer file "+strings.Repeat("x", 200)+"\n", fileMark+"nameserver 10.55.0.1\n"+patience
	for cut := range len(ours) + 1 {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(path, []byte(old), 0o644); err != nil {
			t.Fatal(err)
		}
		j := tempJournal(t)
		before, err := readBefore(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := j.record(entry{Step: stepFile, Scope: scopeTunnel, Key: path, File: before}); err != nil {
			t.Fatal(err)
		}
		// Replaced, but not in full.
		if err := os.WriteFile(path, []byte(ours[:cut]), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(temporaryName(path), []byte(ours[:cut]), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := undoFiles(j); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != old {
			t.Errorf("cut at %d: %q, %v", cut, b, err)
		}
		if _, err := os.Stat(temporaryName(path)); err == nil {
			t.Errorf("cut at %d: the temporary file stays", cut)
		}
	}
}

func TestOriginalResolvers(t *testing.T) {
	root := newRoot(t)
	a := New(Config{Root: root, StateDir: t.TempDir()})
	if err := os.MkdirAll(a.paths.private(), 0o700); err != nil {
		t.Fatal(err)
	}
	check := func(when string, want ...string) {
		t.Helper()
		got, err := a.originalResolvers()
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, %v; want %v", when, got, err, want)
		}
	}
	check("before", routerIPv4)
	j, err := openJournal(a.paths.journal(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.pointResolver(t.Context(), j, testTunnel()); err != nil {
		t.Fatal(err)
	}
	check("with ours in place", routerIPv4)
	path := filepath.Join(root, resolvConf)
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(path, "nameserver 127.0.0.53\n")
	check("resolved's stub, nothing known behind it", "127.0.0.53")
	st := &state{URL: "https://x", Registration: "r_1", Family: ipv4, WireGuardKey: newKey(), JoinCredential: enrolment.NewJoinCredential(), Claim: &enrolment.ClaimResponse{
		Addresses: []string{"10.55.0.17/28"},
		WireGuard: enrolment.ClaimWireGuard{PublicKey: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=", Endpoint: "gw.example.net:51820"},
		DNS:       []string{tunnelDNS4.String()},
	}}
	if err := saveState(a.paths, st); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(root, resolvedUplinks), "nameserver 10.55.0.1\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n")
	check("resolved's stub, and the gateway's resolver behind it", "192.0.2.1", "2001:db8::1")
	write(path, "# nothing\n")
	check("an empty one", "127.0.0.1")
}

func FuzzNameservers(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := nameservers(b); len(n) > maxResolvers {
			t.Errorf("%d resolvers", len(n))
		}
	})
}

// bus is a D-Bus with a systemd-resolved on it, as far as we talk to them: real
// messages over a real socket.
type bus struct {
	addr string
	own  bool // org.freedesktop.resolve1 is there

	mu    sync.Mutex
	calls []string // guarded by mu
}

func newBus(t *testing.T, own bool) *bus {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus") // short: a socket's name is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("unix", filepath.Join(dir, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	b := &bus{addr: "unix:path=" + ln.Addr().String(), own: own}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go b.serve(c)
		}
	}()
	return b
}

func (b *bus) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch cmd := strings.Fields(strings.TrimLeft(line, "\x00")); {
		case len(cmd) > 0 && cmd[0] == "AUTH" && len(cmd) > 1:
			fmt.Fprint(c, "OK 0123456789abcdef0123456789abcdef\r\n")
		case len(cmd) > 0 && cmd[0] == "AUTH":
			fmt.Fprint(c, "REJECTED EXTERNAL\r\n")
		case len(cmd) > 0 && cmd[0] == "BEGIN":
			b.messages(c, r)
			return
		default:
			fmt.Fprint(c, "ERROR\r\n")
		}
	}
}

func (b *bus) messages(c io.Writer, r io.Reader) {
	for {
		m, err := dbus.DecodeMessage(r)
		if err != nil {
			return
		}
		member, _ := m.Headers[dbus.FieldMember].Value().(string)
		reply := &dbus.Message{Type: dbus.TypeMethodReply, Headers: map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(m.Serial())}}
		switch member {
		case "Hello":
			reply.Body = []any{":1.1"}
		case "NameHasOwner":
			reply.Body = []any{b.own}
		case "SetLinkDNSOverTLS": // an old resolved
			reply.Type = dbus.TypeError
			reply.Headers[dbus.FieldErrorName] = dbus.MakeVariant("org.freedesktop.DBus.Error.UnknownMethod")
		default:
			b.mu.Lock()
			b.calls = append(b.calls, fmt.Sprintf("%s%v %v", member, m.Body, m.Headers[dbus.FieldSignature].Value()))
			b.mu.Unlock()
		}
		if len(reply.Body) > 0 {
			reply.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(reply.Body...))
		}
		if err := reply.EncodeTo(c, binary.LittleEndian); err != nil {
			return
		}
	}
}

func (b *bus) seen() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	calls := b.calls
	b.calls = nil
	return calls
}

func TestResolver_Resolved(t *testing.T) {
	root := newRoot(t)
	path := filepath.Join(root, resolvConf)
	stub := "nameserver 127.0.0.53\noptions edns0 trust-ad\n"
	if err := os.WriteFile(path, []byte(stub), 0o644); err != nil {
		t.Fatal(err)
	}
	b := newBus(t, true)
	a := New(Config{Root: root, StateDir: t.TempDir(), SystemBus: b.addr})
	j := tempJournal(t)
	if err := a.pointResolver(t.Context(), j, testTunnel()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"SetLinkDNS[7 [[2 [10 55 0 1]]]] ia(iay)",
		"SetLinkDomains[7 [[. true]]] ia(sb)",
		"SetLinkDefaultRoute[7 true] ib",
		"SetLinkDNSSEC[7 no] is",
		"FlushCaches[] <nil>",
	}
	if got := b.seen(); !reflect.DeepEqual(got, want) {
		t.Errorf("calls %q; want %q", got, want)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != stub {
		t.Errorf("resolv.conf was touched: %q, %v", got, err)
	}

	// Undone while the link is there: it is reverted. Without it there is nothing
	// to revert.
	link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: LinkName}, Mode: netlink.TUNTAP_MODE_TUN}
	if err := a.revertResolved(t.Context(), LinkName); err != nil {
		t.Fatal(err)
	}
	if got := b.seen(); len(got) != 0 {
		t.Errorf("calls without a link: %q", got)
	}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netlink.LinkDel(link); err != nil {
			t.Error(err)
		}
	}()
	if err := a.revertResolved(t.Context(), LinkName); err != nil {
		t.Fatal(err)
	}
	if got := b.seen(); len(got) != 2 || !strings.HasPrefix(got[0], "RevertLink[") {
		t.Errorf("calls %q", got)
	}
}

// Where resolved is not what answers, resolv.conf is replaced.
func TestResolver_NotResolved(t *testing.T) {
	for name, c := range map[string]struct {
		conf string
		own  bool
	}{
		"it does not run":                 {"nameserver 127.0.0.53\n", false},
		"resolv.conf does not lead there": {"nameserver 192.0.2.1\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			root := newRoot(t)
			path := filepath.Join(root, resolvConf)
			if err := os.WriteFile(path, []byte(c.conf), 0o644); err != nil {
				t.Fatal(err)
			}
			b := newBus(t, c.own)
			a := New(Config{Root: root, StateDir: t.TempDir(), SystemBus: b.addr})
			if err := a.pointResolver(context.Background(), tempJournal(t), testTunnel()); err != nil {
				t.Fatal(err)
			}
			if got := b.seen(); len(got) != 0 {
				t.Errorf("calls %q", got)
			}
			if got, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(got), fileMark) {
				t.Errorf("resolv.conf: %q, %v", got, err)
			}
		})
	}
}

// Options of the host's own about how long to wait stay alone.
func TestResolver_Patience(t *testing.T) {
	for before, want := range map[string]bool{"": true, "options ndots:2\n": true, "options timeout:4\n": false, "options rotate attempts:1\n": false} {
		got := string(ourResolvConf([]netip.Addr{tunnelDNS4}, []byte(before)))
		if strings.Contains(got, patience) != want || !strings.HasSuffix(got, before) {
			t.Errorf("before %q: %q", before, got)
		}
	}
}
