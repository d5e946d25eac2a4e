package dns_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/dns"
	"github.com/clawpatrol/clawpatrol/registry"
)

func TestDNS_AnswersAreKeptAndGrowOld(t *testing.T) {
	world := startServer(t, func(transport string, q *mdns.Msg) *mdns.Msg {
		m := records("$ 300 IN CNAME b.example.org.")(transport, q)
		m.Answer = append(m.Answer, parseRR("b.example.org. 100 IN A 192.0.2.1", ""))
		m.Ns = append(m.Ns, parseRR("example.org. 5000 IN NS ns.example.org.", ""))
		return m
	})
	h := build(t, world)
	ttls := func(m *mdns.Msg) string {
		return fmt.Sprint(m.Answer[0].Header().Ttl, m.Answer[1].Header().Ttl, m.Ns[0].Header().Ttl)
	}
	for _, step := range []struct {
		pass time.Duration
		want string
		n    int
	}{
		{0, "300 100 5000", 1},
		{900 * time.Millisecond, "300 100 5000", 1},
		{9100 * time.Millisecond, "290 90 4990", 1},
		{89 * time.Second, "201 1 4901", 1},
		{time.Second, "300 100 5000", 2},
	} {
		h.pass(step.pass)
		q := question("A.example.org", mdns.TypeA)
		if got := ttls(h.ask(t, nil, gateway, q)); got != step.want {
			t.Errorf("after %s more: TTLs %s, want %s", step.pass, got, step.want)
		}
		if n := len(world.queries()); n != step.n {
			t.Errorf("asked %d times, want %d", n, step.n)
		}
	}
}

func TestDNS_EachKindOfQuestionIsKeptApart(t *testing.T) {
	world := startServer(t, func(transport string, q *mdns.Msg) *mdns.Msg {
		opt := q.IsEdns0()
		return records(fmt.Sprintf(`$ 300 IN TXT "do=%t cd=%t rd=%t size=%d"`, opt.Do(), q.CheckingDisabled, q.RecursionDesired, opt.UDPSize()))(transport, q)
	})
	h := build(t, world)
	for range 2 {
		for _, do := range []bool{false, true} {
			for _, cd := range []bool{false, true} {
				q := question("a.example.org", mdns.TypeTXT)
				q.SetEdns0(4096, do)
				q.CheckingDisabled = cd
				m := h.ask(t, nil, gateway, q)
				want := fmt.Sprintf("do=%t cd=%t rd=true size=1232", do, cd)
				if got := only(t, m).(*mdns.TXT).Txt[0]; got != want {
					t.Errorf("%s, want %s", got, want)
				}
				if opt := m.IsEdns0(); opt == nil || opt.Do() != do || opt.UDPSize() != 1232 || m.CheckingDisabled != cd || !m.RecursionAvailable || m.Authoritative {
					t.Errorf("do=%t cd=%t:\n%s", do, cd, m)
				}
			}
		}
	}
	if n := len(world.queries()); n != 4 {
		t.Errorf("4 kinds of question asked twice took %d queries", n)
	}
}

func TestDNS_DenialsAreKept(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(string, *mdns.Msg) *mdns.Msg
		ttl    uint32        // of the SOA that the agent sees
		kept   time.Duration // zero: not at all
		rcode  int
	}{
		"NXDOMAIN, the SOA's TTL":   {denial(mdns.RcodeNameError, "example.org. 30 IN SOA ns. host. 1 2 3 4 500"), 30, 30 * time.Second, mdns.RcodeNameError},
		"NXDOMAIN, the SOA's last":  {denial(mdns.RcodeNameError, "example.org. 500 IN SOA ns. host. 1 2 3 4 20"), 20, 20 * time.Second, mdns.RcodeNameError},
		"no data":                   {denial(mdns.RcodeSuccess, "example.org. 40 IN SOA ns. host. 1 2 3 4 40"), 40, 40 * time.Second, mdns.RcodeSuccess},
		"NXDOMAIN without a SOA":    {denial(mdns.RcodeNameError, ""), 0, 0, mdns.RcodeNameError},
		"no data without a SOA":     {denial(mdns.RcodeSuccess, ""), 0, 0, mdns.RcodeSuccess},
		"an alias to nowhere":       {records("$ 300 IN CNAME nowhere.example.org."), 0, 0, mdns.RcodeSuccess},
		"for longer than is useful": {denial(mdns.RcodeNameError, "example.org. 999999 IN SOA ns. host. 1 2 3 4 999999"), 999999, time.Hour, mdns.RcodeNameError},
	} {
		t.Run(name, func(t *testing.T) {
			world := startServer(t, tt.answer)
			h := build(t, world)
			ask := func() {
				t.Helper()
				m := h.ask(t, nil, gateway, question("x.example.org", mdns.TypeA))
				wantRcode(t, m, tt.rcode)
				if len(m.Ns) > 0 && m.Ns[0].Header().Ttl != tt.ttl {
					t.Errorf("SOA TTL %d, want %d", m.Ns[0].Header().Ttl, tt.ttl)
				}
			}
			ask()
			if tt.kept == 0 {
				ask()
				if n := len(world.queries()); n != 2 {
					t.Errorf("asked %d times, want 2", n)
				}
				return
			}
			ask()
			h.pass(tt.kept - time.Second)
			h.ask(t, nil, gateway, question("x.example.org", mdns.TypeA))
			if n := len(world.queries()); n != 1 {
				t.Errorf("asked %d times before it expired", n)
			}
			h.pass(time.Second)
			ask()
			if n := len(world.queries()); n != 2 {
				t.Errorf("asked %d times after it expired", n)
			}
		})
	}
}

