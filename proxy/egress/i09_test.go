package egress_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/proxy/egress"
)

// The attack: reach the gateway's loopback, its neighbours, its cloud's metadata
// or other agents through the tunnel, by writing the address in another way.

var tunnel = []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48"), netip.MustParsePrefix("198.51.100.0/24")}

var refused4 = map[string][]string{
	"loopback":            {"127.0.0.1", "127.0.0.53", "127.255.255.255"},
	"unspecified address": {"0.0.0.0", "0.0.0.1", "0.255.255.255"},
	"private range":       {"10.0.0.0", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255"},
	"carrier-grade NAT":   {"100.64.0.1", "100.127.255.255"},
	"link-local":          {"169.254.0.1", "169.254.170.2", "169.254.255.255"},
	"cloud metadata":      {"169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192"},
	"own service":         {"100.100.100.100"},
	"benchmarking":        {"198.18.0.1", "198.19.255.255"},
	"reserved":            {"192.0.0.1", "192.0.0.170", "240.0.0.1", "255.255.255.254"},
	"multicast":           {"224.0.0.1", "239.255.255.250"},
	"broadcast":           {"255.255.255.255"},
	"tunnel's own":        {"10.55.0.1", "10.55.240.9", "198.51.100.200"},
	"gateway's own":       {"203.0.113.80"},
}

var refused6 = map[string][]string{
	"loopback":            {"::1"},
	"unspecified address": {"::"},
	"private range":       {"fc00::1", "fd12:3456:789a::1", "fdff:ffff::1"},
	"link-local":          {"fe80::1", "fe80::1%lo", "fe80::1%1", "febf::1"},
	"site-local":          {"fec0::1", "feff::1"},
	"multicast":           {"ff02::1", "ff0e::1"},
	"cloud metadata":      {"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fe80::a9fe:a9fe"},
	"own service":         {"fd7a:115c:a1e0::53"},
	"benchmarking":        {"2001:2::1"},
	"reserved":            {"100::1", "100:0:0:1::1", "5f00::1", "4000::1", "64:ff9b:1::1", "64:ff9b:1::7f00:1", "::8.8.8.8", "::ffff:0:8.8.8.8"},
	"tunnel's own":        {"fd55:c1a5::1", "fd55:c1a5:0:ffff::9"},
	"gateway's own":       {"2001:db8:99::80"},
}

var reachable = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "126.255.255.255", "128.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
	"192.0.1.0", "192.0.2.77", "203.0.113.1", "198.17.255.255", "198.20.0.0", "223.255.255.255", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
	"2606:4700::1111", "2001:db8::1", "2001:4860:4860::8888", "2002:808:808::1", "3fff::1",
}

func rules() egress.Rules {
	return egress.Rules{Tunnel: tunnel, Own: []netip.Addr{netip.MustParseAddr("203.0.113.80"), netip.MustParseAddr("2001:db8:99::80")}}
}

// spell writes an IPv4 address in every way that some kernel or router
// understands.
func spell(v4 string) map[string]string {
	b := netip.MustParseAddr(v4).As4()
	hex := fmt.Sprintf("%02x%02x:%02x%02x", b[0], b[1], b[2], b[3])
	inverted := fmt.Sprintf("%02x%02x:%02x%02x", ^b[0], ^b[1], ^b[2], ^b[3])
	return map[string]string{
		"itself":            v4,
		"mapped":            "::ffff:" + hex,
		"compatible":        "::" + hex,
		"translated":        "::ffff:0:" + hex,
		"NAT64":             "64:ff9b::" + hex,
		"NAT64 local":       "64:ff9b:1::" + hex,
		"NAT64 local /48":   fmt.Sprintf("64:ff9b:1:%02x%02x:%02x:%02x00::", b[0], b[1], b[2], b[3]),
		"6to4":              "2002:" + hex + "::1",
		"Teredo":            "2001:0:4136:e378:8000:63bf:" + inverted,
		"Teredo's server":   "2001:0:" + hex + ":8000:63bf:3fff:fdd2",
		"mapped with zone":  "::ffff:" + hex + "%lo",
		"dotted in mapped":  "::ffff:" + v4,
		"dotted in NAT64":   "64:ff9b::" + v4,
		"upper-case mapped": strings.ToUpper("::ffff:" + hex),
	}
}

