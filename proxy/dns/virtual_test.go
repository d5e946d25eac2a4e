package dns_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/dns"
)

func TestDNS_EndpointHostsHaveVirtualAddressesWhoeverIsAsked(t *testing.T) {
	world := startServer(t, records("$ 300 IN A 192.0.2.1"))
	h := build(t, world)
	scope := scopeOf("api.example.com")
	v4, v6 := virtual(0)
	for _, to := range []netip.AddrPort{gateway, gateway6, world.addr, netip.MustParseAddrPort("10.9.9.9:53"), netip.MustParseAddrPort("[::ffff:10.55.0.1]:53")} {
		for _, name := range []string{"api.example.com", "API.Example.COM"} {
			a := only(t, h.ask(t, scope, to, question(name, mdns.TypeA))).(*mdns.A)
			if got, _ := netip.AddrFromSlice(a.A.To4()); got != v4 || a.Hdr.Ttl > 60 || a.Hdr.Name != name+"." {
				t.Errorf("%s of %s: %v, want %s for at most a minute", name, to, a, v4)
			}
			aaaa := only(t, h.ask(t, scope, to, question(name, mdns.TypeAAAA))).(*mdns.AAAA)
			if got, _ := netip.AddrFromSlice(aaaa.AAAA); got != v6 || aaaa.Hdr.Ttl > 60 {
				t.Errorf("%s of %s: %v, want %s for at most a minute", name, to, aaaa, v6)
			}
		}
	}
	if n := len(world.queries()); n != 0 {
		t.Errorf("the world was asked %d times", n)
	}
}

// The attack: learn, or reach, what another registration has a credential for.
func TestI06_NamesOfOthersScopesAreTheWorlds(t *testing.T) {
	world := startServer(t, records("$ 300 IN A 192.0.2.1"))
	h := build(t, world)
	for range 2 { // the second time from whatever is remembered
		for id, in := range map[string]bool{"r1": true, "r2": false} {
			q := dns.Query{Registration: "r1", Scope: scopeOf("api.example.com"), Server: gateway}
			if !in {
				q = dns.Query{Registration: "r2", Scope: scopeOf("other.example.com"), Server: gateway}
			}
			m, err := h.tryAs(t, q, question("api.example.com", mdns.TypeA))
			if err != nil {
				t.Fatal(err)
			}
			want := "192.0.2.1"
			if in {
				want = "10.55.192.0"
			}
			if got := only(t, m).(*mdns.A).A.String(); got != want {
				t.Errorf("%s got %s, want %s", id, got, want)
			}
		}
		for _, q := range []dns.Query{{Registration: "r3", Server: gateway}, {Server: gateway, Scope: scopeOf()}} {
			m, err := h.tryAs(t, q, question("api.example.com", mdns.TypeA))
			if err != nil {
				t.Fatal(err)
			}
			if got := only(t, m).(*mdns.A).A.String(); got != "192.0.2.1" {
				t.Errorf("without a scope: %s", got)
			}
		}
	}
	if n := len(world.queries()); n != 1 {
		t.Errorf("the world was asked %d times", n)
	}
	// The other way: what r1 has is not found from r2's side by its address.
	ptr, _ := mdns.ReverseAddr("10.55.192.0")
	world.change(denial(mdns.RcodeNameError, ""))
	m, err := h.tryAs(t, dns.Query{Registration: "r2", Scope: scopeOf("other.example.com"), Server: gateway}, question(ptr, mdns.TypePTR))
	if err != nil {
		t.Fatal(err)
	}
	wantRcode(t, m, mdns.RcodeNameError)
}

func TestDNS_EachRegistrationHasItsOwnAddresses(t *testing.T) {
	h := build(t, nil)
	scope := scopeOf("*.example.com")
	for i, ask := range []struct{ id, host, want string }{
		{"r1", "a.example.com", "10.55.192.0"}, {"r1", "b.example.com", "10.55.192.1"}, {"r2", "b.example.com", "10.55.192.0"}, {"r1", "a.example.com", "10.55.192.0"},
	} {
		q := dns.Query{Registration: "r1", Scope: scope, Server: gateway}
		if ask.id == "r2" {
			q.Registration = "r2"
		}
		m, err := h.tryAs(t, q, question(ask.host, mdns.TypeA))
		if err != nil {
			t.Fatal(err)
		}
		if got := only(t, m).(*mdns.A).A.String(); got != ask.want {
			t.Errorf("%d: %s for %s: %s, want %s", i, ask.host, ask.id, got, ask.want)
		}
	}
}

