package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy/dns"
	"github.com/clawpatrol/clawpatrol/registry"
)

var (
	gateway  = netip.MustParseAddrPort("10.55.0.1:53")
	gateway6 = netip.MustParseAddrPort("[fd55:c1a5::1]:53")
)

// server is a real resolver on loopback, UDP and TCP.
type server struct {
	addr netip.AddrPort

	mu     sync.Mutex
	answer func(transport string, q *mdns.Msg) *mdns.Msg // nil: silence
	asked  []asked
}

type asked struct {
	transport string
	from      string
	msg       *mdns.Msg
}

func startServer(t testing.TB, answer func(transport string, q *mdns.Msg) *mdns.Msg) *server {
	t.Helper()
	s := &server{answer: answer}
	var (
		pc  net.PacketConn
		ln  net.Listener
		err error
	)
	for range 10 { // the port must be free for both transports
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
	for transport, srv := range map[string]*mdns.Server{"udp": {PacketConn: pc}, "tcp": {Listener: ln}} {
		srv.Handler = mdns.HandlerFunc(func(rw mdns.ResponseWriter, q *mdns.Msg) { s.serve(transport, rw, q) })
		srv.MsgAcceptFunc = func(mdns.Header) mdns.MsgAcceptAction { return mdns.MsgAccept }
		started, ended := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(ended)
			srv.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() { srv.Shutdown(); <-ended })
	}
	return s
}

func (s *server) serve(transport string, rw mdns.ResponseWriter, q *mdns.Msg) {
	s.mu.Lock()
	s.asked = append(s.asked, asked{transport, rw.RemoteAddr().String(), q.Copy()})
	answer := s.answer
	s.mu.Unlock()
	if answer == nil {
		return
	}
	if reply := answer(transport, q); reply != nil {
		rw.WriteMsg(reply)
	}
}

func (s *server) change(answer func(transport string, q *mdns.Msg) *mdns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *server) queries() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]asked(nil), s.asked...)
}

// records answers every question with records in zone-file form, $ standing for
// the name asked.
func records(rrs ...string) func(string, *mdns.Msg) *mdns.Msg {
	return func(_ string, q *mdns.Msg) *mdns.Msg {
		m := new(mdns.Msg).SetReply(q)
		m.RecursionAvailable = true
		for _, s := range rrs {
			m.Answer = append(m.Answer, parseRR(s, q.Question[0].Name))
		}
		return m
	}
}

// denial answers every question with a rcode and a SOA.
func denial(rcode int, soa string) func(string, *mdns.Msg) *mdns.Msg {
	return func(_ string, q *mdns.Msg) *mdns.Msg {
		m := new(mdns.Msg).SetRcode(q, rcode)
		if soa != "" {
			m.Ns = append(m.Ns, parseRR(soa, q.Question[0].Name))
		}
		return m
	}
}

func parseRR(s, name string) mdns.RR {
	rr, err := mdns.NewRR("$ORIGIN .\n" + replaceDollar(s, name))
	if err != nil {
		panic(fmt.Sprintf("%q: %v", s, err))
	}
	return rr
}

func replaceDollar(s, name string) string {
	if len(s) > 0 && s[0] == '$' {
		return name + s[1:]
	}
	return s
}

// house is a Resolver with a fake registry and a clock of its own.
type house struct {
	*dns.Resolver
	upstream *server

	mu      sync.Mutex
	now     time.Time
	virtual map[registry.ID][]string // hosts, by position
	full    int                      // positions; 0: no limit
	dialled []netip.AddrPort
	refuse  func(netip.AddrPort) error
}