// cases yields every refused address in every spelling.
func cases(yield func(name string, a netip.Addr)) {
	for kind, list := range refused4 {
		for _, v4 := range list {
			for spelling, s := range spell(v4) {
				yield(kind+"/"+v4+"/"+spelling, netip.MustParseAddr(s))
			}
		}
	}
	for kind, list := range refused6 {
		for _, v6 := range list {
			yield(kind+"/"+v6+"/itself", netip.MustParseAddr(v6))
		}
	}
}

func wantRefused(t *testing.T, what string, err error) {
	t.Helper()
	var r *egress.Refused
	if !errors.As(err, &r) {
		t.Errorf("%s: %v; want *egress.Refused", what, err)
		return
	}
	if r.Reason == "" {
		t.Errorf("%s: refused without a reason", what)
	}
}

func TestI09_EveryRangeInEverySpellingThroughEveryDial(t *testing.T) {
	w, s := startWorld(t), startService(t)
	r := rules()
	r.Upstream = []netip.AddrPort{w.addr}
	d := egress.New(r)
	defer d.Close()
	ctx := t.Context()

	n := 0
	cases(func(name string, a netip.Addr) {
		n++
		ap := netip.AddrPortFrom(a, s.port)
		wantRefused(t, name+": Check", d.Check(ap))
		wantRefused(t, name+": CheckAddr", d.CheckAddr(a))
		dial := func(what string, conn net.Conn, err error) {
			t.Helper()
			if err == nil {
				conn.Close()
			}
			wantRefused(t, name+": "+what, err)
		}
		conn, err := d.DialAddr(ctx, ap)
		dial("DialAddr", conn, err)
		udp, err := d.DialUDP(ctx, ap)
		dial("DialUDP", udp, err)
		for _, network := range []string{"tcp", "udp"} {
			conn, err = d.Dial(ctx, network, ap)
			dial("Dial "+network, conn, err)
		}
		conn, err = d.DialHost(ctx, a.String(), s.port)
		dial("DialHost of the address", conn, err)
		if a.Zone() != "" {
			return // no name resolves to a zone
		}
		host := fmt.Sprintf("n%d.example.com", n)
		w.name(host, 60, a.String())
		conn, err = d.DialHost(ctx, host, s.port)
		dial("DialHost", conn, err)
		conn, err = d.DialEndpoint(ctx, netip.AddrPort{}, host, s.port)
		dial("DialEndpoint", conn, err)
	})
	if n := s.seen(t); n != 0 {
		t.Errorf("%d connections reached the gateway", n)
	}
}

func TestEgress_PublicAddressesAreReachable(t *testing.T) {
	d := egress.New(rules())
	defer d.Close()
	for _, s := range reachable {
		a := netip.MustParseAddr(s)
		if err := d.Check(netip.AddrPortFrom(a, 443)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if err := d.CheckAddr(a); err != nil {
			t.Errorf("%s without a port: %v", s, err)
		}
	}
}

// The attack: a name that is public when it is looked at and loopback when it is
// dialled; or that is both at once.
func TestI09_RebindingReachesNothing(t *testing.T) {
	w, s := startWorld(t), startService(t)
	r := rules()
	r.Upstream = []netip.AddrPort{w.addr}
	d := egress.New(r)
	defer d.Close()

	// TTL 0: every dial asks anew. The first answer leads nowhere (no route to
	// it here, or nobody), the following ones to us.
	w.name("rebind.example.com", 0, "192.0.2.254")
	w.name("rebind.example.com", 0, "127.0.0.1")
	first, cancel := context.WithCancel(t.Context())
	cancel() // its answer is spent all the same
	if _, err := d.DialHost(first, "rebind.example.com", s.port); err == nil {
		t.Error("a canceled dial connected")
	}
	for range 5 {
		_, err := d.DialHost(t.Context(), "rebind.example.com", s.port)
		var refused *egress.Refused
		if err == nil || w.queries("rebind.example.com", "A") > 1 && !errors.As(err, &refused) {
			t.Errorf("%v after %d queries", err, w.queries("rebind.example.com", "A"))
		}
	}
	if n := w.queries("rebind.example.com", "A"); n < 2 {
		t.Errorf("asked %d times: the second answer was never given", n)
	}

	w.name("both.example.com", 60, "127.0.0.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1")
	for _, dial := range []func() (net.Conn, error){
		func() (net.Conn, error) { return d.DialHost(t.Context(), "both.example.com", s.port) },
		func() (net.Conn, error) {
			return d.DialEndpoint(t.Context(), netip.AddrPort{}, "both.example.com", s.port)
		},
		func() (net.Conn, error) { return d.DialHost(t.Context(), "localhost", s.port) },
		func() (net.Conn, error) { return d.DialHost(t.Context(), "a.LOCALHOST.", s.port) },
		func() (net.Conn, error) {
			return d.DialEndpoint(t.Context(), netip.AddrPort{}, "localhost", s.port)
		},
	} {
		_, err := dial()
		wantRefused(t, "a name for loopback", err)
	}
	if n := s.seen(t); n != 0 {
		t.Errorf("%d connections reached the gateway", n)
	}
}

func TestI09_AllowLiftsPrivateRangesOnly(t *testing.T) {
	r := rules()
	r.Allow = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("::ffff:0:0/96"),
		netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("169.254.169.254/32"), netip.MustParsePrefix("10.55.0.0/16"),
	}
	d := egress.New(r)
	defer d.Close()
	lifted := map[string]bool{"private range": true, "carrier-grade NAT": true, "benchmarking": true}
	cases(func(name string, a netip.Addr) {
		kind, rest, _ := strings.Cut(name, "/")
		err := d.Check(netip.AddrPortFrom(a, 80))
		_, spelling, _ := strings.Cut(rest, "/")
		whole := spelling == "compatible" || spelling == "translated" || strings.HasPrefix(spelling, "NAT64 local")
		if lifted[kind] && !whole {
			if err != nil {
				t.Errorf("%s: %v, although allowed", name, err)
			}
			return
		}
		wantRefused(t, name, err)
	})
}

