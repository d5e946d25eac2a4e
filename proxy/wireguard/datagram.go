package wireguard

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// UDP and echo requests are handled packet by packet. Netstack's own endpoints
// would cost one per flow, and thousands of DNS queries a minute are thousands
// of flows; all it does for them here is put fragments together.

// maxUDPPayload is what fits in an IPv4 packet; in an IPv6 packet 20 more would.
const maxUDPPayload = math.MaxUint16 - header.IPv4MinimumSize - header.UDPMinimumSize

// errNoPeer is returned for packets to addresses that are no agent's.
var errNoPeer = errors.New("no peer has this address")

// handleUDP takes every UDP packet; false would make netstack answer it.
func (t *Tunnel) handleUDP(id stack.TransportEndpointID, packet *stack.PacketBuffer) bool {
	udp := header.UDP(packet.TransportHeader().Slice())
	payload := packet.Data().AsRange().ToSlice()
	length := int(udp.Length())
	if len(udp) < header.UDPMinimumSize || length < header.UDPMinimumSize || length > len(udp)+len(payload) {
		t.counters.malformed.Add(1)
		return true
	}
	payload = payload[:length-header.UDPMinimumSize]
	// Zero means none, which only IPv4 allows (RFC 768, RFC 8200 section 8.1).
	if udp.Checksum() != 0 || packet.NetworkProtocolNumber == header.IPv6ProtocolNumber {
		sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber, id.RemoteAddress, id.LocalAddress, uint16(length))
		if checksum.Checksum(payload, checksum.Checksum(udp, sum)) != 0xffff {
			t.counters.badChecksum.Add(1)
			return true
		}
	}
	src := netip.AddrPortFrom(toAddr(id.RemoteAddress), id.RemotePort)
	dst := netip.AddrPortFrom(toAddr(id.LocalAddress), id.LocalPort)
	if disposition := t.offerUDP(src, dst, payload); disposition != Taken {
		t.sendError(disposition, packet)
	}
	return true
}

func (t *Tunnel) offerUDP(src, dst netip.AddrPort, payload []byte) (d Disposition) {
	if t.cfg.UDP == nil {
		return Prohibited
	}
	defer t.contain("UDP")
	return t.cfg.UDP(src, dst, payload)
}

// SendUDP sends one datagram to the agent: from is the remote the agent talked
// to, to the agent's tunnel address. payload is copied. Datagrams larger than
// the MTU are fragmented.
func (t *Tunnel) SendUDP(from, to netip.AddrPort, payload []byte) error {
	if len(payload) > maxUDPPayload {
		return fmt.Errorf("sending a datagram to %v: %d bytes, more than %d", to, len(payload), maxUDPPayload)
	}
	var udp [header.UDPMinimumSize]byte
	header.UDP(udp[:]).Encode(&header.UDPFields{
		SrcPort: from.Port(),
		DstPort: to.Port(),
		Length:  uint16(len(udp) + len(payload)),
	})
	if err := t.sendTransport(header.UDPProtocolNumber, from.Addr(), to.Addr(), udp[:], payload); err != nil {
		return fmt.Errorf("sending a datagram to %v: %w", to, err)
	}
	return nil
}

// sendTransport sends one packet with a transport header of 8 bytes, UDP's or
// an echo's, in fragments if need be. The checksum is filled in.
func (t *Tunnel) sendTransport(transport tcpip.TransportProtocolNumber, from, to netip.Addr, head, payload []byte) error {
	from, to = from.Unmap(), to.Unmap()
	if !from.IsValid() || from.Is4() != to.Is4() {
		return errors.New("addresses are of different families")
	}
	if t.ctx.Err() != nil {
		return errors.New("tunnel is closed")
	}
	if t.peers.Load().find(to) == nil {
		return errNoPeer
	}
	network := header.IPv6ProtocolNumber
	if to.Is4() {
		network = header.IPv4ProtocolNumber
	}
	route, terr := t.stack.FindRoute(nicVerified, toAddress(from), toAddress(to), network, false)
	if terr != nil {
		return netError(terr)
	}
	defer route.Release()

	packet := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: int(route.MaxHeaderLength()) + len(head),
		Payload:            buffer.MakeWithData(payload),
	})
	defer packet.DecRef()
	packet.TransportProtocolNumber = transport
	b := packet.TransportHeader().Push(len(head))
	copy(b, head)
	sum := uint16(0)
	if transport != header.ICMPv4ProtocolNumber { // the only one without a pseudo-header
		sum = route.PseudoHeaderChecksum(transport, uint16(len(head)+len(payload)))
	}
	sum = ^checksum.Checksum(payload, checksum.Checksum(b, sum))
	switch {
	case transport != header.UDPProtocolNumber:
		checksum.Put(b[icmpChecksumOffset:], sum)
	case sum == 0:
		header.UDP(b).SetChecksum(0xffff) // RFC 768: zero would mean none
	default:
		header.UDP(b).SetChecksum(sum)
	}
	terr = route.WritePacket(stack.NetworkHeaderParams{Protocol: transport, TTL: route.DefaultTTL()}, packet)
	return netError(terr)
}
