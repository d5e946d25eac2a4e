package https

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/time/rate"
)

// What an HTTP/2 agent may send of frames that are neither a request nor a body:
// each costs it a few bytes, and the gateway a turn of a connection's loop and
// often an answer. An agent that takes answers sends WINDOW_UPDATE frames, at
// most two for each 4 KiB (net/http's client does), and earns them by that. The
// HEADERS frame of a request is earned when it turns out to be one. What the
// gateway resets counts as well: DATA for a stream that is closed looks like any
// other on its way in.
const (
	connFrames         = 1000 // a second, on one connection
	registrationFrames = 4000 // a second, on all of a registration
	frameBurst         = 10   // seconds' worth that may come at once
	bytesPerFrame      = 1 << 10

	// settingsFrames is how many a SETTINGS frame counts for, but for the first: it
	// may move the window of every stream (RFC 9113 section 6.9.2), and each answers
	// with DATA. gRPC's agents send a few while they learn how fast a connection is.
	settingsFrames = 20
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

// agentBudget is what the HTTP/2 connections of a registration share.
type agentBudget struct {
	frames frameBudget
	heads  *rate.Limiter // bytes of decoded heads
}

func newAgentBudget() *agentBudget {
	return &agentBudget{frames: frameBudget{rate: registrationFrames}, heads: rate.NewLimiter(headRate, headBurst)}
}

// errCalm makes the server say GOAWAY, ENHANCE_YOUR_CALM where a read fails with
// it (RFC 9113 section 10.5).
var errCalm = http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)

// frameConn is the decrypted connection of an HTTP/2 agent. It counts frames and
// measures heads: reads fail when there are too many of the one, and wait when
// there is too much of the other.
type frameConn struct {
	*tls.Conn
	closed <-chan struct{} // nobody reads any more
	own    frameBudget
	all    *agentBudget // the registration's

	wrote atomic.Int64 // bytes that have earned nothing yet, and bytesPerFrame for each request
	out   cork

	// Owned by who reads.
	heard   frameScanner
	heads   headMeter
	rest    []byte // read from the agent, and not handed on
	timed   bool   // a deadline for the rest of a head is set
	greeted bool   // the first SETTINGS frame has come
}

func newFrameConn(agent *tls.Conn, all *agentBudget, closed <-chan struct{}) *frameConn {
	c := &frameConn{Conn: agent, closed: closed, own: frameBudget{rate: connFrames}, all: all}
	c.out.to = agent
	c.heard.after(len(http2.ClientPreface))
	return c
}

// Read hands on what is paid for. Where it ends with errCalm, that was too much.
func (c *frameConn) Read(p []byte) (int, error) {
	if len(c.rest) > 0 {
		n, err := c.pass(p[:copy(p, c.rest)])
		c.rest = c.rest[n:]
		return n, err
	}
	n, err := c.Conn.Read(p)
	if n == 0 {
		if c.timed && errors.Is(err, os.ErrDeadlineExceeded) {
			err = errCalm
		}
		return 0, err
	}
	passed, err := c.pass(p[:n]) // an error of the connection's comes again
	c.rest = bytes.Clone(p[passed:n])
	return passed, err
}

// pass returns how much of p, which comes next, may be handed on: up to the end
// of a head that had to be paid for, or all. With an error that is nothing: who
// reads with io.ReadFull, as x/net/http2 does, never sees one that comes with the
// last byte.
func (c *frameConn) pass(p []byte) (n int, err error) {
	frames, price := int(c.out.resets.Swap(0)), 0
	for n < len(p) && price == 0 {
		piece := c.heard.next(p[n:])
		n += piece.length
		if piece.begins {
			frames += c.weight()
		}
		if price, err = c.heads.take(&c.heard, piece); err != nil {
			return 0, err
		}
	}
	if frames > 0 {
		now, earned := time.Now(), float64(c.wrote.Swap(0))/bytesPerFrame
		ok := c.own.take(float64(frames), earned, now)
		if !c.all.frames.take(float64(frames), earned, now) || !ok {
			return 0, errCalm
		}
	}
	if c.timed != c.heads.open {
		c.timed = c.heads.open
		var until time.Time
		if c.timed {
			until = time.Now().Add(readHeaderTimeout)
		}
		_ = c.SetReadDeadline(until) // fails where the connection is closed
	}
	if err := c.pay(price); err != nil {
		return 0, err
	}
	return n, nil
}

