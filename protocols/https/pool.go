package https

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

const (
	dialTimeout         = 10 * time.Second
	upstreamIdleTimeout = 100 * time.Second // SPEED: at least 90 s
	maxIdlePerPool      = 256
	steadyIdle          = 64               // of them for upstreamIdleTimeout
	spareIdleTimeout    = 10 * time.Second // of the others
	continueTimeout     = time.Second      // wait for 100 Continue; then the body goes (RFC 9110 section 10.1.1)
	maxPools            = 4096

	// maxUpstream is how many connections upstream a registration may have, those
	// being made and idle ones included.
	maxUpstream     = maxInFlight + 256
	poolIdleTimeout = 5 * time.Minute
	upstreamBuffer  = 16 << 10 // one TLS record
	tlsSessions     = 32

	// HTTP/2 windows upstream: what a slow agent can make the gateway hold.
	maxStreamBuffer = 512 << 10
	maxConnBuffer   = 64 << 20

	pingAfter   = 30 * time.Second // silence on an HTTP/2 connection with open streams
	pingTimeout = 15 * time.Second
)

type dialFunc func(ctx context.Context, endpoint *policy.Endpoint, host string, port uint16) (net.Conn, error)

// poolKey and poolStamp together say whose upstream connections a pool holds.
// One key has one pool at a time: a change of the stamp replaces it.
type poolKey struct {
	registration registry.ID
	endpoint     string // ref
	credential   string // ref
	host         string
	port         uint16
}

type poolStamp struct {
	endpoint   string // fingerprint
	credential string // fingerprint
	version    uint64 // of the secret
}

// pool is the upstream connections that one registration uses with one version
// of one credential at one host, and what is derived from that credential.
type pool struct {
	stamp    poolStamp
	endpoint *policy.Endpoint
	h1       h1Pool
	h2       *http.Transport // over HTTP/2 alone
	onlyH1   atomic.Bool     // the upstream chose HTTP/1.1 where both were offered
	onlyH2   atomic.Bool     // the upstream refused HTTP/1.1
	used     atomic.Int64    // time of the latest use, Unix nanoseconds

	once      sync.Once
	injection injection
	scrubber  *scrubber
	err       error // of prepare
}

// ready makes the injection and the scrubber from the credential's secret, on
// first use: they hold for the pool's stamp.
func (p *pool) ready(c *policy.Credential, s secret.Secret) error {
	p.once.Do(func() {
		if p.injection, p.err = prepare(c, s); p.err == nil {
			p.scrubber = newScrubber(p.injection, c.Placeholder)
		}
	})
	return p.err
}

// retire closes what is idle, and what comes back later.
func (p *pool) retire() {
	p.h1.close()
	p.h2.CloseIdleConnections()
}

// closeIdle makes room for other connections.
func (p *pool) closeIdle() {
	p.h1.closeIdle()
	p.h2.CloseIdleConnections()
}

// pools holds the pools in use.
type pools struct {
	dial  dialFunc
	byID  lru[poolKey, *pool]
	conns load // upstream
}

func newPools(dial dialFunc) *pools {
	return &pools{
		dial:  dial,
		byID:  lru[poolKey, *pool]{max: maxPools, owner: func(k poolKey) registry.ID { return k.registration }, share: maxShare},
		conns: load{max: maxUpstream},
	}
}

// get returns the pool for key and stamp. The pool it replaces and those pushed
// out lose their idle connections; requests running on them end undisturbed and
// their connections close after them.
func (ps *pools) get(key poolKey, stamp poolStamp, endpoint *policy.Endpoint) *pool {
	now := time.Now().UnixNano()
	p, dropped := ps.byID.get(key, func(p *pool) bool { return p.stamp == stamp }, func() *pool {
		p := ps.newPool(key, stamp, endpoint)
		p.used.Store(now) // before it can be trimmed
		return p
	})
	p.used.Store(now)
	for _, old := range dropped {
		old.retire()
	}
	return p
}

// tend drops the pools long unused, and the secrets they hold with them, until
// stop is closed.
func (ps *pools) tend(stop <-chan struct{}) {
	tick := time.NewTicker(poolIdleTimeout / 4)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		now := time.Now().UnixNano()
		for _, old := range ps.byID.trim(func(p *pool) bool { return now-p.used.Load() > int64(poolIdleTimeout) }) {
			old.retire()
		}
	}
}

