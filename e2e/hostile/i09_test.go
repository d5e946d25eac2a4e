package hostile

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
)

// The attack: reach through the tunnel what the gateway's own network position
// reaches: its LAN, itself, its dashboard, other agents, metadata services; by
// address in every spelling, and by names that resolve there.
func TestI09_TheGatewaysSurroundingsAreOutOfReach(t *testing.T) {
	ctx := t.Context()
	if err := theLab.Gateway.Script(ctx, `
		ip link add lan0 type veth peer name lan1; ip link set lan1 up; ip link set lan0 up
		ip address add 10.99.0.1/24 dev lan0; ip address add fd99::1/64 dev lan0 nodad
		ip address add 169.254.169.254/32 dev lan0
		ip address add 100.64.7.7/32 dev lan0`); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := theLab.Gateway.Script(ctx, "ip link del lan0"); err != nil {
			t.Error(err)
		}
	}()
	// One server on every address of the gateway host tells what was reached.
	var reached atomic.Int64
	for _, addr := range []string{"0.0.0.0:8000", "[::]:8000"} {
		ln, err := theLab.Gateway.Listen(addr)
		if err != nil && strings.Contains(err.Error(), "in use") {
			continue // the first took both families
		}
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			reached.Add(1)
			_, _ = io.WriteString(w, "reached")
		})}
		go func() { _ = srv.Serve(ln) }()
		defer srv.Close()
	}
	opsTunnel, err := ops.Run(ctx, "sh", "-c", `ip -4 -o address show dev clawpatrol0 | sed -E 's/.* inet ([0-9.]+).*/\1/'`)
	if err != nil {
		t.Fatal(err)
	}
	theLab.Names.Set("rebind.example.org", netip.MustParseAddr("10.99.0.1"))
	theLab.Names.Set("loop.example.org", netip.MustParseAddr("127.0.0.1"))
	theLab.Names.Set("meta.example.org", netip.MustParseAddr("169.254.169.254"))
	theLab.Names.Set("mapped.example.org", netip.MustParseAddr("::ffff:10.99.0.1"))

	targets := []string{
		"10.99.0.1:8000", "169.254.169.254:8000", "100.64.7.7:8000", "[fd99::1]:8000",
		"203.0.113.2:8000", "[2001:db8:200::2]:8000", // the gateway itself
		"203.0.113.2:8443", "203.0.113.2:8080", // its listeners
		"[64:ff9b::a63:1]:8000", "[64:ff9b::cb00:7102]:8000", "[2002:a63:1::1]:8000", "[::ffff:10.99.0.1]:8000",
		strings.TrimSpace(opsTunnel) + ":8000", "10.55.0.1:8080", "10.55.0.1:8000", "[fd55:c1a5::1]:8080",
		"rebind.example.org:8000", "meta.example.org:8000", "mapped.example.org:8000",
	}
	// Control: from the gateway host itself the server answers there.
	for _, addr := range []string{"10.99.0.1:8000", "169.254.169.254:8000", "203.0.113.2:8000"} {
		c, err := theLab.Gateway.Dial(ctx, "tcp", addr)
		if err != nil {
			t.Fatalf("the control does not reach %s: %v", addr, err)
		}
		_ = c.Close()
	}
	for _, target := range targets {
		// The gateway's public address is exempt from the tunnel for enrolment on
		// a well-behaved host; a hostile one sends it into the tunnel all the same.
		host, _, _ := net.SplitHostPort(target)
		if a, err := netip.ParseAddr(host); err == nil {
			defer forceIntoTunnel(t, a)()
		}
		out, err := ci.Run(ctx, "curl", "-sSk", "--max-time", "5", "http://"+target+"/")
		if err == nil && strings.Contains(out, "reached") {
			t.Errorf("%s was reached", target)
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the gateway host's server was reached %d times", n)
	}
	// And echo requests.
	for _, target := range []string{"10.99.0.1", "169.254.169.254", strings.TrimSpace(opsTunnel), "fd99::1"} {
		if out, err := ci.Run(ctx, "ping", "-c1", "-W1", target); err == nil {
			t.Errorf("%s answered an echo request: %s", target, out)
		}
	}
}

// forceIntoTunnel puts a host route to a into the main table, which is asked
// first for everything that has one.
func forceIntoTunnel(t *testing.T, a netip.Addr) (undo func()) {
	t.Helper()
	if a.Is4In6() || a == mustParse("203.0.113.2") || a == mustParse("2001:db8:200::2") {
		return func() {} // the WireGuard packets themselves go there
	}
	family, bits := "-4", "/32"
	if a.Is6() {
		family, bits = "-6", "/128"
	}
	if err := ci.Script(t.Context(), "ip "+family+" route replace "+a.String()+bits+" dev clawpatrol0"); err != nil {
		t.Fatal(err)
	}
	return func() { _ = ci.Script(t.Context(), "ip "+family+" route del "+a.String()+bits+" dev clawpatrol0") }
}

func mustParse(s string) netip.Addr { return netip.MustParseAddr(s) }
