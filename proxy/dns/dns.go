// Package dns is the resolver inside the tunnel.
//
// A name that is a host of an endpoint in the registration's scope is answered
// with virtual addresses, whichever server the agent asked: flows to them are
// how the gateway knows what the agent meant. Every other name is resolved
// through the operator's resolvers, with a cache, where the agent asked the
// gateway; and where it asked a resolver of its own choosing, that resolver is
// asked, under the egress rules, and both messages pass byte for byte.
//
// The cache holds what the operator's resolvers said and nothing else: virtual
// addresses, which differ between registrations, never enter it.
package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// Config assembles a Resolver. What is nil although it must not be refuses the
// queries that need it.
type Config struct {
	// Virtual returns the address pair that stands for host towards id:
	// registry.DB.VirtualAddresses. Required.
	Virtual func(ctx context.Context, id registry.ID, host string) (v4, v6 netip.Addr, err error)
	// VirtualHost is the way back, for PTR: registry.DB.VirtualHost. Nil: a
	// virtual address has no name.
	VirtualHost func(id registry.ID, a netip.Addr) (host string, ok bool)
	// Own reports whether an address is the gateway's resolver in the tunnel.
	// Required.
	Own func(netip.Addr) bool
	// Upstream returns the resolvers for names out of scope; it is read for
	// every query, so that a reload takes effect. Nil or empty: those of
	// ResolvConf.
	Upstream func() []netip.AddrPort
	// ResolvConf names the resolvers of the gateway host; empty:
	// /etc/resolv.conf.
	ResolvConf string
	// Check says whether agents may reach a resolver they named themselves:
	// egress.Dialer.Check. Required.
	Check func(netip.AddrPort) error
	// Dial connects to it, network being "udp" or "tcp": egress.Dialer.Dial.
	// Required.
	Dial func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)
	// Now is the clock of the cache; nil: time.Now.
	Now func() time.Time
	// Log may be nil.
	Log *slog.Logger
}

// Resolver answers the agents' queries. Safe for concurrent use. It starts no
// goroutine and needs no closing.
type Resolver struct {
	cfg     Config
	cache   *cache
	flights singleflight.Group // joins those who ask the same at the same time
	limit   *limiter
	health  health
	host    hostResolvers

	// What agents could fill the log with is said once a minute.
	complainVirtual  rate.Sometimes
	complainUpstream rate.Sometimes
}

// New returns a Resolver.
func New(cfg Config) *Resolver {
	if cfg.Virtual == nil {
		cfg.Virtual = func(context.Context, registry.ID, string) (v4, v6 netip.Addr, err error) {
			return v4, v6, errors.New("dns: no Config.Virtual")
		}
	}
	if cfg.VirtualHost == nil {
		cfg.VirtualHost = func(registry.ID, netip.Addr) (string, bool) { return "", false }
	}
	if cfg.Own == nil {
		cfg.Own = func(netip.Addr) bool { return false }
	}
	if cfg.Check == nil || cfg.Dial == nil {
		cfg.Check = func(netip.AddrPort) error { return errors.New("dns: no Config.Check or Config.Dial") }
	}
	if cfg.Upstream == nil {
		cfg.Upstream = func() []netip.AddrPort { return nil }
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Resolver{
		cfg:              cfg,
		cache:            newCache(),
		limit:            newLimiter(),
		host:             hostResolvers{path: cfg.ResolvConf},
		complainVirtual:  rate.Sometimes{Interval: time.Minute},
		complainUpstream: rate.Sometimes{Interval: time.Minute},
	}
}

// Query is one question, as it came out of the tunnel.
type Query struct {
	Registration registry.ID
	Scope        *policy.Scope
	Server       netip.AddrPort // whom the agent asked
	TCP          bool
	Message      []byte // wire format, RFC 1035; not kept, not changed
}

// Answer returns the reply in wire format, truncated to what the transport
// carries (TC set). An error means that no reply is sent: the message could not
// be read, the resolver the agent named did not answer, too much is asked at
// once, or ctx ended. An answer the cache holds takes no goroutine and no wait.
func (r *Resolver) Answer(ctx context.Context, q Query) ([]byte, error) {
	p, rcode, err := parse(q.Message)
	if err != nil {
		return nil, err
	}
	p.tcp = q.TCP
	own := r.cfg.Own(q.Server.Addr().Unmap())
	switch {
	case rcode == dns.RcodeNotImplemented && !own:
		return r.forward(ctx, q, &p)
	case rcode != dns.RcodeSuccess:
		return p.fail(rcode, nil), nil
	}
	// One reply is one message: a zone transfer is many (RFC 5936, section 2.2).
	if p.qtype == dns.TypeAXFR || p.qtype == dns.TypeIXFR {
		return p.fail(dns.RcodeRefused, edePolicy("zone transfers are not forwarded")), nil
	}
	host, ours := r.inScope(q.Scope, &p)
	if !ours && !own {
		return r.forward(ctx, q, &p)
	}
	if p.edns && p.version != 0 {
		return p.fail(dns.RcodeBadVers, nil), nil // RFC 6891, section 6.1.3
	}
	if ours {
		return r.answerHost(ctx, q, &p, host)
	}

	switch {
	case p.qclass != dns.ClassINET:
		return p.fail(dns.RcodeRefused, nil), nil
	case p.qtype == dns.TypeANY:
		return p.any(), nil
	case p.qtype == dns.TypeOPT || p.qtype >= 128 && p.qtype < 256:
		return p.fail(dns.RcodeRefused, nil), nil // other meta-types: RFC 6895, section 3.1
	}
	if reply := r.special(q, &p); reply != nil {
		return reply, nil
	}
	e, err := r.resolve(ctx, q.Registration, &p)
	if err != nil {
		return r.failed(ctx, &p, err)
	}
	return p.cached(e, r.cfg.Now()), nil
}

// failed turns an error of resolve into a reply, or into none.
func (r *Resolver) failed(ctx context.Context, p *query, err error) ([]byte, error) {
	if over := ended(ctx); over != nil {
		return nil, over
	}
	// An overloaded resolver that answers makes stubs ask again at once; one
	// that is silent makes them wait.
	if errors.Is(err, errBusy) && !p.tcp {
		return nil, err
	}
	return p.fail(dns.RcodeServerFailure, edeNoAnswer(err)), nil
}
