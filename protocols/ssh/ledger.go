package ssh

import (
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"
)

const (
	// What waits for readers, in bytes as they came over the wire. The library
	// counts only data, and needs some 50 bytes to keep a packet of one: where
	// packets are tiny, more waits than its windows say.
	windowOnWire  = 2<<20 + 256<<10 // of a channel whose window is full of packets of a sensible size
	maxWaiting    = 64 << 20        // of a registration, beyond its windows
	weighingEvery = 1 << 20
)

var errTooMuchWaits = errors.New("too much waits to be read, in too small pieces")

// ledger weighs what a connection's streams have received and not been read of.
//
// It knows what came over the wire and what was read, which is less: packets have
// heads. What waits in a stream has come since the stream was last seen empty. So
// no more waits than came since the longest ago of these times, without what was
// read since. That counts heads of what was read meanwhile too, which is little
// where packets are not tiny.
type ledger struct {
	share *share
	over  func() // called when too much waits

	unread  atomic.Int64 // bytes that came, less those read
	came    int64        // since the last weighing; of the goroutine that reads the connection
	mu      sync.Mutex
	streams map[*stream]bool // guarded by mu
	waiting int64            // at the last weighing; guarded by mu
}

// stream is one of a connection, as its reader sees it.
type stream struct {
	io.Reader
	ledger *ledger

	// Of the reader, and read by weigh.
	reading atomic.Bool
	ended   atomic.Bool
	empty   atomic.Int64 // ledger.unread when the stream was last seen to be empty
}

// follow returns r as one of the connection's streams. leave ends that.
func (l *ledger) follow(r io.Reader) *stream {
	s := &stream{Reader: r, ledger: l}
	s.empty.Store(l.unread.Load())
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams == nil {
		l.streams = make(map[*stream]bool)
	}
	l.streams[s] = true
	return s
}

func (s *stream) leave() {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	delete(s.ledger.streams, s)
}

// Read reads as much as there is. Whoever waits in it has an empty stream.
func (s *stream) Read(p []byte) (int, error) {
	s.reading.Store(true)
	n, err := s.Reader.Read(p)
	s.reading.Store(false)
	unread := s.ledger.unread.Add(-int64(n))
	if n < len(p) {
		s.empty.Store(unread)
	}
	if err == io.EOF {
		s.ended.Store(true)
	}
	return n, err
}

// discard reads what comes behind the end of a stream, which nobody else does. It
// does not wait.
func (s *stream) discard() {
	var p [1024]byte
	for {
		n, err := s.Reader.Read(p[:])
		s.ledger.unread.Add(-int64(n))
		if err != nil {
			s.empty.Store(s.ledger.unread.Load())
			return
		}
	}
}

// received counts what came over the wire.
func (l *ledger) received(n int) {
	l.unread.Add(int64(n))
	if l.came += int64(n); l.came >= weighingEvery {
		l.came = 0
		l.weigh()
	}
}

// weigh ends a connection in which too much waits, where the registration's share
// is used up as well.
func (l *ledger) weigh() {
	l.mu.Lock()
	defer l.mu.Unlock()
	unread, least := l.unread.Load(), int64(math.MaxInt64)
	for s := range l.streams {
		switch {
		case s.ended.Load():
			s.discard()
		case s.reading.Load():
			s.empty.Store(unread)
		}
		least = min(least, s.empty.Load())
	}
	waiting := int64(0)
	if least < unread {
		waiting = unread - least
	}
	all := l.share.waiting.Add(waiting - l.waiting)
	l.waiting = waiting
	windows := windowOnWire * int64(len(l.streams))
	if waiting > windows+maxWaiting/16 && all > windowOnWire*2*l.share.channels.Taken()+maxWaiting {
		l.over()
	}
}

// skim reads and drops a stream that should have nothing: errors of an agent's,
// or of a forwarded connection.
func (s *stream) skim() {
	var p [256]byte
	for {
		if _, err := s.Read(p[:]); err != nil {
			return
		}
	}
}

// end gives back what the connection used of its registration's share.
func (l *ledger) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.share.waiting.Add(-l.waiting)
	l.waiting = 0
}
