package dns_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/dns"
)

// wireServer answers with bytes of the test's making and keeps what it was sent.
type wireServer struct {
	addr netip.AddrPort
	mu   sync.Mutex
	got  map[string][]byte // the last message, by transport
}

func startWireServer(t *testing.T, answer func(transport string, q []byte) []byte) *wireServer {
	t.Helper()
	s := &wireServer{got: map[string][]byte{}}
	var (
		pc  net.PacketConn
		ln  net.Listener
		err error
	)
	for range 10 {
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.addr = netip.MustParseAddrPort(pc.LocalAddr().String())
	keep := func(transport string, q []byte) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got[transport] = bytes.Clone(q)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { pc.Close(); ln.Close(); serving.Wait() })
	serving.Go(func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			keep("udp", buf[:n])
			if reply := answer("udp", buf[:n]); reply != nil {
				pc.WriteTo(reply, from)
			}
		}
	})
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			if _, err := io.ReadFull(conn, size[:]); err == nil {
				q := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(conn, q); err == nil {
					keep("tcp", q)
					if reply := answer("tcp", q); reply != nil {
						conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
					}
				}
			}
			conn.Close()
		}
	})
	return s
}

func (s *wireServer) last(transport string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[transport]
}

func open(netip.AddrPort) error { return nil }

func TestDNS_OtherResolversAreAskedAndAnswerUnchanged(t *testing.T) {
	// Nothing that a rebuilt message would keep: an option of no meaning,
	// junk after the end, odd case, all flags, 3000 bytes over UDP.
	garnish := func(transport string, q []byte) []byte {
		reply := bytes.Clone(q)
		reply[2] |= 0x80 | 0x04
		reply[3] |= 0x80 | 0x40 | 0x20 | 0x10
		if reply[len(reply)-8] == 0xff { // it takes 65535 bytes
			reply = append(reply, make([]byte, 50_000)...)
		}
		return append(reply, bytes.Repeat([]byte(transport), 1000)...)
	}
	s := startWireServer(t, garnish)
	h := build(t, nil)
	h.refuse = open
	large := question("www.example.org", mdns.TypeTXT)
	large.SetEdns0(65535, false)
	base := question("WwW.eXample.org", mdns.TypeA)
	base.SetEdns0(4000, true)
	base.IsEdns0().Option = append(base.IsEdns0().Option, &mdns.EDNS0_LOCAL{Code: 65001, Data: []byte("cookie")})
	chaos := question("version.bind", mdns.TypeTXT)
	chaos.Question[0].Qclass = mdns.ClassCHAOS
	update := new(mdns.Msg).SetUpdate("example.org.")
	future := question("www.example.org", mdns.TypeA)
	future.SetEdns0(1232, false)
	future.IsEdns0().SetVersion(1)
	scope := scopeOf("api.example.com")
	for name, msg := range map[string]*mdns.Msg{
		"a query": base, "a large answer": large, "chaos": chaos, "update": update, "a later EDNS": future, "ANY": question("example.org", mdns.TypeANY), "localhost": question("localhost", mdns.TypeA),
		"unknown type": question("example.org", 65280), "service binding": question("_443._https.example.org", mdns.TypeHTTPS),
	} {
		wire, err := msg.Pack()
		if err != nil {
			t.Fatal(err)
		}
		for transport, tcp := range map[string]bool{"udp": false, "tcp": true} {
			reply, err := h.Answer(t.Context(), dns.Query{Registration: "r1", Scope: scope, Server: s.addr, TCP: tcp, Message: wire})
			if err != nil {
				t.Errorf("%s over %s: %v", name, transport, err)
				continue
			}
			if !bytes.Equal(s.last(transport), wire) {
				t.Errorf("%s over %s: the resolver got %x, the agent sent %x", name, transport, s.last(transport), wire)
			}
			if !bytes.Equal(reply, garnish(transport, wire)) {
				t.Errorf("%s over %s: the answer was changed", name, transport)
			}
		}
	}
	if len(h.dialled) == 0 {
		t.Error("not dialled through Config.Dial")
	}
}

