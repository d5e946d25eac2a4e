package wireguard

import (
	"context"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// StackPackets returns how many packets have entered the network stack.
func StackPackets(t *Tunnel) uint64 { return t.stack.Stats().NICs.Rx.Packets.Value() }

// DialTCP opens a connection from a tunnel address through t, as the benchmarks
// do that let a second Tunnel be the agent host: the far end is then as fast as
// the one that is measured.
func DialTCP(ctx context.Context, t *Tunnel, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	network := header.IPv6ProtocolNumber
	if to.Addr().Is4() {
		network = header.IPv4ProtocolNumber
	}
	return gonet.DialTCPWithBind(ctx, t.stack,
		tcpip.FullAddress{NIC: nicVerified, Addr: toAddress(from)},
		tcpip.FullAddress{NIC: nicVerified, Addr: toAddress(to.Addr()), Port: to.Port()}, network)
}

// KeepAlive returns c's keep-alive settings; idle is zero when it is off.
func KeepAlive(c *Conn) (idle, interval time.Duration, count int) {
	if !c.ep.SocketOptions().GetKeepAlive() {
		return 0, 0, 0
	}
	var i tcpip.KeepaliveIdleOption
	var v tcpip.KeepaliveIntervalOption
	_ = c.ep.GetSockOpt(&i)
	_ = c.ep.GetSockOpt(&v)
	count, _ = c.ep.GetSockOptInt(tcpip.KeepaliveCountOption)
	return time.Duration(i), time.Duration(v), count
}
