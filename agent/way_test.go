package agent

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// giveTemporaryAddress turns privacy extensions on, and waits until programs take
// a temporary address of eth0's for what goes to the gateway.
func giveTemporaryAddress(t *testing.T) {
	t.Helper()
	sysctl(t, "net.ipv6.conf.eth0.use_tempaddr", "2")
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	public, err := netlink.ParseAddr(hostIPv6 + "/64")
	if err != nil {
		t.Fatal(err)
	}
	public.Flags = unix.IFA_F_NODAD | unix.IFA_F_MANAGETEMPADDR
	public.ValidLft, public.PreferedLft = 86400, 43200
	if err := netlink.AddrReplace(eth0, public); err != nil {
		t.Fatal(err)
	}
	eventually(t, "temporary address that programs take", func() bool {
		c, err := net.Dial("udp6", netip.AddrPortFrom(netip.MustParseAddr(gatewayIPv6), 9).String())
		if err != nil {
			return false
		}
		defer c.Close()
		kind, err := passing(c.LocalAddr().(*net.UDPAddr).AddrPort().Addr())
		return err == nil && kind == "temporary"
	})
}

// With privacy extensions programs take a temporary address; what goes to the
// gateway does not.
func TestI08_SocketsPreferAddressesThatLast(t *testing.T) {
	newWorld(t)
	giveTemporaryAddress(t)
	gateway := netip.MustParseAddr(gatewayIPv6)
	for _, b := range []bypass{byMark, unasked} {
		if w, err := b.wayTo(gateway); err != nil || w.Source.String() != hostIPv6 || w.Via.String() != routerIPv6 {
			t.Errorf("by mark %t: %v, %v", b, w, err)
		}
		if err := b.lasting(gateway); err != nil {
			t.Errorf("by mark %t: %v", b, err)
		}
	}
}

// An address that will be gone tomorrow is not pinned: the other family is, and
// where there is none, join says what to do.
func TestI08_JoinPinsNoAddressThatPasses(t *testing.T) {
	w := newWorld(t)
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	deprecated, err := netlink.ParseAddr(hostIPv6 + "/64")
	if err != nil {
		t.Fatal(err)
	}
	deprecated.Flags, deprecated.ValidLft, deprecated.PreferedLft = unix.IFA_F_NODAD, 86400, 0
	if err := netlink.AddrReplace(eth0, deprecated); err != nil {
		t.Fatal(err)
	}
	only6 := newTestGateway(t, &w.ns, gatewayIPv6)
	a, out := newAgent(t, only6, newRoot(t))
	if err := a.Join(t.Context(), request(only6)); err == nil || !strings.Contains(err.Error(), "deprecated address") || HintOf(err) == "" {
		t.Errorf("join over IPv6 alone: %v\n%s", err, out)
	}
	if only6.starts != 0 {
		t.Errorf("it opened %d registrations", only6.starts)
	}
	both := newTestGateway(t, &w.ns, gatewayIPv4, gatewayIPv6)
	r := join(t, both, newRoot(t))
	if !strings.Contains(r.out.String(), "IPv6 is not pinned: this host would reach the gateway from "+hostIPv6+", a deprecated address") {
		t.Errorf("it did not say that IPv6 is not pinned:\n%s", r.out)
	}
	if pin := both.regs["r_1"].pin; pin.IPv4 != hostIPv4 || pin.IPv6 != "" {
		t.Errorf("the pin is %v", pin)
	}
}
