package https

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	// lingerTimeout bounds how long the gateway goes on reading what an agent
	// still sends after its last response: closing at once would reset the
	// connection and could take that response along (RFC 9112 section 9.6).
	lingerTimeout = 500 * time.Millisecond

	// headWindow is how much of the agent's stream is kept to look at a request
	// head again: as much as net/http reads ahead.
	headWindow = 4 << 10
)

// conversation is one flow: the connection under the agent's TLS, and what
// requests on it need to know. It implements net.Conn; Close does not close the
// flow's connection, which belongs to the proxy, but ends its use.
type conversation struct {
	net.Conn
	flow *proxy.Flow
	ctx  context.Context // ends with the flow

	misdirected string // the server name that ended the handshake; owned by the handshake

	closing sync.Once
	closed  chan struct{} // no more reads or writes
	deaf    atomic.Bool   // reads fail: what follows an abandoned body is not a request

	mu      sync.Mutex
	grace   *time.Timer    // running while the rest of a body may still come; guarded by mu
	over    bool           // no request may begin; guarded by mu
	running sync.WaitGroup // requests; Add under mu while not over
}

func newConversation(ctx context.Context, f *proxy.Flow) *conversation {
	return &conversation{Conn: f.Conn, flow: f, ctx: ctx, closed: make(chan struct{})}
}

var errAbandoned = errors.New("the agent's request body was abandoned")

func (c *conversation) Read(p []byte) (int, error) {
	if c.deaf.Load() {
		return 0, errAbandoned
	}
	n, err := c.Conn.Read(p)
	if c.deaf.Load() {
		return 0, errAbandoned
	}
	return n, err
}

// Close ends the use of the flow's connection and wakes who waits on it.
func (c *conversation) Close() error {
	c.closing.Do(func() {
		_ = c.Conn.SetDeadline(time.Unix(1, 0))
		close(c.closed)
	})
	return nil
}

// SetDeadline and its kind do nothing once the connection is closed, so that a
// deadline set late cannot make a woken reader wait again.
func (c *conversation) SetDeadline(t time.Time) error {
	return c.deadline(t, c.Conn.SetDeadline)
}

func (c *conversation) SetReadDeadline(t time.Time) error {
	return c.deadline(t, c.Conn.SetReadDeadline)
}

func (c *conversation) SetWriteDeadline(t time.Time) error {
	return c.deadline(t, c.Conn.SetWriteDeadline)
}

func (c *conversation) deadline(t time.Time, set func(time.Time) error) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
		return set(t)
	}
}

// CloseWrite half-closes the flow's connection.
func (c *conversation) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// expectRest gives the agent lingerTimeout to send the rest of a request body
// that nobody upstream wants any more. After it, reads fail: bytes of that body
// must never be taken for the next request.
func (c *conversation) expectRest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.grace == nil {
		c.grace = time.AfterFunc(lingerTimeout, func() {
			c.deaf.Store(true)
			_ = c.SetReadDeadline(time.Unix(1, 0))
		})
	}
}

// restCame ends what expectRest began: the body was read to its end.
func (c *conversation) restCame() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.grace != nil {
		c.grace.Stop()
		c.grace = nil
	}
}

// begin admits a request; false once the conversation is over.
func (c *conversation) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false
	}
	c.running.Add(1)
	return true
}

// finish waits for the requests, whose context has ended.
func (c *conversation) finish() {
	c.restCame()
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	c.running.Wait()
}

// linger lets the last response arrive before the proxy closes the connection.
func (c *conversation) linger() {
	if c.ctx.Err() != nil {
		return // revoked or stopping: nothing to be kind about
	}
	_ = c.CloseWrite()
	if !c.deaf.Load() {
		return
	}
	_ = c.Conn.SetReadDeadline(time.Now().Add(lingerTimeout))
	_, _ = io.CopyN(io.Discard, c.Conn, maxHeaderBytes)
}

// draining reports whether the gateway has begun to stop.
func (c *conversation) draining() bool {
	select {
	case <-c.flow.Draining():
		return true
	default:
		return false
	}
}

// configKey selects the TLS configuration of a flow.
type configKey struct {
	registration registry.ID
	host         string
}

