// Package https is the protocol handler of https endpoints. It terminates the
// agent's TLS with a leaf of the local CA, decides on every request, puts the
// credential in, and relays request and response as they come, over HTTP/1.1
// and HTTP/2.
//
// docs/http.md says what agents and operators can rely on.
package https

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/time/rate"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/egress"
	"github.com/clawpatrol/clawpatrol/registry"
)

// Limits. docs/http.md lists them.
const (
	handshakeTimeout  = 10 * time.Second  // agent's TLS handshake; also dial and TLS handshake upstream
	readHeaderTimeout = 60 * time.Second  // a request head; nginx's client_header_timeout. The first one counts from the handshake
	agentIdleTimeout  = 120 * time.Second // an agent's connection between requests
	maxHeaderBytes    = 256 << 10         // head of a request, head of a response
	maxStreams        = 250               // per HTTP/2 connection of an agent: SETTINGS_MAX_CONCURRENT_STREAMS
	maxInFlight       = 1024              // requests of one registration at once: each may hold maxStreamBuffer
	maxFlowConfigs    = 4096              // TLS configurations kept, one per registration and host
	maxFrame          = 16 << 10          // SETTINGS_MAX_FRAME_SIZE towards agents, the least there is (RFC 9113 section 4.2): net/http keeps room for the longest frame seen

	// maxUploadBuffer is the HTTP/2 window of an agent's connection and of each of
	// its streams: what it can make the gateway hold of bodies that nobody takes.
	maxUploadBuffer = 512 << 10

	// maxShare is how many of what is kept for each registration and host one
	// registration may have: with a wildcard it chooses the hosts.
	maxShare = 256

	// What requests of one registration may put into the gateway's log: an agent
	// decides how often they fail.
	warningsPerSecond = 5
	warningsBurst     = 20
	maxWarners        = 4096 // registrations remembered
)

// Config assembles a Handler. CA is required, and one of Dialer and Dial.
type Config struct {
	CA     *ca.CA
	Dialer *egress.Dialer

	// Dial connects to the endpoint at host and port; nil means
	// Dialer.DialEndpoint.
	Dial func(ctx context.Context, endpoint *policy.Endpoint, host string, port uint16) (net.Conn, error)

	Log *slog.Logger // nil discards
}

// Handler serves flows to https endpoints. Safe for concurrent use.
type Handler struct {
	ca      *ca.CA
	log     *slog.Logger
	warners lru[registry.ID, *rate.Limiter]
	configs lru[configKey, *tls.Config]
	pools   *pools
	budgets lru[registry.ID, *agentBudget] // of HTTP/2 agents
	server  *http.Server                   // never serves: what the HTTP/2 server is to go by
	//lint:ignore SA1019 see serveH2
	h2      *http2.Server
	load    load
	running context.Context // ends with Close
	stop    context.CancelFunc
	serving sync.WaitGroup // tending the pools
}

// New returns a Handler; Close ends it.
func New(cfg Config) (*Handler, error) {
	if cfg.CA == nil {
		return nil, errors.New("https: no CA given")
	}
	dial := cfg.Dial
	if dial == nil {
		if cfg.Dialer == nil {
			return nil, errors.New("https: no dialer given")
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
		ca:      cfg.CA,
		log:     logger,
		warners: lru[registry.ID, *rate.Limiter]{max: maxWarners},
		configs: lru[configKey, *tls.Config]{max: maxFlowConfigs, owner: func(k configKey) registry.ID { return k.registration }, share: maxShare},
		pools:   newPools(dial),
		budgets: lru[registry.ID, *agentBudget]{max: maxWarners},
		load:    load{max: maxInFlight},
	}
	h.running, h.stop = context.WithCancel(context.Background())
	h.server = &http.Server{
		MaxHeaderBytes: maxHeaderBytes,
		// What net/http has to say quotes what agents sent.
		ErrorLog: log.New(io.Discard, "", 0),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxFrame,
			MaxDecoderHeaderTableSize:     hpackTable,
			MaxReceiveBufferPerStream:     maxUploadBuffer,
			MaxReceiveBufferPerConnection: maxUploadBuffer,
		},
	}
	//lint:ignore SA1019 http.Server has another way to say this, but see serveH2
	h.h2 = &http2.Server{IdleTimeout: agentIdleTimeout}
	h.serving.Go(func() { h.pools.tend(h.running.Done()) })
	return h, nil
}

// Serve runs one flow: see proxy.Handler. It returns nil when either side ended
// the connection after the handshake.
func (h *Handler) Serve(ctx context.Context, f *proxy.Flow) error {
	if f.Match.Endpoint == nil || f.Match.Host == "" {
		return errors.New("https: the flow has no endpoint")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.running, cancel)()
	config, err := h.flowConfig(f)
	if err != nil {
		return err
	}
	c := newConversation(ctx, f)
	agent := tls.Server(c, config)
	shaking, done := context.WithTimeout(ctx, handshakeTimeout)
	err = agent.HandshakeContext(shaking)
	done()
	if err != nil {
		if c.misdirected != "" {
			f.Refuse(ctx, "TLS handshake", &proxy.Refusal{
				Code:   codeMisdirected,
				Reason: fmt.Sprintf("the TLS server name %q is not the endpoint's host %s", c.misdirected, f.Match.Host),
			})
		}
		return fmt.Errorf("TLS handshake with the agent: %w", err)
	}
	stopped := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stopped()
	if agent.ConnectionState().NegotiatedProtocol == "h2" {
		h.serveH2(c, agent)
	} else {
		h.serveH1(c, agent)
	}
	c.linger()
	cancel()
	c.finish()
	return nil
}

// Close ends all connections, to agents and upstream, and waits for what New
// started. Flows still being served end.
func (h *Handler) Close() {
	h.stop()
	h.serving.Wait()
	h.pools.close()
}

// warn logs something about a request, within the registration's share. The
// action log has it in any case.
func (h *Handler) warn(id registry.ID, message string, args ...any) {
	limit, _ := h.warners.get(id, func(*rate.Limiter) bool { return true }, func() *rate.Limiter {
		return rate.NewLimiter(warningsPerSecond, warningsBurst)
	})
	if limit.Allow() {
		h.log.Warn(message, append([]any{"registration", id}, args...)...)
	}
}

// load counts what each registration has of something, requests in flight or
// connections upstream, so that one cannot use up what all share: memory, and
// sockets towards the world.
type load struct {
	max int

	mu sync.Mutex
	of map[registry.ID]int // guarded by mu
}

// add admits one more; false where the registration has max.
func (l *load) add(id registry.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = make(map[registry.ID]int)
	}
	if l.of[id] >= l.max {
		return false
	}
	l.of[id]++
	return true
}

func (l *load) remove(id registry.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of[id]--; l.of[id] == 0 {
		delete(l.of, id)
	}
}
