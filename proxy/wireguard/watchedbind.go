package wireguard

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// watchedBind is the device's bind with the tunnel looking at every message: of
// whose session it is, whether it comes from that peer's pin, and whether there
// is room for it inside the device.
type watchedBind struct {
	conn.Bind
	tunnel      *Tunnel
	initiations initiations
	strangers   *rate.Limiter // of initiations from outside every pin
	marking     atomic.Bool   // some buffer has been marked
}

// Initiations from outside every pin are a thief's, an agent host's that has
// moved, or the first of one whose datagrams come from elsewhere than its TCP
// connections; and whatever the world sends. The device tries them at the cost of
// an X25519 each and drops everybody's once it has too many, so only these get there.
const (
	strangersRate  = 50 // a second
	strangersBurst = 50
)

func newWatchedBind(bind conn.Bind, t *Tunnel) *watchedBind {
	return &watchedBind{Bind: bind, tunnel: t, strangers: rate.NewLimiter(strangersRate, strangersBurst)}
}

// Open opens the bind.
func (b *watchedBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receive, port, err := b.Bind.Open(port)
	for i, next := range receive {
		receive[i] = func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := next(packets, sizes, eps)
			b.receive(packets[:n], sizes[:n], eps[:n], time.Now())
			return n, err
		}
	}
	return receive, port, err
}

// receive sets the sizes of what the device must not see to 0, which makes it
// skip them.
func (b *watchedBind) receive(packets [][]byte, sizes []int, eps []conn.Endpoint, now time.Time) {
	look := glance{sessions: &b.tunnel.link.transit.sessions}
	marking := b.marking.Load()
	for i, size := range sizes {
		if marking {
			unmark(packets[i])
		}
		if size < device.MinMessageSize {
			sizes[i] = 0 // a cookie reply is the shortest that the device reads further
			continue
		}
		message := packets[i][:size]
		at := device.MessageTransportOffsetReceiver
		kind := binary.LittleEndian.Uint32(message)
		switch kind {
		case device.MessageInitiationType:
			if size != device.MessageInitiationSize {
				sizes[i] = 0
				continue
			}
			if !b.hears(message, eps[i], now) {
				sizes[i] = 0
				b.tunnel.counters.strangers.Add(1)
				continue
			}
			held := &initiation{Endpoint: eps[i], message: [device.MessageInitiationSize]byte(message)}
			b.initiations.remember(held)
			eps[i] = held
			continue
		case device.MessageResponseType:
			at = offsetResponseReceiver
		case device.MessageCookieReplyType, device.MessageTransportType:
		default:
			sizes[i] = 0
			continue
		}
		p := look.session(binary.LittleEndian.Uint32(message[at:]))
		if p == nil || p.deviated.Load() {
			sizes[i] = 0
			b.tunnel.counters.strays.Add(1)
			continue
		}
		if look.pinned(eps[i].DstIP()) {
			if kind == device.MessageTransportType && size > device.MessageTransportSize && !p.inside.enter(now, insideIn) {
				sizes[i] = 0
				b.tunnel.link.transit.dropped.Add(1)
			}
			continue
		}
		if !b.doubt(p, packets[i], size, kind, &eps[i], now) {
			sizes[i] = 0
		}
	}
}

// hears reports whether the device should see an initiation.
func (b *watchedBind) hears(message []byte, from conn.Endpoint, now time.Time) bool {
	if b.tunnel.peers.Load().pinned(plainAddr(from.DstIP())) {
		return true
	}
	return addressedTo(message, &b.tunnel.identity.macKey) && b.strangers.AllowN(now, 1)
}

