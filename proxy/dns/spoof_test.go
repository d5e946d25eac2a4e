package dns_test

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/dns"
)

// The attack: answer before the resolver does.
func TestDNS_AnswersToOtherQuestionsAreNotBelieved(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { pc.Close(); serving.Wait() })
	seen := make(chan uint16, 10)
	serving.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var q mdns.Msg
			if q.Unpack(buf[:n]) != nil {
				continue
			}
			seen <- netip.MustParseAddrPort(from.String()).Port()
			send := func(edit func(*mdns.Msg)) {
				m := records("$ 300 IN A 192.0.2.66")("udp", &q)
				edit(m)
				wire, _ := m.Pack()
				pc.WriteTo(wire, from)
			}
			send(func(m *mdns.Msg) { m.Id++ })
			send(func(m *mdns.Msg) { m.Question[0].Name = "evil.example.org." })
			send(func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeAAAA })
			send(func(m *mdns.Msg) { m.Question[0].Qclass = mdns.ClassCHAOS })
			send(func(m *mdns.Msg) { m.Response = false })
			send(func(m *mdns.Msg) { m.Question = nil })
			send(func(m *mdns.Msg) { m.Opcode = mdns.OpcodeUpdate })
			pc.WriteTo([]byte{1, 2, 3}, from)
			send(func(m *mdns.Msg) { m.Answer = []mdns.RR{parseRR("$ 0 IN A 192.0.2.1", q.Question[0].Name)} })
		}
	})
	upstream := netip.MustParseAddrPort(pc.LocalAddr().String())
	h := build(t, nil, func(c *dns.Config) { c.Upstream = func() []netip.AddrPort { return []netip.AddrPort{upstream} } })
	ports := map[uint16]bool{}
	for range 5 {
		if a := only(t, h.ask(t, nil, gateway, question("a.example.org", mdns.TypeA))).(*mdns.A); a.A.String() != "192.0.2.1" {
			t.Errorf("believed %s", a)
		}
		ports[<-seen] = true
	}
	if len(ports) < 2 {
		t.Errorf("5 queries from the ports %v", ports)
	}
	// The same from a resolver that the agent named.
	h.refuse = func(netip.AddrPort) error { return nil }
	if a := only(t, h.ask(t, nil, upstream, question("a.example.org", mdns.TypeA))).(*mdns.A); a.A.String() != "192.0.2.1" {
		t.Errorf("believed %s", a)
	}
}

// Somebody who floods guesses drives the question to TCP.
func TestDNS_GuessersAreLeftBehindOverTCP(t *testing.T) {
	world := startServer(t, records("$ 300 IN A 192.0.2.1"))
	pc, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.2:%d", world.addr.Port()))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { pc.Close(); ln.Close(); serving.Wait() })
	serving.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			for guess := range 40 { // at the id, and wrong
				forged := append([]byte(nil), buf[:n]...)
				forged[2] |= 0x80
				forged[0] ^= byte(guess + 1)
				pc.WriteTo(forged, from)
			}
		}
	})
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c := &mdns.Conn{Conn: conn}
			if q, err := c.ReadMsg(); err == nil {
				c.WriteMsg(records("$ 300 IN A 192.0.2.1")("tcp", q))
			}
			conn.Close()
		}
	})
	guessed := netip.MustParseAddrPort(pc.LocalAddr().String())
	h := build(t, nil, func(c *dns.Config) { c.Upstream = func() []netip.AddrPort { return []netip.AddrPort{guessed} } })
	only(t, h.ask(t, nil, gateway, question("a.example.org", mdns.TypeA)))
}

func TestDNS_MalformedAnswersAreFailures(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { pc.Close(); serving.Wait() })
	serving.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			reply := append([]byte(nil), buf[:n-11]...) // without the OPT record
			reply[2] |= 0x80
			reply[7], reply[11] = 9, 0 // nine answers that are not there
			pc.WriteTo(append(reply, 0xc0), from)
		}
	})
	upstream := netip.MustParseAddrPort(pc.LocalAddr().String())
	h := build(t, nil, func(c *dns.Config) { c.Upstream = func() []netip.AddrPort { return []netip.AddrPort{upstream} } })
	wantRcode(t, h.ask(t, nil, gateway, question("a.example.org", mdns.TypeA)), mdns.RcodeServerFailure)
}
