package wireguard_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

// undecided is a Config.TCP that keeps every attempt in the making until
// release is closed, and then refuses.
func undecided() (handler tcpHandler, asked *atomic.Int64, release chan struct{}) {
	asked, release = new(atomic.Int64), make(chan struct{})
	return func(ctx context.Context, _, _ netip.AddrPort) (func(net.Conn), bool) {
		asked.Add(1)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil, false
	}, asked, release
}

func (a *agentHost) syn(port uint16) []byte {
	return tcpPacket(netip.AddrPortFrom(a.addr4, port), netip.MustParseAddrPort("192.0.2.1:80"), header.TCPFlagSyn, 7, 0)
}

func TestAttemptsInTheMakingAreLimitedPerPeer(t *testing.T) {
	handler, asked, release := undecided()
	gw, a := openRaw(t, wireguard.Config{TCP: handler})
	b := newRawAgent(t, gw, 2)
	setPeers(t, gw, a, b)
	a.fence(t)
	const limit, more = 256, 20
	for i := range limit {
		a.send(a.syn(uint16(1000 + i)))
	}
	if got := a.fence(t); len(got) != 0 {
		t.Fatalf("answered within the limit: %+v", got[0])
	}
	for i := range more {
		a.send(a.syn(uint16(3000 + i)))
	}
	got := a.fence(t)
	for _, d := range got {
		if d.flags() != header.TCPFlagRst|header.TCPFlagAck {
			t.Errorf("flags %v, want RST and ACK", d.flags())
		}
	}
	if len(got) != more {
		t.Errorf("%d resets for %d attempts over the limit", len(got), more)
	}
	if n := gw.Counters().OverLimit; n != more {
		t.Errorf("counted %d over the limit", n)
	}
	eventually(t, "attempts at the limit", func() bool { return asked.Load() == limit })

	// Another agent's are its own, and decided ones make room.
	b.send(b.syn(1000))
	eventually(t, "the other agent's attempt", func() bool { return asked.Load() == limit+1 })
	close(release)
	for range limit {
		if d := a.next(t); d.flags()&header.TCPFlagRst == 0 {
			t.Fatalf("flags %v, want RST", d.flags())
		}
	}
	a.send(a.syn(5000))
	eventually(t, "an attempt after the others", func() bool { return asked.Load() == limit+2 })
}

func TestRetransmittedSYNIsDecidedOnce(t *testing.T) {
	handler, asked, release := undecided()
	_, a := openRaw(t, wireguard.Config{TCP: handler})
	for range 5 {
		a.send(a.syn(1000))
		if got := a.fence(t); len(got) != 0 {
			t.Fatalf("answered: %+v", got)
		}
	}
	close(release)
	if d := a.next(t); d.flags()&header.TCPFlagRst == 0 {
		t.Errorf("flags %v, want RST", d.flags())
	}
	a.fence(t)
	if n := asked.Load(); n != 1 {
		t.Errorf("decided %d times", n)
	}
}

func TestAgentGoneMeanwhile(t *testing.T) {
	served := make(chan net.Conn, 1)
	_, a := openRaw(t, wireguard.Config{TCP: always(func(c net.Conn) { served <- c })})
	a.send(a.syn(1000))
	d := a.next(t)
	if d.flags() != header.TCPFlagSyn|header.TCPFlagAck {
		t.Fatalf("flags %v, want SYN and ACK", d.flags())
	}
	h := header.TCP(d.payload)
	a.send(tcpPacket(netip.AddrPortFrom(a.addr4, 1000), netip.MustParseAddrPort("192.0.2.1:80"), header.TCPFlagRst, 8, h.SequenceNumber()+1))
	if c := within(t, "serve", served); c != nil {
		t.Errorf("served %v, want nil", c)
	}
}

func TestStraySegmentIsReset(t *testing.T) {
	_, a := openRaw(t, wireguard.Config{TCP: always(func(c net.Conn) { t.Error("served") })})
	a.send(tcpPacket(netip.AddrPortFrom(a.addr4, 1000), netip.MustParseAddrPort("192.0.2.1:80"), header.TCPFlagAck, 8, 1))
	if d := a.next(t); d.flags()&header.TCPFlagRst == 0 || !d.checksumOK() {
		t.Errorf("flags %v, checksum %v", d.flags(), d.checksumOK())
	}
}

