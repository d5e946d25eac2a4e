package agent

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestVirtualRanges(t *testing.T) {
	for resolver, want := range map[string][]string{
		// The size that operators mean is among them, and no address is in two.
		"10.55.0.1":    {"10.55.192.0/18", "10.55.96.0/19", "10.55.48.0/20", "10.55.24.0/21", "10.55.12.0/22"},
		"172.16.0.1":   {"172.28.0.0/14", "172.22.0.0/15", "172.19.0.0/16", "172.17.128.0/17", "172.16.192.0/18", "172.16.96.0/19", "172.16.48.0/20", "172.16.24.0/21", "172.16.12.0/22"},
		"10.55.0.2":    nil, // not of this plan
		"10.55.1.1":    nil,
		"fd55:c1a5::1": {"fd55:c1a5:0:c000::/50"},
	} {
		got := virtualRanges(netip.MustParseAddr(resolver))
		var text []string
		for i, p := range got {
			text = append(text, p.String())
			for _, o := range got[i+1:] {
				if p.Overlaps(o) {
					t.Errorf("%s: %s overlaps %s", resolver, p, o)
				}
			}
		}
		if strings.Contains(resolver, ":") {
			if !slices.Contains(text, want[0]) {
				t.Errorf("%s: %v lacks %s", resolver, text, want[0])
			}
		} else if !slices.Equal(text, want) {
			t.Errorf("%s: %v", resolver, text)
		}
	}
}

// A route of the LAN's over addresses of the gateway's is told; one beside them is
// not, once it is known where they are.
func TestBypasses(t *testing.T) {
	newWorld(t)
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := tunnelConfig{dns: []netip.Addr{tunnelDNS4, tunnelDNS6}}
	host := &virtualHost{"api.example.com", []netip.Addr{netip.MustParseAddr("10.55.192.1"), netip.MustParseAddr("fd55:c1a5:0:c000::1")}}
	for _, c := range []struct {
		route       string
		blackhole   bool
		unknown     string // "": none is told. Before a host with virtual addresses is known
		whenItKnows string
	}{
		{"10.55.0.0/16", false, "takes", "takes"},
		{"10.55.0.1/32", false, "takes", "takes"},
		{"10.0.0.0/8", false, "takes", "takes"},
		{"10.55.192.0/18", false, "may take", "takes"},
		{"10.55.192.1/32", false, "may take", "takes"},
		{"10.55.200.0/24", false, "may take", "takes"}, // of the same range
		{"10.55.24.0/24", false, "may take", ""},
		{"10.55.1.0/24", false, "", ""}, // another registration's, never a destination
		{"10.56.0.0/16", false, "", ""},
		{"0.0.0.0/1", false, "", ""}, // no LAN: see shortestLocal
		{"fd55:c1a5:0:c000::/64", false, "may take", "takes"},
		{"fd55:c1a5::/48", true, "takes", "takes"},
		{"fd00:1::/48", false, "", ""},
	} {
		p := netip.MustParsePrefix(c.route)
		r := &netlink.Route{Dst: ipNet(p)}
		if c.blackhole {
			r.Type = unix.RTN_BLACKHOLE
		} else {
			r.LinkIndex, r.Gw = eth0.Attrs().Index, net.ParseIP(routerIPv4)
			if p.Addr().Is6() {
				r.Gw = net.ParseIP(routerIPv6)
			}
		}
		if err := netlink.RouteAdd(r); err != nil {
			t.Fatalf("%s: %v", c.route, err)
		}
		for want, known := range map[string]*virtualHost{c.unknown: nil, c.whenItKnows: host} {
			if c.unknown == c.whenItKnows {
				known = host
			}
			got, err := cfg.bypasses(func() *virtualHost { return known })
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case want == "" && len(got) != 0, want != "" && len(got) != 1:
				t.Errorf("%s, %v known: %v", c.route, known, got)
			case want != "" && (!strings.Contains(got[0].String(), " "+want+" ") || got[0].Route != c.route || (got[0].Interface == "eth0") == c.blackhole):
				t.Errorf("%s, %v known: %v; want %q", c.route, known, got, want)
			}
		}
		if err := netlink.RouteDel(r); err != nil {
			t.Fatal(err)
		}
	}
}
