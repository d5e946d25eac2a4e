package wireguard

import (
	"errors"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// The NICs of link's cards. What has no NIC of its own (SendUDP, SendEcho)
// leaves by the first.
const (
	nicVerified tcpip.NICID = 1
	nicPlain    tcpip.NICID = 2
)

// buildStack makes a netstack that takes every destination address for its own.
func (t *Tunnel) buildStack() error {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		HandleLocal:        false, // what agents send to each other goes to Config.TCP and UDP as well
	})
	t.stack = s

	reno := tcpip.CongestionControlOption("reno")
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &reno); err != nil {
		return fmt.Errorf("choosing reno: %w", netError(err))
	}
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, &wait); err != nil {
		return fmt.Errorf("setting the TIME-WAIT time: %w", netError(err))
	}
	for id, card := range map[tcpip.NICID]*card{nicVerified: t.link.verified, nicPlain: t.link.plain} {
		if err := s.CreateNIC(id, card); err != nil {
			return fmt.Errorf("creating NIC %d: %w", id, netError(err))
		}
		if err := s.SetPromiscuousMode(id, true); err != nil {
			return fmt.Errorf("making NIC %d promiscuous: %w", id, netError(err))
		}
		if err := s.SetSpoofing(id, true); err != nil {
			return fmt.Errorf("letting NIC %d spoof: %w", id, netError(err))
		}
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicVerified},
		{Destination: header.IPv6EmptySubnet, NIC: nicVerified},
		{Destination: header.IPv4EmptySubnet, NIC: nicPlain},
		{Destination: header.IPv6EmptySubnet, NIC: nicPlain},
	})

	t.forwarder = tcp.NewForwarder(s, 0, maxAttempts, t.accept)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, t.handleTCP)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, t.handleUDP)
	s.SetTransportProtocolHandler(icmp.ProtocolNumber4, t.handleICMP4)
	s.SetTransportProtocolHandler(icmp.ProtocolNumber6, t.handleICMP6)
	return nil
}

// abortConnections resets and frees netstack's connections with the agents
// whose tunnel addresses match, lingering and half-open ones included.
func (t *Tunnel) abortConnections(match func(netip.Addr) bool) {
	for _, ep := range t.stack.RegisteredEndpoints() {
		conn, ok := ep.(tcpip.Endpoint)
		if !ok {
			continue
		}
		// Not GetRemoteAddress, which fails in half-open states.
		if info, ok := conn.Info().(*stack.TransportEndpointInfo); ok && match(toAddr(info.ID.RemoteAddress)) {
			ep.Abort()
		}
	}
}

func toAddr(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}

func toAddress(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// netError makes an error of netstack's kind.
func netError(err tcpip.Error) error {
	if err == nil {
		return nil
	}
	return errors.New(err.String())
}
