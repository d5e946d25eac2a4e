// Package ssh is the protocol handler of ssh endpoints. It terminates the agent's
// SSH with a host key of the gateway's own, verifies the upstream's host key by
// the policy, authenticates there with the credential, and passes what the agent
// asks for, channel by channel and request by request, as far as it is decided.
//
// Who the agent is, the flow says (I05): any password and any key is accepted and
// none looked at. docs/ssh.md says what agents and operators can rely on.
package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols"
	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/egress"
)

// Limits. docs/ssh.md lists them.
const (
	// handshakeTimeout is the agent's share of making a connection; what it waits
	// for upstream does not count.
	handshakeTimeout = 30 * time.Second

	// upstreamTimeout is how long making one connection upstream may take.
	upstreamTimeout = 30 * time.Second

	maxHandshakes  = 32  // connections of one registration in the making
	maxConnections = 256 // of one registration
	maxChannels    = 128 // of one connection
	maxAllChannels = 256 // of one registration: each may hold windows of 2 MiB both ways

	// Channels that agents of one registration may open. More have to wait.
	opensPerSecond = 200
	opensBurst     = 256

	// What agents of one registration may put into the action log by what is
	// refused anyway, and into the gateway's log. More is refused all the same.
	refusalsPerSecond = 10
	warningsPerSecond = 5
	warningsBurst     = 20

	// goodbyePatience is how long the agent has to take what the end of its
	// connection is explained with.
	goodbyePatience = time.Second
)

// HostKeys is the gateway's own identity towards agents: proxy/ca.SSH.
type HostKeys interface {
	// HostSigners returns the host key of an endpoint, plain and with a host
	// certificate for host.
	HostSigners(endpointRef, host string) (plain, certificate xssh.Signer, err error)
}

// Config assembles a Handler. Keys is required, and one of Dialer and Dial.
type Config struct {
	Keys   HostKeys
	Dialer *egress.Dialer

	// Dial connects to the endpoint at host and port; nil means
	// Dialer.DialEndpoint.
	Dial func(ctx context.Context, endpoint *policy.Endpoint, host string, port uint16) (net.Conn, error)

	HostKeys   HostKeyApprovals // nil: host keys that need approval are refused
	Recordings *recording.Store // nil: where sessions are to be recorded there are none
	Log        *slog.Logger     // nil discards
}

// Handler serves flows to ssh endpoints. Safe for concurrent use.
type Handler struct {
	keys      HostKeys
	dial      func(ctx context.Context, endpoint *policy.Endpoint, host string, port uint16) (net.Conn, error)
	approvals HostKeyApprovals
	recorder  *recording.Store
	log       *slog.Logger
	shares    shares
	opened    keys
	running   context.Context // ends with Close
	stop      context.CancelFunc

	patience patience
	rekey    uint64 // bytes after which new keys are made; 0: what the ciphers bear. For tests
}

// patience is how long a Handler waits for others. Tests have less.
type patience struct {
	agent     time.Duration // handshakeTimeout
	upstream  time.Duration // upstreamTimeout
	keepAlive time.Duration // keepAliveEvery
}

// New returns a Handler; Close ends it.
func New(cfg Config) (*Handler, error) {
	if cfg.Keys == nil {
		return nil, errors.New("ssh: no host keys given")
	}
	dial := cfg.Dial
	if dial == nil {
		if cfg.Dialer == nil {
			return nil, errors.New("ssh: no dialer given")
		}
		dial = func(ctx context.Context, endpoint *policy.Endpoint, host string, port uint16) (net.Conn, error) {
			return cfg.Dialer.DialEndpoint(ctx, endpoint.Address, host, port)
		}
	}
	logger := cfg.Log
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	h := &Handler{
		keys:      cfg.Keys,
		dial:      dial,
		approvals: cfg.HostKeys,
		recorder:  cfg.Recordings,
		log:       logger,
		shares:    shares{opens: opensPerSecond},
		patience:  patience{handshakeTimeout, upstreamTimeout, keepAliveEvery},
	}
	h.running, h.stop = context.WithCancel(context.Background())
	return h, nil
}

// Close ends all connections, to agents and upstream. Flows still being served
// end.
func (h *Handler) Close() { h.stop() }

// Serve runs one flow: see proxy.Handler. It returns nil when either side ended
// the connection after the handshake.
func (h *Handler) Serve(ctx context.Context, f *proxy.Flow) error {
	if f.Match.Endpoint == nil || f.Match.Endpoint.SSH == nil || f.Match.Host == "" {
		return errors.New("ssh: the flow has no endpoint")
	}
	share := h.shares.enter(f.Registration)
	defer h.shares.leave(share)
	c := newConversation(ctx, h, f, share)
	defer c.finish()
	defer context.AfterFunc(h.running, func() { c.end(errStopping) })()

	if !share.connections.Take(maxConnections) {
		return c.turnAway("too many connections")
	}
	defer share.connections.Give()
	if err := c.handshake(); err != nil {
		return err
	}
	c.serve()
	return nil
}