// flowConfig returns the configuration shared by the flows of one registration
// to one host. crypto/tls makes and rotates the session ticket keys of each
// configuration, so a ticket opens no session of another registration or host:
// it is garbage there, and a full handshake follows. When a configuration is
// dropped from the LRU its tickets die with it.
func (h *Handler) flowConfig(f *proxy.Flow) (*tls.Config, error) {
	if _, err := h.ca.Leaf(f.Match.Host); err != nil {
		return nil, err
	}
	host := f.Match.Host
	config, _ := h.configs.get(configKey{f.Registration, host}, func(*tls.Config) bool { return true }, func() *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS12,
			NextProtos: []string{"h2", "http/1.1"},
			// Also runs where a session is resumed, unlike GetCertificate.
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				if hello.ServerName == "" || strings.EqualFold(hello.ServerName, host) {
					return nil, nil
				}
				if c, ok := hello.Conn.(*conversation); ok {
					c.misdirected = hello.ServerName
				}
				// Without a certificate crypto/tls answers unrecognized_name
				// (RFC 6066 section 3); an error here would be internal_error.
				return &tls.Config{MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true}, nil
			},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.ca.Leaf(host) },
		}
	})
	return config, nil
}

// h1Conn is the decrypted stream of an HTTP/1.1 agent. It remembers the latest
// bytes read, because net/http throws the Host field of an absolute-form
// request away unseen.
type h1Conn struct {
	*tls.Conn
	mu     sync.Mutex
	window []byte // the latest bytes read, at most headWindow; guarded by mu
}

func (c *h1Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.remember(p[:n])
	}
	return n, err
}

func (c *h1Conn) remember(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) >= headWindow {
		c.window = append(c.window[:0], p[len(p)-headWindow:]...)
		return
	}
	if over := len(c.window) + len(p) - headWindow; over > 0 {
		c.window = c.window[:copy(c.window, c.window[over:])]
	}
	c.window = append(c.window, p...)
}

// hostsOf returns the Host fields that followed the request line of r, as far
// as they are still in the window. With several such lines in it, a pipeline or
// a body that looks like one, the fields of all are returned. ok is false where
// no such head is found whole.
func (c *h1Conn) hostsOf(r *http.Request) (hosts []string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	line := fmt.Appendf(nil, "%s %s %s", r.Method, r.RequestURI, r.Proto)
	for rest := c.window; ; {
		i := bytes.Index(rest, line)
		if i < 0 {
			return hosts, ok
		}
		rest = rest[i+len(line):]
		found, whole := hostFields(rest)
		if !whole {
			return nil, false
		}
		ok = true
		hosts = append(hosts, found...)
	}
}

// hostFields reads the Host fields of a head that begins after its request
// line. whole is false where the head's end is missing.
func hostFields(head []byte) (hosts []string, whole bool) {
	for first := true; ; first = false {
		line, rest, found := bytes.Cut(head, []byte("\n"))
		if !found {
			return nil, false
		}
		head = rest
		line = bytes.TrimSuffix(line, []byte("\r"))
		if first {
			continue // what is left of the request line
		}
		if len(line) == 0 {
			return hosts, true
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(bytes.TrimSpace(name), []byte("Host")) {
			hosts = append(hosts, string(bytes.TrimSpace(value)))
		}
	}
}

type conversationKey struct{}
type agentConnKey struct{}

// withConversation is the http.Server's ConnContext: requests get the context
// of their flow.
func withConversation(ctx context.Context, conn net.Conn) context.Context {
	c := conn.(interface{ NetConn() net.Conn }).NetConn().(*conversation)
	flow := context.WithValue(c.ctx, http.ServerContextKey, ctx.Value(http.ServerContextKey))
	flow = context.WithValue(flow, conversationKey{}, c)
	return context.WithValue(flow, agentConnKey{}, conn)
}

// noteState is the http.Server's ConnState: a connection that waits for its
// next request has read the last one's body.
func noteState(conn net.Conn, state http.ConnState) {
	if state != http.StateIdle {
		return
	}
	if under, ok := conn.(interface{ NetConn() net.Conn }); ok {
		if c, ok := under.NetConn().(*conversation); ok {
			c.restCame()
		}
	}
}
