package egress_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/egress"
)

// newDialer returns one that resolves through the worlds and may reach the
// service on loopback.
func newDialer(t *testing.T, s *service, worlds ...*world) *egress.Dialer {
	t.Helper()
	r := egress.Rules{AllowExact: []netip.AddrPort{
		netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), s.port),
	}}
	for _, w := range worlds {
		r.Upstream = append(r.Upstream, w.addr)
	}
	d := egress.New(r)
	t.Cleanup(func() { d.Close() })
	return d
}

func connect(t *testing.T, d *egress.Dialer, host string, port uint16) error {
	t.Helper()
	conn, err := d.DialHost(t.Context(), host, port)
	if err == nil {
		conn.Close()
	}
	return err
}

func TestEgress_AnswersAreKeptForTheirTTL(t *testing.T) {
	w, s := startWorld(t), startService(t)
	w.name("kept.example.com", 60, "127.0.0.1")
	w.name("fresh.example.com", 0, "127.0.0.1")
	d := newDialer(t, s, w)
	for range 3 {
		for _, host := range []string{"kept.example.com", "KEPT.example.com.", "fresh.example.com"} {
			if err := connect(t, d, host, s.port); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := w.queries("kept.example.com", "A"); n != 1 {
		t.Errorf("a name with a TTL of a minute was asked for %d times", n)
	}
	if n := w.queries("fresh.example.com", "A"); n != 3 {
		t.Errorf("a name with a TTL of zero was asked for %d times, dialled 3 times", n)
	}
	// Another set of resolvers may know the name otherwise.
	other := startWorld(t)
	other.name("kept.example.com", 60, "127.0.0.2")
	d.SetRules(egress.Rules{Upstream: []netip.AddrPort{other.addr}, AllowExact: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), s.port)}})
	if err := connect(t, d, "kept.example.com", s.port); err != nil {
		t.Errorf("after the resolvers changed: %v", err)
	}
}

func TestEgress_ThoseWhoAskTogetherAskOnce(t *testing.T) {
	w, s := startWorld(t), startService(t)
	w.name("busy.example.com", 60, "127.0.0.1")
	release := make(chan struct{})
	w.change(func(string, *dns.Msg) { <-release })
	d := newDialer(t, s, w)
	var dials, begun sync.WaitGroup
	begun.Add(20)
	for range 20 {
		dials.Go(func() {
			begun.Done()
			if err := connect(t, d, "busy.example.com", s.port); err != nil {
				t.Error(err)
			}
		})
	}
	begun.Wait()
	close(release)
	dials.Wait()
	if n := w.queries("busy.example.com", "A"); n != 1 {
		t.Errorf("20 dials asked %d times", n)
	}
}

func TestEgress_AliasesAreFollowedAndStrayRecordsIgnored(t *testing.T) {
	w, s := startWorld(t), startService(t)
	h := func(name string, rtype uint16, ttl uint32) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: rtype, Class: dns.ClassINET, Ttl: ttl}
	}
	w.records("www.example.com.A", func() []dns.RR {
		return []dns.RR{
			&dns.A{Hdr: h("other.example.com.", dns.TypeA, 60), A: net.IPv4(127, 0, 0, 3)},
			&dns.A{Hdr: h("cdn.example.net.", dns.TypeA, 60), A: net.IPv4(127, 0, 0, 1)},
			&dns.CNAME{Hdr: h("WWW.example.com.", dns.TypeCNAME, 0), Target: "cdn.example.NET."},
		}
	})
	w.records("loop.example.com.A", func() []dns.RR {
		return []dns.RR{&dns.CNAME{Hdr: h("loop.example.com.", dns.TypeCNAME, 60), Target: "loop.example.com."}}
	})
	d := newDialer(t, s, w)
	for range 2 {
		if err := connect(t, d, "www.example.com", s.port); err != nil {
			t.Error(err)
		}
	}
	if n := w.queries("www.example.com", "A"); n != 2 {
		t.Errorf("asked %d times: the alias had a TTL of zero", n)
	}
	if err := connect(t, d, "loop.example.com", s.port); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("an alias of itself: %v", err)
	}
}

