package https

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	hangUpTimeout = 5 * time.Second        // for a close_notify to be taken
	pollTimeout   = 100 * time.Millisecond // for an answer of TLS's own
)

// upstream is an HTTP/1.1 connection to an upstream. One exchange at a time owns
// it, or the idle list does.
type upstream struct {
	pool   *h1Pool
	conn   *tls.Conn
	socket *socket
	br     *bufio.Reader // over head
	head   headLimit
	reused bool // taken from the idle list

	// Of the idle list, guarded by its mu.
	settled bool          // has been idle for a while
	since   time.Time     // when it was parked
	parked  chan struct{} // closed when the goroutine that waits for the upstream to hang up has ended; nil without one
	dead    atomic.Bool   // it has
}

func newUpstream(p *h1Pool, conn *tls.Conn, s *socket) *upstream {
	u := &upstream{pool: p, conn: conn, socket: s}
	u.head.from = conn
	u.br = bufio.NewReaderSize(&u.head, upstreamBuffer)
	return u
}

// peekHead waits for the head of a response and returns it, valid until
// something but a head is read; nil where it is longer than the buffer, or does
// not come.
func (u *upstream) peekHead() []byte {
	for seen := 0; ; {
		b, _ := u.br.Peek(u.br.Buffered())
		if end := headEnd(b, seen); end > 0 {
			return b[:end]
		}
		if seen = len(b); seen == u.br.Size() {
			return nil
		}
		if _, err := u.br.Peek(seen + 1); err != nil {
			return nil
		}
	}
}

// close ends the connection at once, whoever is using it. What was under way is
// seen to be cut off.
func (u *upstream) close() { _ = u.socket.Close() }

// hangUp ends a connection on which nothing is under way, with a close_notify.
// It does not wait: an upstream that reads nothing would hold it up.
func (u *upstream) hangUp() {
	force := time.AfterFunc(hangUpTimeout, u.close)
	go func() {
		_ = u.conn.Close()
		force.Stop()
	}()
}

// quiet reports whether the upstream has neither said anything unasked nor hung
// up. It does not wait.
func (u *upstream) quiet() bool {
	if u.br.Buffered() > 0 {
		return false
	}
	u.socket.polling = true
	defer func() { u.socket.polling = false }()
	var b [1]byte
	n, err := u.conn.Read(b[:])
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// park waits, on a goroutine of its own, for an idle connection to end.
func (u *upstream) park() {
	parked := make(chan struct{})
	u.parked = parked
	go func() {
		defer close(parked)
		var b [1]byte
		if n, err := u.conn.Read(b[:]); n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			return // unpark
		}
		u.dead.Store(true)
		u.close()
		u.pool.remove(u)
	}()
}

// unpark ends what park began. It reports false where the connection is of no
// use any more.
func (u *upstream) unpark() bool {
	if u.parked == nil {
		return true
	}
	// Writes too: TLS may be answering the upstream. It is of no use then.
	_ = u.socket.SetDeadline(time.Unix(1, 0))
	<-u.parked
	u.parked = nil
	return !u.dead.Load() && u.socket.SetDeadline(time.Time{}) == nil
}

// headLimit bounds what is read for the head of a response.
type headLimit struct {
	from io.Reader
	left int // -1: no limit
}

var errHeadTooLong = errors.New("the head of the response is too long")

func (h *headLimit) Read(p []byte) (int, error) {
	if h.left == 0 {
		return 0, errHeadTooLong
	}
	if h.left > 0 && len(p) > h.left {
		p = p[:h.left]
	}
	n, err := h.from.Read(p)
	if h.left > 0 {
		h.left -= n
	}
	return n, err
}

// socket is the connection under an upstream's TLS.
type socket struct {
	net.Conn
	raw     syscall.RawConn // nil where the connection has none
	polling bool            // reads do not wait; of whoever owns the connection
	sent    atomic.Int64    // bytes
	closing sync.Once
	closed  func()
}

// newSocket owns conn. closed runs when it has been closed, once.
func newSocket(conn net.Conn, closed func()) *socket {
	s := &socket{Conn: conn, closed: closed}
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			s.raw = raw
		}
	}
	return s
}

func (s *socket) Read(p []byte) (int, error) {
	if s.polling {
		return s.poll(p)
	}
	return s.Conn.Read(p)
}

// poll reads what is there. A deadline would not do: with one that is over the
// runtime does not look.
func (s *socket) poll(p []byte) (n int, err error) {
	if s.raw == nil {
		return 0, errCannotLook
	}
	failed := s.raw.Read(func(fd uintptr) bool {
		for {
			if n, err = syscall.Read(int(fd), p); err != syscall.EINTR {
				return true
			}
		}
	})
	switch {
	case failed != nil:
		return 0, failed
	case err == syscall.EAGAIN:
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

var errCannotLook = errors.New("the connection does not show what has come")

func (s *socket) Write(p []byte) (int, error) {
	if s.polling { // TLS answers what the poll has read
		_ = s.Conn.SetWriteDeadline(time.Now().Add(pollTimeout))
		defer func() { _ = s.Conn.SetWriteDeadline(time.Time{}) }()
	}
	n, err := s.Conn.Write(p)
	s.sent.Add(int64(n))
	return n, err
}

// Close closes the connection.
func (s *socket) Close() error {
	err := s.Conn.Close()
	s.closing.Do(s.closed)
	return err
}

// shakeHands starts TLS on s, which it owns from then on.
func shakeHands(ctx context.Context, s *socket, config *tls.Config) (*tls.Conn, *socket, error) {
	t := tls.Client(s, config)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		_ = s.Close()
		return nil, nil, err
	}
	return t, s, nil
}
