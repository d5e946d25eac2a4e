// Package egress is the only dialer: it refuses what agents must not reach
// through the gateway (I09), in every spelling, when the socket is about to
// connect.
//
// An address is judged before anything happens, for a quick answer; again by the
// socket's control hook, on the address the kernel is about to connect to; and
// once more before the connection is handed out. A name is only ever a way to find addresses; what it resolves to
// is judged like an address the agent gave, so a name that changes its mind
// (DNS rebinding) gains nothing.
package egress

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	dialTimeout  = 10 * time.Second       // resolving and connecting together (DESIGN.md, "One flow")
	attemptDelay = 250 * time.Millisecond // RFC 8305, section 5: Connection Attempt Delay
	keepAlive    = 30 * time.Second
)

// Rules is what may be reached. The zero Rules refuse everything that is not a
// public address.
type Rules struct {
	Allow       []netip.Prefix   // lifts the private-range refusal
	AllowExact  []netip.AddrPort // also lifts loopback, link-local, metadata, tunnel subnets, own addresses
	Tunnel      []netip.Prefix   // the tunnel's subnets
	Own         []netip.Addr     // addresses of the gateway beyond those of its interfaces (public_url's)
	DenyUnknown bool             // egress { unknown = "deny" }: DialAddr, DialHost and DialUDP refuse everything
	Upstream    []netip.AddrPort // resolvers; empty: the host's
}

// Dialer dials. Safe for concurrent use. The zero Dialer refuses everything.
type Dialer struct {
	rules atomic.Pointer[ruleset] // nil in the zero Dialer and after Close
	own   *hostAddrs

	mu     sync.Mutex // serialises SetRules and Close
	closed bool
}

// New returns a Dialer under rules. Close releases its watch on the host's
// addresses.
func New(rules Rules) *Dialer {
	d := &Dialer{own: newHostAddrs()}
	d.SetRules(rules)
	return d
}

// SetRules replaces the rules; connections already open stay. After Close it
// has no effect.
func (d *Dialer) SetRules(r Rules) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	old := d.rules.Load()
	next := compile(r)
	// Answers belong to the resolvers that gave them: the cache survives a
	// reload only if they stay.
	if old != nil && old.resolver.sameUpstream(r.Upstream) {
		next.resolver = old.resolver
	} else {
		next.resolver = newResolver(r.Upstream)
	}
	d.rules.Store(next)
	if old != nil && old.resolver != next.resolver {
		old.resolver.close()
	}
}

// Close releases what New opened. From then on everything is refused;
// connections already open stay.
func (d *Dialer) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if rs := d.rules.Swap(nil); rs != nil {
		rs.resolver.close()
	}
	if d.own != nil {
		d.own.close()
	}
	return nil
}

// Refused is the error of a destination the rules forbid.
type Refused struct {
	Address netip.AddrPort // for the operator: what was judged, resolved; Error leaves it out
	Reason  string         // e.g. "private range", "the gateway's own address"
}

func (r *Refused) Error() string { return "refused by egress: " + r.Reason }

// Check says whether an agent may reach address directly: nil or *Refused.
func (d *Dialer) Check(address netip.AddrPort) error {
	if r := d.judge(address, byAgent); r != nil {
		return r
	}
	return nil
}

// CheckAddr is Check for a protocol without ports (echo). Exemptions of an
// exact ip:port do not apply.
func (d *Dialer) CheckAddr(a netip.Addr) error {
	if r := d.judgeAddr(a, byAgent); r != nil {
		return r
	}
	return nil
}

// DialAddr connects to where the agent was going, at most 10 s. Errors are
// *Refused or wrap those of package net; their text names no address but the
// one given.
func (d *Dialer) DialAddr(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	return d.Dial(ctx, "tcp", address)
}

