package dashboard_test

import (
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

func addrPort(t testing.TB, a net.Addr) netip.AddrPort {
	t.Helper()
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func TestOwner_IsWhoMadeTheConnection(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from, to := addrPort(t, c.LocalAddr()), addrPort(t, l.Addr())
		if got := dashboard.ConnectionOwner(from, to); got != uint64(os.Getuid())+1 {
			t.Errorf("%s: owner %d, and I am %d", at, got, os.Getuid())
		}
		// Where there is no such connection a listener must not stand in for it.
		other := netip.AddrPortFrom(from.Addr(), from.Port()^1)
		for _, pair := range [][2]netip.AddrPort{{other, to}, {to, other}, {from, netip.AddrPortFrom(to.Addr(), 9)}, {to, netip.AddrPort{}}} {
			if got := dashboard.ConnectionOwner(pair[0], pair[1]); got != 0 {
				t.Errorf("%v: owner %d", pair, got)
			}
		}
		// One that is closed on that side belongs to nobody: not to root.
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got := dashboard.ConnectionOwner(from, to); got != 0 {
			t.Errorf("%s: half closed, owner %d", at, got)
		}
	}
}

// The attack: another user of the gateway's host sends wrong passwords without end.
// The operator has never logged in, and scripts of theirs send the password itself.
func TestI14_AnotherUserOfTheHostDoesNotLockTheOperatorOut(t *testing.T) {
	g := newOperated(t)
	who := uint64(1001)
	g.cfg = g.cfg.OwnedBy(func(netip.AddrPort) uint64 { return who })
	g.restart()
	g.tryLogin("127.0.0.1", "a wrong password")
	for range 20 {
		g.tryLogin("127.0.0.1", "a wrong password")
	}
	if s := g.tryLogin("127.0.0.1", password); s != http.StatusTooManyRequests {
		t.Fatalf("guesses on loopback are not limited: status %d", s)
	}
	for _, operator := range []uint64{1, 1002, 0} { // root, another, one whom the kernel does not name
		who = operator
		if s := g.tryLogin("127.0.0.1", password); s != http.StatusNoContent {
			t.Errorf("owner %d: status %d", who, s)
		}
		if r := g.send(request{method: "GET", path: "/api/profiles", secret: password, from: "127.0.0.1"}); r.StatusCode != http.StatusOK {
			t.Errorf("owner %d, by the header: status %d", who, r.StatusCode)
		}
	}
	// Elsewhere it is the address that counts, whatever is on this host.
	for i := range 11 {
		who = uint64(i)
		if s := g.tryLogin("192.0.2.55", "a wrong password"); (s == http.StatusTooManyRequests) != (i == 10) {
			t.Errorf("guess %d from another host: status %d", i, s)
		}
	}
}
