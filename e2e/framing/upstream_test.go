package framing

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// record is one request as it arrived at the upstream.
type record struct {
	message
	id   string // sent back in the answer's idField
	conn int
	err  error // what is not well-formed, or errCut
}

// upstream is an HTTPS server that keeps every byte it gets and takes nothing
// that is not well-formed.
type upstream struct {
	listener net.Listener
	running  sync.WaitGroup

	mu       sync.Mutex
	answer   func(c *upstreamConn, r record) bool // guarded by mu
	conns    map[string]*upstreamConn             // by the gateway's address; guarded by mu
	opened   int                                  // connections; guarded by mu
	dialling int                                  // dials of the gateway under way; guarded by mu
	asked    int                                  // requests; guarded by mu
	records  []record                             // guarded by mu
	raw      map[int]*bytes.Buffer                // by connection, since the last take; guarded by mu
}

// upstreamConn is one connection of the gateway, seen from both ends: what the
// gateway wrote may not have been read yet.
type upstreamConn struct {
	*tls.Conn // the upstream's end; nil before it is accepted
	up        *upstream
	id        int
	ended     chan struct{} // the upstream's end is closed

	// Guarded by up.mu.
	accepted, dialled bool
	left              bool  // the gateway has closed its end
	written, read     int64 // raw bytes
	waiting           bool  // the upstream has used all it read, and reads
	between           bool  // requests, not in the middle of one
}

// conn returns the connection from address, made on the first call.
func (up *upstream) conn(address net.Addr) *upstreamConn {
	c := up.conns[address.String()]
	if c == nil {
		up.opened++
		c = &upstreamConn{up: up, id: up.opened, ended: make(chan struct{}), between: true}
		up.conns[address.String()] = c
	}
	return c
}

// settled reports whether nothing more comes of what the gateway wrote. The
// caller holds up.mu.
func (c *upstreamConn) settled() bool {
	select {
	case <-c.ended:
		return true
	default:
		return c.dialled && c.accepted && c.waiting && c.between && c.read >= c.written
	}
}

// gatewayEnd counts what the gateway writes.
type gatewayEnd struct {
	*net.TCPConn
	of *upstreamConn
}

func (g gatewayEnd) Write(p []byte) (int, error) {
	g.of.up.mu.Lock()
	g.of.written += int64(len(p))
	g.of.up.mu.Unlock()
	return g.TCPConn.Write(p)
}

func (g gatewayEnd) Close() error {
	err := g.TCPConn.Close()
	g.of.up.mu.Lock()
	defer g.of.up.mu.Unlock()
	g.of.left = true
	return err
}

// reach wraps the connection that dial makes for the gateway.
func (up *upstream) reach(dial func() (net.Conn, error)) (net.Conn, error) {
	up.mu.Lock()
	up.dialling++
	up.mu.Unlock()
	conn, err := dial()
	up.mu.Lock()
	defer up.mu.Unlock()
	up.dialling--
	if err != nil {
		return nil, err
	}
	c := up.conn(conn.LocalAddr())
	c.dialled = true
	return gatewayEnd{conn.(*net.TCPConn), c}, nil
}

// upstreamEnd counts what the upstream reads.
type upstreamEnd struct {
	*net.TCPConn
	of *upstreamConn
}

func (e upstreamEnd) Read(p []byte) (int, error) {
	up := e.of.up
	up.mu.Lock()
	e.of.waiting = true
	up.mu.Unlock()
	n, err := e.TCPConn.Read(p)
	up.mu.Lock()
	defer up.mu.Unlock()
	e.of.read += int64(n)
	e.of.waiting = false
	return n, err
}

// Read keeps what it read.
func (c *upstreamConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.up.mu.Lock()
		defer c.up.mu.Unlock()
		c.between = false
		raw := c.up.raw[c.id]
		if raw == nil {
			raw = new(bytes.Buffer)
			c.up.raw[c.id] = raw
		}
		raw.Write(p[:n])
	}
	return n, err
}

func newUpstream(t testing.TB, leaf tls.Certificate) *upstream {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	up := &upstream{listener: ln, conns: make(map[string]*upstreamConn), raw: make(map[int]*bytes.Buffer), answer: echo}
	config := &tls.Config{Certificates: []tls.Certificate{leaf}, NextProtos: []string{"http/1.1"}}
	up.running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			up.running.Go(func() { up.serve(conn.(*net.TCPConn), config) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		up.closeConns()
		up.running.Wait()
	})
	return up
}