func TestDNS_RepliesFitWhatTheAgentTakes(t *testing.T) {
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("$ 300 IN A 192.0.2.%d", i))
	}
	world := startServer(t, func(transport string, q *mdns.Msg) *mdns.Msg {
		m := new(mdns.Msg).SetReply(q)
		if strings.HasPrefix(q.Question[0].Name, "mid.") {
			return records(many[:60]...)(transport, q) // about 1000 bytes
		}
		if transport == "udp" {
			m.Truncated = true
			return m
		}
		return records(many...)(transport, q)
	})
	h := build(t, world)
	for _, tt := range []struct {
		name string
		edns int // -1: none
		tcp  bool
		want int // records
	}{
		{"mid.example.org", -1, false, 0}, {"mid.example.org", -1, true, 60}, {"mid.example.org", 0, false, 0}, {"mid.example.org", 512, false, 0},
		{"mid.example.org", 1232, false, 60}, {"mid.example.org", 65535, false, 60},
		{"big.example.org", -1, false, 0}, {"big.example.org", 65535, false, 0}, {"big.example.org", -1, true, 200}, {"big.example.org", 512, true, 200},
	} {
		q := question(tt.name, mdns.TypeA)
		limit := 512
		if tt.edns >= 0 {
			q.SetEdns0(uint16(tt.edns), false)
			limit = max(512, min(tt.edns, 1232))
		}
		wire, _ := q.Pack()
		reply, err := h.Answer(t.Context(), dns.Query{Registration: "r1", Server: gateway, TCP: tt.tcp, Message: wire})
		if err != nil {
			t.Fatal(err)
		}
		var m mdns.Msg
		if err := m.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		if len(m.Answer) != tt.want || m.Truncated != (tt.want == 0) || !tt.tcp && len(reply) > limit || (m.IsEdns0() != nil) != (tt.edns >= 0) {
			t.Errorf("%+v: %d records in %d bytes, truncated is %t", tt, len(m.Answer), len(reply), m.Truncated)
		}
	}
	var transports []string
	for _, a := range world.queries() {
		transports = append(transports, a.transport)
	}
	if got := strings.Join(transports, " "); got != "udp udp tcp" { // mid once; big, truncated, again
		t.Errorf("asked over %s", got)
	}
}

func TestDNS_ValidationIsPassedToThoseWhoKnowIt(t *testing.T) {
	world := startServer(t, func(transport string, q *mdns.Msg) *mdns.Msg {
		m := records("$ 300 IN A 192.0.2.1")(transport, q)
		m.AuthenticatedData = q.AuthenticatedData
		m.Answer = append(m.Answer, parseRR("$ 300 IN RRSIG A 13 3 300 20370101000000 20260101000000 1 example.org. AAAA", q.Question[0].Name))
		return m
	})
	h := build(t, world)
	for _, tt := range []struct{ edns, do, ad, wantAD, wantSig bool }{
		{false, false, false, false, false}, {true, false, false, false, false}, {false, false, true, true, false}, {true, true, false, true, true},
	} {
		q := question("a.example.org", mdns.TypeA)
		if tt.edns {
			q.SetEdns0(1232, tt.do)
		}
		q.AuthenticatedData = tt.ad
		m := h.ask(t, nil, gateway, q)
		if m.AuthenticatedData != tt.wantAD || (len(m.Answer) == 2) != tt.wantSig {
			t.Errorf("%+v:\n%s", tt, m)
		}
	}
	// Asked for by name, they come without DO.
	world.change(records("$ 300 IN RRSIG A 13 3 300 20370101000000 20260101000000 1 example.org. AAAA"))
	only(t, h.ask(t, nil, gateway, question("a.example.org", mdns.TypeRRSIG)))
}