// DialUDP returns a connected socket to where the agent was going. Errors are
// as for DialAddr.
func (d *Dialer) DialUDP(ctx context.Context, address netip.AddrPort) (*net.UDPConn, error) {
	conn, err := d.Dial(ctx, "udp", address)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// Dial is DialAddr where network is "tcp" and DialUDP where it is "udp", for
// who serves both (dns.Config.Dial).
func (d *Dialer) Dial(ctx context.Context, network string, address netip.AddrPort) (net.Conn, error) {
	if network != "tcp" && network != "udp" {
		return nil, &Refused{Address: address, Reason: "neither TCP nor UDP"}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if r := d.judge(address, byAgent); r != nil {
		return nil, r
	}
	conn, err := d.connect(ctx, network, address, byAgent)
	if err != nil {
		return nil, describe(address.String(), err)
	}
	return conn, nil
}

// DialHost resolves host and connects to the first address that the rules allow
// and that answers; every candidate is checked at connect time. At most 10 s in
// all. Errors are as for DialAddr; a host none of whose addresses is allowed is
// *Refused.
func (d *Dialer) DialHost(ctx context.Context, host string, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return d.dialHost(ctx, host, port, byAgent)
}

// DialEndpoint connects for an endpoint of the policy: to address where it is
// valid (a literal in the policy: exempt from every refusal, for this dial
// only), else to host, which is exempt only where it is itself an IP address.
// unknown = "deny" does not apply. Port 0 is refused even so. Errors are as for
// DialHost and name host, never address.
func (d *Dialer) DialEndpoint(ctx context.Context, address netip.AddrPort, host string, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if address.IsValid() {
		return d.dialLiteral(ctx, address, host, port)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return d.dialLiteral(ctx, netip.AddrPortFrom(a, port), host, port)
	}
	return d.dialHost(ctx, host, port, byPolicy)
}

// dialLiteral dials an address that the policy itself names.
func (d *Dialer) dialLiteral(ctx context.Context, address netip.AddrPort, host string, port uint16) (net.Conn, error) {
	who := origin{policy: true, literal: exactKey(address)}
	if r := d.judge(address, who); r != nil {
		return nil, r
	}
	conn, err := d.connect(ctx, "tcp", address, who)
	if err != nil {
		return nil, describe(target(host, port), err)
	}
	return conn, nil
}

func (d *Dialer) dialHost(ctx context.Context, host string, port uint16, who origin) (net.Conn, error) {
	rs := d.rules.Load()
	if rs == nil {
		return nil, &Refused{Reason: reasonClosed}
	}
	// What is refused wherever the name points is refused without asking
	// anybody: a query would tell the world what the agent looks for.
	if rs.denyUnknown && !who.policy {
		return nil, &Refused{Reason: reasonUnknown}
	}
	if port == 0 {
		return nil, &Refused{Reason: reasonPort}
	}
	addrs, err := rs.resolver.lookup(ctx, host)
	if err != nil {
		return nil, describe(target(host, port), err)
	}
	var refused *Refused
	candidates := make([]netip.AddrPort, 0, len(addrs))
	for _, a := range addrs {
		ap := netip.AddrPortFrom(a, port)
		if r := d.judge(ap, who); r != nil {
			if refused == nil {
				refused = r
			}
			continue
		}
		candidates = append(candidates, ap)
	}
	if len(candidates) == 0 {
		return nil, refused
	}
	conn, err := race(ctx, candidates, func(ctx context.Context, ap netip.AddrPort) (net.Conn, error) {
		return d.connect(ctx, "tcp", ap, who)
	})
	if err != nil {
		return nil, describe(target(host, port), err)
	}
	return conn, nil
}

// connect opens one socket. The control hook sees the address the kernel is
// about to connect to: whatever happened between the first look and now, no
// packet leaves for a refused one.
func (d *Dialer) connect(ctx context.Context, network string, address netip.AddrPort, who origin) (net.Conn, error) {
	dialer := net.Dialer{
		KeepAlive: keepAlive,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return &Refused{Reason: reasonAddress}
			}
			if r := d.judge(ap, who); r != nil {
				return r
			}
			return nil
		},
	}
	conn, err := dialer.DialContext(ctx, network, address.String())
	if err != nil {
		return nil, err
	}
	// Once more, for what became true meanwhile: an address that this host got
	// a moment ago is routed here before the kernel says so.
	if r := d.judge(address, who); r != nil {
		conn.Close()
		return nil, r
	}
	return conn, nil
}
