package wireguard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/clawpatrol/clawpatrol/secret"
)

// offloaded makes a packet as netstack hands it to a card with HostGSO.
func offloaded(ipv4 bool, options, mss, size int, flags header.TCPFlags) (*stack.PacketBuffer, []byte) {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7)
	}
	ipLen := header.IPv6MinimumSize
	if ipv4 {
		ipLen = header.IPv4MinimumSize
	}
	packet := stack.NewPacketBuffer(stack.PacketBufferOptions{
		ReserveHeaderBytes: ipLen + header.TCPMinimumSize + options,
		Payload:            buffer.MakeWithData(data),
	})
	tcp := header.TCP(packet.TransportHeader().Push(header.TCPMinimumSize + options))
	tcp.Encode(&header.TCPFields{SrcPort: 80, DstPort: 1000, SeqNum: 0xfffffff0, AckNum: 9, DataOffset: uint8(len(tcp)), Flags: flags, WindowSize: 500})
	for i := range options {
		tcp[header.TCPMinimumSize+i] = header.TCPOptionNOP
	}
	packet.TransportProtocolNumber = header.TCPProtocolNumber
	packet.GSOOptions = stack.GSO{Type: stack.GSOTCPv6, NeedsCsum: true, MSS: uint16(mss), L3HdrLen: uint16(ipLen)}
	ip := packet.NetworkHeader().Push(ipLen)
	if ipv4 {
		packet.GSOOptions.Type = stack.GSOTCPv4
		header.IPv4(ip).Encode(&header.IPv4Fields{TotalLength: uint16(packet.Size()), ID: 65535, TTL: 64, Protocol: protocolTCP,
			SrcAddr: tcpip.AddrFrom4([4]byte{192, 0, 2, 1}), DstAddr: tcpip.AddrFrom4([4]byte{10, 55, 1, 2})})
	} else {
		header.IPv6(ip).Encode(&header.IPv6Fields{PayloadLength: uint16(packet.Size() - ipLen), TransportProtocol: header.TCPProtocolNumber, HopLimit: 64,
			SrcAddr: tcpip.AddrFrom16([16]byte{0x20, 1}), DstAddr: tcpip.AddrFrom16([16]byte{0xfd, 0x55})})
	}
	return packet, data
}

// checkPieces verifies each piece as a receiver would and puts them together.
func checkPieces(t *testing.T, pieces [][]byte, mss int, flags header.TCPFlags, data []byte) {
	t.Helper()
	var got []byte
	for i, b := range pieces {
		in, verdict := parse(b)
		if verdict != plausible || len(in.bytes) != len(b) {
			t.Fatalf("piece %d: header says %d of %d bytes, verdict %v", i, len(in.bytes), len(b), verdict)
		}
		if v := in.check(&peer{}); v != verifiedTCP {
			t.Fatalf("piece %d: verdict %v", i, v)
		}
		if in.src.Is4() {
			if id := binary.BigEndian.Uint16(b[4:]); id != uint16(65535+i) {
				t.Errorf("piece %d: identification %d", i, id)
			}
		}
		tcp := header.TCP(in.bytes[in.ipLen:])
		if seq := tcp.SequenceNumber(); seq != 0xfffffff0+uint32(len(got)) {
			t.Errorf("piece %d: sequence number %d", i, seq)
		}
		want := flags
		if i < len(pieces)-1 {
			want &^= header.TCPFlagFin | header.TCPFlagPsh
		}
		if i > 0 {
			want &^= header.TCPFlagCwr
		}
		if tcp.Flags() != want {
			t.Errorf("piece %d of %d: flags %v, want %v", i, len(pieces), tcp.Flags(), want)
		}
		payload := tcp.Payload()
		if len(payload) > mss || i < len(pieces)-1 && len(payload) != mss {
			t.Errorf("piece %d: %d bytes, MSS %d", i, len(payload), mss)
		}
		got = append(got, payload...)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("data changed: %d bytes, want %d", len(got), len(data))
	}
}

