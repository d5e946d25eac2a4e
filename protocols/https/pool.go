package https

import (
	"context"
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
	maxIdlePerPool      = 64
	continueTimeout     = time.Second // wait for 100 Continue; then the body goes (RFC 9110 section 10.1.1)
	maxPools            = 4096
	poolIdleTimeout     = 5 * time.Minute
	upstreamBuffer      = 16 << 10 // one TLS record
	tlsSessions         = 32

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
	h1       *http.Transport
	h2       *http.Transport // offers HTTP/2 and HTTP/1.1
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

func (p *pool) closeIdle() {
	p.h1.CloseIdleConnections()
	p.h2.CloseIdleConnections()
}

// pools holds the pools in use.
type pools struct {
	dial dialFunc
	byID lru[poolKey, *pool]
}

func newPools(dial dialFunc) *pools {
	return &pools{dial: dial, byID: lru[poolKey, *pool]{max: maxPools}}
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
		old.closeIdle()
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
			old.closeIdle()
		}
	}
}

func (ps *pools) close() {
	for _, p := range ps.byID.trim(func(*pool) bool { return true }) {
		p.closeIdle()
	}
}

func (ps *pools) newPool(key poolKey, stamp poolStamp, endpoint *policy.Endpoint) *pool {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return ps.dial(ctx, endpoint, key.host, key.port)
	}
	transport := func(alpn ...string) *http.Transport {
		t := &http.Transport{
			// Proxy stays nil: the environment's proxies are not the policy's host.
			DialContext:            dial,
			TLSClientConfig:        protocols.UpstreamTLS(endpoint, key.host, tlsSessions, alpn...),
			TLSHandshakeTimeout:    handshakeTimeout,
			DisableCompression:     true,
			MaxIdleConns:           maxIdlePerPool,
			MaxIdleConnsPerHost:    maxIdlePerPool,
			IdleConnTimeout:        upstreamIdleTimeout,
			ExpectContinueTimeout:  continueTimeout,
			MaxResponseHeaderBytes: maxHeaderBytes,
			ReadBufferSize:         upstreamBuffer,
			WriteBufferSize:        upstreamBuffer,
			Protocols:              new(http.Protocols),
			HTTP2: &http.HTTP2Config{
				MaxReceiveBufferPerStream:     maxStreamBuffer,
				MaxReceiveBufferPerConnection: maxConnBuffer,
				SendPingTimeout:               pingAfter,
				PingTimeout:                   pingTimeout,
			},
		}
		t.Protocols.SetHTTP1(true)
		t.Protocols.SetHTTP2(len(alpn) > 1)
		return t
	}
	return &pool{stamp: stamp, endpoint: endpoint, h1: transport("http/1.1"), h2: transport("h2", "http/1.1")}
}

// roundTrip sends out upstream: by HTTP/1.1, or by whatever ALPN settles on
// where h2 is set or the upstream speaks nothing else.
func (p *pool) roundTrip(out *http.Request, h2 bool) (*http.Response, error) {
	if h2 || p.onlyH2.Load() {
		return p.h2.RoundTrip(out)
	}
	resp, err := p.h1.RoundTrip(out)
	if protocols.WantsOtherProtocol(err) { // in the handshake: nothing of the request was sent or read
		p.onlyH2.Store(true)
		return p.h2.RoundTrip(out)
	}
	return resp, err
}
