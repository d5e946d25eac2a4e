package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/clawpatrol/clawpatrol/agent"
)

// fakeDevice is a host's interface.
type fakeDevice struct {
	*fakeLink
	events chan tun.Event
}

func (d *fakeDevice) File() *os.File           { return nil }
func (d *fakeDevice) MTU() (int, error)        { return 1420, nil }
func (d *fakeDevice) Name() (string, error)    { return "host", nil }
func (d *fakeDevice) Events() <-chan tun.Event { return d.events }
func (d *fakeDevice) BatchSize() int           { return 1 }

// sharedHost is a host whose tunnel is shared: WireGuard's side of it is dev.
type sharedHost struct {
	t    *testing.T
	dev  *mux
	own  *fakeDevice
	path string
}

func newSharedHost(t *testing.T, ready func(context.Context) error) *sharedHost {
	t.Helper()
	own := &fakeDevice{newFakeLink(), make(chan tun.Event)}
	dev, serve, err := ServeHost(own, agent.Shared{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.55.0.17/28"), netip.MustParsePrefix("fd55:0:0:1::1/64")},
		DNS:       addrs("10.55.0.1"),
		MTU:       1420,
		Ready:     ready,
	})
	if err != nil {
		t.Fatal(err)
	}
	h := &sharedHost{t, dev.(*mux), own, filepath.Join(t.TempDir(), "s")}
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: h.path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		serve(ctx, ln)
		close(done)
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("it does not end")
		}
		dev.Close()
	})
	return h
}

func always(context.Context) error { return nil }

func (h *sharedHost) dial() *net.UnixConn {
	h.t.Helper()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: h.path, Net: "unixpacket"})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return c
}

// run is a run, as far as the daemon can tell.
func (h *sharedHost) run() (*relayLink, *lease, error) {
	h.t.Helper()
	c := h.dial()
	l, err := requestLease(h.t.Context(), c)
	if err != nil {
		return nil, nil, err
	}
	if err := send(c, message{Link: linkRelay}, -1); err != nil {
		return nil, nil, err
	}
	if m, _, err := receive(c); err != nil || !m.Linked {
		return nil, nil, fmt.Errorf("%+v, %w", m, errors.Join(err, m.err()))
	}
	p, err := newRelayLink(c, true)
	return p, l, err
}

func (h *sharedHost) mustRun() (*relayLink, *lease) {
	h.t.Helper()
	p, l, err := h.run()
	if err != nil {
		h.t.Fatal(err)
	}
	return p, l
}

func write(t *testing.T, to *relayLink, packets ...[]byte) {
	t.Helper()
	if _, err := to.Write(packets, 0); err != nil {
		t.Fatal(err)
	}
}

func (h *sharedHost) toRuns(packets ...[]byte) {
	h.t.Helper()
	var bufs [][]byte
	for _, p := range packets {
		bufs = append(bufs, append(make([]byte, 16), p...))
	}
	if _, err := h.dev.Write(bufs, 16); err != nil {
		h.t.Fatal(err)
	}
}

