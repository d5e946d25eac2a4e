package framing

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// goServer is net/http's server, as an oracle of what requests some bytes are.
type goServer struct {
	server *http.Server
	tapes  chan net.Conn
	closed chan struct{}
}

// newGoServer starts one for HTTP/1.1, or for HTTP/2 without TLS.
func newGoServer(t testing.TB, h2 bool) *goServer {
	g := &goServer{tapes: make(chan net.Conn), closed: make(chan struct{})}
	g.server = &http.Server{
		Handler:                      http.HandlerFunc(note),
		DisableGeneralOptionsHandler: true,
		MaxHeaderBytes:               maxHead,
		ErrorLog:                     log.New(io.Discard, "", 0),
		Protocols:                    new(http.Protocols),
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, noteKey{}, conn)
		},
		ConnState: func(conn net.Conn, state http.ConnState) {
			if n, ok := conn.(noted); ok && state == http.StateClosed {
				n.notes().end()
			}
		},
	}
	g.server.Protocols.SetHTTP1(!h2)
	g.server.Protocols.SetUnencryptedHTTP2(h2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.server.Serve(g) // ends at Close
	}()
	t.Cleanup(func() { close(g.closed); _ = g.server.Close(); <-done })
	return g
}

// goServer is its server's listener.
func (g *goServer) Accept() (net.Conn, error) {
	select {
	case conn := <-g.tapes:
		return conn, nil
	case <-g.closed:
		return nil, net.ErrClosed
	}
}
func (g *goServer) Close() error   { return nil }
func (g *goServer) Addr() net.Addr { return &net.TCPAddr{} }

type noteKey struct{}

// noted is a connection whose requests are noted.
type noted interface{ notes() *notes }

// notes are the requests that a server read from one connection.
type notes struct {
	mu       sync.Mutex
	begun    int       // handlers; guarded by mu
	requests []message // guarded by mu
	once     sync.Once
	ended    chan struct{}
}

func (n *notes) end() { n.once.Do(func() { close(n.ended) }) }

func (n *notes) all() []message {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]message{}, n.requests...)
}

// note reads a request to its end and writes down what it is.
func note(w http.ResponseWriter, r *http.Request) {
	n := r.Context().Value(noteKey{}).(noted).notes()
	n.mu.Lock()
	n.begun++
	n.mu.Unlock()
	m := message{method: r.Method, target: r.RequestURI, length: int(r.ContentLength)}
	m.fields = append(m.fields, field{"Host", r.Host})
	for _, name := range []string{markField, "Connection"} {
		for _, v := range r.Header[name] {
			m.fields = append(m.fields, field{name, v})
		}
	}
	for name := range r.Trailer {
		m.fields = append(m.fields, field{"Trailer", name})
	}
	body, err := io.ReadAll(r.Body)
	m.body, m.whole = string(body), err == nil
	for name, values := range r.Trailer {
		for _, v := range values {
			m.trailer = append(m.trailer, field{name, v})
		}
	}
	n.mu.Lock()
	n.requests = append(n.requests, m)
	n.mu.Unlock()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusNoContent)
}

// read returns the requests of an HTTP/1.1 stream. open says that the server
// would wait for more.
func (g *goServer) read(raw []byte) (requests []message, open bool) {
	t := &tape{left: raw, record: &notes{ended: make(chan struct{})}}
	g.tapes <- t
	<-t.record.ended
	return t.record.all(), t.atEnd
}

// tape is a connection from which given bytes are read, and then its end.
type tape struct {
	record *notes
	mu     sync.Mutex
	left   []byte // guarded by mu
	atEnd  bool   // the end was read; guarded by mu until record has ended
}

func (t *tape) notes() *notes { return t.record }

func (t *tape) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.left) == 0 {
		t.atEnd = true
		return 0, io.EOF
	}
	n := copy(p, t.left)
	t.left = t.left[n:]
	return n, nil
}

func (t *tape) Write(p []byte) (int, error)      { return len(p), nil }
func (t *tape) Close() error                     { return nil }
func (t *tape) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (t *tape) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (t *tape) SetDeadline(time.Time) error      { return nil }
func (t *tape) SetReadDeadline(time.Time) error  { return nil }
func (t *tape) SetWriteDeadline(time.Time) error { return nil }

// replay is a tape that begins when something was written to it: an upstream.
type replay struct {
	tape
	asked chan struct{}
	once  sync.Once
}

func newReplay(raw []byte) *replay {
	return &replay{tape: tape{left: bytes.Clone(raw)}, asked: make(chan struct{})}
}

func (r *replay) Read(p []byte) (int, error) {
	<-r.asked
	return r.tape.Read(p)
}

func (r *replay) Write(p []byte) (int, error) {
	r.once.Do(func() { close(r.asked) })
	return len(p), nil
}

func (r *replay) Close() error {
	r.once.Do(func() { close(r.asked) })
	return nil
}
