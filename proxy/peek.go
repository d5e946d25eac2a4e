package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// helloLimit bounds what is read in search of a ClientHello. A handshake
	// message may be cut into any number of records (RFC 8446, section 5.1);
	// those of real programs have less than 3 KiB.
	helloLimit = 32 << 10

	// helloWait bounds how long a ClientHello may take from its first byte, and
	// the first byte where nothing else can come of the flow.
	helloWait = 10 * time.Second

	// peekSize is what one read takes while nobody has spoken: idle flows hold
	// this much.
	peekSize = 512

	// recordHandshake is the first byte of a TLS connection (RFC 8446, section
	// 5.1).
	recordHandshake = 0x16
)

// peeked is what was said before a flow was decided about.
type peeked struct {
	sni          string // of a ClientHello; may be empty
	fromAgent    []byte
	fromUpstream []byte
	upstreamErr  error // that ended the upstream's side, io.EOF included
}

// peek waits until either side speaks. If it is the agent and what it says is a
// TLS ClientHello, peek reads that. A server that speaks first does not speak
// TLS. upstream may be nil: then the agent has helloWait to say something.
//
// Whoever closes the connections ends a peek. Deadlines are clear when it
// returns.
func peek(agent, upstream net.Conn) peeked {
	w := &watch{agent: agent, upstream: upstream, done: make(chan struct{})}
	if upstream != nil {
		go w.run()
	} else {
		close(w.done)
		w.deadline(time.Now().Add(helloWait))
	}

	var seen peeked
	first := make([]byte, peekSize)
	n, _ := agent.Read(first)
	seen.fromAgent = first[:n]
	if n > 0 && first[0] == recordHandshake && !w.hasSpoken() {
		w.deadline(time.Now().Add(helloWait))
		seen.sni, seen.fromAgent = readHello(agent, first[:n])
	}

	if upstream != nil {
		_ = upstream.SetReadDeadline(longAgo)
		<-w.done
		_ = upstream.SetReadDeadline(time.Time{})
		seen.fromUpstream, seen.upstreamErr = w.data, w.err
	}
	_ = agent.SetReadDeadline(time.Time{})
	return seen
}

// longAgo is a deadline that ends a Read at once.
var longAgo = time.Unix(1, 0)

// watch waits for the upstream to speak while the agent is read from.
type watch struct {
	agent, upstream net.Conn
	done            chan struct{} // closed when run returns; data and err are its results
	data            []byte
	err             error

	mu    sync.Mutex
	spoke bool
}

func (w *watch) run() {
	defer close(w.done)
	buf := make([]byte, peekSize)
	n, err := w.upstream.Read(buf)
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return // the agent was first
	}
	w.data, w.err = buf[:n], err
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spoke = true
	_ = w.agent.SetReadDeadline(longAgo)
}

func (w *watch) hasSpoken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.spoke
}

// deadline sets the agent's, unless the upstream has ended the wait already.
func (w *watch) deadline(t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.spoke {
		_ = w.agent.SetReadDeadline(t)
	}
}

// errPeeked ends crypto/tls's handshake where it has told what there is to know.
var errPeeked = errors.New("peeked")

// readHello reads a ClientHello that begins with head, and returns the name in
// it and every byte read, head included. What is no ClientHello, is too long or
// does not end has no name. crypto/tls parses it; nothing is written to conn.
func readHello(conn io.Reader, head []byte) (sni string, read []byte) {
	r := &helloConn{from: io.MultiReader(bytes.NewReader(head), conn)}
	// The error is always one: of the record, of the hello, or errPeeked.
	_ = tls.Server(r, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			sni = hello.ServerName
			return nil, errPeeked
		},
	}).HandshakeContext(context.Background())
	if len(r.read) < len(head) {
		return sni, head // crypto/tls stopped before it had seen it all
	}
	return sni, r.read
}

// helloConn is what crypto/tls reads a ClientHello from: it remembers every byte
// and writes none.
type helloConn struct {
	from io.Reader
	read []byte
}

func (c *helloConn) Read(b []byte) (int, error) {
	left := helloLimit - len(c.read)
	if left == 0 {
		return 0, io.EOF
	}
	n, err := c.from.Read(b[:min(len(b), left)])
	c.read = append(c.read, b[:n]...)
	return n, err
}

func (c *helloConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c *helloConn) Close() error                     { return nil }
func (c *helloConn) LocalAddr() net.Addr              { return nil }
func (c *helloConn) RemoteAddr() net.Addr             { return nil }
func (c *helloConn) SetDeadline(time.Time) error      { return nil }
func (c *helloConn) SetReadDeadline(time.Time) error  { return nil }
func (c *helloConn) SetWriteDeadline(time.Time) error { return nil }

// replayConn is a connection whose first bytes have been read already.
type replayConn struct {
	net.Conn
	head []byte // owned by whoever reads
}

func (c *replayConn) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		if c.head = c.head[n:]; len(c.head) == 0 {
			c.head = nil
		}
		return n, nil
	}
	return c.Conn.Read(b)
}

// CloseWrite forwards: without it data after a half-close would be lost.
func (c *replayConn) CloseWrite() error { return closeWrite(c.Conn) }

// Abort closes so that the agent sees a reset.
func (c *replayConn) Abort() { abort(c.Conn) }