func TestDNS_NextResolverIsAskedWhenOneFails(t *testing.T) {
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := netip.MustParseAddrPort(closed.LocalAddr().String())
	closed.Close()

	good := startServer(t, records("$ 0 IN A 192.0.2.1"))
	failing := startServer(t, func(_ string, q *mdns.Msg) *mdns.Msg { return new(mdns.Msg).SetRcode(q, mdns.RcodeServerFailure) })
	h := build(t, nil, func(c *dns.Config) {
		c.Upstream = func() []netip.AddrPort { return []netip.AddrPort{dead, failing.addr, good.addr} }
	})
	for range 3 {
		only(t, h.ask(t, nil, gateway, question("a.example.org", mdns.TypeA)))
	}
	if n := len(failing.queries()); n != 3 {
		// SERVFAIL may be about the name: it does not disqualify.
		t.Errorf("the resolver that answered SERVFAIL was asked %d times, want 3", n)
	}
	// All fail: SERVFAIL, with a word to people at dig, and not again at once.
	good.change(func(_ string, q *mdns.Msg) *mdns.Msg { return new(mdns.Msg).SetRcode(q, mdns.RcodeRefused) })
	q := question("b.example.org", mdns.TypeA)
	q.SetEdns0(1232, false)
	before := len(good.queries())
	m := h.ask(t, nil, gateway, q)
	wantRcode(t, m, mdns.RcodeServerFailure)
	if ede(m) == "" {
		t.Errorf("no extended error:\n%s", m)
	}
	after := len(good.queries())
	wantRcode(t, h.ask(t, nil, gateway, q), mdns.RcodeServerFailure)
	if after == before || len(good.queries()) != after {
		t.Errorf("asked %d times, then %d times more", after-before, len(good.queries())-after)
	}
	good.change(records("$ 0 IN A 192.0.2.1"))
	h.pass(time.Second)
	only(t, h.ask(t, nil, gateway, q))
}

func TestDNS_SilentResolverIsAskedLastAfterwards(t *testing.T) {
	silent := startServer(t, nil)
	good := startServer(t, records("$ 300 IN A 192.0.2.1"))
	h := build(t, nil, func(c *dns.Config) {
		c.Upstream = func() []netip.AddrPort { return []netip.AddrPort{silent.addr, good.addr} }
	})
	for i := range 5 {
		only(t, h.ask(t, nil, gateway, question(fmt.Sprintf("n%d.example.org", i), mdns.TypeA)))
	}
	if n := len(silent.queries()); n != 1 {
		t.Errorf("the silent resolver was asked %d times", n)
	}
}

func TestDNS_ResolverWithoutEDNS(t *testing.T) {
	old := startServer(t, func(transport string, q *mdns.Msg) *mdns.Msg {
		if q.IsEdns0() != nil {
			m := new(mdns.Msg)
			m.Id, m.Response, m.Rcode = q.Id, true, mdns.RcodeFormatError // no question: RFC 6891, section 7
			return m
		}
		return records("$ 300 IN A 192.0.2.1")(transport, q)
	})
	h := build(t, old)
	q := question("a.example.org", mdns.TypeA)
	q.SetEdns0(1232, false)
	only(t, h.ask(t, nil, gateway, q))
}

func TestDNS_ReloadTakesEffectAtOnce(t *testing.T) {
	one, two := startServer(t, records("$ 0 IN A 192.0.2.1")), startServer(t, records("$ 0 IN A 192.0.2.2"))
	upstream := one
	h := build(t, nil, func(c *dns.Config) {
		c.Upstream = func() []netip.AddrPort { return []netip.AddrPort{upstream.addr} }
	})
	only(t, h.ask(t, nil, gateway, question("a.example.org", mdns.TypeA)))
	upstream = two
	if a := only(t, h.ask(t, nil, gateway, question("a.example.org", mdns.TypeA))).(*mdns.A); a.A.String() != "192.0.2.2" {
		t.Error(a)
	}
}

func TestDNS_ConfigWithoutPartsRefuses(t *testing.T) {
	r := dns.New(dns.Config{ResolvConf: "/nonexistent/resolv.conf"})
	for _, to := range []netip.AddrPort{gateway, netip.MustParseAddrPort("192.0.2.53:53"), {}} {
		for _, name := range []string{"api.example.com", "other.example.org"} {
			wire, _ := question(name, mdns.TypeA).Pack()
			reply, err := r.Answer(t.Context(), dns.Query{Registration: registry.ID("r1"), Scope: scopeOf("api.example.com"), Server: to, Message: wire})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var m mdns.Msg
			if err := m.Unpack(reply); err != nil || m.Rcode == mdns.RcodeSuccess || len(m.Answer) > 0 {
				t.Errorf("%s: %v\n%s", name, err, &m)
			}
		}
	}
}
