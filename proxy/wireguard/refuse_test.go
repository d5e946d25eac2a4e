package wireguard_test

import (
	"net/netip"
	"testing"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

func TestRefuseUDPAnswersWhatWasTaken(t *testing.T) {
	gw, a := openRaw(t, wireguard.Config{})
	a.fence(t)
	for _, ends := range [][2]netip.AddrPort{
		{netip.AddrPortFrom(a.addr4, 5000), netip.MustParseAddrPort("192.0.2.1:9")},
		{netip.AddrPortFrom(a.addr6, 5000), netip.MustParseAddrPort("[2001:db8::1]:9")},
	} {
		gw.RefuseUDP(ends[1], ends[0], wireguard.PortUnreachable)
		wantError(t, a.next(t), udpPacket(ends[0], ends[1], nil), 3, 3, 1, 4)
	}
	// Not to anybody else, and nothing that makes no sense.
	gw.RefuseUDP(netip.MustParseAddrPort("192.0.2.1:9"), netip.MustParseAddrPort("10.55.77.1:5000"), wireguard.PortUnreachable)
	gw.RefuseUDP(netip.MustParseAddrPort("[2001:db8::1]:9"), netip.AddrPortFrom(a.addr4, 5000), wireguard.PortUnreachable)
	gw.RefuseUDP(netip.AddrPort{}, netip.AddrPort{}, wireguard.PortUnreachable)
	gw.RefuseUDP(netip.MustParseAddrPort("192.0.2.1:9"), netip.AddrPortFrom(a.addr4, 5000), wireguard.Taken)
	if got := a.fence(t); len(got) != 0 {
		t.Errorf("received %+v", got)
	}
}
