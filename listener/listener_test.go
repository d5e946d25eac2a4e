package listener_test

import (
	"net"
	"net/http"
	"net/netip"
	"testing"

	"github.com/clawpatrol/clawpatrol/listener"
)

func TestSource_IsTheLeastOneHostHas(t *testing.T) {
	for a, want := range map[string]string{
		"192.0.2.7":           "192.0.2.7/32",
		"2001:db8:1:2:3::4":   "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::": "2001:db8:1:2::/64",
	} {
		if got, ok := listener.Source(netip.MustParseAddr(a)); !ok || got.String() != want {
			t.Errorf("Source(%s) = %s, %v; want %s", a, got, ok, want)
		}
	}
	if _, ok := listener.Source(netip.Addr{}); ok {
		t.Error("the zero Addr has a source")
	}
}

// conn is a connection from an address that tells when it is closed.
type conn struct {
	net.Conn
	from   string
	closed bool
}

func (c *conn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.from))
}

func (c *conn) Close() error {
	c.closed = true
	return nil
}

func TestLimit_TheLongestIdleMakesRoom(t *testing.T) {
	l := listener.NewLimit(4, 2)
	open := func(from string, state http.ConnState) *conn {
		c := &conn{from: from}
		l.Track(c, http.StateNew)
		l.Track(c, state)
		return c
	}
	busy := open("192.0.2.1:1", http.StateActive)
	idle := open("192.0.2.1:2", http.StateIdle)
	third := open("192.0.2.1:3", http.StateActive)
	if busy.closed || !idle.closed || third.closed {
		t.Errorf("beyond a source's bound: busy closed %v, idle %v, the new one %v; want the idle one", busy.closed, idle.closed, third.closed)
	}
	other := []*conn{open("192.0.2.2:1", http.StateIdle), open("192.0.2.3:1", http.StateIdle)}
	open("192.0.2.4:1", http.StateIdle)
	if !busy.closed || other[0].closed || other[1].closed {
		t.Errorf("beyond the whole bound the source with the most gives way: %v, others %v %v", busy.closed, other[0].closed, other[1].closed)
	}
	l.Track(other[0], http.StateClosed)
	if open("192.0.2.5:1", http.StateIdle); third.closed || other[1].closed {
		t.Error("a connection that has ended did not give its place back")
	}
}
