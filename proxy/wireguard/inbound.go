package wireguard

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// IP protocol numbers.
const (
	protocolICMPv4   = uint8(header.ICMPv4ProtocolNumber)
	protocolTCP      = uint8(header.TCPProtocolNumber)
	protocolUDP      = uint8(header.UDPProtocolNumber)
	protocolICMPv6   = uint8(header.ICMPv6ProtocolNumber)
	protocolFragment = uint8(header.IPv6FragmentHeader)
)

// ICMP types (RFC 792, RFC 4443 section 2.1) that this package looks at.
const (
	icmp4EchoReply   = byte(header.ICMPv4EchoReply)
	icmp4Unreachable = byte(header.ICMPv4DstUnreachable)
	icmp4Echo        = byte(header.ICMPv4Echo)
	icmp6Unreachable = byte(header.ICMPv6DstUnreachable)
	icmp6TooBig      = byte(header.ICMPv6PacketTooBig)
	icmp6Echo        = byte(header.ICMPv6EchoRequest)
	icmp6EchoReply   = byte(header.ICMPv6EchoReply)
)

// verdict is what becomes of an inbound packet. The zero value drops it.
type verdict int

const (
	malformed   verdict = iota // wrong version, length or header
	unsupported                // well formed, of a kind nobody here speaks
	badChecksum
	plausible   // headers are right; not checked further
	unverified  // wanted; whoever takes it verifies its checksum
	verifiedTCP // wanted; a whole TCP segment with right checksums
)

// inbound is one packet from an agent host.
type inbound struct {
	bytes      []byte // exactly the IP packet
	src, dst   netip.Addr
	ipLen      int   // bytes before payload: the IP header, and the fragment header if there is one
	transport  uint8 // of payload
	fragmented bool
	offset     int // of the fragment, in bytes
}

// parse reads the IP header. It says malformed, unsupported (with the source
// known) or plausible.
func parse(b []byte) (inbound, verdict) {
	if len(b) == 0 {
		return inbound{}, malformed
	}
	switch b[0] >> 4 {
	case 4:
		return parse4(b)
	case 6:
		return parse6(b)
	}
	return inbound{}, malformed
}

func parse4(b []byte) (inbound, verdict) {
	if len(b) < header.IPv4MinimumSize {
		return inbound{}, malformed
	}
	headerLen, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if headerLen < header.IPv4MinimumSize || total < headerLen || total > len(b) {
		return inbound{}, malformed
	}
	in := inbound{
		bytes:     b[:total],
		src:       netip.AddrFrom4([4]byte(b[12:16])),
		dst:       netip.AddrFrom4([4]byte(b[16:20])),
		ipLen:     headerLen,
		transport: b[9],
	}
	fragment := binary.BigEndian.Uint16(b[6:])
	in.offset = int(fragment&0x1fff) * 8
	in.fragmented = fragment&0x3fff != 0 // more fragments, or an offset
	if headerLen > header.IPv4MinimumSize {
		// Options: source routes, record route, router alert (RFC 7126).
		return in, unsupported
	}
	return in, plausible
}

func parse6(b []byte) (inbound, verdict) {
	if len(b) < header.IPv6MinimumSize {
		return inbound{}, malformed
	}
	total := header.IPv6MinimumSize + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return inbound{}, malformed
	}
	in := inbound{
		bytes:     b[:total],
		src:       netip.AddrFrom16([16]byte(b[8:24])),
		dst:       netip.AddrFrom16([16]byte(b[24:40])),
		ipLen:     header.IPv6MinimumSize,
		transport: b[6],
	}
	if in.transport == protocolFragment { // RFC 8200 section 4.5
		if total < header.IPv6MinimumSize+header.IPv6FragmentHeaderSize {
			return inbound{}, malformed
		}
		fragment := b[header.IPv6MinimumSize:]
		in.transport = fragment[0]
		in.offset = int(binary.BigEndian.Uint16(fragment[2:]) &^ 7)
		in.fragmented = true
		in.ipLen += header.IPv6FragmentHeaderSize
	}
	return in, plausible
}