func (ps *pools) close() {
	for _, p := range ps.byID.trim(func(*pool) bool { return true }) {
		p.retire()
	}
}

// errTooManyConns is the answer to a registration that has maxUpstream
// connections in use.
var errTooManyConns = errors.New("the registration has too many connections upstream")

// reserve takes a place for one more connection of a registration. conns.remove
// gives it back.
func (ps *pools) reserve(id registry.ID) bool {
	if ps.conns.add(id) {
		return true
	}
	for _, p := range ps.byID.of(id) {
		p.closeIdle()
	}
	return ps.conns.add(id)
}

func (ps *pools) newPool(key poolKey, stamp poolStamp, endpoint *policy.Endpoint) *pool {
	p := &pool{stamp: stamp, endpoint: endpoint}
	dial := func(ctx context.Context, config *tls.Config) (*tls.Conn, *socket, error) {
		if !ps.reserve(key.registration) {
			return nil, nil, errTooManyConns
		}
		dialing, cancel := context.WithTimeout(ctx, dialTimeout)
		conn, err := ps.dial(dialing, endpoint, key.host, key.port)
		cancel()
		if err != nil {
			ps.conns.remove(key.registration)
			return nil, nil, err
		}
		return shakeHands(ctx, newSocket(conn, func() { ps.conns.remove(key.registration) }), config)
	}
	one := protocols.UpstreamTLS(endpoint, key.host, tlsSessions, "http/1.1")
	both := protocols.UpstreamTLS(endpoint, key.host, tlsSessions, "h2", "http/1.1")
	p.h1.dial = func(ctx context.Context) (*tls.Conn, *socket, error) {
		conn, s, err := dial(ctx, one)
		if protocols.WantsOtherProtocol(err) {
			err = &refusedH1{err}
		}
		return conn, s, err
	}
	p.h2 = &http.Transport{
		// Proxy stays nil: the environment's proxies are not the policy's host.
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			// The transport would go on for a request that was taken back.
			dialing, cancel := context.WithCancel(ctx)
			defer cancel()
			if asking, ok := ctx.Value(askingKey{}).(context.Context); ok {
				defer context.AfterFunc(asking, cancel)()
			}
			conn, s, err := dial(dialing, both)
			if err != nil {
				return nil, err
			}
			if conn.ConnectionState().NegotiatedProtocol != "h2" {
				p.h1.put(newUpstream(&p.h1, conn, s))
				return nil, errSpeaksH1
			}
			return conn, nil
		},
		DisableCompression:     true,
		MaxIdleConns:           maxIdlePerPool,
		MaxIdleConnsPerHost:    maxIdlePerPool,
		IdleConnTimeout:        upstreamIdleTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		Protocols:              new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream:     maxStreamBuffer,
			MaxReceiveBufferPerConnection: maxConnBuffer,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTimeout,
		},
	}
	p.h2.Protocols.SetHTTP2(true)
	return p
}

// askingKey is where the context of a dial has that of the request it is for.
type askingKey struct{}

// refusedH1 is a handshake that the upstream ended because it was offered
// HTTP/1.1 alone. A type, not a text: texts may quote what upstreams send.
type refusedH1 struct{ error }

func (r *refusedH1) Unwrap() error { return r.error }

var errSpeaksH1 = errors.New("the upstream chose HTTP/1.1")

// roundTrip sends out upstream: by HTTP/1.1, or by whatever ALPN settles on
// where h2 is set or the upstream speaks nothing else.
func (p *pool) roundTrip(x *exchange, out *http.Request, h2 bool) (*http.Response, error) {
	if !h2 && !p.onlyH2.Load() || p.onlyH1.Load() {
		resp, err := p.h1.roundTrip(x, out)
		if refused := (*refusedH1)(nil); !errors.As(err, &refused) {
			return resp, err
		}
		p.onlyH2.Store(true) // said in the handshake: nothing of the request was sent or read
		p.onlyH1.Store(false)
	}
	resp, err := p.h2.RoundTrip(x.overHTTP2(out))
	if errors.Is(err, errSpeaksH1) {
		p.onlyH1.Store(true)
		p.onlyH2.Store(false)
		return p.h1.roundTrip(x, out)
	}
	return resp, err
}