// build returns a house whose operator named the upstream; options change what
// the Resolver is given.
func build(t testing.TB, upstream *server, options ...func(*dns.Config)) *house {
	t.Helper()
	h := &house{upstream: upstream, now: time.Unix(1_800_000_000, 0), virtual: map[registry.ID][]string{}}
	h.refuse = func(a netip.AddrPort) error {
		if a.Addr().IsPrivate() {
			return errors.New("refused by egress: private range")
		}
		return nil
	}
	cfg := dns.Config{
		Virtual:     h.addresses,
		VirtualHost: h.host,
		Own:         func(a netip.Addr) bool { return a == gateway.Addr() || a == gateway6.Addr() },
		Check:       func(a netip.AddrPort) error { return h.refuse(a) },
		Dial: func(ctx context.Context, network string, a netip.AddrPort) (net.Conn, error) {
			h.mu.Lock()
			h.dialled = append(h.dialled, a)
			h.mu.Unlock()
			return new(net.Dialer).DialContext(ctx, network, a.String())
		},
		Now:        h.clock,
		ResolvConf: "/nonexistent/resolv.conf",
	}
	if upstream != nil {
		cfg.Upstream = func() []netip.AddrPort { return []netip.AddrPort{upstream.addr} }
	}
	for _, o := range options {
		o(&cfg)
	}
	h.Resolver = dns.New(cfg)
	return h
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

func (h *house) addresses(_ context.Context, id registry.ID, host string) (v4, v6 netip.Addr, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hosts := h.virtual[id]
	i := 0
	for i < len(hosts) && hosts[i] != host {
		i++
	}
	if i == len(hosts) {
		if h.full > 0 && len(hosts) >= h.full {
			return v4, v6, fmt.Errorf("finding a virtual address for %q: %w", host, registry.ErrTableFull)
		}
		h.virtual[id] = append(hosts, host)
	}
	v4, v6 = virtual(i)
	return v4, v6, nil
}

// virtual is the pair at a position.
func virtual(i int) (v4, v6 netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 55, byte(192 + i>>8), byte(i)}),
		netip.AddrFrom16([16]byte{0xfd, 0x55, 0xc1, 0xa5, 0, 0, 0xc0, 0, 14: byte(i >> 8), 15: byte(i)})
}

func (h *house) host(id registry.ID, a netip.Addr) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, host := range h.virtual[id] {
		v4, v6 := virtual(i)
		if a == v4 || a == v6 {
			return host, true
		}
	}
	return "", false
}

// scopeOf is what a registration has with a credential for each of the hosts.
func scopeOf(hosts ...string) *policy.Scope {
	e := &policy.Endpoint{Type: "https", Name: "e", Fingerprint: "e"}
	for _, h := range hosts {
		e.Hosts = append(e.Hosts, policy.Host{Name: h, Port: 443})
	}
	c := &policy.Credential{Type: "bearer", Name: "c", Endpoint: e, Placeholder: "clawpatrol-c", Wildcard: true, Fingerprint: "c"}
	p := &policy.Policy{
		Endpoints:   []*policy.Endpoint{e},
		Credentials: []*policy.Credential{c},
		Profiles:    []*policy.Profile{{Name: "p", Credentials: []*policy.Credential{c}}},
	}
	return p.Scope([]string{"p"})
}

// question is a query as stubs send it.
func question(name string, qtype uint16) *mdns.Msg {
	return new(mdns.Msg).SetQuestion(mdns.Fqdn(name), qtype)
}

// try asks as registration "r1" over UDP.
func (h *house) try(t testing.TB, scope *policy.Scope, to netip.AddrPort, q *mdns.Msg) (*mdns.Msg, error) {
	t.Helper()
	return h.tryAs(t, dns.Query{Registration: "r1", Scope: scope, Server: to}, q)
}

func (h *house) tryAs(t testing.TB, as dns.Query, q *mdns.Msg) (*mdns.Msg, error) {
	t.Helper()
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	as.Message = wire
	reply, err := h.Answer(t.Context(), as)
	if err != nil {
		return nil, err
	}
	m := new(mdns.Msg)
	if err := m.Unpack(reply); err != nil {
		t.Fatalf("the reply to %s is malformed: %v\n%x", q.Question[0].String(), err, reply)
	}
	if m.Id != q.Id || !m.Response || len(m.Question) == 1 && m.Question[0] != q.Question[0] {
		t.Fatalf("the reply does not fit %s:\n%s", q.Question[0].String(), m)
	}
	return m, nil
}

func (h *house) ask(t testing.TB, scope *policy.Scope, to netip.AddrPort, q *mdns.Msg) *mdns.Msg {
	t.Helper()
	m, err := h.try(t, scope, to, q)
	if err != nil {
		t.Fatalf("%s: %v", q.Question[0].String(), err)
	}
	return m
}

func wantRcode(t testing.TB, m *mdns.Msg, rcode int) {
	t.Helper()
	if m.Rcode != rcode {
		t.Errorf("%s, want %s:\n%s", mdns.RcodeToString[m.Rcode], mdns.RcodeToString[rcode], m)
	}
}

// only returns the one record of the answer.
func only(t testing.TB, m *mdns.Msg) mdns.RR {
	t.Helper()
	if m.Rcode != mdns.RcodeSuccess || len(m.Answer) != 1 {
		t.Fatalf("want one record:\n%s", m)
	}
	return m.Answer[0]
}