func (in *inbound) protocol() tcpip.NetworkProtocolNumber {
	if in.src.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

// check decides about a plausible packet of an admitted peer. Extension headers
// other than the fragment header are not spoken here: their number is none of
// the transports below.
func (in *inbound) check(from *peer) verdict {
	if !unicast(in.src) || !unicast(in.dst) {
		return unsupported // discovery noise of the agent host's kernel, mostly
	}
	if in.src.Is4() && checksum.Checksum(in.bytes[:in.ipLen], 0) != 0xffff {
		return badChecksum
	}
	payload := in.bytes[in.ipLen:]
	switch in.transport {
	case protocolTCP:
	case protocolUDP:
	case protocolICMPv4, protocolICMPv6:
		if (in.transport == protocolICMPv4) != in.src.Is4() {
			return unsupported
		}
		if in.offset == 0 && !in.wantedICMP(payload) {
			return unsupported
		}
	default:
		return unsupported
	}
	if in.fragmented {
		if len(payload) == 0 {
			return malformed
		}
		if !from.fragments.Allow() {
			return unsupported
		}
		return unverified
	}
	if in.transport != protocolTCP {
		return unverified
	}
	if len(payload) < header.TCPMinimumSize {
		return malformed
	}
	if offset := int(payload[header.TCPDataOffset]>>4) * 4; offset < header.TCPMinimumSize || offset > len(payload) {
		return malformed
	}
	if pseudoChecksum(in.bytes, in.transport, payload) != 0xffff {
		return badChecksum
	}
	return verifiedTCP
}

// wantedICMP lets through echo requests, and the errors that bear on the agent's
// own TCP connections: netstack looks the quoted connection up by its
// addresses, so an agent that quotes another's must not get there. Everything
// else (redirects, router and neighbour discovery) is nobody's business in here.
func (in *inbound) wantedICMP(b []byte) bool {
	if len(b) < header.ICMPv4MinimumSize {
		return false
	}
	quote := b[header.ICMPv4MinimumSize:]
	if in.src.Is4() {
		switch b[0] {
		case icmp4Echo:
			return true
		case icmp4Unreachable:
			return !in.fragmented && len(quote) >= header.IPv4MinimumSize && quote[0]>>4 == 4 && netip.AddrFrom4([4]byte(quote[16:20])) == in.src
		}
		return false
	}
	switch b[0] {
	case icmp6Echo:
		return true
	case icmp6Unreachable, icmp6TooBig:
		return !in.fragmented && len(quote) >= header.IPv6MinimumSize && quote[0]>>4 == 6 && netip.AddrFrom16([16]byte(quote[24:40])) == in.src
	}
	return false
}

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

func unicast(a netip.Addr) bool {
	return !a.IsMulticast() && !a.IsUnspecified() && a != broadcast4
}

// pseudoChecksum sums a transport payload and the pseudo-header of its packet
// (RFC 9293 section 3.1, RFC 8200 section 8.1): 0xffff when the checksum in it
// is right, and the complement of the checksum to write when that is zero.
func pseudoChecksum(packet []byte, transport uint8, payload []byte) uint16 {
	addresses := packet[12:20]
	if packet[0]>>4 == 6 {
		addresses = packet[8:40]
	}
	sum := checksum.Checksum(addresses, 0)
	sum = checksum.Combine(sum, uint16(transport))
	sum = checksum.Combine(sum, uint16(len(payload)))
	return checksum.Checksum(payload, sum)
}

// outbound returns where one of netstack's packets goes, and whether it is one
// that netstack may send: TCP, UDP, an echo reply, or a later fragment of those.
func outbound(packet *stack.PacketBuffer) (netip.Addr, bool) {
	b := packet.NetworkHeader().Slice()
	var dst netip.Addr
	var transport uint8
	first := true
	switch {
	case len(b) >= header.IPv4MinimumSize && b[0]>>4 == 4:
		dst, transport = netip.AddrFrom4([4]byte(b[16:20])), b[9]
		first = binary.BigEndian.Uint16(b[6:])&0x1fff == 0
	case len(b) >= header.IPv6MinimumSize && b[0]>>4 == 6:
		dst, transport = netip.AddrFrom16([16]byte(b[24:40])), b[6]
		if transport == protocolFragment && len(b) >= header.IPv6MinimumSize+header.IPv6FragmentHeaderSize {
			transport = b[header.IPv6MinimumSize]
			first = binary.BigEndian.Uint16(b[header.IPv6MinimumSize+2:])&^7 == 0
		}
	default:
		return netip.Addr{}, false
	}
	switch transport {
	case protocolTCP, protocolUDP:
		return dst, true
	case protocolICMPv4, protocolICMPv6:
		if !first {
			return dst, true // netstack's own ICMP is never larger than the MTU
		}
		kind, ok := firstByte(packet)
		return dst, ok && (kind == icmp4EchoReply && transport == protocolICMPv4 || kind == icmp6EchoReply && transport == protocolICMPv6)
	}
	return dst, false
}

// firstByte returns the first byte after the network header.
func firstByte(packet *stack.PacketBuffer) (byte, bool) {
	if b := packet.TransportHeader().Slice(); len(b) > 0 {
		return b[0], true
	}
	if b, ok := packet.Data().PullUp(1); ok {
		return b[0], true
	}
	return 0, false
}