// readAll reads until want bytes of payload have come.
func readAll(t *testing.T, l *link, batch, count int) [][]byte {
	t.Helper()
	const offset = 16
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	for i := range bufs {
		bufs[i] = make([]byte, 1<<16)
	}
	var pieces [][]byte
	for len(pieces) < count {
		n, err := l.Read(bufs, sizes, offset)
		if err != nil || n == 0 {
			t.Fatalf("read %d, %v", n, err)
		}
		for i := range n {
			pieces = append(pieces, bytes.Clone(bufs[i][offset:offset+sizes[i]]))
		}
	}
	return pieces
}

func TestReadCutsOffloadedPackets(t *testing.T) {
	const all = header.TCPFlagAck | header.TCPFlagPsh | header.TCPFlagFin | header.TCPFlagCwr
	for _, c := range []struct {
		name                     string
		options, mss, size, want int
		batch                    int
	}{
		{"no data", 12, 1368, 0, 1, 128},
		{"no MSS yet", 12, 0, 0, 1, 128},
		{"less than the MSS", 12, 1368, 100, 1, 128},
		{"exactly the MSS", 12, 1368, 1368, 1, 128},
		{"one byte more", 12, 1368, 1369, 2, 128},
		{"44 whole pieces", 12, 1368, 44 * 1368, 44, 128},
		{"the largest", 0, 1380, 65000, 48, 128},
		{"options", 40, 1340, 5000, 4, 128},
		{"over several reads", 12, 500, 65000, 130, 128},
		{"one at a time", 0, 536, 5000, 10, 1},
		{"a tiny MSS", 0, 1, 300, 300, 128},
	} {
		for _, ipv4 := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s IPv4=%v", c.name, ipv4), func(t *testing.T) {
				l := newLink(1420, nil)
				packet, data := offloaded(ipv4, c.options, c.mss, c.size, all)
				l.queue <- packet
				pieces := readAll(t, l, c.batch, c.want)
				if len(pieces) != c.want {
					t.Errorf("%d pieces, want %d", len(pieces), c.want)
				}
				checkPieces(t, pieces, c.mss, all, data)
				if l.pending != nil {
					t.Error("something is left")
				}
			})
		}
	}
}

func TestReadFillsABatchFromSeveralPackets(t *testing.T) {
	l := newLink(1420, nil)
	var want [][]byte
	for range 3 {
		packet, data := offloaded(true, 12, 1000, 50_000, header.TCPFlagAck)
		l.queue <- packet
		want = append(want, data)
	}
	pieces := readAll(t, l, 128, 150)
	if len(pieces) != 150 {
		t.Fatalf("%d pieces", len(pieces))
	}
	for i, data := range want {
		checkPieces(t, pieces[50*i:50*i+50], 1000, header.TCPFlagAck, data)
	}
	l.Close()
	l.drain()
}

func FuzzSegmentation(f *testing.F) {
	f.Add(true, uint8(12), uint16(1368), uint16(60192), uint16(0x18), uint8(127))
	f.Add(false, uint8(0), uint16(1), uint16(400), uint16(0x99), uint8(0))
	f.Fuzz(func(t *testing.T, ipv4 bool, options uint8, mss, size, flags uint16, batch uint8) {
		o := int(options) % 41 &^ 3
		m := max(1, int(mss))
		n := int(size) % 65000
		if n/m > 2000 {
			m = n/2000 + 1
		}
		tcpFlags := header.TCPFlags(flags) & 0xff
		l := newLink(1420, nil)
		packet, data := offloaded(ipv4, o, m, n, tcpFlags)
		l.queue <- packet
		pieces := readAll(t, l, int(batch)+1, max(1, (n+m-1)/m))
		checkPieces(t, pieces, m, tcpFlags, data)
	})
}

// testTunnel is a tunnel whose device is never used: packets go in by Write.
func testTunnel(t testing.TB, cfg Config) *Tunnel {
	t.Helper()
	key := make([]byte, 32)
	key[3] = 1
	cfg.PrivateKey, cfg.Listen = secret.New(key), "127.0.0.1:0"
	if cfg.Admit == nil {
		cfg.Admit = func(netip.Addr) bool { return true }
	}
	tunnel, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tunnel.Close(); err != nil {
			t.Error(err)
		}
	})
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.55.1.0/28"), netip.MustParsePrefix("fd55::/64")}
	if err := tunnel.SetPeers([]Peer{{PublicKey: [32]byte{9}, Prefixes: prefixes}}); err != nil {
		t.Fatal(err)
	}
	return tunnel
}

