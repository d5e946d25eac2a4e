package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

func dig(t *testing.T, args string) string {
	t.Helper()
	out, err := agent.Run(t.Context(), "sh", "-c", "dig +time=3 +tries=1 "+args)
	if err != nil {
		t.Fatalf("dig %s: %v %s", args, err, out)
	}
	return out
}

func TestDNS_EndpointHostsHaveVirtualAddressesWhoeverIsAsked(t *testing.T) {
	virtual := netip.MustParsePrefix("10.55.0.0/16")
	virtual6 := netip.MustParsePrefix("fd55:c1a5::/48")
	first := map[string]string{}
	for _, server := range []string{"@10.55.0.1", "@192.0.2.53", "+tcp @192.0.2.53", "@2001:db8:c::53", "@fd55:c1a5::1"} {
		for qtype, within := range map[string]netip.Prefix{"A": virtual, "AAAA": virtual6} {
			out := strings.TrimSpace(dig(t, "+short api.example.com "+qtype+" "+server))
			a, err := netip.ParseAddr(out)
			if err != nil || !within.Contains(a) {
				t.Errorf("%s %s: %q; want one address in %s", server, qtype, out, within)
			}
			if first[qtype] == "" {
				first[qtype] = out
			}
			if out != first[qtype] {
				t.Errorf("%s %s: %s, before it was %s", server, qtype, out, first[qtype])
			}
		}
	}
}

func TestDNS_OtherNamesAndOtherResolvers(t *testing.T) {
	for _, server := range []string{"@10.55.0.1", "+tcp @10.55.0.1", "@192.0.2.53", "+tcp @192.0.2.53"} {
		if out := strings.TrimSpace(dig(t, "+short web.example.org "+server)); out != "192.0.2.11" {
			t.Errorf("%s: %q", server, out)
		}
		if out := dig(t, "no-such-name.example.org "+server); !strings.Contains(out, "NXDOMAIN") {
			t.Errorf("%s: no NXDOMAIN in %s", server, out)
		}
	}
	// A resolver on the gateway's LAN is out of reach like everything there.
	if out := dig(t, "web.example.org @10.77.0.1"); !strings.Contains(out, "REFUSED") {
		t.Errorf("a private resolver: %s", out)
	}
}

func TestDNS_NoECHAndNoH3ForEndpointHosts(t *testing.T) {
	for _, server := range []string{"@10.55.0.1", "@192.0.2.53"} {
		if out := strings.TrimSpace(dig(t, "+short api.example.com TYPE65 "+server)); out != "" {
			t.Errorf("%s: HTTPS record %q", server, out)
		}
	}
}

// Thousands of queries in a row, each from a port of its own: no cliff.
func TestDNS_ThousandsOfQueries(t *testing.T) {
	const queries = 5000
	failed := 0
	var last error
	m := new(dns.Msg).SetQuestion("api.example.com.", dns.TypeA)
	for range queries {
		if err := exchange(t, m); err != nil {
			failed++
			last = err
		}
	}
	if failed > queries/1000 { // a datagram may be lost
		t.Errorf("%d of %d queries failed, the last with %v", failed, queries, last)
	}
	if err := lab.Eventually(t.Context(), 10*time.Second, func() error { return exchange(t, m) }); err != nil {
		t.Error(err)
	}
}

func exchange(t *testing.T, m *dns.Msg) error {
	c, err := agent.Dial(t.Context(), "udp", "10.55.0.1:53")
	if err != nil {
		return err
	}
	defer c.Close()
	conn := &dns.Conn{Conn: c}
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	if err := conn.WriteMsg(m); err != nil {
		return err
	}
	_, err = conn.ReadMsg()
	return err
}
