package dns

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/registry"
)

func packed(tb testing.TB, m *mdns.Msg) []byte {
	tb.Helper()
	b, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func rr(tb testing.TB, s string) mdns.RR {
	tb.Helper()
	r, err := mdns.NewRR(s)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// Whatever a resolver answers becomes a well-formed reply to the agent, of any
// age, or a failure.
func FuzzUpstreamAnswer(f *testing.F) {
	q := new(mdns.Msg).SetQuestion("www.example.org.", mdns.TypeA)
	m := new(mdns.Msg).SetReply(q)
	m.Compress = true
	m.Answer = append(m.Answer, rr(f, "WWW.example.org. 300 IN CNAME a.example.org."), rr(f, "a.example.org. 60 IN A 192.0.2.1"), rr(f, "a.example.org. 60 IN RRSIG A 13 3 300 20370101000000 20260101000000 1 example.org. AAAA"))
	m.Ns = append(m.Ns, rr(f, "example.org. 50 IN SOA ns.example.org. h.example.org. 1 2 3 4 5"))
	m.SetEdns0(4096, true)
	f.Add(packed(f, m), uint32(7), true)
	m.Answer = append(m.Answer, rr(f, `www.example.org. 9 IN HTTPS 1 . alpn="h3" ech="AEX+DQBB"`), rr(f, `www.example.org. 9 IN TYPE65280 \# 3 010203`))
	f.Add(packed(f, m), uint32(1<<31), false)
	f.Add(packed(f, q), uint32(0), false)
	f.Fuzz(func(t *testing.T, reply []byte, age uint32, do bool) {
		query := packed(t, q)
		p, rcode, err := parse(query)
		if err != nil || rcode != 0 {
			t.Fatal(rcode, err)
		}
		p.do, p.edns, p.udpSize = do, do, 4096
		key := cacheKey{p.name, p.qtype, p.qclass, do, false}
		now := time.Unix(1_800_000_000, 0)
		if len(reply) < headerSize {
			return
		}
		e, err := key.read(reply, now)
		if err != nil {
			return
		}
		if e.expires.Sub(e.stored) > maxAge || e.expires.Before(e.stored) {
			t.Fatalf("kept for %s", e.expires.Sub(e.stored))
		}
		for _, e := range []*entry{e, e.withoutName()} {
			wire := bytes.Clone(e.wire)
			p.tcp = true
			whole := p.cached(e, now.Add(time.Duration(age)*time.Second))
			p.tcp = false
			short := p.cached(e, now)
			if !bytes.Equal(wire, e.wire) {
				t.Fatal("an entry was changed")
			}
			if len(short) > maxUDP {
				t.Fatalf("%d bytes over UDP", len(short))
			}
			for _, b := range [][]byte{whole, short} {
				if len(b) > maxMessage+sizeOPT {
					t.Fatalf("%d bytes", len(b))
				}
				var m mdns.Msg
				if err := m.Unpack(b); err != nil {
					t.Fatalf("%x became %x: %v", reply, b, err)
				}
			}
		}
	})
}

func FuzzAnswersTo(f *testing.F) {
	q := packed(f, new(mdns.Msg).SetQuestion("www.example.org.", mdns.TypeA))
	f.Add(q, q)
	f.Add([]byte{}, q)
	f.Fuzz(func(t *testing.T, reply, query []byte) {
		if answers(reply, query) && (!bytes.Equal(reply[:2], query[:2]) || reply[2]&0x80 == 0) {
			t.Fatalf("%x was taken for an answer to %x", reply, query)
		}
	})
}

func benchmark(b *testing.B, name string, qtype uint16) (*Resolver, Query) {
	r := New(Config{
		Virtual: func(context.Context, registry.ID, string) (v4, v6 netip.Addr, err error) {
			return netip.AddrFrom4([4]byte{10, 55, 192, 1}), netip.IPv6Loopback(), nil
		},
		Own: func(netip.Addr) bool { return true },
	})
	q := new(mdns.Msg).SetQuestion(name, qtype)
	q.SetEdns0(1232, false)
	return r, Query{Registration: "r1", Server: netip.MustParseAddrPort("10.55.0.1:53"), Message: packed(b, q)}
}

func BenchmarkAnswer(b *testing.B) {
	b.Run("cached", func(b *testing.B) {
		r, q := benchmark(b, "www.example.org.", mdns.TypeA)
		m := new(mdns.Msg).SetQuestion("www.example.org.", mdns.TypeA)
		m.Response = true
		m.Answer = append(m.Answer, rr(b, "www.example.org. 3000 IN CNAME a.example.org."), rr(b, "a.example.org. 3000 IN A 192.0.2.1"), rr(b, "a.example.org. 3000 IN A 192.0.2.2"))
		p, _, _ := parse(q.Message)
		key := cacheKey{p.name, p.qtype, p.qclass, false, false}
		e, err := key.read(packed(b, m), time.Now())
		if err != nil {
			b.Fatal(err)
		}
		r.cache.put(key, e)
		run(b, r, q)
	})
	b.Run("virtual", func(b *testing.B) {
		r, q := benchmark(b, "api.example.com.", mdns.TypeA)
		q.Scope = exampleScope()
		run(b, r, q)
	})
	b.Run("parallel", func(b *testing.B) {
		r, q := benchmark(b, "localhost.", mdns.TypeA)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := r.Answer(context.Background(), q); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func run(b *testing.B, r *Resolver, q Query) {
	b.ReportAllocs()
	for b.Loop() {
		reply, err := r.Answer(context.Background(), q)
		if err != nil || reply[3]&maskRcode != 0 || reply[7] == 0 {
			b.Fatalf("%x %v", reply, err)
		}
	}
}

// The attack: a few registrations ask so much that all the places are theirs.
func TestI16_FloodsOfSeveralRegistrationsLeaveRoom(t *testing.T) {
	l := newLimiter()
	for i := range 8 {
		for l.enter(registry.ID(fmt.Sprintf("flood%d", i))) {
		}
	}
	if l.all >= inFlight*3/4 {
		t.Errorf("8 registrations have %d of %d places", l.all, inFlight)
	}
	for i := range inFlightCrowded {
		if !l.enter("quiet") {
			t.Fatalf("the quiet one has %d places", i)
		}
	}
}