// segment is a TCP segment from 10.55.1.2 to 192.0.2.1.
func segment(port uint16, flags header.TCPFlags, seq, ack uint32, data []byte) []byte {
	src, dst := tcpip.AddrFrom4([4]byte{10, 55, 1, 2}), tcpip.AddrFrom4([4]byte{192, 0, 2, 1})
	b := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize, header.IPv4MinimumSize+header.TCPMinimumSize+len(data))
	h := header.IPv4(b)
	h.Encode(&header.IPv4Fields{TotalLength: uint16(cap(b)), TTL: 64, Protocol: protocolTCP, SrcAddr: src, DstAddr: dst})
	h.SetChecksum(^h.CalculateChecksum())
	header.TCP(b[20:]).Encode(&header.TCPFields{SrcPort: port, DstPort: 80, SeqNum: seq, AckNum: ack, DataOffset: header.TCPMinimumSize, Flags: flags, WindowSize: 65000})
	b = append(b, data...)
	binary.BigEndian.PutUint16(b[20+16:], ^pseudoChecksum(b, protocolTCP, b[20:]))
	return b
}

func write(l *link, packets ...[]byte) {
	var bufs [][]byte
	for _, b := range packets {
		bufs = append(bufs, append(make([]byte, 16), b...))
	}
	l.Write(bufs, 16)
}

// stack/gro releases one packet of a bucket per Flush. Sixty connections in one
// batch share its eight buckets: all must be delivered, at once.
func TestWriteDeliversEveryFlowOfABatch(t *testing.T) {
	tunnel := testTunnel(t, Config{})
	rx := func() uint64 { return tunnel.stack.Stats().NICs.Rx.Packets.Value() }
	var batch [][]byte
	const flows = 60
	for i := range flows {
		batch = append(batch, segment(uint16(1000+i), header.TCPFlagAck, 1, 1, []byte("data")))
	}
	write(tunnel.link, batch...)
	if n := rx(); n != flows {
		t.Errorf("%d of %d packets delivered", n, flows)
	}
	// And segments of one connection are merged.
	batch = nil
	for i := range 10 {
		batch = append(batch, segment(1, header.TCPFlagAck, uint32(1+4*i), 1, []byte("data")))
	}
	write(tunnel.link, batch...)
	if n := rx() - flows; n != 1 {
		t.Errorf("10 segments of a connection delivered as %d packets, want 1", n)
	}
}

func TestWriteAndSendWithoutStack(t *testing.T) {
	tunnel := testTunnel(t, Config{})
	l := newLink(1420, tunnel) // never attached
	write(l, segment(1, header.TCPFlagSyn, 1, 0, nil))
	l.Close()
	packet, _ := offloaded(true, 0, 1000, 10, header.TCPFlagAck)
	for range queueSize + 1 { // with room and without
		tunnel.peers.Load().find(netip.MustParseAddr("10.55.1.2")).heard(sinceStart())
		l.send(packet)
	}
	l.drain()
	packet.DecRef()
}

