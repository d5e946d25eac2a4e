package proxy_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

// udpUpstream is a server on loopback that answers each datagram with what
// answer makes of it; nil answers nothing.
func udpUpstream(t testing.TB, answer func([]byte) []byte) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetReadBuffer(4 << 20)
	go func() {
		buf := make([]byte, 0xffff)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if b := answer(buf[:n]); b != nil {
				_, _ = conn.WriteToUDPAddrPort(b, from)
			}
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func shout(b []byte) []byte { return append([]byte("re: "), b...) }

// resolver is a DNS server on loopback that knows every name below .test as
// 127.0.0.1. It answers nothing while hold is not nil and not closed.
func resolver(t *testing.T, hold <-chan struct{}) netip.AddrPort {
	t.Helper()
	return startResolver(t, net.IPv4(127, 0, 0, 1), hold)
}

// resolverOf is one that knows them as ip.
func resolverOf(t *testing.T, ip net.IP) netip.AddrPort {
	t.Helper()
	return startResolver(t, ip, nil)
}

func startResolver(t *testing.T, ip net.IP, hold <-chan struct{}) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	server := &mdns.Server{
		PacketConn:        conn,
		NotifyStartedFunc: func() { close(started) },
		Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
			if hold != nil {
				<-hold
			}
			m := new(mdns.Msg).SetReply(q)
			switch {
			case !strings.HasSuffix(q.Question[0].Name, ".test."):
				m.Rcode = mdns.RcodeNameError
			case q.Question[0].Qtype == mdns.TypeA:
				m.Answer = []mdns.RR{&mdns.A{
					Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60},
					A:   ip,
				}}
			}
			_ = w.WriteMsg(m)
		}),
	}
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

func asking(dns netip.AddrPort) string {
	return fmt.Sprintf("dns {\n  upstream = [%q]\n}\n", dns)
}

func TestUDPIsRelayedBothWaysAndLogged(t *testing.T) {
	up := udpUpstream(t, shout)
	k := proxytest.New(t, reaching(443, up))
	id, answers := k.Approve("a", "red"), record(k)
	src := k.Source(id, false)
	big := strings.Repeat("x", 60_000)
	for i, say := range []string{"one", "", big} {
		if d := k.Proxy.UDP(src, up, []byte(say)); d != wireguard.Taken {
			t.Fatalf("disposition %v", d)
		}
		k.Eventually(5*time.Second, "an answer", func() bool { return answers.len() == i+1 })
		if got := answers.answers()[i]; got.from != up || got.to != src || got.payload != "re: "+say {
			t.Errorf("answered %q from %v to %v", got.payload[:min(10, len(got.payload))], got.from, got.to)
		}
	}
	if n := k.Proxy.Counters().Flows; n != 1 {
		t.Errorf("%d flows, want 1", n)
	}
	if rows := k.Actions(id); len(rows) != 1 || rows[0].Protocol != "udp" || rows[0].Summary != up.String() || rows[0].Verdict != "allow" {
		t.Errorf("logged %+v", rows)
	}
	// And it ends with its registration.
	if err := k.DB.Block(t.Context(), id, "test"); err != nil {
		t.Fatal(err)
	}
	k.Eventually(soon, "the flow is gone", func() bool { return k.Proxy.Counters().Flows == 0 })
}

func TestUDPDispositions(t *testing.T) {
	k := proxytest.New(t, reaching(8443)+asking(resolver(t, nil)))
	id := k.Approve("a", "red")
	src := k.Source(id, false)
	host := k.Virtual(id, "api.test", 443).Addr()
	for dst, want := range map[netip.AddrPort]wireguard.Disposition{
		addrPort("169.254.169.254:80"):   wireguard.Prohibited, // forbidden
		addrPort("10.55.0.34:5000"):      wireguard.Prohibited, // another agent
		addrPort("[::ffff:10.0.0.1]:80"): wireguard.Prohibited,
		addrPort("10.55.192.200:443"):    wireguard.Prohibited,      // a virtual address of nobody
		netip.AddrPortFrom(host, 443):    wireguard.PortUnreachable, // QUIC
		netip.AddrPortFrom(host, 8443):   wireguard.PortUnreachable, // QUIC where the endpoint is
		addrPort("192.0.2.7:443"):        wireguard.PortUnreachable, // QUIC to an endpoint's address
	} {
		if got := k.Proxy.UDP(src, dst, []byte("x")); got != want {
			t.Errorf("%v: disposition %v, want %v", dst, got, want)
		}
	}
	if n := k.Proxy.Counters().Flows; n != 0 {
		t.Errorf("%d flows, want none", n)
	}
	k.Eventually(5*time.Second, "the refused are logged", func() bool {
		rows := k.Actions(id)
		return len(rows) == 3 && rows[0].Verdict == "deny" && rows[0].Protocol == "udp"
	})
}

func TestUDPToAnotherPortOfAnEndpointsHost(t *testing.T) {
	up := udpUpstream(t, shout)
	k := proxytest.New(t, reaching(443, up)+asking(resolver(t, nil)))
	id, answers := k.Approve("a", "red"), record(k)
	dst := k.Virtual(id, "api.test", up.Port())
	k.Proxy.UDP(k.Source(id, false), dst, []byte("x"))
	k.Eventually(5*time.Second, "an answer", func() bool { return answers.len() == 1 })
	if got := answers.answers()[0]; got.from != dst || got.payload != "re: x" {
		t.Errorf("answered %+v", got)
	}
}

