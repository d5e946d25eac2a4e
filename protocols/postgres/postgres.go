// Package postgres is the protocol handler of postgres endpoints. It answers the
// agent's start-up without asking for a password, logs in upstream with the
// credential over verified TLS, and passes what both sides say, message by message.
//
// Each statement is an action: it is decided and recorded before it goes upstream,
// and its row gets the command tag or SQLSTATE that it ended with. SQL is looked
// into only where the credential is read_only. docs/postgres.md says what agents
// and operators can rely on.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols"
	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/egress"
)

// Limits. docs/postgres.md lists them.
const (
	// startupTimeout is the agent's share of making a connection; PostgreSQL's
	// authentication_timeout is 60 s.
	startupTimeout = 30 * time.Second

	// upstreamTimeout is how long making one connection upstream may take, or
	// delivering a cancel request.
	upstreamTimeout = 30 * time.Second

	maxStartups    = 128 // connections of one registration in the making: a pool opens all of its own at once
	maxConnections = 256 // of one registration: each holds two buffers of bufferSize

	// bufferSize is what is read at once, on either side.
	bufferSize = 64 << 10

	// maxMessage is PostgreSQL's own limit of a message (PQ_LARGE_MESSAGE_LIMIT in
	// src/include/libpq/libpq.h).
	maxMessage = 1<<30 - 2

	// What agents of one registration may put into the action log by what is
	// refused before there is a session, and into the gateway's log.
	refusalsPerSecond = 10
	warningsPerSecond = 5
	warningsBurst     = 20

	// cancelsPerSecond is how many cancel requests of one registration are looked
	// at: a key is 32 bits where the agent speaks protocol 3.0.
	cancelsPerSecond = 50

	// goodbyePatience is how long either side has to take the last there is to say.
	goodbyePatience = time.Second
)

// Config assembles a Handler. CA is required, and one of Dialer and Dial.
type Config struct {
	CA     *ca.CA
	Dialer *egress.Dialer

	// Dial connects to the endpoint at host and port; nil means
	// Dialer.DialEndpoint.
	Dial func(ctx context.Context, endpoint *policy.Endpoint, host string, port uint16) (net.Conn, error)

	// Parser is the process's, nil where nothing else uses one. The grammar is
	// loaded for the first session that needs it.
	Parser *statement.Parser

	Log *slog.Logger // nil discards
}

// Handler serves flows to postgres endpoints. Safe for concurrent use.
type Handler struct {
	ca      *ca.CA
	dial    dialFunc
	log     *slog.Logger
	parser  *statement.Parser
	warming sync.Once
	login   *pgconn.Config // what a connection upstream starts from
	shares  shares
	keys    keyring
	running context.Context // ends with Close
	stop    context.CancelFunc
	tasks   sync.WaitGroup // of the handler itself

	readOnly func(sql string) error // why a statement may not run under a read_only credential
}

// dialFunc connects to an endpoint of the policy. again is where an earlier
// connection of the same session went, or invalid.
type dialFunc func(ctx context.Context, endpoint *policy.Endpoint, host string, port uint16, again netip.AddrPort) (net.Conn, error)

// New returns a Handler; Close ends it.
func New(cfg Config) (*Handler, error) {
	if cfg.CA == nil {
		return nil, errors.New("postgres: no CA given")
	}
	if cfg.Dial == nil && cfg.Dialer == nil {
		return nil, errors.New("postgres: no dialer given")
	}
	dial := func(ctx context.Context, endpoint *policy.Endpoint, host string, port uint16, again netip.AddrPort) (net.Conn, error) {
		switch {
		case cfg.Dial != nil:
			return cfg.Dial(ctx, endpoint, host, port)
		case endpoint.Address.IsValid() || !again.IsValid():
			return cfg.Dialer.DialEndpoint(ctx, endpoint.Address, host, port)
		}
		// Another server of the same name does not know the session.
		return cfg.Dialer.DialEndpoint(ctx, again, host, port)
	}
	logger := cfg.Log
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	login, err := loginConfig()
	if err != nil {
		return nil, err
	}
	parser := cfg.Parser
	if parser == nil {
		parser = new(statement.Parser)
	}
	h := &Handler{ca: cfg.CA, dial: dial, parser: parser, readOnly: readOnly(parser), log: logger, login: login}
	h.running, h.stop = context.WithCancel(context.Background())
	return h, nil
}