// doubt prepares a packet from outside p's pin for the device; false where the
// device need not see it.
func (b *watchedBind) doubt(p *peer, buffer []byte, size int, kind uint32, ep *conn.Endpoint, now time.Time) bool {
	b.tunnel.counters.suspects.Add(1)
	if kind == device.MessageCookieReplyType { // sealed with what anybody knows who has seen the handshake
		return false
	}
	if !p.suspects.enter(now, insideSuspect) {
		return false
	}
	doubtful := &suspect{Endpoint: *ep, peer: p, from: plainAddr((*ep).DstIP()), proof: "a handshake response"}
	if kind == device.MessageTransportType {
		doubtful.proof = "a data packet"
		if size == device.MessageKeepaliveSize {
			doubtful.proof = "a keepalive"
		}
		b.marking.Store(true)
		if !mark(buffer, doubtful.from) {
			return false
		}
		b.tunnel.probe(p)
	}
	*ep = doubtful
	return true
}

// Send sends packets to one endpoint, unless they have no business there. What
// is not sent is no error: for the device it is lost on the way.
func (b *watchedBind) Send(packets [][]byte, to conn.Endpoint) error {
	b.tunnel.link.transit.send(packets)
	to = b.destination(packets, to)
	if to == nil {
		return nil
	}
	return b.Bind.Send(packets, to)
}

// destination is where packets for an endpoint of the device's go, or nil.
func (b *watchedBind) destination(packets [][]byte, to conn.Endpoint) conn.Endpoint {
	if len(packets) == 0 || len(packets[0]) < device.MinMessageSize {
		return nil
	}
	message, t := packets[0], b.tunnel
	kind := binary.LittleEndian.Uint32(message)
	if s, ok := to.(*suspect); ok {
		// The device sends here because it has found the packet authentic; but
		// for cookie replies, which it makes for what it has not looked into.
		if kind == device.MessageCookieReplyType {
			return nil
		}
		if !s.peer.allows(s.from) {
			t.deviate(s.peer, s.from, s.proof)
			return nil
		}
		to = s.Endpoint // the pin's by now
	}
	held, _ := to.(*initiation)
	switch kind {
	case device.MessageCookieReplyType:
		// The device is under load, and has not looked into the initiation: whoever
		// is outside every pin gets no answer, not even this one.
		if held != nil && t.peers.Load().pinned(plainAddr(held.DstIP())) {
			return held.Endpoint
		}
		return nil
	case device.MessageResponseType:
		if held == nil || held.sender() != binary.LittleEndian.Uint32(message[offsetResponseReceiver:]) {
			if held = b.initiations.answered(message); held == nil {
				return nil
			}
		}
		p, standing := t.judge(held)
		if standing != welcome || p.deviated.Load() {
			return nil
		}
		t.link.transit.sessions.issue(message, p)
		return held.Endpoint
	case device.MessageInitiationType:
		p := t.peers.Load().addressee(message)
		if p == nil || p.deviated.Load() {
			return nil
		}
		if to = b.path(to, held); to == nil || !p.allows(plainAddr(to.DstIP())) {
			return nil
		}
		t.link.transit.sessions.issue(message, p)
		return to
	}
	return b.path(to, held)
}

// path is where packets go while the device's endpoint for a peer is an
// initiation's.
func (b *watchedBind) path(to conn.Endpoint, held *initiation) conn.Endpoint {
	if held == nil {
		return to
	}
	switch p, standing := b.tunnel.judge(held); standing {
	case welcome:
		return held.Endpoint
	case recorded: // it has led the device astray, and the next good packet leads it back
		if path := p.lastPath(); path != nil {
			return path
		}
	}
	return nil
}

// glance finds the session of each packet of a batch, and remembers what it
// found for the one before, which is mostly the same.
type glance struct {
	sessions *sessions
	index    uint32
	peer     *peer
	addr     netip.Addr
	ok, seen bool // addr is one of peer's; addr is set
}

func (g *glance) session(index uint32) *peer {
	if g.peer == nil || index != g.index {
		g.index, g.peer, g.seen = index, g.sessions.find(index), false
	}
	return g.peer
}

// pinned reports whether the session's peer may be at addr.
func (g *glance) pinned(addr netip.Addr) bool {
	if !g.seen || addr != g.addr {
		g.addr, g.ok, g.seen = addr, g.peer.allows(plainAddr(addr)), true
	}
	return g.ok
}