// The attacker is a user who may run, and speaks to the daemon himself: whatever
// source he writes, only his own leaves.
func TestServeHost_ARunSendsFromItsOwnAddressesOnly(t *testing.T) {
	h := newSharedHost(t, always)
	one, mine := h.mustRun()
	_, others := h.mustRun()
	if !mine.Relay || len(mine.Addresses) != 2 || slices.Contains(mine.Addresses, others.Addresses[0]) {
		t.Fatalf("leases %+v and %+v", mine, others)
	}
	own4, own6 := mine.Addresses[0].String(), mine.Addresses[1].String()
	for _, taken := range []string{"10.55.0.17", "fd55:0:0:1::1"} { // the host's
		if own4 == taken || own6 == taken {
			t.Fatalf("a run has the host's address %s", taken)
		}
	}
	write(t, one,
		packet(others.Addresses[0].String(), "192.0.2.1"), packet(others.Addresses[1].String(), "2001:db8::1"),
		packet("10.55.0.17", "192.0.2.1"), packet("fd55:0:0:1::1", "2001:db8::1"), packet("10.55.0.16", "192.0.2.1"),
		packet("127.0.0.1", "10.55.0.1"), packet("::ffff:"+own4, "2001:db8::1"), []byte{0x45}, make([]byte, 1420),
		packet(own4, "192.0.2.1"), packet(own6, "2001:db8::1"))
	for _, want := range [][]byte{packet(own4, "192.0.2.1"), packet(own6, "2001:db8::1")} {
		if got := readOne(t, h.dev); !slices.Equal(got, want) {
			t.Fatalf("%x left, want %x", got, want)
		}
	}
	// Any program of the host's may bind an address that is not the host's
	// (IP_FREEBIND): that is no way to pass for a run.
	h.own.out <- packet(own4, "192.0.2.1")
	h.own.out <- packet(own6, "2001:db8::1")
	go func() { h.own.out <- packet("10.55.0.17", "192.0.2.1") }()
	if got := readOne(t, h.dev); !slices.Equal(got, packet("10.55.0.17", "192.0.2.1")) {
		t.Fatalf("%x left from the host", got)
	}
}

func TestServeHost_PacketsGoToTheRunOrTheHost(t *testing.T) {
	h := newSharedHost(t, always)
	one, mine := h.mustRun()
	own := mine.Addresses[0].String()
	write(t, one, packet(own, "192.0.2.1")) // it is attached once this has left
	readOne(t, h.dev)
	h.toRuns(packet("192.0.2.1", "10.55.0.17"), packet("192.0.2.1", own), packet("2001:db8::1", "fd55:0:0:1::1"), packet("192.0.2.1", "10.55.0.30"))
	bufs, sizes := room(4, 1500)
	n, err := one.Read(bufs, sizes, 0)
	if n != 1 || err != nil || !slices.Equal(bufs[0][:sizes[0]], packet("192.0.2.1", own)) {
		t.Fatalf("the run got %d packets: %v", n, err)
	}
	if got := h.own.got(); got != 3 {
		t.Fatalf("the host got %d packets, want 3", got)
	}
	// A run that does not read keeps nobody else from it.
	flood := make([][]byte, 128)
	for i := range flood {
		flood[i] = packet("192.0.2.1", own)
	}
	for range 200 {
		h.toRuns(flood...)
	}
	h.toRuns(packet("192.0.2.1", "10.55.0.17"))
	if got := h.own.got(); got != 4 {
		t.Fatalf("the host got %d packets, want 4", got)
	}
}

// One user does not get all there is, and nobody an address twice.
func TestServeHost_BoundsAUsersRuns(t *testing.T) {
	h := newSharedHost(t, always)
	seen := make(map[netip.Addr]bool)
	var first *relayLink
	for range maxUserRuns {
		p, l := h.mustRun()
		if first == nil {
			first = p
		}
		if seen[l.Addresses[0]] {
			t.Errorf("%s twice", l.Addresses[0])
		}
		seen[l.Addresses[0]] = true
	}
	if _, _, err := h.run(); err == nil || agent.HintOf(err) == "" || !strings.Contains(err.Error(), "as many runs") {
		t.Fatalf("one more: %v", err)
	}
	first.Close()
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, _, err := h.run()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after one has ended: %v", err)
		}
	}
	// The rest is for others.
	g := &guests{here: map[uint32]int{1: maxUserRuns}}
	for range maxUserConns - maxUserRuns {
		if leave, err := g.enter(&unix.Ucred{Uid: 1}); err == nil || leave == nil {
			t.Error("user 1 has more than one may, or is not told")
		}
	}
	if leave, _ := g.enter(&unix.Ucred{Uid: 1}); leave != nil {
		t.Error("user 1 is heard without end")
	}
	leave, err := g.enter(&unix.Ucred{Uid: 2})
	if err != nil {
		t.Fatal(err)
	}
	leave()
	if len(g.here) != 1 {
		t.Errorf("users who are gone are remembered: %v", g.here)
	}
	if free := maxRuns - 1 - maxUserRuns; free < 3 {
		t.Errorf("one user leaves %d places", free)
	}
}

