package agent

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

func TestSilence(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	var q silence
	for i, c := range []struct {
		at      int // seconds
		in, out uint64
		want    bool
	}{
		{0, 100, 100, false},
		{5, 200, 300, false},  // an answer
		{30, 200, 332, false}, // a keepalive: it wants none
		{55, 200, 364, false},
		{60, 200, 512, true},  // an initiation
		{65, 200, 660, false}, // told once
		{74, 200, 808, false},
		{75, 200, 808, true},
		{80, 300, 1000, false}, // an answer
		{94, 300, 2000, false},
		{95, 300, 2000, true},
		{100, 300, 100, false}, // the device began anew
		{116, 300, 400, true},
	} {
		if got := q.observe(begin.Add(time.Duration(c.at)*time.Second), tunnelStats{bytesIn: c.in, bytesOut: c.out}); got != c.want {
			t.Errorf("look %d, at %d s: %t", i, c.at, got)
		}
	}
}

// The gateway moves to another address, and does not say so: its name does.
func TestTunnel_FollowsTheGatewaysName(t *testing.T) {
	w := newWorld(t)
	const elsewhere = "203.0.113.77"
	there, err := netlink.NewHandleAt(w.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	lo, err := there.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	parse := func(s string) *netlink.Addr {
		a, err := netlink.ParseAddr(s + "/32")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if err := there.AddrAdd(lo, parse(elsewhere)); err != nil {
		t.Fatal(err)
	}
	// What the gateway sends comes from its address, not from its router's.
	lan, err := there.LinkByName("lan")
	if err != nil {
		t.Fatal(err)
	}
	if err := there.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix(hostIPv4 + "/32")), LinkIndex: lan.Attrs().Index, Src: net.ParseIP(gatewayIPv4)}); err != nil {
		t.Fatal(err)
	}
	g := newTestGateway(t, &w.ns, gatewayIPv4, elsewhere)
	g.setApprove(true)
	var where atomic.Pointer[netip.Addr]
	first, second := netip.MustParseAddr(gatewayIPv4), netip.MustParseAddr(elsewhere)
	where.Store(&first)
	a, out := newAgent(t, g, newRoot(t))
	a.cfg.Lookup = func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{*where.Load()}, nil }
	start(t, a, out, func(ctx context.Context) error { return a.Join(ctx, request(g)) })
	out.waitFor(t, "ready")
	if got := ask(port(site4, 80)); got != "tunnel" {
		t.Fatalf("%s answers %q", site4, got)
	}
	// The old address is no longer the gateway's, and what it sends by itself does
	// not get through, as to a host behind NAT.
	if err := g.dev.Down(); err != nil {
		t.Fatal(err)
	}
	if err := there.AddrDel(lo, parse(gatewayIPv4)); err != nil {
		t.Fatal(err)
	}
	key, err := base64.StdEncoding.DecodeString(g.regs["r_1"].wg)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.dev.IpcSet("public_key=" + hex.EncodeToString(key) + "\nupdate_only=true\nendpoint=203.0.113.250:9\n"); err != nil {
		t.Fatal(err)
	}
	if err := g.dev.Up(); err != nil {
		t.Fatal(err)
	}
	where.Store(&second)
	began := time.Now()
	for ask(port(site4, 80)) != "tunnel" {
		if time.Since(began) > time.Minute {
			t.Fatal("no traffic within a minute")
		}
	}
	t.Logf("traffic is back in %v", time.Since(began).Round(100*time.Millisecond))
	out.waitFor(t, "tunnel up again")
}

// A machine that wakes from a long sleep has a session that the gateway has
// forgotten, and does not wait for WireGuard to find out.
func TestTunnel_LongSleep(t *testing.T) {
	w := newWorld(t)
	g := newTestGateway(t, &w.ns, gatewayIPv4)
	g.setApprove(true)
	var slept atomic.Int64
	a, out := newAgent(t, g, newRoot(t))
	a.cfg.Now = func() time.Time { return time.Now().Add(time.Duration(slept.Load())) }
	start(t, a, out, func(ctx context.Context) error { return a.Join(ctx, request(g)) })
	out.waitFor(t, "ready")
	for _, f := range []func() error{g.dev.Down, g.dev.Up} { // it forgets its sessions
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	slept.Store(int64(time.Hour))
	out.waitFor(t, "tunnel up again")
	slept.Store(0)
	if got := ask(port(site4, 80)); got != "tunnel" {
		t.Errorf("%s answers %q", site4, got)
	}
}
