package wireguard_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Packets as an agent host's kernel, or an attacker, would make them.

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

func ipPacket(src, dst netip.Addr, proto byte, payload []byte) []byte {
	from, to := tcpip.AddrFromSlice(src.AsSlice()), tcpip.AddrFromSlice(dst.AsSlice())
	if src.Is4() {
		b := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(payload))
		h := header.IPv4(b)
		h.Encode(&header.IPv4Fields{TotalLength: uint16(len(b) + len(payload)), TTL: 64, Protocol: proto, SrcAddr: from, DstAddr: to})
		h.SetChecksum(^h.CalculateChecksum())
		return append(b, payload...)
	}
	b := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(payload))
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(payload)), TransportProtocol: tcpip.TransportProtocolNumber(proto), HopLimit: 64, SrcAddr: from, DstAddr: to})
	return append(b, payload...)
}

// sum puts the checksum of payload at offset.
func sum(src, dst netip.Addr, proto byte, payload []byte, offset int) {
	pseudo := uint16(0)
	if proto != protoICMP {
		pseudo = header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(proto), tcpip.AddrFromSlice(src.AsSlice()), tcpip.AddrFromSlice(dst.AsSlice()), uint16(len(payload)))
	}
	binary.BigEndian.PutUint16(payload[offset:], 0)
	binary.BigEndian.PutUint16(payload[offset:], ^checksum.Checksum(payload, pseudo))
}

func tcpPacket(src, dst netip.AddrPort, flags header.TCPFlags, seq, ack uint32) []byte {
	b := make([]byte, header.TCPMinimumSize)
	header.TCP(b).Encode(&header.TCPFields{SrcPort: src.Port(), DstPort: dst.Port(), SeqNum: seq, AckNum: ack, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65000})
	sum(src.Addr(), dst.Addr(), protoTCP, b, 16)
	return ipPacket(src.Addr(), dst.Addr(), protoTCP, b)
}

func udpPacket(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, header.UDPMinimumSize, header.UDPMinimumSize+len(payload))
	header.UDP(b).Encode(&header.UDPFields{SrcPort: src.Port(), DstPort: dst.Port(), Length: uint16(len(b) + len(payload))})
	b = append(b, payload...)
	sum(src.Addr(), dst.Addr(), protoUDP, b, 6)
	return ipPacket(src.Addr(), dst.Addr(), protoUDP, b)
}

func echoRequest(src, dst netip.Addr, id, seq uint16, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	proto := byte(protoICMP)
	b[0] = byte(header.ICMPv4Echo)
	if src.Is6() {
		proto, b[0] = protoICMPv6, byte(header.ICMPv6EchoRequest)
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	b = append(b, payload...)
	sum(src, dst, proto, b, 2)
	return ipPacket(src, dst, proto, b)
}

// decoded is one packet the agent host received.
type decoded struct {
	src, dst netip.Addr
	proto    byte
	payload  []byte
}

func decode(t testing.TB, b []byte) decoded {
	t.Helper()
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		if !header.IPv4(b).IsChecksumValid() {
			t.Errorf("IPv4 header checksum is wrong")
		}
		return decoded{netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9], b[20:]}
	case len(b) >= 40 && b[0]>>4 == 6:
		return decoded{netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[6], b[40:]}
	}
	t.Fatalf("received no IP packet: %x", b)
	panic("unreachable")
}

func (d decoded) flags() header.TCPFlags { return header.TCP(d.payload).Flags() }

// checksumOK verifies an unfragmented packet's transport checksum.
func (d decoded) checksumOK() bool {
	pseudo := uint16(0)
	if d.proto != protoICMP {
		pseudo = header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(d.proto), tcpip.AddrFromSlice(d.src.AsSlice()), tcpip.AddrFromSlice(d.dst.AsSlice()), uint16(len(d.payload)))
	}
	return checksum.Checksum(d.payload, pseudo) == 0xffff
}

// send gives packets to the agent host's tunnel.
func (a *agentHost) send(packets ...[]byte) {
	for _, b := range packets {
		a.raw.toGateway <- b
	}
}

// next returns the next packet from the tunnel.
func (a *agentHost) next(t testing.TB) decoded {
	t.Helper()
	return decode(t, within(t, "packet from the tunnel", a.raw.received))
}

// quiet collects what comes in the given time: for claims that nothing does,
// which no event could end.
func (a *agentHost) quiet(t testing.TB, d time.Duration) []decoded {
	t.Helper()
	var got []decoded
	after := time.After(d)
	for {
		select {
		case b := <-a.raw.received:
			got = append(got, decode(t, b))
		case <-after:
			return got
		}
	}
}

// fenceID marks the echo requests of fence, which the test's Config.Echo answers.
const fenceID = 0x7e4c

// fence returns once the gateway has handled everything the agent sent before:
// packets of one agent are handled in order.
func (a *agentHost) fence(t testing.TB) []decoded {
	t.Helper()
	a.send(echoRequest(a.addr4, netip.MustParseAddr("192.0.2.254"), fenceID, 0, nil))
	var before []decoded
	for {
		d := a.next(t)
		if d.proto == protoICMP && d.payload[0] == byte(header.ICMPv4EchoReply) && binary.BigEndian.Uint16(d.payload[4:]) == fenceID {
			return before
		}
		before = append(before, d)
	}
}