func TestDNS_FullTableIsRefused(t *testing.T) {
	h := build(t, nil)
	h.full = 2
	scope := scopeOf("*.example.com")
	for i := range 4 {
		for _, qtype := range []uint16{mdns.TypeA, mdns.TypeAAAA} {
			q := question(fmt.Sprintf("n%d.example.com", i), qtype)
			q.SetEdns0(1232, false)
			m := h.ask(t, scope, gateway, q)
			if i < 2 {
				only(t, m)
				continue
			}
			wantRcode(t, m, mdns.RcodeRefused)
			if len(m.Answer) != 0 || ede(m) == "" {
				t.Errorf("want an extended error and no answer:\n%s", m)
			}
		}
	}
}

// The attack: an HTTPS record that carries ECH, h3 or the real addresses.
func TestDNS_NoServiceBindingsForEndpointHosts(t *testing.T) {
	world := startServer(t, records(`$ 300 IN HTTPS 1 . alpn="h3,h2" ipv4hint=192.0.2.1 ech="AEX+DQBB"`))
	h := build(t, world)
	scope := scopeOf("api.example.com", "*.wild.example.com")
	for _, to := range []netip.AddrPort{gateway, world.addr} {
		for _, name := range []string{"api.example.com", "_8443._https.api.example.com", "_Dns.API.example.com", "x.wild.example.com", "_443._https.x.wild.example.com"} {
			for _, qtype := range []uint16{mdns.TypeHTTPS, mdns.TypeSVCB} {
				m := h.ask(t, scope, to, question(name, qtype))
				wantRcode(t, m, mdns.RcodeSuccess)
				if len(m.Answer) != 0 || len(m.Extra) != 0 || len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != mdns.TypeSOA {
					t.Errorf("%s: want a denial with SOA:\n%s", name, m)
				}
			}
		}
	}
	if n := len(world.queries()); n != 0 {
		t.Errorf("the world was asked %d times", n)
	}
	// Out of scope they pass as they are.
	for _, to := range []netip.AddrPort{gateway, world.addr} {
		for _, name := range []string{"other.example.com", "_8443._https.other.example.com", "a.b.wild.example.com"} {
			rr := only(t, h.ask(t, scope, to, question(name, mdns.TypeHTTPS))).String()
			if !strings.Contains(rr, "ech=") || !strings.Contains(rr, "h3") {
				t.Errorf("%s of %s: %s", name, to, rr)
			}
		}
	}
}

func TestDNS_OtherTypesOfEndpointHostsAreTheWorlds(t *testing.T) {
	world := startServer(t, records("$ 300 IN MX 10 mail.example.com."))
	h := build(t, world)
	scope := scopeOf("api.example.com", "*.example.com")
	if mx := only(t, h.ask(t, scope, gateway, question("api.example.com", mdns.TypeMX))).(*mdns.MX); mx.Mx != "mail.example.com." {
		t.Error(mx)
	}
	// A name that only the policy knows exists nevertheless: NXDOMAIN to one
	// type would be believed for all (RFC 8020).
	world.change(denial(mdns.RcodeNameError, "example.com. 300 IN SOA ns. host. 1 2 3 4 5"))
	m := h.ask(t, scope, gateway, question("api.example.com", mdns.TypeTXT))
	wantRcode(t, m, mdns.RcodeSuccess)
	if len(m.Answer) != 0 || len(m.Ns) != 1 {
		t.Errorf("want a denial of the type:\n%s", m)
	}
	wantRcode(t, h.ask(t, nil, gateway, question("api.example.com", mdns.TypeTXT)), mdns.RcodeNameError)
	// An alias would contradict the address.
	before := len(world.queries())
	m = h.ask(t, scope, gateway, question("api.example.com", mdns.TypeCNAME))
	wantRcode(t, m, mdns.RcodeSuccess)
	if len(m.Answer) != 0 || len(world.queries()) != before {
		t.Errorf("CNAME of an endpoint host:\n%s", m)
	}
	if rr := only(t, h.ask(t, scope, gateway, question("api.example.com", mdns.TypeANY))); rr.Header().Rrtype != mdns.TypeHINFO {
		t.Errorf("ANY: %s", rr)
	}
}