func TestI09_AllowHoldsForItsPrefixOnly(t *testing.T) {
	d := egress.New(egress.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("10.20.3.4/16"), netip.MustParsePrefix("::ffff:172.16.5.0/120"), netip.MustParsePrefix("fd01::/64"), {}}})
	defer d.Close()
	for s, want := range map[string]bool{
		"10.20.0.7": true, "10.20.255.255": true, "10.21.0.0": false, "10.19.255.255": false, "::ffff:10.20.0.7": true,
		"172.16.5.9": true, "172.16.6.9": false, "fd01::7": true, "fd01:0:0:1::7": false, "192.168.1.1": false, "64:ff9b::10.20.0.7": true, "64:ff9b::10.21.0.7": false,
	} {
		if err := d.Check(netip.AddrPortFrom(netip.MustParseAddr(s), 443)); (err == nil) != want {
			t.Errorf("%s: %v; reachable should be %t", s, err, want)
		}
	}
}

func TestI09_ExactExemptionIsExact(t *testing.T) {
	w, s := startWorld(t), startService(t)
	loopback := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port)
	w.name("named.example.com", 60, "127.0.0.1")
	d := egress.New(egress.Rules{AllowExact: []netip.AddrPort{loopback, netip.MustParseAddrPort("[::ffff:127.0.0.9]:99"), netip.MustParseAddrPort("127.0.0.1:0")}, Upstream: []netip.AddrPort{w.addr}})
	defer d.Close()

	mustConnect := func(what string, conn net.Conn, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		conn.Close()
	}
	conn, err := d.DialAddr(t.Context(), loopback)
	mustConnect("exempt", conn, err)
	conn, err = d.DialAddr(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), s.port))
	mustConnect("exempt, mapped: the same packet", conn, err)
	conn, err = d.DialHost(t.Context(), "named.example.com", s.port)
	mustConnect("a name for the exempt address", conn, err)
	udp, err := d.DialUDP(t.Context(), loopback)
	mustConnect("UDP", udp, err)
	if err := d.Check(netip.MustParseAddrPort("127.0.0.9:99")); err != nil {
		t.Errorf("exempt in mapped form: %v", err)
	}

	for _, a := range []string{
		fmt.Sprintf("127.0.0.1:%d", s.port-1), fmt.Sprintf("127.0.0.2:%d", s.port), fmt.Sprintf("[::1]:%d", s.port), "127.0.0.1:0",
		fmt.Sprintf("[64:ff9b::127.0.0.1]:%d", s.port), fmt.Sprintf("[::127.0.0.1]:%d", s.port), fmt.Sprintf("[2002:7f00:1::]:%d", s.port), fmt.Sprintf("0.0.0.0:%d", s.port),
	} {
		wantRefused(t, a, d.Check(netip.MustParseAddrPort(a)))
	}
	wantRefused(t, "no port", d.CheckAddr(loopback.Addr()))
}

