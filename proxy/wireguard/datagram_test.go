package wireguard_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

// answered is a Config.Echo that answers every request.
func answered(gw *atomic.Pointer[wireguard.Tunnel]) func(wireguard.Echo) wireguard.Disposition {
	return func(e wireguard.Echo) wireguard.Disposition {
		e.Payload = bytes.Clone(e.Payload)
		if err := gw.Load().SendEcho(e); err != nil {
			panic(err)
		}
		return wireguard.Taken
	}
}

// openRaw starts a gateway that answers echoes, and one raw agent host.
func openRaw(t testing.TB, cfg wireguard.Config) (*wireguard.Tunnel, *agentHost) {
	t.Helper()
	var self atomic.Pointer[wireguard.Tunnel]
	if cfg.Echo == nil {
		cfg.Echo = answered(&self)
	}
	gw := open(t, cfg)
	self.Store(gw)
	a := newRawAgent(t, gw, 1)
	setPeers(t, gw, a)
	return gw, a
}

func TestDatagramsBothWays(t *testing.T) {
	type datagram struct {
		src, dst netip.AddrPort
		payload  []byte
	}
	got := make(chan datagram, 16)
	gw := open(t, wireguard.Config{UDP: func(src, dst netip.AddrPort, payload []byte) wireguard.Disposition {
		got <- datagram{src, dst, bytes.Clone(payload)}
		return wireguard.Taken
	}})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	for _, dst := range []string{"192.0.2.1:53", "[2001:db8::1]:53"} {
		c, err := a.net.DialUDPAddrPort(netip.AddrPort{}, netip.MustParseAddrPort(dst))
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		// 4000 and 65000 bytes go in fragments, both ways.
		for _, size := range []int{0, 1, 1000, 4000, 60000} {
			data := make([]byte, size)
			rand.Read(data)
			if _, err := c.Write(data); err != nil {
				t.Fatal(err)
			}
			d := within(t, "datagram", got)
			if d.dst != netip.MustParseAddrPort(dst) || d.src != c.LocalAddr().(*net.UDPAddr).AddrPort() {
				t.Errorf("%v to %v", d.src, d.dst)
			}
			if !bytes.Equal(d.payload, data) {
				t.Fatalf("%s, %d bytes: arrived changed (%d bytes)", dst, size, len(d.payload))
			}
			if err := gw.SendUDP(d.dst, d.src, data); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 65536)
			n, err := c.Read(b)
			if err != nil || !bytes.Equal(b[:n], data) {
				t.Fatalf("%s, %d bytes back: %d bytes, %v", dst, size, n, err)
			}
		}
		c.Close()
	}
}

func TestThousandsOfDatagramFlows(t *testing.T) {
	var count atomic.Int64
	_, a := openRaw(t, wireguard.Config{UDP: func(netip.AddrPort, netip.AddrPort, []byte) wireguard.Disposition {
		count.Add(1)
		return wireguard.Taken
	}})
	a.fence(t) // the session is there
	const flows = 3000
	for i := range flows {
		a.send(udpPacket(netip.AddrPortFrom(a.addr4, uint16(1024+i)), netip.MustParseAddrPort("192.0.2.1:53"), []byte("query")))
		if i%64 == 0 {
			a.fence(t)
		}
	}
	a.fence(t)
	if n := count.Load(); n != flows {
		t.Errorf("%d of %d datagrams arrived", n, flows)
	}
}

func TestSendUDPToNobody(t *testing.T) {
	gw := open(t, wireguard.Config{})
	for _, to := range []string{"10.55.1.2:9", "[fd55::1]:9"} {
		if err := gw.SendUDP(netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort(to), nil); err == nil {
			t.Errorf("%s: no error", to)
		}
	}
	if err := gw.SendUDP(netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("10.55.1.2:9"), make([]byte, 65536)); err == nil {
		t.Error("65536 bytes: no error")
	}
}

