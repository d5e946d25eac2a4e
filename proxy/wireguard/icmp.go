package wireguard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	icmpHeaderLen      = 8 // of echoes and errors, both families
	icmpChecksumOffset = 2

	// An ICMP error quotes as much of its packet as fits in what every host must
	// be able to receive: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c).
	maxError4 = 576
	maxError6 = header.IPv6MinimumMTU

	errorHopLimit = 64
)

// handleICMP4 takes what netstack would otherwise answer itself. Netstack has
// verified the checksum of all but echo requests.
func (t *Tunnel) handleICMP4(id stack.TransportEndpointID, packet *stack.PacketBuffer) bool {
	h := packet.TransportHeader().Slice()
	payload := packet.Data().AsRange().ToSlice()
	if len(h) < icmpHeaderLen || h[0] != icmp4Echo {
		return true
	}
	if checksum.Checksum(payload, checksum.Checksum(h, 0)) != 0xffff {
		t.counters.badChecksum.Add(1)
		return true
	}
	t.handleEcho(id, h, payload, packet)
	return true
}

// handleICMP6 is handleICMP4 for IPv6. Netstack has verified the checksum.
func (t *Tunnel) handleICMP6(id stack.TransportEndpointID, packet *stack.PacketBuffer) bool {
	h := packet.TransportHeader().Slice()
	if len(h) < icmpHeaderLen || h[0] != icmp6Echo {
		return true
	}
	t.handleEcho(id, h, packet.Data().AsRange().ToSlice(), packet)
	return true
}

func (t *Tunnel) handleEcho(id stack.TransportEndpointID, h, payload []byte, packet *stack.PacketBuffer) {
	disposition := t.offerEcho(Echo{
		Src:     toAddr(id.RemoteAddress),
		Dst:     toAddr(id.LocalAddress),
		ID:      binary.BigEndian.Uint16(h[4:]),
		Seq:     binary.BigEndian.Uint16(h[6:]),
		Payload: payload,
	})
	if disposition != Taken {
		t.sendError(disposition, packet)
	}
}

func (t *Tunnel) offerEcho(e Echo) (d Disposition) {
	if t.cfg.Echo == nil {
		return Prohibited
	}
	defer t.contain("Echo")
	return t.cfg.Echo(e)
}

// SendEcho answers an echo request; e is the request with the reply's payload,
// which is copied.
func (t *Tunnel) SendEcho(e Echo) error {
	src := e.Src.Unmap()
	if len(e.Payload) > maxUDPPayload {
		return fmt.Errorf("answering an echo of %v: %d bytes, more than %d", src, len(e.Payload), maxUDPPayload)
	}
	var h [icmpHeaderLen]byte
	transport := header.ICMPv4ProtocolNumber
	h[0] = icmp4EchoReply
	if src.Is6() {
		transport = header.ICMPv6ProtocolNumber
		h[0] = icmp6EchoReply
	}
	binary.BigEndian.PutUint16(h[4:], e.ID)
	binary.BigEndian.PutUint16(h[6:], e.Seq)
	if err := t.sendTransport(transport, e.Dst, src, h[:], e.Payload); err != nil {
		return fmt.Errorf("answering an echo of %v: %w", src, err)
	}
	return nil
}

// sendError answers an agent's packet with an ICMP error, within the peer's
// share. It comes from the address the agent wrote to, which is the one that an
// agent host takes errors from.
func (t *Tunnel) sendError(d Disposition, offending *stack.PacketBuffer) {
	ip := offending.NetworkHeader().Slice()
	head, data := offending.TransportHeader().Slice(), offending.Data().AsRange().ToSlice()
	var answer []byte
	if offending.NetworkProtocolNumber == header.IPv4ProtocolNumber {
		answer = error4(d, ip, head, data)
	} else {
		answer = error6(d, offending.TransportProtocolNumber, ip, head, data)
	}
	t.sendErrorPacket(answer)
}

// RefuseUDP tells the agent that the datagrams it sent from its tunnel address to
// remote are not taken there: what it would hear if it were connected itself. d
// says why; Taken says nothing. It is for what is known only after Config.UDP has
// returned, and shares the limit of what that answers.
func (t *Tunnel) RefuseUDP(remote, agent netip.AddrPort, d Disposition) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	agent = netip.AddrPortFrom(agent.Addr().Unmap(), agent.Port())
	if d == Taken || !remote.IsValid() || !agent.IsValid() || remote.Addr().Is4() != agent.Addr().Is4() || t.ctx.Err() != nil {
		return
	}
	// The datagram is gone: its header is quoted as that of an empty one, which
	// has all that an agent host looks at (RFC 1122 section 3.2.2.1).
	udp := header.UDP(make([]byte, header.UDPMinimumSize))
	udp.Encode(&header.UDPFields{SrcPort: agent.Port(), DstPort: remote.Port(), Length: header.UDPMinimumSize})
	src, dst := toAddress(agent.Addr()), toAddress(remote.Addr())
	udp.SetChecksum(^udp.CalculateChecksum(header.PseudoHeaderChecksum(header.UDPProtocolNumber, src, dst, header.UDPMinimumSize)))
	if agent.Addr().Is4() {
		ip := header.IPv4(make([]byte, header.IPv4MinimumSize))
		ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(ip) + len(udp)), TTL: errorHopLimit, Protocol: protocolUDP, SrcAddr: src, DstAddr: dst})
		t.sendErrorPacket(error4(d, ip, udp, nil))
		return
	}
	ip := header.IPv6(make([]byte, header.IPv6MinimumSize))
	ip.Encode(&header.IPv6Fields{PayloadLength: uint16(len(udp)), TransportProtocol: header.UDPProtocolNumber, HopLimit: errorHopLimit, SrcAddr: src, DstAddr: dst})
	t.sendErrorPacket(error6(d, header.UDPProtocolNumber, ip, udp, nil))
}