func TestI09_EndpointLiteralIsExemptForThatDialOnly(t *testing.T) {
	w, s := startWorld(t), startService(t)
	w.name("trap.example.com", 60, "127.0.0.1")
	d := egress.New(egress.Rules{Upstream: []netip.AddrPort{w.addr}, DenyUnknown: true})
	defer d.Close()
	loopback := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port)

	for what, dial := range map[string]func() (net.Conn, error){
		"address": func() (net.Conn, error) {
			return d.DialEndpoint(t.Context(), loopback, "api.example.com", 443)
		},
		"address, mapped": func() (net.Conn, error) {
			return d.DialEndpoint(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), s.port), "api.example.com", 443)
		},
		"an IP address as host": func() (net.Conn, error) {
			return d.DialEndpoint(t.Context(), netip.AddrPort{}, "127.0.0.1", s.port)
		},
	} {
		conn, err := dial()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		conn.Close()
	}
	if n := w.queries("api.example.com", "A"); n != 0 {
		t.Errorf("a host with an address was resolved %d times", n)
	}

	wantRefused(t, "afterwards, the agent", d.Check(loopback))
	for what, dial := range map[string]func() (net.Conn, error){
		"the agent": func() (net.Conn, error) { return d.DialAddr(t.Context(), loopback) },
		"a name": func() (net.Conn, error) {
			return d.DialEndpoint(t.Context(), netip.AddrPort{}, "trap.example.com", s.port)
		},
		"almost an address": func() (net.Conn, error) { return d.DialEndpoint(t.Context(), netip.AddrPort{}, "localhost", s.port) },
		"port 0": func() (net.Conn, error) {
			return d.DialEndpoint(t.Context(), netip.AddrPortFrom(loopback.Addr(), 0), "x.example", 443)
		},
		"port 0 of a host": func() (net.Conn, error) { return d.DialEndpoint(t.Context(), netip.AddrPort{}, "127.0.0.1", 0) },
	} {
		_, err := dial()
		wantRefused(t, what, err)
	}
	// Spellings that are no addresses are names, and none resolves.
	for _, host := range []string{"127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "[127.0.0.1]", "127.0.0.1%lo", "", "a..b", strings.Repeat("a.", 200)} {
		if conn, err := d.DialEndpoint(t.Context(), netip.AddrPort{}, host, s.port); err == nil {
			conn.Close()
			t.Errorf("%q connected", host)
		}
	}
}

func TestI09_UnknownDenyRefusesWhatNoEndpointNames(t *testing.T) {
	w, s := startWorld(t), startService(t)
	w.name("public.example.com", 60, "127.0.0.1")
	loopback := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port)
	d := egress.New(egress.Rules{DenyUnknown: true, AllowExact: []netip.AddrPort{loopback}, Upstream: []netip.AddrPort{w.addr}})
	defer d.Close()
	wantRefused(t, "Check", d.Check(netip.MustParseAddrPort("8.8.8.8:53")))
	wantRefused(t, "CheckAddr", d.CheckAddr(netip.MustParseAddr("8.8.8.8")))
	wantRefused(t, "exempt from the ranges", d.Check(loopback))
	_, err := d.DialHost(t.Context(), "public.example.com", s.port)
	wantRefused(t, "DialHost", err)
	if n := w.queries("public.example.com", "A"); n != 0 {
		t.Errorf("a denied name was looked up %d times", n)
	}
	conn, err := d.DialEndpoint(t.Context(), netip.AddrPort{}, "public.example.com", s.port)
	if err != nil {
		t.Fatalf("an endpoint is not unknown: %v", err)
	}
	conn.Close()
}

func TestI09_RulesAreReplacedAtOnce(t *testing.T) {
	d := egress.New(egress.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	a := netip.MustParseAddrPort("10.1.2.3:443")
	if err := d.Check(a); err != nil {
		t.Fatal(err)
	}
	d.SetRules(egress.Rules{})
	wantRefused(t, "after SetRules", d.Check(a))
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d.SetRules(egress.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	for what, d := range map[string]*egress.Dialer{"closed": d, "zero": {}} {
		wantRefused(t, what, d.Check(netip.MustParseAddrPort("8.8.8.8:53")))
		_, err := d.DialHost(t.Context(), "example.com", 80)
		wantRefused(t, what, err)
		_, err = d.DialEndpoint(t.Context(), a, "", 0)
		wantRefused(t, what, err)
		if err := d.Close(); err != nil {
			t.Errorf("closing a %s one: %v", what, err)
		}
	}
}