// Close ends all connections, to agents and upstream. Flows still being served
// end.
func (h *Handler) Close() {
	h.stop()
	h.tasks.Wait()
}

// warm loads the grammar while the first session that needs it is being made. It
// takes a second, and memory that a gateway without such sessions never needs.
func (h *Handler) warm() {
	h.warming.Do(func() {
		h.tasks.Go(func() {
			if err := h.parser.Warm(); err != nil {
				h.log.Error("statements under read_only credentials will be denied", "err", err)
			}
		})
	})
}

// Serve runs one flow: see proxy.Handler. It returns nil where the agent got what
// it asked for: a session, or the delivery of a cancel request.
func (h *Handler) Serve(ctx context.Context, f *proxy.Flow) (err error) {
	if f.Match.Endpoint == nil || f.Match.Endpoint.Postgres == nil || f.Match.Host == "" {
		return errors.New("postgres: the flow has no endpoint")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.running, cancel)()
	share := h.shares.enter(f.Registration)
	defer h.shares.leave(share)
	c := &conversation{handler: h, flow: f, share: share, endpoint: f.Match.Endpoint, host: f.Match.Host, ctx: ctx, cancel: cancel, conn: f.Conn}
	defer func() {
		if r := recover(); r != nil {
			c.panicked(r)
			err = errors.New("postgres: the flow panicked")
		}
	}()
	return c.serve()
}

// conversation is one connection of an agent.
type conversation struct {
	handler  *Handler
	flow     *proxy.Flow
	share    *share
	endpoint *policy.Endpoint
	host     string // the policy's
	ctx      context.Context
	cancel   context.CancelFunc
	conn     net.Conn // the agent's, within TLS where it asked for it
}

// serve brings the agent's start-up to its end, and runs what it asked for.
func (c *conversation) serve() error {
	if !c.share.startups.Take(maxStartups) {
		return c.turnAway(&fatal{code: tooManyConnections, message: "too many connections are being made"})
	}
	making := true
	made := func() {
		if making {
			making = false
			c.share.startups.Give()
		}
	}
	defer made()
	hurry := context.AfterFunc(c.ctx, func() { _ = c.flow.Conn.SetDeadline(time.Unix(1, 0)) })
	defer hurry()
	_ = c.flow.Conn.SetDeadline(time.Now().Add(startupTimeout))
	asked, err := c.negotiate()
	if err != nil {
		return c.fail(err)
	}
	if asked.cancel != nil { // also where there is no room for another session
		return c.cancelRequest(asked.cancel)
	}
	if !c.share.connections.Take(maxConnections) {
		return c.turnAway(&fatal{code: tooManyConnections, message: "too many connections"})
	}
	defer c.share.connections.Give()
	if !hurry() { // what comes now ends with c.ctx by itself
		return c.ctx.Err()
	}
	_ = c.flow.Conn.SetDeadline(time.Time{})
	s, err := c.begin(asked)
	if err != nil {
		return c.fail(err)
	}
	made()
	s.run()
	return nil
}

// turnAway refuses a connection that is too many.
func (c *conversation) turnAway(f *fatal) error {
	c.refuse("connect "+c.host, f.message)
	return c.fail(f)
}

// fail tells the agent why there is no session, and returns why.
func (c *conversation) fail(err error) error {
	var f *fatal
	if errors.As(err, &f) {
		_ = c.flow.Conn.SetDeadline(time.Now().Add(goodbyePatience))
		_, _ = c.conn.Write(f.response())
		c.linger()
		return fmt.Errorf("postgres: %s", f.message)
	}
	return fmt.Errorf("postgres: %w", err)
}

// linger lets the agent read what it has been told: unread input would make the
// close a reset, which takes the answer with it.
func (c *conversation) linger() {
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	var rest [512]byte
	for read := 0; read < maxStartupPacket; {
		n, err := c.conn.Read(rest[:])
		if err != nil {
			return
		}
		read += n
	}
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

// panicked logs a panic, which ends at its flow.
func (c *conversation) panicked(r any) {
	c.handler.log.Error("a flow panicked", "registration", c.flow.Registration, "endpoint", c.endpoint.Ref(), "panic", protocols.PanicText(r), "stack", string(debug.Stack()))
	c.cancel()
}