// sendErrorPacket sends a whole ICMP error, within the share of the peer it is
// for.
func (t *Tunnel) sendErrorPacket(answer []byte) {
	in, verdict := parse(answer)
	if verdict != plausible {
		return
	}
	p := t.peers.Load().find(in.dst)
	if p == nil || !t.admit(in.dst) {
		t.counters.notAdmitted.Add(1)
		return
	}
	if !p.icmp.Allow() {
		t.counters.icmpSuppressed.Add(1)
		return
	}
	packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(answer)})
	select {
	case t.link.queue <- packet:
	default:
		packet.DecRef()
		t.counters.queueFull.Add(1)
	}
}

// error4 is a whole ICMP destination unreachable (RFC 792). Codes: RFC 1812
// section 5.2.7.1.
func error4(d Disposition, ip, head, data []byte) []byte {
	code := header.ICMPv4AdminProhibited
	switch d {
	case PortUnreachable:
		code = header.ICMPv4PortUnreachable
	case HostUnreachable:
		code = header.ICMPv4HostUnreachable
	}
	if len(ip) < header.IPv4MinimumSize {
		return nil
	}
	// Netstack changes the header of what it puts together from fragments, but
	// not its checksum.
	quoted := header.IPv4(bytes.Clone(ip))
	quoted.SetChecksum(0)
	quoted.SetChecksum(^quoted.CalculateChecksum())
	const fixed = header.IPv4MinimumSize + icmpHeaderLen
	b := make([]byte, fixed, maxError4)
	b = fill(fill(fill(b, quoted), head), data)
	b[fixed-icmpHeaderLen], b[fixed-icmpHeaderLen+1] = icmp4Unreachable, byte(code)
	checksum.Put(b[header.IPv4MinimumSize+icmpChecksumOffset:], ^checksum.Checksum(b[header.IPv4MinimumSize:], 0))
	offending := header.IPv4(ip)
	h := header.IPv4(b)
	h.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(b)),
		TTL:         errorHopLimit,
		Protocol:    protocolICMPv4,
		SrcAddr:     offending.DestinationAddress(),
		DstAddr:     offending.SourceAddress(),
	})
	h.SetChecksum(^h.CalculateChecksum())
	return b
}

// error6 is a whole ICMPv6 destination unreachable (RFC 4443 section 3.1).
// transport is what the packet carried: one that netstack put together still has
// the fragment header of its first fragment in ip, which the quote leaves out.
func error6(d Disposition, transport tcpip.TransportProtocolNumber, ip, head, data []byte) []byte {
	code := header.ICMPv6Prohibited
	switch d {
	case PortUnreachable:
		code = header.ICMPv6PortUnreachable
	case HostUnreachable:
		code = header.ICMPv6AddressUnreachable
	}
	if len(ip) < header.IPv6MinimumSize {
		return nil
	}
	quoted := header.IPv6(bytes.Clone(ip[:header.IPv6MinimumSize]))
	quoted.SetNextHeader(uint8(transport))
	quoted.SetPayloadLength(uint16(len(head) + len(data)))
	const fixed = header.IPv6MinimumSize + icmpHeaderLen
	b := make([]byte, fixed, maxError6)
	b = fill(fill(fill(b, quoted), head), data)
	b[header.IPv6MinimumSize], b[header.IPv6MinimumSize+1] = icmp6Unreachable, byte(code)
	offending := header.IPv6(ip)
	header.IPv6(b).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(len(b) - header.IPv6MinimumSize),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          errorHopLimit,
		SrcAddr:           offending.DestinationAddress(),
		DstAddr:           offending.SourceAddress(),
	})
	checksum.Put(b[header.IPv6MinimumSize+icmpChecksumOffset:], ^pseudoChecksum(b, protocolICMPv6, b[header.IPv6MinimumSize:]))
	return b
}

// fill appends as much of more as b has room for.
func fill(b, more []byte) []byte {
	return append(b, more[:min(len(more), cap(b)-len(b))]...)
}