func TestEgress_TruncatedAnswersAreAskedForOverTCP(t *testing.T) {
	w, s := startWorld(t), startService(t)
	w.name("long.example.com", 60, "127.0.0.1")
	w.change(func(transport string, reply *dns.Msg) {
		if transport == "udp" {
			reply.Truncated, reply.Answer = true, nil
		}
	})
	if err := connect(t, newDialer(t, s, w), "long.example.com", s.port); err != nil {
		t.Error(err)
	}
}

func TestEgress_NextResolverIsAskedWhenOneFails(t *testing.T) {
	good, s := startWorld(t), startService(t)
	good.name("api.example.com", 60, "127.0.0.1")
	for name, edit := range map[string]func(string, *dns.Msg){
		"SERVFAIL": func(_ string, m *dns.Msg) { m.Rcode, m.Answer = dns.RcodeServerFailure, nil },
		"REFUSED":  func(_ string, m *dns.Msg) { m.Rcode, m.Answer = dns.RcodeRefused, nil },
		"an answer to another question": func(_ string, m *dns.Msg) {
			m.Question[0].Name = "evil.example.com."
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "evil.example.com.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(127, 0, 0, 2)}}
		},
		"a query for an answer": func(_ string, m *dns.Msg) { m.Response = false },
	} {
		bad := startWorld(t)
		bad.name("api.example.com", 60, "127.0.0.2")
		bad.change(edit)
		conn, err := newDialer(t, s, bad, good).DialHost(t.Context(), "api.example.com", s.port)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := conn.RemoteAddr().String(); !strings.HasPrefix(got, "127.0.0.1:") {
			t.Errorf("%s: believed, connected to %s", name, got)
		}
		conn.Close()
	}
}

func TestEgress_ErrorsTellTheCauseAndNoAddressOfOurs(t *testing.T) {
	w, s := startWorld(t), startService(t)
	w.name("closed.example.com", 60, "127.0.0.1")
	d := newDialer(t, s, w)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(closed.Addr().String()).Port()
	closed.Close()
	address := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	d.SetRules(egress.Rules{Upstream: []netip.AddrPort{w.addr}, AllowExact: []netip.AddrPort{address}})

	check := func(what string, err error, is error) {
		t.Helper()
		if err == nil || is != nil && !errors.Is(err, is) {
			t.Errorf("%s: %v; want one that is %v", what, err, is)
			return
		}
		for _, secret := range []string{"127.0.0.1", w.addr.String(), "::1"} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %q tells %s", what, err, secret)
			}
		}
	}
	_, err = d.DialHost(t.Context(), "closed.example.com", port)
	check("a closed port", err, syscall.ECONNREFUSED)
	_, err = d.DialEndpoint(t.Context(), address, "api.example.com", 443)
	check("an endpoint's closed address", err, syscall.ECONNREFUSED)
	if want := "connecting to api.example.com:443: connection refused"; err.Error() != want {
		t.Errorf("%q, want %q", err, want)
	}
	_, err = d.DialHost(t.Context(), "unknown.example.com", 443)
	check("an unknown name", err, nil)
	var notFound *net.DNSError
	if !errors.As(err, &notFound) || !notFound.IsNotFound {
		t.Errorf("an unknown name: %v", err)
	}
	w.change(func(_ string, m *dns.Msg) { m.Rcode = dns.RcodeServerFailure })
	_, err = d.DialHost(t.Context(), "failing.example.com", 443)
	check("a failing resolver", err, nil)
	w.change(nil)
	w.name("refused.example.com", 60, "127.0.0.9", "::1")
	_, err = d.DialHost(t.Context(), "refused.example.com", 443)
	check("a refused name", err, nil)
	if _, err := d.DialAddr(t.Context(), address); !errors.Is(err, syscall.ECONNREFUSED) || err.Error() != "connecting to "+address.String()+": connection refused" {
		t.Errorf("what the agent named itself: %v", err)
	}
}

func TestEgress_HostsOwnResolverWithoutUpstream(t *testing.T) {
	s := startService(t)
	d := egress.New(egress.Rules{})
	defer d.Close()
	// Names of this host are in /etc/hosts on every Linux; localhost is not
	// asked for. What cannot be resolved without a network is an error.
	if err := connect(t, d, "no-such-name.invalid", s.port); err == nil {
		t.Error("a name under .invalid resolved")
	}
}
