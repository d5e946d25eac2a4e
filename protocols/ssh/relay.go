package ssh

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	// copySize is that of several packets of channel data, which have 32 KiB. Once
	// for each read the library tells a sender of room in its window, in a packet:
	// reads of 32 KiB made that a tenth of what the gateway spent on bulk.
	copySize   = 256 << 10
	packetSize = 32 << 10
	firstSize  = 1 << 10 // of the buffer that an idle stream holds
)

// maxLarge is how many large buffers there are, over all registrations: an agent
// that has each of its streams hold one leaves the others the small ones.
const maxLarge = 256

var (
	copyBuffers   = sync.Pool{New: func() any { return new([copySize]byte) }}
	packetBuffers = sync.Pool{New: func() any { return new([packetSize]byte) }}
	largeOut      = make(chan struct{}, maxLarge)
)

// buffer is what a stream that is behind reads into.
type buffer struct {
	large  *[copySize]byte
	packet *[packetSize]byte // where there are no large ones left
}

// get makes b a large one, if there is one, else of the size of a packet.
func (b *buffer) get() {
	select {
	case largeOut <- struct{}{}:
		b.large = copyBuffers.Get().(*[copySize]byte)
	default:
		b.packet = packetBuffers.Get().(*[packetSize]byte)
	}
}

func (b *buffer) put() {
	switch {
	case b.large != nil:
		copyBuffers.Put(b.large)
		<-largeOut
	case b.packet != nil:
		packetBuffers.Put(b.packet)
	}
	*b = buffer{}
}

// of is b's, or small where it has none.
func (b *buffer) of(small []byte) []byte {
	switch {
	case b.large != nil:
		return b.large[:]
	case b.packet != nil:
		return b.packet[:]
	}
	return small
}

// relay copies src to dst until one of them ends, past see where that is set, and
// counts. It holds a larger buffer only while there is much to copy.
func relay(dst io.Writer, src io.Reader, count *atomic.Int64, see func([]byte) error) error {
	var small [firstSize]byte
	var more buffer
	defer more.put()
	for {
		p := more.of(small[:])
		n, err := src.Read(p)
		if n > 0 {
			if see != nil {
				if err := see(p[:n]); err != nil {
					return err
				}
			}
			if _, err := dst.Write(p[:n]); err != nil {
				return err
			}
			count.Add(int64(n))
		}
		if err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		switch {
		case len(p) == firstSize && n == firstSize:
			more.get()
		case len(p) > firstSize && n < firstSize:
			more.put()
		}
	}
}

// agentChannel is a channel to an agent. The library wants one writer at a time
// for each of its streams, and none when their end is sent.
type agentChannel struct {
	xssh.Channel

	out, err sync.Mutex
	ended    bool // guarded by both
}

// Write writes to standard output.
func (a *agentChannel) Write(p []byte) (int, error) {
	a.out.Lock()
	defer a.out.Unlock()
	return a.Channel.Write(p)
}

// errWriter writes to an agent's standard error.
type errWriter struct{ a *agentChannel }

func (w errWriter) Write(p []byte) (int, error) {
	w.a.err.Lock()
	defer w.a.err.Unlock()
	return w.a.Stderr().Write(p)
}

// CloseWrite ends both streams, once.
func (a *agentChannel) CloseWrite() error {
	a.out.Lock()
	defer a.out.Unlock()
	a.err.Lock()
	defer a.err.Unlock()
	if a.ended {
		return nil
	}
	a.ended = true
	return a.Channel.CloseWrite()
}

// channelConn is a channel as the connection that another SSH runs over. It has
// no deadlines: closing it is what ends a wait.
type channelConn struct {
	xssh.Channel
	remote net.Addr
}

func (c *channelConn) LocalAddr() net.Addr              { return nowhere }
func (c *channelConn) RemoteAddr() net.Addr             { return c.remote }
func (c *channelConn) SetDeadline(time.Time) error      { return nil }
func (c *channelConn) SetReadDeadline(time.Time) error  { return nil }
func (c *channelConn) SetWriteDeadline(time.Time) error { return nil }

func actionResult(status string, in, out int64) registry.ActionResult {
	return registry.ActionResult{Status: status, BytesIn: in, BytesOut: out}
}
