package listener

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// Limit bounds the connections of a server. One that is open costs a file
// descriptor of the whole gateway, so idle ones opened by the thousand would
// cost every agent its flows.
//
// It makes room for what is accepted beyond the bounds: it closes the connection
// that has had no request for longest or, where all have one, has had it for
// longest. So holding connections, idle or with slow requests, keeps nobody else
// out.
type Limit struct {
	max, perSource int

	mu      sync.Mutex
	open    map[net.Conn]*openConn // guarded by mu
	sources map[netip.Prefix]int   // guarded by mu
	changes uint64                 // of state so far; guarded by mu
}

// openConn is guarded by its Limit's mu.
type openConn struct {
	source netip.Prefix
	busy   bool   // it has a request
	since  uint64 // the change that made it so
}

// NewLimit bounds connections to max in all, and to perSource of one source as
// Source has it.
func NewLimit(max, perSource int) *Limit {
	return &Limit{max: max, perSource: perSource, open: make(map[net.Conn]*openConn), sources: make(map[netip.Prefix]int)}
}

// Track is an http.Server's ConnState: it sees a connection before anything is
// read of it, the TLS handshake included.
func (l *Limit) Track(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if victim := l.admit(c); victim != nil {
			closeAtOnce(victim)
		}
	case http.StateActive, http.StateIdle:
		l.note(c, state == http.StateActive)
	case http.StateClosed, http.StateHijacked:
		l.release(c)
	}
}

// admit enters c and returns the connection that has to go for it, or nil.
func (l *Limit) admit(c net.Conn) (victim net.Conn) {
	source := netip.Prefix{}
	if ap, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		source, _ = Source(ap.Addr().Unmap().WithZone(""))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.sources[source] >= l.perSource:
		victim = l.longest(source)
	case len(l.open) >= l.max:
		victim = l.longest(l.fullest())
	}
	if victim != nil {
		l.remove(victim)
	}
	l.changes++
	l.open[c] = &openConn{source: source, since: l.changes}
	l.sources[source]++
	return victim
}

// longest finds the connection of source to close first; called with mu held.
func (l *Limit) longest(source netip.Prefix) (victim net.Conn) {
	var first *openConn
	for c, o := range l.open {
		if o.source != source {
			continue
		}
		if first == nil || first.busy && !o.busy || first.busy == o.busy && o.since < first.since {
			victim, first = c, o
		}
	}
	return victim
}

// fullest finds the source with the most connections; called with mu held.
func (l *Limit) fullest() (source netip.Prefix) {
	most := 0
	for s, n := range l.sources {
		if n > most {
			source, most = s, n
		}
	}
	return source
}

func (l *Limit) note(c net.Conn, busy bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o, ok := l.open[c]; ok {
		l.changes++
		o.busy, o.since = busy, l.changes
	}
}

func (l *Limit) release(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(c)
}

// remove forgets c; called with mu held.
func (l *Limit) remove(c net.Conn) {
	o, ok := l.open[c]
	if !ok {
		return // it made room for another
	}
	delete(l.open, c)
	if l.sources[o.source]--; l.sources[o.source] == 0 {
		delete(l.sources, o.source)
	}
}

// closeAtOnce closes c without a TLS alert: sending one waits for a peer that
// does not read, and the accept loop with it.
func closeAtOnce(c net.Conn) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	_ = c.Close()
}
