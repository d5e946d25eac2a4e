package proxy_test

import (
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
)

func TestDNSOverTCPIsPipelined(t *testing.T) {
	hold := make(chan struct{})
	k := proxytest.New(t, reaching(443)+asking(resolver(t, hold)))
	id := k.Approve("a", "red")
	for _, server := range []netip.AddrPort{netip.AddrPortFrom(k.DB.Resolvers()[0], 53), addrPort("192.0.2.53:53")} {
		conn := &mdns.Conn{Conn: dial(t, k, id, server)}
		if err := conn.WriteMsg(new(mdns.Msg).SetQuestion("api.test.", mdns.TypeA)); err != nil {
			t.Fatal(err)
		}
		m, err := conn.ReadMsg()
		if err != nil || len(m.Answer) != 1 {
			t.Fatalf("asking %v: %v, %v", server, m, err)
		}
	}
	// A slow answer does not hold up the next (RFC 7766, section 7).
	conn := &mdns.Conn{Conn: dial(t, k, id, netip.AddrPortFrom(k.DB.Resolvers()[0], 53))}
	slow, fast := new(mdns.Msg).SetQuestion("slow.test.", mdns.TypeA), new(mdns.Msg).SetQuestion("api.test.", mdns.TypeA)
	for _, m := range []*mdns.Msg{slow, fast} {
		if err := conn.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := conn.ReadMsg(); err != nil || m.Id != fast.Id {
		t.Fatalf("the first answer: %v, %v", m, err)
	}
	close(hold)
	if m, err := conn.ReadMsg(); err != nil || m.Id != slow.Id {
		t.Fatalf("the second answer: %v, %v", m, err)
	}
	if rows := k.Actions(id); len(rows) != 0 {
		t.Errorf("logged %+v", rows)
	}
}

// An agent whose resolver is out of bounds still finds the hosts of its
// endpoints, and nothing else reaches that resolver.
func TestI09_DNSOverTCPToForbiddenResolver(t *testing.T) {
	k := proxytest.New(t, strings.Replace(reaching(443), "egress {", "egress {\n  unknown = \"deny\"", 1))
	id := k.Approve("a", "red")
	for _, server := range []netip.AddrPort{addrPort("192.0.2.53:53"), addrPort("127.0.0.1:53")} {
		conn := &mdns.Conn{Conn: dial(t, k, id, server)}
		for name, want := range map[string]int{"api.test.": mdns.RcodeSuccess, "elsewhere.test.": mdns.RcodeRefused} {
			q := new(mdns.Msg).SetQuestion(name, mdns.TypeA)
			if err := conn.WriteMsg(q); err != nil {
				t.Fatal(err)
			}
			m, err := conn.ReadMsg()
			if err != nil {
				t.Fatalf("asking %v for %s: %v", server, name, err)
			}
			if m.Rcode != want || want == mdns.RcodeSuccess && len(m.Answer) != 1 {
				t.Errorf("asking %v for %s: %v", server, name, m)
			}
		}
	}
}

func TestDNSOverTCPEndsOnNonsense(t *testing.T) {
	k := proxytest.New(t, reaching(443))
	id := k.Approve("a", "red")
	for name, say := range map[string]string{
		"too long": "\xff\xff", "half a length": "\x00", "half a message": "\x00\x20abc", "no message": "\x00\x04abcd",
	} {
		conn := dial(t, k, id, netip.AddrPortFrom(k.DB.Resolvers()[0], 53))
		_, _ = conn.Write([]byte(say))
		_ = conn.CloseWrite()
		if got, _ := io.ReadAll(conn); len(got) != 0 {
			t.Errorf("%s: answered %q", name, got)
		}
	}
	k.Eventually(time.Second, "all flows are gone", func() bool { return k.Proxy.Counters().Flows == 0 })
}
