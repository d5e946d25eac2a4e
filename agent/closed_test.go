package agent

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What a joined host must not do, whatever has become of the tunnel: reach
// anything but its LAN directly.
func checkClosed(t *testing.T, when string) {
	t.Helper()
	for _, a := range []netip.Addr{site4, site6} {
		if got := ask(port(a, 80)); got == "direct" {
			t.Errorf("%s: %s was reached around the tunnel", when, a)
		}
	}
	for _, a := range []string{routerIPv4, routerIPv6} {
		if got := askUDP(net.JoinHostPort(a, "53")); got == "lan" {
			t.Errorf("%s: a DNS query to %s went around the tunnel", when, a)
		}
		if got := ask(net.JoinHostPort(a, "80")); got != "lan" {
			t.Errorf("%s: %s answers %q; want the LAN direct", when, a, got)
		}
	}
}

func serveWorld(t *testing.T, w *world) {
	t.Helper()
	for _, a := range []netip.Addr{site4, site6} {
		w.serve(t, port(a, 80), "direct")
	}
	for _, a := range []string{routerIPv4, routerIPv6} {
		w.serve(t, net.JoinHostPort(a, "80"), "lan")
		w.serveUDP(t, net.JoinHostPort(a, "53"), "lan")
	}
}

// Attack: the agent kills the process that holds the tunnel, hoping that its
// traffic then goes around the gateway.
func TestRoutes_KilledTunnelFailsClosed(t *testing.T) {
	w := newWorld(t)
	serveWorld(t, w)
	root := newRoot(t)
	g := newTestGateway(t, &w.ns, gatewayIPv4, gatewayIPv6)
	g.setApprove(true)
	before := snapshot(t, root)
	state := filepath.Join(t.TempDir(), "state")
	said, _ := runUntilKilled(t, g, root, state, "join", -1)
	if !strings.Contains(said, "\nready\n") {
		t.Fatalf("join did not get ready:\n%s", said)
	}
	checkClosed(t, "killed")

	// The next up carries on, and no packet gets past it as it starts.
	a, out := newAgent(t, g, root)
	a.paths.dir = state
	up := start(t, a, out, a.Up)
	eventually(t, "traffic after up", func() bool {
		got4, got6 := ask(port(site4, 80)), ask(port(site6, 80))
		if got4 == "direct" || got6 == "direct" {
			t.Fatal("traffic went around the tunnel while up repaired")
		}
		return got4 == "tunnel" && got6 == "tunnel"
	})
	if err := a.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := up.wait(t); err != nil {
		t.Error(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before join:\n%s\nafter leave:\n%s", before, after)
	}
}

// Attack: the interface is deleted under the process.
func TestRoutes_DeletedInterfaceFailsClosed(t *testing.T) {
	w := newWorld(t)
	serveWorld(t, w)
	root := newRoot(t)
	g := newTestGateway(t, &w.ns, gatewayIPv4, gatewayIPv6)
	before := snapshot(t, root)
	r := join(t, g, root)
	link, err := netlink.LinkByName(LinkName)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(t); !errors.Is(err, errTunnelGone) {
		t.Errorf("join ended with %v; want %v", err, errTunnelGone)
	}
	checkClosed(t, "deleted")
	if err := r.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before join:\n%s\nafter leave:\n%s", before, after)
	}
}

// A network manager that removes rules it did not make opens nothing for longer
// than the kernel takes to tell.
func TestRoutes_RemovedRulesComeBack(t *testing.T) {
	w := newWorld(t)
	serveWorld(t, w)
	root := newRoot(t)
	g := newTestGateway(t, &w.ns, gatewayIPv4, gatewayIPv6)
	join(t, g, root)
	rt, err := newRouting(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rt.close()
	want := snapshot(t, root)
	for _, f := range families {
		rules, err := rt.rules(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range rules {
			if err := netlink.RuleDel(&rule); err != nil && !errors.Is(err, unix.ENOENT) {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "the same rules again", func() bool { return snapshot(t, root) == want })
	checkClosed(t, "repaired")
}

// A host without IPv6 joins, and gets none through the back door.
func TestRoutes_IPv6SwitchedOff(t *testing.T) {
	w := newWorld(t)
	serveWorld(t, w)
	sysctl(t, "net.ipv6.conf.all.disable_ipv6", "1")
	off := true
	t.Cleanup(func() {
		if off {
			sysctl(t, "net.ipv6.conf.all.disable_ipv6", "0")
		}
	})
	root := newRoot(t)
	g := newTestGateway(t, &w.ns, gatewayIPv4)
	before := snapshot(t, root)
	r := join(t, g, root)
	if got := ask(port(site4, 80)); got != "tunnel" {
		t.Errorf("%s answers %q", site4, got)
	}
	// Switched on behind our back.
	sysctl(t, "net.ipv6.conf.all.disable_ipv6", "0")
	off = false
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(hostIPv6 + "/64")
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD
	if err := netlink.AddrAdd(eth0, addr); err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("::/0")), Gw: net.ParseIP(routerIPv6)}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	for range 20 { // before and after the agent has noticed
		if got := ask(port(site6, 80)); got == "direct" {
			t.Fatal("IPv6 leaves around the tunnel")
		}
	}
	if err := netlink.AddrDel(eth0, addr); err != nil {
		t.Fatal(err)
	}
	sysctl(t, "net.ipv6.conf.all.disable_ipv6", "1")
	off = true
	if err := r.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before join:\n%s\nafter leave:\n%s", before, after)
	}
}

// Routes that are a default in all but name do not pass for the LAN.
func TestRoutes_DefaultInDisguise(t *testing.T) {
	w := newWorld(t)
	serveWorld(t, w)
	for dst, gw := range map[string]string{"128.0.0.0/1": routerIPv4, "0.0.0.0/1": routerIPv4, "2000::/3": routerIPv6} {
		route := &netlink.Route{Dst: ipNet(netip.MustParsePrefix(dst)), Gw: net.ParseIP(gw)}
		if err := netlink.RouteAdd(route); err != nil {
			t.Fatal(err)
		}
	}
	root := newRoot(t)
	g := newTestGateway(t, &w.ns, gatewayIPv4, gatewayIPv6)
	join(t, g, root)
	checkClosed(t, "with a VPN's routes")
	for _, a := range []netip.Addr{site4, site6} {
		if got := ask(port(a, 80)); got != "tunnel" {
			t.Errorf("%s answers %q; want it through the tunnel", a, got)
		}
	}
}