func TestUDPPortUnreachableIsPassedOn(t *testing.T) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	closed := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	conn.Close()
	k := proxytest.New(t, reaching(443, closed))
	src, answers := k.Source(k.Approve("a", "red"), false), record(k)
	if d := k.Proxy.UDP(src, closed, []byte("x")); d != wireguard.Taken {
		t.Fatalf("disposition %v", d)
	}
	// At once, without another datagram to answer.
	k.Eventually(5*time.Second, "the agent is told", func() bool { return len(answers.refusals()) == 1 })
	if got := answers.refusals()[0]; got != (refusal{closed, src, wireguard.PortUnreachable}) {
		t.Errorf("told %+v", got)
	}
	// Later ones too, one way or the other.
	k.Eventually(5*time.Second, "another datagram is told", func() bool {
		return k.Proxy.UDP(src, closed, []byte("x")) == wireguard.PortUnreachable || len(answers.refusals()) > 1
	})
}

func TestUDPFlowTableIsBounded(t *testing.T) {
	up := udpUpstream(t, shout)
	k := proxytest.New(t, reaching(443, up))
	id, answers := k.Approve("a", "red"), record(k)
	const flows = 1024 + 10
	first := k.Source(id, false)
	for i := range flows {
		src := first
		if i > 0 {
			src = k.Source(id, false)
		}
		k.Proxy.UDP(src, up, []byte("x"))
		if i == 0 || i%32 == 31 || i == flows-1 { // fewer than may be in the making
			k.Eventually(10*time.Second, "all are answered", func() bool { return answers.len() == i+1 })
		}
	}
	k.Eventually(5*time.Second, "no more flows than the limit", func() bool { return k.Proxy.Counters().Flows == 1024 })
	if n := k.Proxy.Counters().UDPEvicted; n != 10 {
		t.Errorf("%d flows evicted, want 10", n)
	}
	// The one that was quiet for longest went, and may come again.
	k.Proxy.UDP(first, up, []byte("again"))
	k.Eventually(5*time.Second, "it is answered", func() bool { return answers.len() == flows+1 })
	if n := k.Proxy.Counters().UDPEvicted; n != 11 {
		t.Errorf("%d flows evicted, want 11", n)
	}
}

func TestDNSOverUDP(t *testing.T) {
	k := proxytest.New(t, reaching(443)+asking(resolver(t, nil)))
	id, answers := k.Approve("a", "red"), record(k)
	src, own := k.Source(id, false), netip.AddrPortFrom(k.DB.Resolvers()[0], 53)

	for i, c := range []struct {
		server  netip.AddrPort
		name    string
		virtual bool
	}{
		{own, "api.test.", true},
		{own, "elsewhere.test.", false},
		{addrPort("192.0.2.53:53"), "api.test.", true}, // in scope, whomever the agent asks
	} {
		if d := k.Proxy.UDP(src, c.server, query(t, c.name)); d != wireguard.Taken {
			t.Fatalf("disposition %v", d)
		}
		k.Eventually(5*time.Second, "an answer", func() bool { return answers.len() == i+1 })
		got := answers.answers()[i]
		a := aRecord(t, got.payload)
		if got.from != c.server || got.to != src || k.DB.IsVirtual(a) != c.virtual {
			t.Errorf("%s at %v: %v from %v to %v", c.name, c.server, a, got.from, got.to)
		}
	}
	if n := k.Proxy.Counters().Flows; n != 0 {
		t.Errorf("%d flows, want none", n)
	}
	if rows := k.Actions(id); len(rows) != 0 {
		t.Errorf("logged %+v", rows)
	}
}

func aRecord(t *testing.T, message string) netip.Addr {
	t.Helper()
	var m mdns.Msg
	if err := m.Unpack([]byte(message)); err != nil {
		t.Fatal(err)
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*mdns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A)
			return addr.Unmap()
		}
	}
	t.Fatalf("no address in %v", &m)
	return netip.Addr{}
}

func TestDNSFloodIsBoundedAndHarmsNobodyElse(t *testing.T) {
	hold := make(chan struct{})
	k := proxytest.New(t, reaching(443)+asking(resolver(t, hold)))
	defer close(hold)
	flooder, other := k.Approve("a", "red"), k.Approve("b", "red")
	answers, own := record(k), netip.AddrPortFrom(k.DB.Resolvers()[0], 53)
	for i := range 1000 {
		k.Proxy.UDP(k.Source(flooder, false), own, query(t, fmt.Sprintf("n%d.test.", i)))
	}
	if n := k.Proxy.Counters().DNSDropped; n != 1000-256 {
		t.Errorf("%d queries dropped, want %d", n, 1000-256)
	}
	src := k.Source(other, false)
	k.Proxy.UDP(src, own, query(t, "api.test."))
	k.Eventually(5*time.Second, "the other agent has its answer", func() bool {
		return answers.len() == 1 && answers.answers()[0].to == src
	})
}

// TestDNSHasNoCliffOfFlows: thousands of queries, each from a port of its own,
// are all answered.
func TestDNSHasNoCliffOfFlows(t *testing.T) {
	k := proxytest.New(t, reaching(443))
	id, answers := k.Approve("a", "red"), record(k)
	own := netip.AddrPortFrom(k.DB.Resolvers()[0], 53)
	for i := range 5000 {
		k.Proxy.UDP(k.Source(id, false), own, query(t, "api.test."))
		if i%100 == 99 {
			k.Eventually(10*time.Second, "all are answered", func() bool { return answers.len() == i+1 })
		}
	}
	if c := k.Proxy.Counters(); c.DNSDropped != 0 || c.Flows != 0 {
		t.Errorf("counted %+v", c)
	}
}

func TestUDPOfNobodyIsDroppedSilently(t *testing.T) {
	k := proxytest.New(t, reaching(443))
	if d := k.Proxy.UDP(addrPort("10.55.100.2:5000"), addrPort("192.0.2.1:80"), []byte("x")); d != wireguard.Taken {
		t.Errorf("disposition %v", d)
	}
}
