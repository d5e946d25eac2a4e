package ssh

import (
	"net"
	"sync"
	"sync/atomic"

	xssh "golang.org/x/crypto/ssh"
)

const (
	libraryBuffer = 4096     // of the library's buffered reader and writer
	wireBuffer    = 64 << 10 // more than one packet of channel data, in one read
)

var wireBuffers = sync.Pool{New: func() any { return new([wireBuffer]byte) }}

// wire is a connection that SSH runs over. The library reads and writes 4 KiB at
// a time, so that a packet of 32 KiB takes several system calls; wire makes that
// one or two. Read and Write may each be called by one goroutine at a time.
type wire struct {
	net.Conn
	begun func()      // called once, with the first bytes; may be nil
	ended func()      // called when there is no more to read; may be nil
	tally func(n int) // told of what comes; may be nil
	once  sync.Once

	// Of the goroutine that reads.
	buffer *[wireBuffer]byte // nil while little comes
	unread []byte            // of it

	// swallow is how much of what is written has been sent already.
	swallow int

	// joins is set where no packet has the size of the library's buffer.
	joins atomic.Bool
	// Of the goroutine that writes.
	held   [libraryBuffer]byte
	holds  bool
	joined []byte
}

// Read reads much at once while much comes. Idle connections hold no buffer.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.unread) == 0 {
		if w.buffer == nil || len(p) >= wireBuffer {
			n, err := w.read(p)
			if n == libraryBuffer && len(p) == n {
				w.buffer = wireBuffers.Get().(*[wireBuffer]byte)
			}
			return n, err
		}
		n, err := w.read(w.buffer[:])
		w.unread = w.buffer[:n]
		if n == 0 {
			return 0, err
		}
	}
	n := copy(p, w.unread)
	w.unread = w.unread[n:]
	if len(w.unread) == 0 && n < libraryBuffer && w.buffer != nil {
		wireBuffers.Put(w.buffer)
		w.buffer = nil
	}
	return n, nil
}

func (w *wire) read(p []byte) (int, error) {
	n, err := w.look(p)
	if err != nil && w.ended != nil {
		w.ended()
	}
	return n, err
}

// look is read by somebody who may give up.
func (w *wire) look(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 && w.begun != nil {
		w.once.Do(w.begun)
	}
	if n > 0 && w.tally != nil {
		w.tally(n)
	}
	return n, err
}

// Write writes the beginning of a long packet together with its rest. Such a
// beginning is as long as the library's buffer; a packet that ends there would
// wait for ever, which is why joins has to say that there are none.
func (w *wire) Write(p []byte) (int, error) {
	if w.swallow > 0 {
		n := min(w.swallow, len(p))
		if w.swallow -= n; n == len(p) {
			return n, nil
		}
		m, err := w.Conn.Write(p[n:])
		return n + m, err
	}
	if !w.holds {
		if len(p) == libraryBuffer && w.joins.Load() {
			w.holds = true
			return copy(w.held[:], p), nil
		}
		return w.Conn.Write(p)
	}
	w.holds = false
	if tcp, ok := w.Conn.(*net.TCPConn); ok {
		both := net.Buffers{w.held[:], p}
		n, err := both.WriteTo(tcp)
		return max(0, int(n)-libraryBuffer), err
	}
	w.joined = append(append(w.joined[:0], w.held[:]...), p...)
	n, err := w.Conn.Write(w.joined)
	return max(0, n-libraryBuffer), err
}

// joinFor lets w join writes where conn's packets allow it: where their length
// lies outside of what is a multiple of the cipher's blocks, the rest being a
// multiple of 16 (OpenSSH PROTOCOL, sections 1.5 and 1.6, RFC 5647), no packet has
// 4096 bytes.
func (w *wire) joinFor(conn xssh.ConnMetadata) {
	c, ok := conn.(xssh.AlgorithmsConnMetadata)
	if !ok {
		return
	}
	switch a := c.Algorithms().Write; a.Cipher {
	case xssh.CipherAES128GCM, xssh.CipherAES256GCM, xssh.CipherChaCha20Poly1305:
		w.joins.Store(true)
	default:
		w.joins.Store(a.MAC == xssh.HMACSHA256ETM || a.MAC == xssh.HMACSHA512ETM)
	}
}
