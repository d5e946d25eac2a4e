package wireguard_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

// The attack: open connections, have them closed by the gateway, and never
// acknowledge that. Each keeps what was not delivered in the gateway's memory.
func TestI16_ClosedConnectionsCountUntilTheAgentHasTakenAll(t *testing.T) {
	closed := make(chan struct{}, 8192)
	gw, a := openRaw(t, wireguard.Config{TCP: always(func(c net.Conn) {
		if c != nil {
			_, _ = c.Write([]byte("undelivered"))
			_ = c.Close()
			closed <- struct{}{}
		}
	})})
	dst := netip.MustParseAddrPort("192.0.2.1:80")
	const limit = 4096
	for i := range limit + 10 {
		port := uint16(1000 + i)
		a.send(tcpPacket(netip.AddrPortFrom(a.addr4, port), dst, header.TCPFlagSyn, 7, 0))
		var got header.TCP
		for {
			got = header.TCP(a.next(t).payload)
			if got.DestinationPort() == port {
				break
			}
		}
		if i >= limit {
			if got.Flags()&header.TCPFlagRst == 0 {
				t.Fatalf("connection %d was accepted", i+1)
			}
			continue
		}
		if got.Flags() != header.TCPFlagSyn|header.TCPFlagAck {
			t.Fatalf("connection %d: flags %v", i+1, got.Flags())
		}
		a.send(tcpPacket(netip.AddrPortFrom(a.addr4, port), dst, header.TCPFlagAck, 8, binary.BigEndian.Uint32(got[4:])+1))
		within(t, "the gateway's close", closed)
	}
	if n := gw.Counters().OverLimit; n != 10 {
		t.Errorf("%d over the limit, want 10", n)
	}
	// What was taken in full makes room again.
	for i := range 20 {
		src := netip.AddrPortFrom(a.addr4, uint16(1000+i))
		a.send(tcpPacket(src, dst, header.TCPFlagRst, 8, 0))
	}
	eventually(t, "room for a new connection", func() bool {
		a.send(tcpPacket(netip.AddrPortFrom(a.addr4, 9999), dst, header.TCPFlagSyn, 7, 0))
		for _, d := range a.fence(t) {
			if tcp := header.TCP(d.payload); d.proto == protoTCP && tcp.DestinationPort() == 9999 && tcp.Flags()&header.TCPFlagSyn != 0 {
				return true
			}
		}
		return false
	})
}
