package public

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// Limits of connections. One that is open costs a file descriptor of the whole
// gateway, so idle ones opened by the thousand would cost every agent its flows.
const (
	maxConns          = 2048
	maxConnsPerSource = 512 // an IPv4 address or an IPv6 /64; agent hosts behind one NAT share it
)

// connLimit closes what is accepted beyond the limits.
type connLimit struct {
	mu      sync.Mutex
	open    map[net.Conn]netip.Prefix // guarded by mu
	sources map[netip.Prefix]int      // guarded by mu
}

func newConnLimit() *connLimit {
	return &connLimit{open: make(map[net.Conn]netip.Prefix), sources: make(map[netip.Prefix]int)}
}

// track is an http.Server's ConnState: it sees a connection before anything is
// read of it, the TLS handshake included.
func (l *connLimit) track(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if !l.admit(c) {
			_ = c.Close() // nothing was sent yet
		}
	case http.StateClosed, http.StateHijacked:
		l.release(c)
	}
}

func (l *connLimit) admit(c net.Conn) bool {
	source := netip.Prefix{}
	if ap, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		source, _ = sourceOf(ap.Addr().Unmap().WithZone(""))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= maxConns || l.sources[source] >= maxConnsPerSource {
		return false
	}
	l.open[c] = source
	l.sources[source]++
	return true
}

func (l *connLimit) release(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	source, ok := l.open[c]
	if !ok {
		return // was not admitted
	}
	delete(l.open, c)
	if l.sources[source]--; l.sources[source] == 0 {
		delete(l.sources, source)
	}
}