func TestDNS_WildcardsTakeHostNamesOnly(t *testing.T) {
	world := startServer(t, denial(mdns.RcodeNameError, ""))
	h := build(t, world)
	scope := scopeOf("*.example.com", "192.0.2.7")
	for name, in := range map[string]bool{
		"a.example.com":          true,
		"a-b_c.example.com":      true,
		"example.com":            false,
		"a.b.example.com":        false,
		`a\.b.example.com`:       false, // one label with a dot in it
		`a\.example.com`:         false, // two labels: a.example and com
		"*.example.com":          false,
		"_dmarc.example.com":     false,
		`a\000.example.com`:      false,
		"192.0.2.7":              false,
		"a.example.com.evil.org": false,
	} {
		m := h.ask(t, scope, gateway, question(name, mdns.TypeA))
		if got := len(m.Answer) == 1; got != in {
			t.Errorf("%s: virtual is %t, want %t", name, got, in)
		}
	}
}

func TestDNS_VirtualAddressesHaveNames(t *testing.T) {
	world := startServer(t, denial(mdns.RcodeNameError, "10.in-addr.arpa. 300 IN SOA ns. host. 1 2 3 4 5"))
	h := build(t, world)
	scope := scopeOf("api.example.com")
	h.ask(t, scope, gateway, question("api.example.com", mdns.TypeA))
	v4, v6 := virtual(0)
	for _, a := range []netip.Addr{v4, v6} {
		name, err := mdns.ReverseAddr(a.String())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{name, strings.ToUpper(name)} {
			if ptr := only(t, h.ask(t, scope, gateway, question(name, mdns.TypePTR))).(*mdns.PTR); ptr.Ptr != "api.example.com." {
				t.Errorf("%s: %s", a, ptr)
			}
		}
		// What has left the scope is not told any more.
		wantRcode(t, h.ask(t, scopeOf("other.example.com"), gateway, question(name, mdns.TypePTR)), mdns.RcodeNameError)
	}
	for _, name := range []string{"9.9.9.10.in-addr.arpa", "in-addr.arpa", "1.10.in-addr.arpa", "300.1.1.10.in-addr.arpa", "x.ip6.arpa", strings.Repeat("g.", 32) + "ip6.arpa", strings.Repeat("00", 31) + "0.ip6.arpa"} {
		if _, ok := mdns.IsDomainName(name); !ok {
			continue
		}
		wantRcode(t, h.ask(t, scope, gateway, question(name, mdns.TypePTR)), mdns.RcodeNameError)
	}
}

func TestDNS_SpecialNamesStayHere(t *testing.T) {
	world := startServer(t, records("$ 300 IN A 192.0.2.1"))
	h := build(t, world)
	for _, name := range []string{"localhost", "a.b.LocalHost"} {
		if a := only(t, h.ask(t, nil, gateway, question(name, mdns.TypeA))).(*mdns.A); !a.A.IsLoopback() {
			t.Errorf("%s: %s", name, a)
		}
		if a := only(t, h.ask(t, nil, gateway, question(name, mdns.TypeAAAA))).(*mdns.AAAA); !a.AAAA.IsLoopback() {
			t.Errorf("%s: %s", name, a)
		}
		if m := h.ask(t, nil, gateway, question(name, mdns.TypeMX)); m.Rcode != mdns.RcodeSuccess || len(m.Answer) != 0 {
			t.Errorf("%s MX: %s", name, m)
		}
	}
	for _, name := range []string{"x.invalid", "facebookcorewwwi.onion", "use-application-dns.net"} {
		wantRcode(t, h.ask(t, nil, gateway, question(name, mdns.TypeA)), mdns.RcodeNameError)
	}
	// The way to an encrypted resolver past us.
	m := h.ask(t, nil, gateway, question("_dns.resolver.arpa", mdns.TypeSVCB))
	wantRcode(t, m, mdns.RcodeSuccess)
	if len(m.Answer) != 0 {
		t.Errorf("resolver.arpa: %s", m)
	}
	if n := len(world.queries()); n != 0 {
		t.Errorf("the world was asked %d times", n)
	}
	only(t, h.ask(t, nil, gateway, question("notlocalhost", mdns.TypeA)))
}

// ede is the text of the extended error, if there is one.
func ede(m *mdns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*mdns.EDNS0_EDE); ok {
				return e.String()
			}
		}
	}
	return ""
}
