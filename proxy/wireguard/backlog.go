package wireguard

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// The device queues what it receives for decryption and then for each peer, up
// to 1024 batches of up to 128 packets, in a buffer of 64 KiB a packet: an agent
// that sends faster than netstack takes it would cost 8 GiB, and once its queue
// is full, delay everybody else. So there is a limit before the device, and what
// is over it is dropped as a router would.
const (
	// backlogMax is how many packets may be inside the device before those of the
	// sessions that send more than their share are dropped; at twice as many, all
	// are. 128 and 256 MiB.
	backlogMax = 2048

	// recentWindow is over how many packets shares are counted.
	recentWindow = 4096

	// backlogStale is after how long without a finished packet the backlog is
	// taken for nothing: not everything that is received comes to link.Write. What
	// is forged, replayed or from a wrong source ends inside the device.
	backlogStale = 100 * time.Millisecond
)

// backlog counts the packets inside the device.
type backlog struct {
	finished atomic.Int64 // by link.Write
	dropped  *atomic.Uint64

	mu       sync.Mutex
	received int64
	seen     int64 // finished, when it last changed
	changed  time.Time
	recent   map[uint32]int // packets of this window by receiver index: a session each
	window   int
}

func newBacklog(dropped *atomic.Uint64) *backlog {
	return &backlog{dropped: dropped, recent: make(map[uint32]int)}
}

// filter sets the sizes of packets that are over the limit to 0, which makes the
// device skip them. It looks at packets of data only.
func (g *backlog) filter(packets [][]byte, sizes []int, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	finished := g.finished.Load()
	if finished != g.seen {
		g.seen, g.changed = finished, now
	} else if now.Sub(g.changed) > backlogStale {
		g.received, g.changed = finished, now
	}
	g.received = max(g.received, finished) // what was taken for nothing may still finish
	for i, size := range sizes {
		if size <= device.MessageTransportSize { // a keepalive, or a handshake message; larger handshake messages differ in type
			continue
		}
		b := packets[i]
		if binary.LittleEndian.Uint32(b) != device.MessageTransportType {
			continue
		}
		index := binary.LittleEndian.Uint32(b[device.MessageTransportOffsetReceiver:])
		if g.window++; g.window > recentWindow {
			g.window = 1
			clear(g.recent)
		}
		g.recent[index]++
		inside := g.received - finished
		if inside >= 2*backlogMax || inside >= backlogMax && g.recent[index]*len(g.recent) > g.window {
			sizes[i] = 0
			g.dropped.Add(1)
			continue
		}
		g.received++
	}
}

// boundedBind is a bind with a limit on what it gives the device.
type boundedBind struct {
	conn.Bind
	backlog *backlog
}

// Open opens the bind.
func (b *boundedBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receive, port, err := b.Bind.Open(port)
	for i, next := range receive {
		receive[i] = func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := next(packets, sizes, eps)
			b.backlog.filter(packets[:n], sizes[:n], time.Now())
			return n, err
		}
	}
	return receive, port, err
}