// Bytes with a wrong checksum must not reach a handler: netstack believes the
// link about those it has verified.
func TestBadChecksumsAreDropped(t *testing.T) {
	var seen atomic.Int64
	gw, a := openRaw(t, wireguard.Config{
		TCP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(net.Conn), bool) {
			seen.Add(1)
			return nil, false
		},
		UDP: func(netip.AddrPort, netip.AddrPort, []byte) wireguard.Disposition {
			seen.Add(1)
			return wireguard.Prohibited
		},
	})
	a.fence(t)
	src4, src6 := netip.AddrPortFrom(a.addr4, 1000), netip.AddrPortFrom(a.addr6, 1000)
	dst4, dst6 := netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("[2001:db8::1]:80")
	bad := [][]byte{
		tcpPacket(src4, dst4, header.TCPFlagSyn, 7, 0),
		tcpPacket(src6, dst6, header.TCPFlagSyn, 7, 0),
		udpPacket(src4, dst4, []byte("data")),
		udpPacket(src6, dst6, []byte("data")),
		echoRequest(a.addr4, dst4.Addr(), 1, 1, []byte("data")),
	}
	for i, b := range bad {
		b[len(b)-1] ^= 0x40
		a.send(b)
		if got := a.fence(t); len(got) != 0 {
			t.Errorf("packet %d answered: %+v", i, got)
		}
	}
	header4 := udpPacket(src4, dst4, nil)
	header4[8]-- // the IPv4 header's own
	a.send(header4)
	if got := a.fence(t); len(got) != 0 || seen.Load() != 0 {
		t.Errorf("answered %+v, seen %d", got, seen.Load())
	}
	if n := gw.Counters().BadChecksum; n != uint64(len(bad)+1) {
		t.Errorf("counted %d, want %d", n, len(bad)+1)
	}
}

// The attack: an ICMP error of one agent about another agent's connection would
// slow that down or end it, for netstack looks it up by the quoted addresses.
func TestICMPErrorsDoNotReachOtherAgentsConnections(t *testing.T) {
	handler, conns := handOver()
	gw, a := openRaw(t, wireguard.Config{TCP: handler})
	b := newAgent(t, gw, 2)
	setPeers(t, gw, a, b)
	out := b.dial(t, "192.0.2.1:80")
	in := within(t, "connection", conns)
	src := in.LocalAddr().(*net.TCPAddr).AddrPort()
	dst := in.RemoteAddr().(*net.TCPAddr).AddrPort()
	quote := tcpPacket(src, dst, header.TCPFlagAck, 0, 0)
	unreachable := append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, quote...)
	sum(a.addr4, src.Addr(), protoICMP, unreachable, 2)
	before := gw.Counters().Unsupported
	a.send(ipPacket(a.addr4, src.Addr(), protoICMP, unreachable))
	a.fence(t)
	if n := gw.Counters().Unsupported; n != before+1 {
		t.Errorf("not dropped")
	}
	echo(t, out, in)
	in.Close()
}