func TestInboundVerdicts(t *testing.T) {
	good := segment(1, header.TCPFlagSyn, 1, 0, nil)
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	fix := func(b []byte) []byte {
		h := header.IPv4(b)
		h.SetChecksum(0)
		h.SetChecksum(^checksum.Checksum(b[:20], 0))
		return b
	}
	v6 := func(next byte, payload []byte) []byte {
		b := make([]byte, 40, 40+len(payload))
		header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(len(payload)), TransportProtocol: tcpip.TransportProtocolNumber(next), HopLimit: 64,
			SrcAddr: tcpip.AddrFrom16([16]byte{0xfd, 0x55, 15: 2}), DstAddr: tcpip.AddrFrom16([16]byte{0x20, 1, 15: 1})})
		return append(b, payload...)
	}
	for _, c := range []struct {
		name string
		b    []byte
		want verdict
	}{
		{"good", good, verifiedTCP},
		{"padded", append(bytes.Clone(good), 0, 0), verifiedTCP},
		{"empty", nil, malformed},
		{"version 5", change(func(b []byte) []byte { b[0] = 0x55; return b }), malformed},
		{"short header", good[:19], malformed},
		{"header length 16", change(func(b []byte) []byte { b[0] = 0x44; return b }), malformed},
		{"total over the end", change(func(b []byte) []byte { b[3]++; return fix(b) }), malformed},
		{"total under the header", change(func(b []byte) []byte { b[3] = 19; return fix(b) }), malformed},
		{"IP checksum", change(func(b []byte) []byte { b[10]++; return b }), badChecksum},
		{"TCP checksum", change(func(b []byte) []byte { b[36]++; return b }), badChecksum},
		{"half a TCP header", change(func(b []byte) []byte { b[3] = 30; return fix(b)[:30] }), malformed},
		{"TCP header over the end", change(func(b []byte) []byte { b[32] = 0xf0; return b }), malformed},
		{"TCP header of 16", change(func(b []byte) []byte { b[32] = 0x40; return b }), malformed},
		{"a fragment of TCP", change(func(b []byte) []byte { b[6] = 0x20; return fix(b) }), unverified},
		{"an empty fragment", change(func(b []byte) []byte { b[6], b[3] = 0x20, 20; return fix(b)[:20] }), malformed},
		{"options", change(func(b []byte) []byte { b[0] = 0x46; return b }), unsupported},
		{"multicast", change(func(b []byte) []byte { b[16] = 224; return fix(b) }), unsupported},
		{"broadcast", change(func(b []byte) []byte { copy(b[16:], "\xff\xff\xff\xff"); return fix(b) }), unsupported},
		{"to nowhere", change(func(b []byte) []byte { clear(b[16:20]); return fix(b) }), unsupported},
		{"ICMPv6 in IPv4", change(func(b []byte) []byte { b[9] = 58; return fix(b) }), unsupported},
		{"v6 short", v6(17, nil)[:39], malformed},
		{"v6 length over the end", v6(17, make([]byte, 8))[:47], malformed},
		{"v6 UDP", v6(17, make([]byte, 8)), unverified},
		{"v6 fragment cut", v6(44, make([]byte, 7)), malformed},
		{"v6 fragment of UDP", v6(44, append([]byte{17, 0, 0, 1, 0, 0, 0, 1}, make([]byte, 8)...)), unverified},
		{"v6 fragment of an extension", v6(44, append([]byte{60, 0, 0, 1, 0, 0, 0, 1}, make([]byte, 8)...)), unsupported},
		{"v6 hop-by-hop", v6(0, make([]byte, 8)), unsupported},
		{"v6 routing", v6(43, make([]byte, 8)), unsupported},
		{"v6 router advertisement", v6(58, []byte{134, 0, 0, 0, 0, 0, 0, 0}), unsupported},
		{"v6 redirect", v6(58, []byte{137, 0, 0, 0, 0, 0, 0, 0}), unsupported},
		{"v6 echo", v6(58, []byte{128, 0, 0, 0, 0, 0, 0, 0}), unverified},
		{"v6 too big, own", v6(58, append([]byte{2, 0, 0, 0, 0, 0, 5, 0}, append(make([]byte, 24), v6(6, nil)[8:24]...)...)), unsupported}, // quote is no IPv6
		{"v6 error in a fragment", v6(44, append([]byte{58, 0, 0, 1, 0, 0, 0, 1}, 1, 0, 0, 0, 0, 0, 0, 0)), unsupported},
	} {
		in, got := parse(c.b)
		if got == plausible {
			p := &peer{fragments: newFragmentLimiter()}
			got = in.check(p)
		}
		if got != c.want {
			t.Errorf("%s: verdict %v, want %v", c.name, got, c.want)
		}
	}
}

func TestFragmentsAreLimited(t *testing.T) {
	p := &peer{fragments: newFragmentLimiter()}
	b := segment(1, 0, 0, 0, make([]byte, 100))
	b[6] = 0x20
	header.IPv4(b).SetChecksum(0)
	header.IPv4(b).SetChecksum(^checksum.Checksum(b[:20], 0))
	passed := 0
	for range 10 * fragmentBurst {
		in, _ := parse(b)
		if in.check(p) == unverified {
			passed++
		}
	}
	if passed < fragmentBurst || passed > 9*fragmentBurst {
		t.Errorf("%d of %d fragments passed", passed, 10*fragmentBurst)
	}
}

