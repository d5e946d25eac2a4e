package egress_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/proxy/egress"
)

var allowAll = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

func TestI09_AddressesOfThisHostsInterfaces(t *testing.T) {
	d := egress.New(egress.Rules{Allow: allowAll})
	defer d.Close()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	if len(addrs) == 0 {
		t.Fatal("this host has no address")
	}
	for _, addr := range addrs {
		a, _ := netip.AddrFromSlice(addr.(*net.IPNet).IP)
		wantRefused(t, a.String(), d.Check(netip.AddrPortFrom(a, 443)))
		if a.Unmap().Is4() {
			for spelling, s := range spell(a.Unmap().String()) {
				wantRefused(t, a.String()+" as "+spelling, d.Check(netip.AddrPortFrom(netip.MustParseAddr(s), 443)))
			}
		}
	}
}

// inNamespace runs the calling test again in a process of its own, in an empty
// network namespace; it returns true there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const marker = "EGRESS_TEST_NAMESPACE"
	if os.Getenv(marker) == t.Name() {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), marker+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a network namespace: %v\n%s", err, out)
	}
	return false
}

// addHole makes an interface that swallows what is sent through it: a cable to
// nobody, without neighbour discovery.
func addHole(t *testing.T, cidrs ...string) netlink.Link {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	must(err)
	must(netlink.LinkSetUp(lo))
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "egress0"}, PeerName: "egress1"}))
	for _, name := range []string{"egress1", "egress0"} {
		end, err := netlink.LinkByName(name)
		must(err)
		must(netlink.LinkSetARPOff(end))
		must(netlink.LinkSetUp(end))
	}
	link, err := netlink.LinkByName("egress0")
	must(err)
	for _, cidr := range cidrs {
		addAddr(t, link, cidr)
	}
	return link
}

func addAddr(t *testing.T, link netlink.Link, cidr string) {
	t.Helper()
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD // usable at once
	if err := netlink.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
}

// The attack: the gateway gets an address while it runs; the agent knows it
// first.
func TestI09_NewAddressOfTheGatewayIsRefusedAtOnce(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	link := addHole(t, "203.0.113.1/24", "2001:db8:7::1/64")
	s := startService(t)
	d := egress.New(egress.Rules{Allow: allowAll})
	defer d.Close()

	for _, added := range []string{"203.0.113.9", "2001:db8:7::9", "10.9.9.9"} {
		a := netip.AddrPortFrom(netip.MustParseAddr(added), s.port)
		if err := d.Check(a); err != nil {
			t.Errorf("%s before it is ours: %v", added, err)
		}
		bits := "/24"
		if a.Addr().Is6() {
			bits = "/64"
		}
		addAddr(t, link, added+bits)
		// The kernel makes an IPv6 address reachable a little after it said
		// that it is there: until then nobody answers.
		for deadline := time.Now().Add(5 * time.Second); ; {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			conn, err := d.DialAddr(ctx, a)
			cancel()
			if err == nil {
				conn.Close()
				t.Fatalf("%s was dialled", added)
			}
			var refused *egress.Refused
			if errors.As(err, &refused) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", added, err)
			}
		}
		wantRefused(t, added, d.Check(a))
	}
	// What was accepted within that moment was closed before anybody had it.
	early := s.seen(t)

	// A whole range made local ("AnyIP") is ours as well.
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	_, anyIP, _ := net.ParseCIDR("198.51.100.0/24")
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: anyIP, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}); err != nil {
		t.Fatal(err)
	}
	_, err = d.DialAddr(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("198.51.100.77"), s.port))
	wantRefused(t, "a local route", err)

	// The network's broadcast address reaches every neighbour.
	_, err = d.DialUDP(t.Context(), netip.MustParseAddrPort("203.0.113.255:9"))
	wantRefused(t, "directed broadcast", err)

	if n := s.seen(t) - early; n != 0 {
		t.Errorf("%d connections reached the gateway", n)
	}
}

func TestEgress_SilentAddressDoesNotHoldUpTheNext(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	addHole(t, "203.0.113.1/24", "2001:db8:7::1/64")
	w, s := startWorld(t), startService(t)
	w.name("half.example.com", 60, "2001:db8:7::99", "127.0.0.1") // the first swallows everything
	d := egress.New(egress.Rules{
		Upstream:   []netip.AddrPort{w.addr},
		AllowExact: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port)},
	})
	defer d.Close()
	conn, err := d.DialHost(t.Context(), "half.example.com", s.port)
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.RemoteAddr().(*net.TCPAddr).IP.String(); got != "127.0.0.1" {
		t.Errorf("connected to %s", got)
	}
	conn.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = d.DialAddr(ctx, netip.MustParseAddrPort("203.0.113.99:443"))
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() || err.Error() != "connecting to 203.0.113.99:443: timed out" {
		t.Errorf("a silent address: %v", err)
	}
	if _, err := d.DialAddr(t.Context(), netip.MustParseAddrPort("8.8.8.8:443")); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("without a route: %v", err)
	}
}

func TestEgress_SocketsKeepAliveWithoutDelay(t *testing.T) {
	s := startService(t)
	d := egress.New(egress.Rules{})
	defer d.Close()
	conn, err := d.DialEndpoint(t.Context(), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port), "x.example", 443)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]int, 3)
	raw.Control(func(fd uintptr) {
		got[0], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY)
		got[1], _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		got[2], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
	})
	if want := []int{1, 1, 30}; !slices.Equal(got, want) {
		t.Errorf("TCP_NODELAY, SO_KEEPALIVE, TCP_KEEPIDLE = %v, want %v", got, want)
	}
}