// wantError checks an ICMP error and its quote.
func wantError(t *testing.T, d decoded, offending []byte, type4, code4, type6, code6 byte) {
	t.Helper()
	o := decode(t, offending)
	want, limit := [2]byte{type4, code4}, 576
	if o.src.Is6() {
		want, limit = [2]byte{type6, code6}, 1280
	}
	if d.proto != protoICMP && d.proto != protoICMPv6 {
		t.Fatalf("protocol %d, want an ICMP error", d.proto)
	}
	if [2]byte(d.payload[:2]) != want {
		t.Errorf("type and code %v, want %v", d.payload[:2], want)
	}
	if d.src != o.dst || d.dst != o.src {
		t.Errorf("from %v to %v", d.src, d.dst)
	}
	if !d.checksumOK() {
		t.Error("checksum is wrong")
	}
	quote := d.payload[8:]
	head := limit - len(d.payload) + len(quote)
	if o.src.Is4() {
		head -= 20
	} else {
		head -= 40
	}
	if quoted := offending[:min(len(offending), head)]; !bytes.Equal(quote, quoted) {
		t.Errorf("quotes\n%x, want\n%x", quote, quoted)
	}
}

func TestRefusedDatagramsAreAnsweredWithICMP(t *testing.T) {
	dispositions := []wireguard.Disposition{wireguard.Prohibited, wireguard.PortUnreachable, wireguard.HostUnreachable}
	codes4 := []byte{13, 3, 1}
	codes6 := []byte{1, 4, 3}
	var now atomic.Int64
	_, a := openRaw(t, wireguard.Config{UDP: func(netip.AddrPort, netip.AddrPort, []byte) wireguard.Disposition {
		return dispositions[now.Load()]
	}})
	for i := range dispositions {
		now.Store(int64(i))
		for _, ends := range [][2]netip.AddrPort{
			{netip.AddrPortFrom(a.addr4, 5000), netip.MustParseAddrPort("192.0.2.1:443")},
			{netip.AddrPortFrom(a.addr6, 5000), netip.MustParseAddrPort("[2001:db8::1]:443")},
		} {
			for _, size := range []int{0, 4, 1300} {
				b := udpPacket(ends[0], ends[1], make([]byte, size))
				a.send(b)
				wantError(t, a.next(t), b, 3, codes4[i], 1, codes6[i])
			}
		}
	}
}

func TestICMPErrorsAreLimitedPerPeer(t *testing.T) {
	gw, a := openRaw(t, wireguard.Config{}) // a nil UDP refuses
	b := newRawAgent(t, gw, 2)
	setPeers(t, gw, a, b)
	a.fence(t)
	const sent = 2000
	errors := 0
	for i := range sent {
		a.send(udpPacket(netip.AddrPortFrom(a.addr4, 5000), netip.MustParseAddrPort("192.0.2.1:443"), nil))
		if i%50 == 0 {
			errors += len(a.fence(t))
		}
	}
	errors += len(a.fence(t))
	suppressed := gw.Counters().ICMPSuppressed
	if suppressed == 0 || errors == 0 || uint64(errors)+suppressed != sent {
		t.Errorf("%d errors and %d suppressed for %d datagrams", errors, suppressed, sent)
	}
	// The other agent's share is untouched.
	p := udpPacket(netip.AddrPortFrom(b.addr4, 5000), netip.MustParseAddrPort("192.0.2.1:443"), nil)
	b.send(p)
	wantError(t, b.next(t), p, 3, 13, 1, 1)
}

func TestEcho(t *testing.T) {
	_, a := openRaw(t, wireguard.Config{})
	for _, ends := range [][2]netip.Addr{
		{a.addr4, netip.MustParseAddr("192.0.2.1")},
		{a.addr6, netip.MustParseAddr("2001:db8::1")},
	} {
		payload := []byte("sixteen bytes...")
		a.send(echoRequest(ends[0], ends[1], 77, 3, payload))
		d := a.next(t)
		kind := byte(header.ICMPv4EchoReply)
		if ends[0].Is6() {
			kind = byte(header.ICMPv6EchoReply)
		}
		if d.payload[0] != kind || d.src != ends[1] || d.dst != ends[0] || !d.checksumOK() {
			t.Fatalf("%v: got %+v", ends[1], d)
		}
		if id, seq := binary.BigEndian.Uint16(d.payload[4:]), binary.BigEndian.Uint16(d.payload[6:]); id != 77 || seq != 3 || !bytes.Equal(d.payload[8:], payload) {
			t.Errorf("%v: id %d, seq %d, payload %q", ends[1], id, seq, d.payload[8:])
		}
	}
}

