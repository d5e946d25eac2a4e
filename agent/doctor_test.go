package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// examine runs some of doctor's checks and returns what they report.
func examine(d *doctor, checks func()) []Check {
	var out []Check
	d.report = func(c Check) { out = append(out, c) }
	checks()
	return out
}

func TestDoctor_Clock(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 500e6, time.UTC)
	d := &doctor{a: New(Config{})}
	for skew, want := range map[time.Duration]Result{
		0: OK, 5 * time.Second: OK, -5 * time.Second: OK,
		30 * time.Second: Warn, -30 * time.Second: Warn,
		2 * time.Minute: Fail, -2 * time.Minute: Fail, 365 * 24 * time.Hour: Fail,
	} {
		date := now.Add(-skew).Truncate(time.Second)
		got := examine(d, func() { d.clock(date, now, now.Add(20*time.Millisecond)) })
		if len(got) != 1 || got[0].Result != want || (want != OK && (got[0].Hint == "" || !strings.Contains(got[0].Detail, map[bool]string{true: "ahead", false: "behind"}[skew > 0]))) {
			t.Errorf("%s: %+v; want %s", skew, got, want)
		}
	}
	// A slow answer is not a wrong clock.
	if got := examine(d, func() { d.clock(now.Add(20*time.Second).Truncate(time.Second), now, now.Add(time.Minute)) }); got[0].Result != OK {
		t.Errorf("a slow answer: %+v", got)
	}
	if got := examine(d, func() { d.clock(time.Time{}, now, now) }); got[0].Result != Warn {
		t.Errorf("no date: %+v", got)
	}
}

func TestDoctor_Resolver(t *testing.T) {
	root := newRoot(t)
	d := &doctor{a: New(Config{Root: root}), cfg: tunnelConfig{dns: []netip.Addr{tunnelDNS4, tunnelDNS6}}}
	for content, want := range map[string]Result{
		fileMark + "nameserver 10.55.0.1\nnameserver fd55:c1a5::1\n": OK,
		testResolvConf: Fail,
		fileMark + "nameserver 10.55.0.1\nnameserver 192.0.2.1\n": Fail,
		"": Fail,
	} {
		if err := os.WriteFile(filepath.Join(root, resolvConf), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := examine(d, func() { d.resolver(t.Context()) }); len(got) != 1 || got[0].Result != want {
			t.Errorf("%q: %+v; want %s", content, got, want)
		}
	}
}

// What apply would repair is what doctor names.
func TestDoctor_RoutesNamesWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	r := join(t, newTestGateway(t, &w.ns, gatewayIPv4, gatewayIPv6), newRoot(t))
	st, err := loadState(r.paths)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := newTunnelConfig(st)
	if err != nil {
		t.Fatal(err)
	}
	d := &doctor{a: r.Agent, root: true, st: st, cfg: cfg, held: true, known: func() *virtualHost { return nil }}
	if got := examine(d, d.routes); len(got) != 1 || got[0].Result != OK {
		t.Fatalf("%+v", got)
	}
	// Of others' rules, one for marked packets may be fine, one for all is not.
	for mark, want := range map[uint32]Result{7: Warn, 0: Fail} {
		other := netlink.NewRule()
		other.Priority, other.Table, other.Family, other.Mark = 100, 254, netlink.FAMILY_V4, mark
		if err := netlink.RuleAdd(other); err != nil {
			t.Fatal(err)
		}
		got := examine(d, d.routes)
		if err := netlink.RuleDel(other); err != nil {
			t.Fatal(err)
		}
		if got[0].Result != want || !strings.Contains(got[0].Detail, "rule 100") {
			t.Errorf("another's rule for the mark %d: %+v; want %s", mark, got, want)
		}
	}
	// A route that DHCP option 121 could bring.
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	stray := &netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.55.0.0/16")), LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP(routerIPv4)}
	if err := netlink.RouteAdd(stray); err != nil {
		t.Fatal(err)
	}
	if got := examine(d, d.routes); got[0].Result != Fail || !strings.Contains(got[0].Detail, tunnelDNS4.String()) {
		t.Errorf("a route of the LAN's: %+v", got)
	}
	if err := netlink.RouteDel(stray); err != nil {
		t.Fatal(err)
	}
	if got := examine(d, d.ipv6); got[0].Result != OK {
		t.Errorf("ipv6: %+v", got)
	}
}