// Whatever is said on the socket, the place is free again, and others go on.
func TestServeHost_GarbageCostsItsSenderOnly(t *testing.T) {
	h := newSharedHost(t, always)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	tell := func(c *net.UnixConn, b string) { _, _ = c.Write([]byte(b)) }
	for range 3 {
		for _, attack := range []func(c *net.UnixConn){
			func(*net.UnixConn) {},
			func(c *net.UnixConn) { tell(c, "garbage") },
			func(c *net.UnixConn) { tell(c, `{"plan":{"covers":[{"path":"/"}]}}`) },
			func(c *net.UnixConn) { tell(c, `{"run":true}`+strings.Repeat(" ", 100<<10)) },
			func(c *net.UnixConn) { tell(c, `{"link":"relay"}`) },
			func(c *net.UnixConn) { tell(c, `{"run":true}`); tell(c, "\x00\x01x") },
			func(c *net.UnixConn) { tell(c, `{"run":true}`); tell(c, `{"link":"tun"}`) },
			func(c *net.UnixConn) {
				tell(c, `{"run":true}`)
				_ = send(c, message{Link: linkTUN}, int(null.Fd()))
			},
			func(c *net.UnixConn) { tell(c, `{"run":true}`); tell(c, `{"link":"relay"}`); tell(c, "\x00") },
			func(c *net.UnixConn) { tell(c, `{"run":true}`); tell(c, `{"link":"relay"}`); tell(c, "\xff\xff\x45") },
		} {
			c := h.dial()
			attack(c)
			c.Close()
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for got := 0; got < maxUserRuns; {
		if _, _, err := h.run(); err == nil {
			got++
		} else if time.Now().After(deadline) {
			t.Fatalf("after the attacks %d runs began: %v", got, err)
		}
	}
}

// A registration that is blocked, or a gateway that is silent, is said, and gives
// nobody a place.
func TestServeHost_SaysWhyThereIsNoTunnel(t *testing.T) {
	h := newSharedHost(t, func(context.Context) error { return agent.WithHint(errors.New("the registration is blocked"), "ask") })
	for range 2 * maxRuns {
		if _, _, err := h.run(); err == nil || err.Error() != "the registration is blocked" || agent.HintOf(err) != "ask" {
			t.Fatal(err)
		}
	}
}

// Where the host's interface is gone WireGuard hears of it, and so does every run.
func TestServeHost_EndsWithTheHostsInterface(t *testing.T) {
	h := newSharedHost(t, always)
	one, _ := h.mustRun()
	h.own.Close()
	bufs, sizes := room(1, 1500)
	if _, err := h.dev.Read(bufs, sizes, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("WireGuard's side: %v", err)
	}
	if _, err := one.Read(bufs, sizes, 0); err == nil {
		t.Error("the run's connection is still there")
	}
}

func TestAddressPool_KeepsTheHostsOwn(t *testing.T) {
	own := []netip.Prefix{netip.MustParsePrefix("10.55.0.17/28"), netip.MustParsePrefix("fd55:0:0:1::1/64")}
	p, err := newAddressPool(own)
	if err != nil {
		t.Fatal(err)
	}
	p.keep(own)
	for range maxRuns - 1 {
		got, _, err := p.take()
		if err != nil {
			t.Fatal(err)
		}
		for i, a := range got {
			if a == own[i].Addr() || !p.reserved(a) {
				t.Errorf("%s was given, reserved %t", a, p.reserved(a))
			}
		}
	}
	if _, _, err := p.take(); !errors.Is(err, errFull) {
		t.Errorf("one more: %v", err)
	}
	for a, want := range map[string]bool{"10.55.0.17": false, "fd55:0:0:1::1": false, "10.55.0.16": true, "10.55.0.31": true, "10.55.0.32": false, "192.0.2.1": false, "fd55:0:0:1::f": true, "fd55:0:0:1::1f": false, "fd55:0:0:2::2": false} {
		if got := p.reserved(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s is for runs: %t", a, got)
		}
	}
}