func TestLargeEchoesGoInFragments(t *testing.T) {
	var self atomic.Pointer[wireguard.Tunnel]
	gw := open(t, wireguard.Config{Echo: answered(&self)})
	self.Store(gw)
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		c, err := a.net.Dial(map[bool]string{true: "ping4", false: "ping6"}[netip.MustParseAddr(to).Is4()], to)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(patience))
		request := make([]byte, 8+4000)
		rand.Read(request[8:])
		request[0] = byte(header.ICMPv4Echo)
		if netip.MustParseAddr(to).Is6() {
			request[0] = byte(header.ICMPv6EchoRequest)
		}
		request[1], request[7] = 0, 1
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 8192)
		n, err := c.Read(b)
		if err != nil || !bytes.Equal(b[8:n], request[8:]) {
			t.Errorf("%s: %d bytes, %v", to, n, err)
		}
		c.Close()
	}
}

func TestEchoWithoutHandlerIsProhibited(t *testing.T) {
	gw := open(t, wireguard.Config{})
	a := newRawAgent(t, gw, 1)
	setPeers(t, gw, a)
	for _, b := range [][]byte{
		echoRequest(a.addr4, netip.MustParseAddr("192.0.2.1"), 1, 1, []byte("payload")),
		echoRequest(a.addr6, netip.MustParseAddr("2001:db8::1"), 1, 1, []byte("payload")),
		echoRequest(a.addr4, netip.MustParseAddr("10.55.1.1"), 1, 1, nil),
		echoRequest(a.addr6, netip.MustParseAddr("fd55:1::1"), 1, 1, nil),
	} {
		a.send(b)
		wantError(t, a.next(t), b, 3, 13, 1, 1)
	}
}

func TestNetstackSaysNothingOnItsOwn(t *testing.T) {
	_, a := openRaw(t, wireguard.Config{
		TCP: always(func(c net.Conn) {
			if c != nil {
				c.Close()
			}
		}),
		UDP: func(netip.AddrPort, netip.AddrPort, []byte) wireguard.Disposition { return wireguard.Taken },
	})
	a.fence(t)
	target4, target6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	timestamp := make([]byte, 20)
	timestamp[0] = 13
	sum(a.addr4, target4, protoICMP, timestamp, 2)
	solicitation := make([]byte, 24)
	solicitation[0] = 135
	copy(solicitation[8:], target6.AsSlice())
	sum(a.addr6, target6, protoICMPv6, solicitation, 2)
	ns := ipPacket(a.addr6, target6, protoICMPv6, solicitation)
	ns[7] = 255
	options := ipPacket(a.addr4, target4, protoUDP, make([]byte, 12))
	options[0] = 0x46
	binary.BigEndian.PutUint16(options[10:], 0)
	header.IPv4(options).SetChecksum(^header.IPv4(options).CalculateChecksum())
	a.send(
		ipPacket(a.addr4, target4, protoICMP, timestamp),
		ns,
		options,
		ipPacket(a.addr4, target4, 132, make([]byte, 40)),                                    // SCTP
		ipPacket(a.addr6, target6, 132, make([]byte, 40)),                                    //
		ipPacket(a.addr6, target6, 60, append([]byte{132, 0x80, 0xc2}, make([]byte, 13)...)), // an option that asks for an error
		ipPacket(a.addr4, target4, 2, make([]byte, 8)),                                       // IGMP
		udpPacket(netip.AddrPortFrom(a.addr4, 68), netip.MustParseAddrPort("255.255.255.255:67"), nil),
		udpPacket(netip.AddrPortFrom(a.addr4, 5353), netip.MustParseAddrPort("224.0.0.251:5353"), nil),
		udpPacket(netip.AddrPortFrom(a.addr6, 5353), netip.MustParseAddrPort("[ff02::fb]:5353"), nil),
	)
	if got := a.fence(t); len(got) != 0 {
		t.Errorf("answered: %+v", got)
	}
	if got := a.quiet(t, 300*time.Millisecond); len(got) != 0 {
		t.Errorf("said: %+v", got)
	}
}
