package wireguard_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

// fragments cuts the payload of an IPv4 or IPv6 packet at multiples of 8.
func fragments(b []byte, id uint16, cuts ...int) [][]byte {
	ipLen := 40
	if b[0]>>4 == 4 {
		ipLen = 20
	}
	payload := b[ipLen:]
	cuts = append(append([]int{0}, cuts...), len(payload))
	var out [][]byte
	for i := 0; i+1 < len(cuts); i++ {
		piece, more := payload[cuts[i]:cuts[i+1]], i+2 < len(cuts)
		var f []byte
		if ipLen == 20 {
			f = append(append(f, b[:20]...), piece...)
			field := uint16(cuts[i] / 8)
			if more {
				field |= 0x2000
			}
			binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
			binary.BigEndian.PutUint16(f[4:], id)
			binary.BigEndian.PutUint16(f[6:], field)
			header.IPv4(f).SetChecksum(0)
			header.IPv4(f).SetChecksum(^header.IPv4(f).CalculateChecksum())
		} else {
			f = append(f, b[:40]...)
			field := uint16(cuts[i])
			if more {
				field |= 1
			}
			f = append(f, b[6], 0, byte(field>>8), byte(field), 0, 0, byte(id>>8), byte(id))
			f = append(f, piece...)
			f[6] = 44
			binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
		}
		out = append(out, f)
	}
	return out
}

// Netstack believes the link about plain segments, and must not about those
// that it puts together itself.
func TestFragmentedSegmentsAreVerified(t *testing.T) {
	handler, conns := handOver()
	_, a := openRaw(t, wireguard.Config{TCP: handler})
	for _, ends := range [][2]netip.AddrPort{
		{netip.AddrPortFrom(a.addr4, 1000), netip.MustParseAddrPort("192.0.2.1:80")},
		{netip.AddrPortFrom(a.addr6, 1000), netip.MustParseAddrPort("[2001:db8::1]:80")},
	} {
		src, dst := ends[0], ends[1]
		a.fence(t)
		bad := tcpPacket(src, dst, header.TCPFlagSyn, 7, 0)
		bad[len(bad)-1] ^= 0x40
		a.send(fragments(bad, 1, 8)...)
		if got := a.fence(t); len(got) != 0 {
			t.Fatalf("%v: a bad checksum was answered: %+v", dst, got)
		}
		a.send(fragments(tcpPacket(src, dst, header.TCPFlagSyn, 7, 0), 2, 8)...)
		d := a.next(t)
		if d.flags() != header.TCPFlagSyn|header.TCPFlagAck {
			t.Fatalf("%v: flags %v, want SYN and ACK", dst, d.flags())
		}
		a.send(tcpPacket(src, dst, header.TCPFlagAck, 8, header.TCP(d.payload).SequenceNumber()+1))
		within(t, "connection", conns).Close()
		for d := a.next(t); d.flags()&header.TCPFlagFin == 0; d = a.next(t) {
		}
	}
}

// The quote in an answer to a datagram that came in fragments is of the whole.
func TestRefusedFragmentsAreAnsweredOnce(t *testing.T) {
	_, a := openRaw(t, wireguard.Config{})
	for _, ends := range [][2]netip.AddrPort{
		{netip.AddrPortFrom(a.addr4, 5000), netip.MustParseAddrPort("192.0.2.1:443")},
		{netip.AddrPortFrom(a.addr6, 5000), netip.MustParseAddrPort("[2001:db8::1]:443")},
	} {
		whole := udpPacket(ends[0], ends[1], make([]byte, 1000))
		a.fence(t)
		a.send(fragments(whole, 9, 496)...)
		got := a.fence(t)
		if len(got) != 1 {
			t.Fatalf("%v: %d answers", ends[1], len(got))
		}
		quote := decode(t, got[0].payload[8:])
		if quote.src != ends[0].Addr() || quote.dst != ends[1].Addr() || quote.proto != protoUDP || header.UDP(quote.payload).SourcePort() != 5000 {
			t.Errorf("%v: quotes %+v", ends[1], quote)
		}
	}
}

func TestNothingIsLargerThanTheMTU(t *testing.T) {
	const mtu = 1380
	handler, conns := handOver()
	gw, a := openRaw(t, wireguard.Config{MTU: mtu, TCP: handler})
	for _, ends := range [][2]netip.AddrPort{
		{netip.AddrPortFrom(a.addr4, 1000), netip.MustParseAddrPort("192.0.2.1:80")},
		{netip.AddrPortFrom(a.addr6, 1000), netip.MustParseAddrPort("[2001:db8::1]:80")},
	} {
		src, dst := ends[0], ends[1]
		headers := 40
		if src.Addr().Is6() {
			headers = 60
		}
		a.send(tcpPacket(src, dst, header.TCPFlagSyn, 7, 0))
		d := a.next(t)
		h := header.TCP(d.payload)
		if mss := header.ParseSynOptions(h.Options(), true).MSS; int(mss) != mtu-headers {
			t.Errorf("%v: MSS %d, want %d", dst, mss, mtu-headers)
		}
		a.send(tcpPacket(src, dst, header.TCPFlagAck, 8, h.SequenceNumber()+1))
		in := within(t, "connection", conns)
		if _, err := in.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		if err := gw.SendUDP(dst, src, make([]byte, 5000)); err != nil {
			t.Fatal(err)
		}
		for _, d := range append([]decoded{a.next(t), a.next(t)}, a.fence(t)...) {
			if size := len(d.payload) + headers - 20; size > mtu {
				t.Errorf("%v: a packet of %d bytes", dst, size)
			}
		}
		in.Abort()
		a.fence(t)
	}
}

// Everything at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	gw := open(t, wireguard.Config{
		TCP: always(func(c net.Conn) {
			if c != nil {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				io.Copy(c, c)
			}
		}),
		UDP: func(src, dst netip.AddrPort, _ []byte) wireguard.Disposition { return wireguard.PortUnreachable },
	})
	stays, comes := newAgent(t, gw, 1), newAgent(t, gw, 2)
	setPeers(t, gw, stays)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer func() {
		close(stop)
		wg.Wait()
	}()
	repeat := func(f func()) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond): // the flows need some of the machine too
					f()
				}
			}
		})
	}
	repeat(func() {
		if err := gw.SetPeers([]wireguard.Peer{stays.peer, comes.peer}); err != nil {
			t.Error(err)
		}
		if err := gw.SetPeers([]wireguard.Peer{stays.peer}); err != nil {
			t.Error(err)
		}
	})
	repeat(func() {
		if _, err := gw.Stats(); err != nil {
			t.Error(err)
		}
		gw.Counters()
		// The peer may be gone or not; neither may panic.
		_ = gw.SendUDP(netip.MustParseAddrPort("192.0.2.1:53"), netip.AddrPortFrom(comes.addr4, 9), make([]byte, 3000))
	})
	if c, err := comes.net.DialUDPAddrPort(netip.AddrPort{}, netip.MustParseAddrPort("192.0.2.1:53")); err == nil {
		defer c.Close()
		repeat(func() { c.Write([]byte("query")) })
	}
	for range 30 {
		c := stays.dial(t, "192.0.2.1:80")
		data := make([]byte, 50_000)
		go c.Write(data)
		if _, err := io.ReadFull(c, data); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}
