package proxy

import (
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
	// spliceBuffer is 44 segments of 1,368 bytes: netstack takes it without a
	// short tail, and 64 KiB or more halves its throughput.
	spliceBuffer = 44 * 1368

	// firstRead is what an idle direction holds where readiness cannot be waited
	// for without a buffer.
	firstRead = 1024

	// bulkIdle is how long such a direction keeps a buffer of the pool after
	// data has stopped coming.
	bulkIdle = time.Second
)

// The pools hold pointers, so that taking and giving back do not allocate.
var (
	buffers   = sync.Pool{New: func() any { b := make([]byte, spliceBuffer); return &b }}
	datagrams = sync.Pool{New: func() any { b := make([]byte, 0xffff); return &b }} // the longest there is
)

// halves are the two connections of a splice, and what has been read from them
// already.
type halves struct {
	agent        net.Conn
	agentHead    []byte
	upstream     net.Conn
	upstreamHead []byte
	upstreamErr  error         // to act on after upstreamHead, io.EOF included
	moved        *atomic.Int64 // counts what has been written, both ways
}

// splice carries bytes both ways until both sides have finished, or one has
// reset the connection: then so does splice with the other. It returns the bytes
// that went from the agent and to it. There is no idle timeout: keep-alive finds
// the dead.
func splice(h halves) (in, out int64, err error) {
	type result struct {
		n   int64
		err error
	}
	up := make(chan result, 1)
	go func() {
		n, err := h.relay(h.upstream, h.agent, h.agentHead, nil)
		up <- result{n, err}
	}()
	out, err = h.relay(h.agent, h.upstream, h.upstreamHead, h.upstreamErr)
	r := <-up
	return r.n, out, errors.Join(err, r.err)
}

// relay copies src to dst, head first, and passes on how it ended: an EOF as a
// half-close, anything else as a reset of both.
func (h halves) relay(dst, src net.Conn, head []byte, ended error) (n int64, err error) {
	if len(head) > 0 {
		m, werr := dst.Write(head)
		n, err = int64(m), werr
		h.moved.Add(n)
	}
	if err == nil {
		err = ended
	}
	if err == nil {
		var m int64
		m, err = copyAll(dst, src, h.moved)
		n += m
	}
	if err == io.EOF {
		_ = closeWrite(dst) // fails where dst is gone, which the other direction finds out
		return n, nil
	}
	abort(dst)
	abort(src)
	return n, err
}

// copyAll copies until an error, which is io.EOF at src's end. It writes with
// Write only: ReadFrom of a *net.TCPConn would allocate a buffer of its own.
func copyAll(dst io.Writer, src net.Conn, moved *atomic.Int64) (n int64, err error) {
	from := newSource(src)
	defer from.release()
	for {
		b, rerr := from.next()
		if len(b) > 0 {
			m, werr := dst.Write(b)
			n += int64(m)
			moved.Add(int64(m))
			if werr != nil {
				return n, werr
			}
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// source reads a connection without holding a buffer while there is nothing to
// read.
type source interface {
	// next returns what can be read now, waiting for at least a byte. It is valid
	// until the following call. Data may come with an error.
	next() ([]byte, error)
	// release gives the buffer back.
	release()
}

func newSource(conn net.Conn) source {
	if c, ok := conn.(syscall.Conn); ok {
		if raw, err := c.SyscallConn(); err == nil {
			return newSocketSource(raw, &buffers)
		}
	}
	return &streamSource{conn: conn}
}

// socketSource reads a socket of the kernel: the runtime waits for readiness,
// and only then is there a buffer.
type socketSource struct {
	raw      syscall.RawConn
	pool     *sync.Pool
	datagram bool // nothing read is an empty datagram, not the end
	tryFunc  func(fd uintptr) bool
	buf      *[]byte
	n        int
	err      error
}

func newSocketSource(raw syscall.RawConn, pool *sync.Pool) *socketSource {
	s := &socketSource{raw: raw, pool: pool}
	s.tryFunc = s.try
	return s
}

// newDatagramSource reads a datagram at a time.
func newDatagramSource(conn syscall.Conn) (source, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := newSocketSource(raw, &datagrams)
	s.datagram = true
	return s, nil
}

func (s *socketSource) next() ([]byte, error) {
	s.release()
	s.n, s.err = 0, nil
	if err := s.raw.Read(s.tryFunc); err != nil {
		return nil, err
	}
	switch {
	case s.err != nil:
		return nil, os.NewSyscallError("read", s.err)
	case s.n == 0 && !s.datagram:
		return nil, io.EOF
	}
	return (*s.buf)[:s.n], nil
}

// try is called when the socket may be readable; false waits until it is.
func (s *socketSource) try(fd uintptr) bool {
	s.buf = s.pool.Get().(*[]byte)
	for {
		s.n, s.err = syscall.Read(int(fd), *s.buf)
		if s.err != syscall.EINTR {
			break
		}
	}
	if s.err == syscall.EAGAIN {
		s.release()
		return false
	}
	return true
}

func (s *socketSource) release() {
	if s.buf != nil {
		s.pool.Put(s.buf)
		s.buf = nil
	}
}

// streamSource reads any other connection: a little while it is quiet, with a
// buffer of the pool while it is not.
type streamSource struct {
	conn  net.Conn
	first [firstRead]byte
	buf   *[]byte   // nil while quiet
	renew time.Time // when to move the deadline that ends bulk reading
}

func (s *streamSource) next() ([]byte, error) {
	for {
		if s.buf == nil {
			n, err := s.conn.Read(s.first[:])
			if n == len(s.first) && err == nil {
				s.buf = buffers.Get().(*[]byte) // there is more
			}
			return s.first[:n], err
		}
		if now := time.Now(); now.After(s.renew) {
			_ = s.conn.SetReadDeadline(now.Add(bulkIdle))
			s.renew = now.Add(bulkIdle / 2)
		}
		n, err := s.conn.Read(*s.buf)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return (*s.buf)[:n], err
		}
		if n > 0 {
			s.renew = time.Time{}
			return (*s.buf)[:n], nil
		}
		s.release()
	}
}

func (s *streamSource) release() {
	if s.buf == nil {
		return
	}
	buffers.Put(s.buf)
	s.buf, s.renew = nil, time.Time{}
	_ = s.conn.SetReadDeadline(time.Time{})
}

// closeWrite ends conn's outgoing side. A connection that has no sides is
// closed.
func closeWrite(conn net.Conn) error {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return conn.Close()
}
