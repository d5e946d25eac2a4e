package wireguard

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// Every packet inside the WireGuard device has a buffer of 64 KiB, whatever its
// size, and the device's queues have room for 1024 batches of up to 128 packets
// each way and peer, and as many for its workers: gigabytes, and seconds for
// whoever comes behind. An agent that sends faster than netstack takes, or has
// sent to it more than the workers encrypt, would use that. So the packets inside
// are counted, and there are no more than these.
//
// On the way in a limit must tell one sender from another before anything is
// decrypted, or whoever forges packets uses it up for all. What tells is the
// receiver index of a data message: the gateway chose it, in a handshake message
// that it sent (section 5.4 of the WireGuard paper). A packet with an index that
// it did not choose is the device's to throw away, which costs next to nothing.
// For an index that it did choose there is a small limit until the first
// authentic packet, which says whose it is, and from then on that peer's limit.
// Who can send packets with a peer's index uses up that peer's limit and nobody
// else's.
const (
	// insideIn is how many packets of one peer may be inside on the way in; more
	// are dropped. 64 MiB.
	insideIn = 1024

	// insideNew is the same for a session that no authentic packet has come from.
	insideNew = 64

	// insideOut is how many packets may be inside on the way out, of all peers;
	// then netstack waits. 128 MiB.
	insideOut = 2048

	// insideStale is after how long without progress what is counted as inside is
	// taken to have ended there: forged, replayed, or for a peer that has gone.
	insideStale = 50 * time.Millisecond

	// sessionsEvery is how often what sessions there were is forgotten, twice: for
	// at least that long an index is known. The device knows it for 180 s.
	sessionsEvery = 200 * time.Second

	// maxSessions is how many are known at most, twice. Each costs a handshake,
	// of which a peer has 50 a second at most.
	maxSessions = 1 << 16
)

// inside counts packets that have come and those of them that have gone. What
// ends inside the device is forgotten: where nothing moves for insideStale, and
// in any case after twice that, because the device is a queue and not that long.
// Only while link.Write has packets of the peer in hand nothing is.
type inside struct {
	gone atomic.Int64
	busy atomic.Int32 // calls of link.Write

	mu      sync.Mutex
	come    int64
	seen    int64     // gone, when it was last looked at
	moved   time.Time // when seen last changed
	older   int64     // come, at the beginning of the window before this one
	window  int64     // come, at the beginning of this window
	started time.Time // of this window
}

// enter counts one more, unless limit of them are inside already.
func (n *inside) enter(now time.Time, limit int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	gone := n.gone.Load()
	if n.busy.Load() == 0 {
		n.forget(gone, now)
	}
	n.come = max(n.come, gone) // what was forgotten may still go
	if n.come-gone >= limit {
		return false
	}
	n.come++
	return true
}

// forget gives up on what does not go. mu is held.
func (n *inside) forget(gone int64, now time.Time) {
	if now.Sub(n.started) > insideStale {
		n.older, n.window, n.started = n.window, n.come, now
	}
	if gone != n.seen {
		n.seen, n.moved = gone, now
	} else if now.Sub(n.moved) > insideStale {
		n.come, n.window, n.older, n.moved = gone, gone, gone, now
	}
	if lost := n.older - gone; lost > 0 {
		n.come -= lost
		n.window, n.older = max(gone, n.window-lost), gone
	}
}

// session is a receiver index of the gateway's.
type session struct {
	peer   atomic.Pointer[peer] // nil until the first authentic packet
	unsure inside               // until then
}

// sessions are the receiver indexes that the gateway has chosen lately.
type sessions struct {
	mu       sync.RWMutex
	now, old map[uint32]*session
	turned   time.Time
}