// weight is how many frames the one counts for that has begun.
func (c *frameConn) weight() int {
	switch {
	case !c.heard.counts():
		return 0
	case c.heard.kind() == http2.FrameSettings && !c.heard.flags().Has(http2.FlagSettingsAck):
		if c.greeted {
			return settingsFrames
		}
		c.greeted = true
	}
	return 1
}

// pay waits until the registration can afford that many bytes of heads.
func (c *frameConn) pay(price int) error {
	if price == 0 {
		return nil
	}
	bill := c.all.heads.ReserveN(time.Now(), min(price, headBurst))
	wait := bill.Delay()
	switch {
	case wait == 0:
		return nil
	case wait > maxHeadWait:
		bill.Cancel()
		return errCalm
	}
	patience := time.NewTimer(wait)
	defer patience.Stop()
	select {
	case <-patience.C:
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

func (c *frameConn) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	c.wrote.Add(int64(n))
	return n, err
}

// requested makes up for the frame of a request.
func (c *frameConn) requested() { c.wrote.Add(bytesPerFrame) }

// bodyAtHand says that the head of a response need not be written alone.
func (c *frameConn) bodyAtHand() { c.out.bodies.Store(true) }

// serveH2 serves the requests of a connection until it ends.
func (h *Handler) serveH2(c *conversation, agent *tls.Conn) {
	all, _ := h.budgets.get(c.flow.Registration, func(*agentBudget) bool { return true }, newAgentBudget)
	c.frames = newFrameConn(agent, all, c.closed)
	//lint:ignore SA1019 http.Server speaks HTTP/2 on a *tls.Conn alone, where frames cannot be counted
	h.h2.ServeConn(c.frames, &http2.ServeConnOpts{
		Context:    withConversation(c),
		BaseConfig: h.server,
		Handler:    http.HandlerFunc(h.serveRequest),
	})
	_ = c.Close()
}

// frameScanner follows a stream of frames (RFC 9113 section 4.1), whatever pieces
// it comes in. The zero value is at the start of a frame.
type frameScanner struct {
	header [9]byte // of the frame that was last begun
	have   int     // bytes of header
	left   int     // bytes of the payload to come
}

// framePiece is what a piece of the stream holds of one frame.
type framePiece struct {
	length  int    // of the piece
	payload []byte // what of it is payload
	begins  bool   // the header is whole with it
	ends    bool   // and so is the frame
}

// after expects n bytes before the first frame.
func (s *frameScanner) after(n int) { s.have, s.left = len(s.header), n }

// next takes the first piece of p, of which there is some.
func (s *frameScanner) next(p []byte) (piece framePiece) {
	if s.have < len(s.header) {
		piece.length = copy(s.header[s.have:], p)
		s.have += piece.length
		if s.have < len(s.header) {
			return piece
		}
		s.left = s.length()
		piece.begins = true
		p = p[piece.length:]
	}
	piece.payload = p[:min(s.left, len(p))]
	piece.length += len(piece.payload)
	s.left -= len(piece.payload)
	if s.left == 0 {
		s.have = 0
		piece.ends = true
	}
	return piece
}

func (s *frameScanner) kind() http2.FrameType { return http2.FrameType(s.header[3]) }
func (s *frameScanner) flags() http2.Flags    { return http2.Flags(s.header[4]) }

// length is that of the payload.
func (s *frameScanner) length() int {
	return int(s.header[0])<<16 | int(s.header[1])<<8 | int(s.header[2])
}

// counts reports whether the frame is anything but DATA with something in it.
// Padded DATA counts: padding can be all of it.
func (s *frameScanner) counts() bool {
	return s.kind() != http2.FrameData || s.flags().Has(http2.FlagDataPadded) || s.length() == 0 && !s.flags().Has(http2.FlagDataEndStream)
}
