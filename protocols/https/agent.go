package https

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// lingerTimeout bounds how long the gateway goes on reading what an agent
// still sends after its last response: closing at once would reset the
// connection and could take that response along (RFC 9112 section 9.6).
const lingerTimeout = 500 * time.Millisecond

// conversation is one flow: the connection under the agent's TLS, and what
// requests on it need to know. It implements net.Conn; Close does not close the
// flow's connection, which belongs to the proxy, but ends its use.
type conversation struct {
	net.Conn
	flow   *proxy.Flow
	ctx    context.Context // ends with the flow
	frames *frameConn      // of an HTTP/2 agent; else nil

	misdirected string // the server name that ended the handshake; owned by the handshake

	closing sync.Once
	closed  chan struct{} // no more reads or writes
	deaf    atomic.Bool   // reads fail: what follows an abandoned body is not a request

	deadlines sync.Mutex // keeps Close and the setting of a deadline apart

	mu      sync.Mutex
	grace   *time.Timer    // running while the rest of a body may still come; guarded by mu
	over    bool           // no request may begin; guarded by mu
	running sync.WaitGroup // requests, and what carries their bodies; a request is added under mu while not over
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
		c.deadlines.Lock()
		defer c.deadlines.Unlock()
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
	c.deadlines.Lock()
	defer c.deadlines.Unlock()
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
	until := time.Now().Add(lingerTimeout)
	_ = c.Conn.SetReadDeadline(until)
	if _, err := io.CopyN(io.Discard, c.Conn, maxRest); err == nil { // and would go on
		select {
		case <-time.After(time.Until(until)):
		case <-c.ctx.Done():
		}
	}
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

type conversationKey struct{}

// withConversation returns the context of the requests of an HTTP/2 agent: that
// of their flow.
func withConversation(c *conversation) context.Context {
	return context.WithValue(c.ctx, conversationKey{}, c)
}