// The attack: a registration that is pending or blocked tries everything. It
// must get nothing, and nothing of it may reach the network stack.
func TestI07_NotAdmittedGetsNothing(t *testing.T) {
	var admitted atomic.Bool
	var mu sync.Mutex
	var reached []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		reached = append(reached, what)
	}
	gw := open(t, wireguard.Config{
		Admit: func(netip.Addr) bool { return admitted.Load() },
		TCP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(net.Conn), bool) {
			note("TCP")
			return nil, false
		},
		UDP: func(netip.AddrPort, netip.AddrPort, []byte) wireguard.Disposition {
			note("UDP")
			return wireguard.Prohibited
		},
		Echo: func(wireguard.Echo) wireguard.Disposition {
			note("Echo")
			return wireguard.Prohibited
		},
	})
	a := newRawAgent(t, gw, 1)
	setPeers(t, gw, a)
	src4, src6 := netip.AddrPortFrom(a.addr4, 1000), netip.AddrPortFrom(a.addr6, 1000)
	dst4, dst6 := netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[2001:db8::1]:53")
	everything := [][]byte{
		tcpPacket(src4, dst4, header.TCPFlagSyn, 7, 0), tcpPacket(src6, dst6, header.TCPFlagSyn, 7, 0),
		tcpPacket(src4, dst4, header.TCPFlagAck, 7, 0), tcpPacket(src6, dst6, header.TCPFlagAck, 7, 0),
		udpPacket(src4, dst4, []byte("query")), udpPacket(src6, dst6, []byte("query")),
		echoRequest(a.addr4, dst4.Addr(), 1, 1, nil), echoRequest(a.addr6, dst6.Addr(), 1, 1, nil),
	}
	a.send(everything...)
	eventually(t, "packets to be dropped", func() bool { return gw.Counters().NotAdmitted == uint64(len(everything)) })
	if got := a.quiet(t, 200*time.Millisecond); len(got) != 0 || len(reached) != 0 {
		t.Errorf("got %+v, reached %v", got, reached)
	}
	if n := wireguard.StackPackets(gw); n != 0 {
		t.Errorf("%d packets entered the network stack", n)
	}
	// What an upstream still sends does not go out either.
	if err := gw.SendUDP(dst4, src4, []byte("late answer")); err != nil {
		t.Error(err)
	}
	if got := a.quiet(t, 100*time.Millisecond); len(got) != 0 {
		t.Errorf("got %+v", got)
	}

	admitted.Store(true)
	a.send(everything...)
	for range everything {
		a.next(t)
	}
	if n := wireguard.StackPackets(gw); n != uint64(len(everything)) {
		t.Errorf("%d packets entered the network stack once admitted", n)
	}
}

// The attack: an agent uses another agent's tunnel address as its source.
func TestI05_SourceOfAnotherAgentIsDropped(t *testing.T) {
	var from sync.Map
	gw, a := openRaw(t, wireguard.Config{UDP: func(src, _ netip.AddrPort, _ []byte) wireguard.Disposition {
		from.Store(src.Addr(), true)
		return wireguard.Taken
	}})
	b := newRawAgent(t, gw, 2)
	setPeers(t, gw, a, b)
	for _, src := range []netip.Addr{b.addr4, b.addr6, netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("10.55.1.16")} {
		dst := netip.MustParseAddrPort("192.0.2.1:53")
		if src.Is6() {
			dst = netip.MustParseAddrPort("[2001:db8::1]:53")
		}
		a.send(udpPacket(netip.AddrPortFrom(src, 1000), dst, nil))
	}
	a.send(udpPacket(netip.AddrPortFrom(a.addr4, 1000), netip.MustParseAddrPort("192.0.2.1:53"), nil))
	a.fence(t)
	var seen []string
	from.Range(func(k, _ any) bool { seen = append(seen, fmt.Sprint(k)); return true })
	if len(seen) != 1 || seen[0] != a.addr4.String() {
		t.Errorf("datagrams from %v", seen)
	}
}

// An agent reuses a port soon after the gateway closed the connection first.
func TestPortIsUsableAgainAfterTheGatewayClosed(t *testing.T) {
	_, a := openRaw(t, wireguard.Config{TCP: always(func(c net.Conn) {
		if c != nil {
			c.Close()
		}
	})})
	src, dst := netip.AddrPortFrom(a.addr4, 1000), netip.MustParseAddrPort("192.0.2.1:80")
	connect := func(seq uint32) (ack uint32) {
		eventually(t, "the answer to a SYN", func() bool { // which a kernel would send again too
			a.send(tcpPacket(src, dst, header.TCPFlagSyn, seq, 0))
			for _, d := range a.fence(t) {
				if d.flags() == header.TCPFlagSyn|header.TCPFlagAck && header.TCP(d.payload).AckNumber() == seq+1 {
					ack = header.TCP(d.payload).SequenceNumber() + 1
				}
			}
			return ack != 0
		})
		return ack
	}
	ack := connect(7)
	a.send(tcpPacket(src, dst, header.TCPFlagAck, 8, ack))
	for d := a.next(t); d.flags()&header.TCPFlagFin == 0; d = a.next(t) {
	}
	a.send(tcpPacket(src, dst, header.TCPFlagFin|header.TCPFlagAck, 8, ack+1))
	a.next(t) // the last ACK: TIME-WAIT
	connect(100000)
}
