package wireguard

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
// receiver index of a message: the gateway chose it, in a handshake message that
// it sent to one peer (section 5.4 of the WireGuard paper). A message with an
// index that it did not choose is dropped. Who can send packets with a peer's
// index, from the peer's address, uses up that peer's limit and nobody else's.
const (
	// insideIn is how many packets of one peer may be inside on the way in; more
	// are dropped. 64 MiB.
	insideIn = 1024

	// insideSuspect is the same for packets from outside the peer's pin. They do
	// not count in the limit above: anybody could use that up.
	insideSuspect = 64

	// insideOut is how many packets may be inside on the way out, of all peers;
	// then netstack waits. 128 MiB.
	insideOut = 2048

	// insideStale is after how long without progress what is counted as inside is
	// taken to have ended there: forged, replayed, or for a peer that has gone.
	insideStale = 50 * time.Millisecond

	// indexesKept is how many sessions of a peer are known, the latest. The device
	// has four: one in use, one before and after it, and one in the making, which
	// may be begun again every 5 s while no answer comes (section 6.1).
	indexesKept = 64
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

// sessions are the receiver indexes that the gateway has chosen lately, and the
// peers they are for.
type sessions struct {
	mu   sync.RWMutex
	of   map[uint32]*peer   // guarded by mu
	kept map[*peer][]uint32 // each peer's, oldest first; guarded by mu
}

// issue notes the sender index of a handshake message that is about to be sent
// to p.
func (s *sessions) issue(message []byte, p *peer) {
	index := binary.LittleEndian.Uint32(message[offsetSender:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.ctx.Err() != nil {
		return // forgotten already, or about to be
	}
	if s.of == nil {
		s.of, s.kept = make(map[uint32]*peer), make(map[*peer][]uint32)
	}
	if s.of[index] == p {
		return // the same message again
	}
	kept := s.kept[p]
	if len(kept) == indexesKept {
		s.drop(kept[0], p)
		kept = slices.Delete(kept, 0, 1)
	}
	s.kept[p] = append(kept, index)
	s.of[index] = p
}

// drop forgets an index of p's; mu is held.
func (s *sessions) drop(index uint32, p *peer) {
	if s.of[index] == p { // the device may have chosen it again, for another
		delete(s.of, index)
	}
}

// forget forgets all of p's.
func (s *sessions) forget(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, index := range s.kept[p] {
		s.drop(index, p)
	}
	delete(s.kept, p)
}

// find returns the peer of an index, or nil.
func (s *sessions) find(index uint32) *peer {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.of[index]
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
func (x *transit) send(packets [][]byte) {
	data := int64(0)
	for _, message := range packets {
		if isData(message) {
			data++
		}
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