// conversation is one connection of an agent and the one upstream that belongs to
// it.
type conversation struct {
	handler  *Handler
	flow     *proxy.Flow
	share    *share
	endpoint *policy.Endpoint
	host     string // the policy's
	ctx      context.Context
	cancel   context.CancelCauseFunc
	socket   *wire // the agent's
	tasks    sync.WaitGroup
	admission

	agent    *xssh.ServerConn
	opened   <-chan xssh.NewChannel // by the agent
	asked    <-chan *xssh.Request   // by the agent, of the connection
	upstream *link
	lost     chan struct{} // closed when the upstream is gone
	channels protocols.Gauge
	inbound  *ledger // of what agents send

	serving  sync.Mutex
	leaving  bool           // no more channels are begun; guarded by serving
	sessions sync.WaitGroup // channels being served
}

// The reasons why a conversation ends that the agent is told.
var (
	errStopping = errors.New("the gateway is stopping")
	errAgentEnd = errors.New("the agent has gone")
	errLost     = errors.New("the connection to the upstream was lost")
)

func newConversation(ctx context.Context, h *Handler, f *proxy.Flow, share *share) *conversation {
	c := &conversation{
		handler:  h,
		flow:     f,
		share:    share,
		endpoint: f.Match.Endpoint,
		host:     f.Match.Host,
		lost:     make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.inbound = &ledger{share: share, over: func() { c.end(errTooMuchWaits) }}
	c.socket = &wire{Conn: f.Conn, tally: c.inbound.received, begun: c.begin, ended: func() { c.end(errAgentEnd) }}
	return c
}

// end ends the conversation for a reason; the first one counts.
func (c *conversation) end(why error) { c.cancel(why) }

// finish ends what is left of the conversation, and waits for it.
func (c *conversation) finish() {
	c.end(errAgentEnd)
	_ = c.socket.Close()
	c.tasks.Wait()
	c.inbound.end()
	if c.upstream != nil {
		c.upstream.outbound.end()
	}
}

// turnAway refuses a connection before there is SSH on it. Lines before the
// version are for people to read (RFC 4253, section 4.2).
func (c *conversation) turnAway(reason string) error {
	c.refuse("connect "+c.place(), reason)
	_ = c.socket.SetWriteDeadline(time.Now().Add(goodbyePatience))
	_, _ = io.WriteString(c.socket, "clawpatrol: "+reason+"\r\n")
	return fmt.Errorf("ssh: %s", reason)
}

// run runs f beside the conversation, which ends if f panics.
func (c *conversation) run(f func()) {
	c.tasks.Go(func() {
		defer c.contain()
		f()
	})
}

// contain is deferred where a goroutine of the conversation begins.
func (c *conversation) contain() {
	if r := recover(); r != nil {
		c.handler.log.Error("a flow panicked", "registration", c.flow.Registration, "endpoint", c.endpoint.Ref(), "panic", protocols.PanicText(r), "stack", string(debug.Stack()))
		c.end(errors.New("the gateway failed"))
	}
}

// serve passes what both sides send until one of them has gone.
func (c *conversation) serve() {
	up := c.upstream
	c.run(func() { _ = c.agent.Wait(); c.end(errAgentEnd) })
	c.run(func() { _ = up.conn.Wait(); close(c.lost); c.end(errLost) })
	c.run(c.keepAlive)
	c.run(c.takeRequests)
	c.run(c.takeChannels)
	<-c.ctx.Done()
	up.close()
	select {
	case <-c.lost:
	case <-time.After(goodbyePatience): // it may wait for an agent that reads nothing
	}
	c.farewell()
	_ = c.agent.Close()
}

// beginChannel reports whether one more may be served; then c.sessions counts it.
func (c *conversation) beginChannel() bool {
	c.serving.Lock()
	defer c.serving.Unlock()
	if !c.leaving {
		c.sessions.Add(1)
	}
	return !c.leaving
}

// farewell gives channels the time to say why they end.
func (c *conversation) farewell() {
	c.serving.Lock()
	c.leaving = true
	c.serving.Unlock()
	ended := make(chan struct{})
	c.run(func() { c.sessions.Wait(); close(ended) })
	select {
	case <-ended:
	case <-time.After(goodbyePatience):
	}
}

// why says why the upstream is gone, in words for the agent.
func (c *conversation) why() string {
	if cause := c.cause(); errors.Is(cause, errStopping) || errors.Is(cause, errTooMuchWaits) {
		return cause.Error()
	}
	return "the connection to " + c.host + " was lost"
}

// draining reports whether the gateway is about to stop: nothing new is begun.
func (c *conversation) draining() bool {
	select {
	case <-c.flow.Draining():
		return true
	default:
		return false
	}
}

// place is where the endpoint is, for the log.
func (c *conversation) place() string { return target(c.host, c.flow.Match.Port) }

// refuse records what is refused without being decided about, as far as the
// registration's share of the log goes.
func (c *conversation) refuse(summary, reason string) {
	if c.share.refusals.Allow() {
		c.flow.Refuse(c.ctx, summary, &proxy.Refusal{Code: proxy.CodeDenied, Reason: reason})
	}
}

// warn logs something about the conversation, within the registration's share.
func (c *conversation) warn(message string, args ...any) {
	if c.share.warnings.Allow() {
		c.handler.log.Warn(message, append([]any{"registration", c.flow.Registration, "endpoint", c.endpoint.Ref(), "host", c.host}, args...)...)
	}
}