// issue notes the sender index of a handshake message that is about to be sent.
func (s *sessions) issue(message []byte, at time.Time) {
	if len(message) < 8 {
		return
	}
	switch binary.LittleEndian.Uint32(message) {
	case device.MessageInitiationType, device.MessageResponseType:
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now == nil || at.Sub(s.turned) > sessionsEvery || len(s.now) >= maxSessions {
		s.old, s.now, s.turned = s.now, make(map[uint32]*session), at
	}
	s.now[binary.LittleEndian.Uint32(message[4:])] = new(session)
}

// find returns the session of an index, or nil.
func (s *sessions) find(index uint32) *session {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if found := s.now[index]; found != nil {
		return found
	}
	return s.old[index]
}

// transit bounds what is inside the device.
type transit struct {
	sessions sessions
	dropped  atomic.Uint64 // on the way in

	out  atomic.Int64  // packets handed to the device and not sent yet
	sent chan struct{} // holds one after some were sent
}

func newTransit() *transit { return &transit{sent: make(chan struct{}, 1)} }

// isData reports whether a message carries a packet.
func isData(message []byte) bool {
	return len(message) > device.MessageTransportSize && binary.LittleEndian.Uint32(message) == device.MessageTransportType
}

// receive sets the sizes of packets over the limit to 0, which makes the device
// skip them.
func (x *transit) receive(packets [][]byte, sizes []int, now time.Time) {
	var (
		last  uint32
		found *session
	)
	for i, size := range sizes {
		message := packets[i][:size]
		if !isData(message) {
			continue
		}
		index := binary.LittleEndian.Uint32(message[device.MessageTransportOffsetReceiver:])
		if found == nil || index != last {
			last, found = index, x.sessions.find(index)
		}
		if found == nil {
			continue
		}
		count, limit := &found.unsure, int64(insideNew)
		if p := found.peer.Load(); p != nil {
			count, limit = &p.inside, insideIn
		}
		if !count.enter(now, limit) {
			sizes[i] = 0
			x.dropped.Add(1)
		}
	}
}

// arrived notes an authentic packet that the device hands to the link: whose it
// is, and the header of the message it came in.
func (x *transit) arrived(sender *peer, header []byte) {
	sender.inside.gone.Add(1)
	if len(header) < device.MessageTransportOffsetContent {
		return
	}
	index := binary.LittleEndian.Uint32(header[device.MessageTransportOffsetReceiver:])
	if sender.index.Swap(index) == index {
		return
	}
	if s := x.sessions.find(index); s != nil {
		s.peer.Store(sender)
	}
}

// room waits, on the way out, until there is room or nothing moves.
func (x *transit) room(closed <-chan struct{}) {
	for x.out.Load() >= insideOut {
		before := x.out.Load()
		stale := time.NewTimer(insideStale)
		select {
		case <-x.sent:
		case <-closed:
			stale.Stop()
			return
		case <-stale.C:
			if x.out.Load() >= before {
				x.out.Store(0) // staged for peers that are away, or dropped
			}
		}
		stale.Stop()
	}
}

// send notes what is about to leave.
func (x *transit) send(packets [][]byte, now time.Time) {
	data := int64(0)
	for _, message := range packets {
		if isData(message) {
			data++
			continue
		}
		x.sessions.issue(message, now)
	}
	if data == 0 {
		return
	}
	if left := x.out.Add(-data); left < 0 {
		x.out.CompareAndSwap(left, 0)
	}
	select {
	case x.sent <- struct{}{}:
	default:
	}
}

// boundedBind is a bind that transit watches.
type boundedBind struct {
	conn.Bind
	transit *transit
}

// Open opens the bind.
func (b *boundedBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receive, port, err := b.Bind.Open(port)
	for i, next := range receive {
		receive[i] = func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := next(packets, sizes, eps)
			b.transit.receive(packets[:n], sizes[:n], time.Now())
			return n, err
		}
	}
	return receive, port, err
}

// Send sends packets to one endpoint.
func (b *boundedBind) Send(packets [][]byte, to conn.Endpoint) error {
	b.transit.send(packets, time.Now())
	return b.Bind.Send(packets, to)
}