func (up *upstream) serve(conn *net.TCPConn, config *tls.Config) {
	up.mu.Lock()
	c := up.conn(conn.RemoteAddr())
	c.Conn = tls.Server(upstreamEnd{conn, c}, config)
	c.accepted = true
	up.mu.Unlock()
	defer func() {
		_ = conn.Close()
		close(c.ended)
	}()
	if c.Handshake() != nil {
		return
	}
	from := bufio.NewReaderSize(c, 64<<10)
	for {
		up.mu.Lock()
		up.asked++
		r := record{conn: c.id, id: fmt.Sprintf("request-%d", up.asked)}
		up.mu.Unlock()
		answered, again := false, true
		r.message, r.err = parser{from}.request(func(head message) {
			if lists(head.values("Expect"), "100-continue") {
				_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			}
			if isEarly(head.target) {
				answered, again = true, up.answers()(c, record{message: head, id: r.id, conn: c.id})
			}
		})
		if r.err == io.EOF || r.err != nil && r.method == "" && isNetwork(r.err) {
			return
		}
		up.mu.Lock()
		up.records = append(up.records, r)
		up.mu.Unlock()
		if r.err == nil && !answered {
			again = up.answers()(c, r)
		}
		if r.err != nil || !again {
			return
		}
		up.mu.Lock()
		c.between = from.Buffered() == 0
		up.mu.Unlock()
	}
}

// isEarly reports whether the upstream answers a request before its body has come.
func isEarly(target string) bool { return strings.HasSuffix(target, "?early") }

func isNetwork(err error) bool {
	var e net.Error
	return errors.As(err, &e) || errors.Is(err, net.ErrClosed)
}

// echo sends the whole head back, as text and as base64: what the agent gets of
// it must be masked.
func echo(c *upstreamConn, r record) bool {
	var head strings.Builder
	for _, f := range append(append([]field{}, r.fields...), r.trailer...) {
		fmt.Fprintf(&head, "%s: %s | ", f.name, f.value)
	}
	said := head.String()
	said = said[:min(len(said), 4<<10)]
	common := fmt.Sprintf("HTTP/1.1 200 OK\r\n%s: %s\r\n%s: %s\r\nX-Echo: %s\r\nX-Echo-Base64: %s\r\n", idField, r.id, methodField, r.method, said, base64.StdEncoding.EncodeToString([]byte(said)))
	body := "answer to " + r.id
	var err error
	switch {
	case r.method == "HEAD":
		_, err = fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n", common, len(body))
	case len(r.body)%2 == 1:
		_, err = fmt.Fprintf(c, "%sTransfer-Encoding: chunked\r\nTrailer: X-Echo-Trailer\r\n\r\n%x\r\n%s\r\n0\r\nX-Echo-Trailer: %s\r\n\r\n", common, len(body), body, said)
	default:
		_, err = fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n%s", common, len(body), body)
	}
	return err == nil
}

// take returns what has come since the last take, once the gateway's connections
// stand between requests or have ended.
func (up *upstream) take() ([]record, map[int]*bytes.Buffer, error) {
	end := time.Now().Add(wait)
	for {
		up.mu.Lock()
		settled := true
		for _, c := range up.conns {
			settled = settled && c.settled()
		}
		if settled {
			for address, c := range up.conns {
				if c.over() {
					delete(up.conns, address)
				}
			}
			records, raw := up.records, up.raw
			up.records, up.raw = nil, make(map[int]*bytes.Buffer)
			up.mu.Unlock()
			return records, raw, nil
		}
		up.mu.Unlock()
		if time.Now().After(end) {
			up.closeConns()
			return nil, nil, errors.New("half a request stands on an upstream connection whose agent has left")
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// over reports whether both ends are done with. The caller holds up.mu.
func (c *upstreamConn) over() bool {
	select {
	case <-c.ended:
		return c.left || !c.dialled && c.up.dialling == 0 // a dial given up
	default:
		return false
	}
}

// renew ends all connections and waits until the gateway has let go of them.
func (up *upstream) renew() error {
	up.closeConns()
	for end := time.Now().Add(wait); ; time.Sleep(200 * time.Microsecond) {
		up.mu.Lock()
		held := 0
		for address, c := range up.conns {
			if c.over() {
				delete(up.conns, address)
			} else {
				held++
			}
		}
		up.mu.Unlock()
		if held == 0 {
			return nil
		}
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			return fmt.Errorf("the gateway holds on to %d upstream connections that have ended:\n%s", held, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// closeConns ends all connections and what serves them.
func (up *upstream) closeConns() {
	up.mu.Lock()
	var ended []chan struct{}
	for _, c := range up.conns {
		if c.accepted {
			_ = c.NetConn().Close()
			ended = append(ended, c.ended)
		}
	}
	up.mu.Unlock()
	for _, e := range ended {
		<-e
	}
}

func (up *upstream) answers() func(c *upstreamConn, r record) bool {
	up.mu.Lock()
	defer up.mu.Unlock()
	return up.answer
}

func (up *upstream) setAnswer(f func(c *upstreamConn, r record) bool) {
	up.mu.Lock()
	defer up.mu.Unlock()
	up.answer = f
}