func FuzzWrite(f *testing.F) {
	tunnel := testTunnel(f, Config{
		UDP:  func(netip.AddrPort, netip.AddrPort, []byte) Disposition { return Prohibited },
		Echo: func(Echo) Disposition { return PortUnreachable },
	})
	f.Add(segment(1, header.TCPFlagSyn, 1, 0, nil), []byte{}, true)
	f.Add(segment(1, header.TCPFlagAck, 1, 1, []byte("data")), segment(1, header.TCPFlagAck, 5, 1, []byte("data")), true)
	fragment := segment(1, header.TCPFlagSyn, 1, 0, make([]byte, 28))
	fragment[6] = 0x20
	f.Add(fragment, []byte{0x60}, true)
	v6 := make([]byte, 56)
	header.IPv6(v6).Encode(&header.IPv6Fields{PayloadLength: 16, TransportProtocol: 44, HopLimit: 64,
		SrcAddr: tcpip.AddrFrom16([16]byte{0xfd, 0x55, 15: 2}), DstAddr: tcpip.AddrFrom16([16]byte{0x20, 1, 15: 1})})
	v6[40] = 58
	v6[48] = 128
	f.Add(v6, v6, false)
	f.Fuzz(func(t *testing.T, a, b []byte, repair bool) {
		if repair { // get past the checksums
			for _, p := range [][]byte{a, b} {
				in, verdict := parse(p)
				if verdict != plausible {
					continue
				}
				if in.src.Is4() {
					header.IPv4(in.bytes).SetChecksum(0)
					header.IPv4(in.bytes).SetChecksum(^checksum.Checksum(in.bytes[:in.ipLen], 0))
				}
				payload := in.bytes[in.ipLen:]
				if at := map[uint8]int{protocolTCP: 16, protocolUDP: 6, protocolICMPv6: 2}[in.transport]; at != 0 && len(payload) >= at+2 {
					clear(payload[at : at+2])
					binary.BigEndian.PutUint16(payload[at:], ^pseudoChecksum(in.bytes, in.transport, payload))
				}
			}
		}
		write(tunnel.link, a, b)
		write(tunnel.link, a)
		for { // nothing waits for the device, whose queue is this one's
			select {
			case p := <-tunnel.link.queue:
				p.DecRef()
				continue
			default:
			}
			break
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte("private_key=00\nlisten_port=1\npublic_key=" + fmt.Sprintf("%064x", 7) + "\nendpoint=1.2.3.4:5\nrx_bytes=1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		state, err := parseState(b)
		if err == nil && len(state.peers) > bytes.Count(b, []byte("public_key=")) {
			t.Errorf("%d peers", len(state.peers))
		}
	})
}

// A registration that went away must not fill the gateway's memory.
func TestStagingIsBounded(t *testing.T) {
	p := &peer{}
	count := func(now int64) (n int) {
		for range 1000 {
			if p.maySend(now, 1) {
				n++
			}
		}
		return n
	}
	now := sinceStart()
	if n := count(now); n != stagedMax {
		t.Errorf("%d packets staged without a session, want %d", n, stagedMax)
	}
	if n := count(now + int64(stagedLife)/2); n != 0 {
		t.Errorf("%d more while the device holds them", n)
	}
	if p.maySend(now+2*int64(stagedLife), stagedMax+1) {
		t.Error("more at once than may be staged")
	}
	if n := count(now + 2*int64(stagedLife)); n != stagedMax {
		t.Errorf("%d once the device has dropped them, want %d", n, stagedMax)
	}
	now += 4 * int64(stagedLife)
	p.heard(now)
	if n := count(now + 1); n != 1000 {
		t.Errorf("%d of 1000 with a session", n)
	}
	if n := count(now + int64(sessionGrace)); n != stagedMax {
		t.Errorf("%d after the session, want %d", n, stagedMax)
	}
}
