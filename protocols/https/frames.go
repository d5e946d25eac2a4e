package https

import (
	"crypto/tls"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// What an HTTP/2 agent may send of frames that are neither a request nor a body:
// each costs it a few bytes, and the gateway a turn of a connection's loop and
// often an answer. An agent that takes answers sends WINDOW_UPDATE frames, at
// most two for each 4 KiB (net/http's client does), and earns them by that. The
// HEADERS frame of a request is earned when it turns out to be one.
const (
	connFrames         = 1000 // a second, on one connection
	registrationFrames = 4000 // a second, on all of a registration
	frameBurst         = 10   // seconds' worth that may come at once
	bytesPerFrame      = 1 << 10
)

// frameBudget is a token bucket. It begins full.
type frameBudget struct {
	rate float64 // a second

	mu    sync.Mutex
	spent float64   // of rate * frameBurst; guarded by mu
	at    time.Time // when spent was right; guarded by mu
}

// take spends n, of which earned are made up for; false where there are not so
// many left.
func (b *frameBudget) take(n, earned float64, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if past := now.Sub(b.at); past > 0 {
		b.spent -= past.Seconds() * b.rate
		b.at = now
	}
	b.spent = max(0, b.spent-earned) + n
	return b.spent <= b.rate*frameBurst
}

// frameConn is the decrypted connection of an HTTP/2 agent. It counts frames, and
// fails reads when there are too many.
type frameConn struct {
	*tls.Conn
	scan  frameScanner // owned by who reads
	wrote atomic.Int64 // bytes that have earned nothing yet, and bytesPerFrame for each request
	own   frameBudget
	all   *frameBudget // the registration's
}

// Read ends with an error that makes the server say GOAWAY, ENHANCE_YOUR_CALM
// (RFC 9113 section 10.5).
func (c *frameConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if frames := c.scan.count(p[:n]); frames > 0 {
		now, earned := time.Now(), float64(c.wrote.Swap(0))/bytesPerFrame
		ok := c.own.take(float64(frames), earned, now)
		if !c.all.take(float64(frames), earned, now) || !ok {
			return 0, http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
		}
	}
	return n, err
}

func (c *frameConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.wrote.Add(int64(n))
	return n, err
}

// serveH2 serves the requests of a connection until it ends.
func (h *Handler) serveH2(c *conversation, agent *tls.Conn) {
	all, _ := h.frames.get(c.flow.Registration, func(*frameBudget) bool { return true }, func() *frameBudget {
		return &frameBudget{rate: registrationFrames}
	})
	c.frames = &frameConn{Conn: agent, own: frameBudget{rate: connFrames}, all: all}
	//lint:ignore SA1019 http.Server speaks HTTP/2 on a *tls.Conn alone, where frames cannot be counted
	h.h2.ServeConn(c.frames, &http2.ServeConnOpts{
		Context:    withConversation(c),
		BaseConfig: h.server,
		Handler:    http.HandlerFunc(h.serveRequest),
	})
	_ = c.Close()
}

// requested makes up for the frame of a request.
func (c *frameConn) requested() { c.wrote.Add(bytesPerFrame) }

// frameScanner follows a stream of frames by their headers (RFC 9113 section
// 4.1), whatever pieces it comes in.
type frameScanner struct {
	began  bool
	skip   uint32 // bytes to the next header
	header [9]byte
	have   int // bytes of header
}

// count returns how many frames begin in p that are not DATA with something in it.
// Padded DATA counts: padding can be all of it.
func (s *frameScanner) count(p []byte) (frames int) {
	if !s.began {
		s.began, s.skip = true, uint32(len(http2.ClientPreface))
	}
	for {
		if n := min(int64(s.skip), int64(len(p))); n > 0 {
			s.skip -= uint32(n)
			p = p[n:]
		}
		if len(p) == 0 {
			return frames
		}
		n := copy(s.header[s.have:], p)
		s.have += n
		p = p[n:]
		if s.have < len(s.header) {
			return frames
		}
		s.have = 0
		s.skip = uint32(s.header[0])<<16 | uint32(s.header[1])<<8 | uint32(s.header[2])
		flags := http2.Flags(s.header[4])
		if http2.FrameType(s.header[3]) != http2.FrameData || flags.Has(http2.FlagDataPadded) || s.skip == 0 && !flags.Has(http2.FlagDataEndStream) {
			frames++
		}
	}
}
