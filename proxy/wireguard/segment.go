package wireguard

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxHeaders is the most an IP header without extensions and a TCP header with
// all its options can take.
const maxHeaders = header.IPv4MaximumHeaderSize + header.TCPHeaderMaximumSize

// segmenter cuts one packet of netstack's into packets of the MTU: TCP
// segmentation offload in software. A packet that was not offloaded comes out
// as it is.
type segmenter struct {
	packet *stack.PacketBuffer
	rest   [][]byte // not yet handed out: headers and data, or data only when offloaded
	left   int      // bytes in rest
	done   bool

	offloaded bool
	ipv4      bool
	ipLen     int // of the IP header
	mss       int
	cut       uint32 // bytes handed out
	id        uint16 // of the first piece, IPv4
	sequence  uint32 // of the first piece
	flags     byte   // of the last piece
	headers   []byte // IP and TCP, as netstack made them
	space     [maxHeaders]byte
}

// newSegmenter takes over the caller's reference to packet.
func newSegmenter(packet *stack.PacketBuffer) *segmenter {
	s := &segmenter{packet: packet, rest: packet.AsSlices(), left: packet.Size()}
	gso := packet.GSOOptions
	network, transport := packet.NetworkHeader().Slice(), packet.TransportHeader().Slice()
	if gso.Type == stack.GSONone || !gso.NeedsCsum ||
		len(transport) < header.TCPMinimumSize || len(network)+len(transport) > maxHeaders {
		return s
	}
	s.offloaded = true
	s.ipv4 = gso.Type == stack.GSOTCPv4
	s.ipLen = len(network)
	s.mss = int(gso.MSS)
	s.headers = append(append(s.space[:0], network...), transport...)
	s.sequence = binary.BigEndian.Uint32(transport[4:])
	s.flags = transport[header.TCPFlagsOffset]
	if s.ipv4 {
		s.id = binary.BigEndian.Uint16(network[4:])
	}
	s.skip(len(s.headers))
	if s.mss == 0 {
		// Sent before the connection has its MSS: an ACK during the handshake. Its
		// checksum is left to us all the same.
		s.mss = max(1, s.left)
	}
	return s
}

// skip drops the first n bytes of rest.
func (s *segmenter) skip(n int) {
	s.left -= n
	for n > 0 {
		if n < len(s.rest[0]) {
			s.rest[0] = s.rest[0][n:]
			return
		}
		n -= len(s.rest[0])
		s.rest = s.rest[1:]
	}
}

// more reports whether next has another packet.
func (s *segmenter) more() bool { return !s.done }

// release gives the packet back.
func (s *segmenter) release() { s.packet.DecRef() }

// next writes the next packet to b and returns its length. b has room for
// 65535 bytes: what the device gives to Read.
func (s *segmenter) next(b []byte) int {
	if !s.offloaded {
		s.done = true
		return s.take(b, s.left)
	}
	n := copy(b, s.headers)
	n += s.take(b[n:], s.mss)
	s.done = s.left == 0
	s.fix(b[:n])
	s.cut += uint32(n - len(s.headers))
	return n
}

// take moves up to want bytes of rest to b.
func (s *segmenter) take(b []byte, want int) int {
	n := 0
	for n < want && n < len(b) && len(s.rest) > 0 {
		if len(s.rest[0]) == 0 {
			s.rest = s.rest[1:]
			continue
		}
		copied := copy(b[n:], s.rest[0][:min(len(s.rest[0]), want-n)])
		n += copied
		s.skip(copied)
	}
	return n
}

// fix writes what differs from piece to piece: lengths, identification,
// sequence number, flags and checksums.
func (s *segmenter) fix(b []byte) {
	tcp := b[s.ipLen:]
	binary.BigEndian.PutUint32(tcp[4:], s.sequence+s.cut)
	if flags := s.flags; !s.done {
		// Only the last piece ends the stream or asks to be pushed.
		tcp[header.TCPFlagsOffset] = flags &^ byte(header.TCPFlagFin|header.TCPFlagPsh)
	}
	if s.cut > 0 {
		// Congestion window reduced is said once (RFC 3168 section 6.1.2).
		tcp[header.TCPFlagsOffset] &^= byte(header.TCPFlagCwr)
	}
	var sum uint16
	if s.ipv4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[4:], s.id+uint16(s.cut/uint32(s.mss)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:s.ipLen], 0))
		sum = checksum.Checksum(b[12:20], 0)
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-header.IPv6MinimumSize))
		sum = checksum.Checksum(b[8:40], 0)
	}
	tcp[header.TCPChecksumOffset], tcp[header.TCPChecksumOffset+1] = 0, 0
	sum = checksum.Combine(sum, uint16(header.TCPProtocolNumber))
	sum = checksum.Combine(sum, uint16(len(tcp)))
	binary.BigEndian.PutUint16(tcp[header.TCPChecksumOffset:], ^checksum.Checksum(tcp, sum))
}