// What matters is whether the pinned address lasts, not what else the host has.
func TestDoctor_IPv6LooksAtThePinnedAddress(t *testing.T) {
	newWorld(t)
	giveTemporaryAddress(t)
	d := &doctor{root: true, st: &state{Claim: &enrolment.ClaimResponse{Pin: enrolment.Pin{IPv6: hostIPv6}}}}
	d.cfg.addresses = []netip.Prefix{netip.MustParsePrefix("fd55:c1a5:0:1::1/64")}
	dev, err := tun.CreateTUN(LinkName, minMTU)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if got := examine(d, d.ipv6); len(got) != 1 || got[0].Result != OK {
		t.Errorf("a temporary address that is not pinned: %+v", got)
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(eth0, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if a.Flags&unix.IFA_F_TEMPORARY != 0 {
			d.st.Claim.Pin.IPv6 = a.IP.String()
		}
	}
	if got := examine(d, d.ipv6); len(got) != 1 || got[0].Result != Warn || !strings.Contains(got[0].Detail, "temporary") || got[0].Hint == "" {
		t.Errorf("a temporary address that is: %+v", got)
	}
	d.st.Claim.Pin.IPv6 = "2001:db8:ffff::1" // of NAT's
	if got := examine(d, d.ipv6); len(got) != 1 || got[0].Result != OK {
		t.Errorf("an address that is not this host's: %+v", got)
	}
}

// A hint's command works as it stands.
func TestDoctor_HintsNameTheStateDirectory(t *testing.T) {
	other := New(Config{StateDir: "/srv/other"})
	for _, p := range probes {
		hint := p.hint
		if hint == nil {
			hint = hintEnv
		}
		if !strings.Contains(hint(other), "/srv/other") || strings.Contains(hint(New(Config{})), "--state") {
			t.Errorf("%s: %q, by default %q", p.name, hint(other), hint(New(Config{})))
		}
	}
}

func TestDoctor_NotEnrolled(t *testing.T) {
	var got []Check
	a := New(Config{StateDir: filepath.Join(t.TempDir(), "none")})
	if err := a.Doctor(t.Context(), nil, func(c Check) { got = append(got, c) }); err != nil || len(got) != 1 || got[0].Result != Fail || !strings.Contains(got[0].Hint, "join") {
		t.Errorf("%+v, %v", got, err)
	}
	for _, host := range []string{"", "-h", "1.2.3.4", "a b", "$(id)", "a/b"} {
		if err := a.Doctor(t.Context(), []string{host}, func(Check) {}); err == nil {
			t.Errorf("the host %q is accepted", host)
		}
	}
}

// What git, Java and requests say is what decides.
func TestDoctor_Judges(t *testing.T) {
	failed := errors.New("exit status 128")
	for _, c := range []struct {
		judge func(error, []byte) error
		err   error
		out   string
		good  bool
		is    error
	}{
		{judgeGit, nil, "", true, nil},
		{judgeGit, failed, "fatal: repository 'https://gw/doctor.git/' not found", true, nil},
		{judgeGit, failed, "fatal: unable to access 'https://gw/': server certificate verification failed. CAfile: none CRLfile: none", false, nil},
		{judgeGit, failed, "fatal: unable to access 'https://gw/': SSL certificate problem: unable to get local issuer certificate", false, nil},
		{judgeGit, failed, "fatal: unable to access 'https://gw/': Failed to connect to gw port 1: Connection refused", false, errNotTried},
		{judgeJava, failed, "javax.net.ssl.SSLHandshakeException: PKIX path building failed", false, nil},
		{judgeJava, failed, "Error: Could not find or load main class Probe.java", false, errNotTried},
		{judgeRequests, failed, "no requests", false, errAbsent},
		{judgeRequests, failed, "certificate verify failed\x1b[2J", false, nil},
	} {
		err := c.judge(c.err, []byte(c.out))
		if (err == nil) != c.good || (c.is != nil && !errors.Is(err, c.is)) || (c.is == nil && errors.Is(err, errNotTried)) || (err != nil && strings.Contains(err.Error(), "\x1b")) {
			t.Errorf("%q: %v", c.out, err)
		}
	}
}

func TestRelay_PassesBothWaysAndEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go serveWord(ln, "far")
	r, err := startRelay(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(r.addr()); got != "far" {
		t.Errorf("through the relay: %q", got)
	}
	// One that stays open does not keep it from ending.
	c, err := net.Dial("tcp", r.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.close()
	if got := ask(r.addr()); got == "far" {
		t.Error("it serves after its end")
	}
}