// What one registration's resolver says is nobody else's business.
func TestI06_AnswersOfOtherResolversAreNotKept(t *testing.T) {
	world := startServer(t, records("$ 300 IN A 192.0.2.1"))
	evil := startServer(t, records("$ 300 IN A 192.0.2.66"))
	h := build(t, world)
	h.refuse = open
	only(t, h.ask(t, nil, evil.addr, question("bank.example.org", mdns.TypeA)))
	if a := only(t, h.ask(t, nil, gateway, question("bank.example.org", mdns.TypeA))).(*mdns.A); a.A.String() != "192.0.2.1" {
		t.Errorf("the gateway answers %s", a.A)
	}
	only(t, h.ask(t, nil, evil.addr, question("bank.example.org", mdns.TypeA)))
	if n := len(evil.queries()); n != 2 {
		t.Errorf("the agent's own resolver was asked %d times, twice by the agent", n)
	}
}

func TestI09_ResolversThatEgressRefusesAreNotAsked(t *testing.T) {
	h := build(t, nil)
	for _, to := range []string{"10.0.0.53:53", "[fd00::53]:53", "192.168.1.1:5353"} {
		for _, tcp := range []bool{false, true} {
			q := question("www.example.org", mdns.TypeA)
			q.SetEdns0(1232, false)
			m, err := h.tryAs(t, dns.Query{Registration: "r1", Server: netip.MustParseAddrPort(to), TCP: tcp}, q)
			if err != nil {
				t.Fatal(err)
			}
			wantRcode(t, m, mdns.RcodeRefused)
			if ede(m) == "" {
				t.Errorf("no extended error:\n%s", m)
			}
		}
	}
	if len(h.dialled) > 0 {
		t.Errorf("dialled %v", h.dialled)
	}
}

// One reply is one message, so a transfer would arrive cut short and look whole.
func TestDNS_ZoneTransfersAreRefused(t *testing.T) {
	h := build(t, nil)
	h.refuse = open
	for _, qtype := range []uint16{mdns.TypeAXFR, mdns.TypeIXFR} {
		m, err := h.tryAs(t, dns.Query{Registration: "r1", Server: netip.MustParseAddrPort("192.0.2.53:53"), TCP: true}, question("example.org", qtype))
		if err != nil {
			t.Fatal(err)
		}
		wantRcode(t, m, mdns.RcodeRefused)
	}
	if len(h.dialled) > 0 {
		t.Errorf("dialled %v", h.dialled)
	}
}

func TestDNS_OtherResolversThatDoNotAnswer(t *testing.T) {
	h := build(t, nil)
	h.refuse = open
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := netip.MustParseAddrPort(closed.LocalAddr().String())
	closed.Close()
	for _, tcp := range []bool{false, true} {
		m, err := h.tryAs(t, dns.Query{Registration: "r1", Server: nobody, TCP: tcp}, question("www.example.org", mdns.TypeA))
		if err != nil {
			t.Errorf("nobody there: %v", err)
			continue
		}
		wantRcode(t, m, mdns.RcodeServerFailure)
	}

	// Silence is passed on as silence.
	silent := startServer(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wire, _ := question("www.example.org", mdns.TypeA).Pack()
	for _, to := range []netip.AddrPort{silent.addr, gateway} {
		if reply, err := h.Answer(ctx, dns.Query{Registration: "r1", Server: to, Message: wire}); err == nil {
			if to == gateway {
				continue // there is no upstream: that is known at once
			}
			t.Errorf("silence was answered with %x", reply)
		}
	}
	// What ended is not answered, whoever was asked.
	slow := build(t, silent)
	if reply, err := slow.Answer(ctx, dns.Query{Registration: "r1", Server: gateway, Message: wire}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("after ctx ended: %x %v", reply, err)
	}
}

func TestDNS_StreamsThatEndEarlyAreFailures(t *testing.T) {
	for name, reply := range map[string][]byte{"another question": append([]byte{0, 0, 0x81, 0x80}, make([]byte, 20)...), "nothing": nil, "too little": {1, 2, 3}} {
		s := startWireServer(t, func(string, []byte) []byte { return reply })
		h := build(t, nil)
		h.refuse = open
		m, err := h.tryAs(t, dns.Query{Registration: "r1", Server: s.addr, TCP: true}, question("www.example.org", mdns.TypeA))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantRcode(t, m, mdns.RcodeServerFailure)
	}
}
