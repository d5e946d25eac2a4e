package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy/egress"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	// maxTCPFlows is how many TCP flows a registration may have at once, those
	// still being dialled included.
	maxTCPFlows = 4096

	// denyRowsPerSecond bounds what a registration's refused flows write to the
	// action log; the rest is only counted.
	denyRowsPerSecond = 10

	portDNS   = 53
	portHTTPS = 443

	// sniType is the endpoint type that a TLS ClientHello may select.
	sniType = "https"
)

// attempt is one TCP connection attempt while it is decided about.
type attempt struct {
	view     *view
	src, dst netip.AddrPort
	release  func() // gives back the place among the registration's flows
}

// TCP: see wireguard.Config. What is not approved, known or allowed is refused
// before the agent's handshake is completed; so is what does not answer.
func (p *Proxy) TCP(ctx context.Context, src, dst netip.AddrPort) (serve func(net.Conn), ok bool) {
	if !p.join() {
		return nil, false
	}
	defer p.running.Done()
	src, dst = unmap(src), unmap(dst)
	v := p.gate.current().identify(src.Addr())
	if v == nil {
		p.counters.refused.Add(1)
		return nil, false
	}
	if v.quota.tcp.Add(1) > maxTCPFlows {
		v.quota.tcp.Add(-1)
		p.counters.refused.Add(1)
		return nil, false
	}
	var once sync.Once
	a := &attempt{view: v, src: src, dst: dst, release: func() { once.Do(func() { v.quota.tcp.Add(-1) }) }}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)() // a dial does not outlast the gateway
	run := p.route(ctx, a)
	if run != nil && !p.Admit(src.Addr()) {
		run(nil) // blocked while it was dialled
		run = nil
	}
	if run == nil {
		a.release()
		p.counters.refused.Add(1)
		return nil, false
	}
	return func(conn net.Conn) {
		defer a.release()
		if !p.join() {
			run(nil)
			if conn != nil {
				abort(conn)
			}
			return
		}
		defer p.running.Done()
		run(conn)
	}, true
}

// route decides where an attempt goes. The result serves it, or releases what it
// holds where conn is nil; a nil result refuses.
func (p *Proxy) route(ctx context.Context, a *attempt) func(conn net.Conn) {
	scope, port := a.view.scope(), a.dst.Port()
	if port == portDNS {
		return p.routeDNS(a)
	}
	if p.db.IsVirtual(a.dst.Addr()) {
		host, ok := p.db.VirtualHost(a.view.registration.ID, a.dst.Addr())
		if !ok {
			p.denied(ctx, a, "tcp", a.dst.String(), "no host stands behind this address")
			return nil
		}
		if m, ok := scope.Match(host, port); ok {
			return p.routeHandler(a, m)
		}
		return p.routeCarry(ctx, a, target{kind: kindCarry, host: host, port: port}, func() (net.Conn, error) {
			return p.dialer.DialHost(ctx, host, port)
		})
	}
	host := a.dst.Addr().String()
	if m, ok := scope.Match(host, port); ok {
		return p.routeHandler(a, m)
	}
	dial := func() (net.Conn, error) { return p.dialer.DialAddr(ctx, a.dst) }
	t := target{kind: kindCarry, host: host, port: port}
	if scope.HasPort(sniType, port) {
		return p.routePeek(ctx, a, t, dial)
	}
	return p.routeCarry(ctx, a, t, dial)
}

// routeHandler accepts at once: the upstream is the handler's business.
func (p *Proxy) routeHandler(a *attempt, m policy.Match) func(net.Conn) {
	if p.handlers[m.Endpoint.Type] == nil {
		return nil
	}
	return func(conn net.Conn) {
		if conn == nil {
			return
		}
		defer hangUp(conn)
		l := p.newLive(a.view.registration.ID, a.dst.Addr())
		defer p.leave(l)
		l.protocol, l.endpoint = m.Endpoint.Type, m.Endpoint
		if !l.hold(conn) || !p.begin(l, handlerTarget(m), handlerDecision(a.view, m)) {
			abort(conn)
			return
		}
		p.handle(a, l, m, conn)
	}
}

// routeCarry dials first: what refuses is refused.
func (p *Proxy) routeCarry(ctx context.Context, a *attempt, t target, dial func() (net.Conn, error)) func(net.Conn) {
	upstream, err := dial()
	if err != nil {
		p.dialFailed(ctx, a, t, err)
		return nil
	}
	t.addr = remoteAddrPort(upstream)
	return func(conn net.Conn) {
		if conn == nil {
			abort(upstream) // unused: no TIME-WAIT holds its port for a minute
			return
		}
		defer hangUp(conn)
		defer hangUp(upstream)
		l := p.newLive(a.view.registration.ID, a.dst.Addr())
		defer p.leave(l)
		l.protocol = "tcp"
		if !l.hold(conn) || !l.hold(upstream) || !p.begin(l, t, decision{kind: kindCarry}) {
			abort(conn)
			abort(upstream)
			return
		}
		p.carry(l, summary(a, t), halves{agent: conn, upstream: upstream})
	}
}

// routePeek dials as routeCarry does, and looks for a ClientHello before the
// splice begins. Where egress forbids the address, the flow is accepted only for
// that look.
func (p *Proxy) routePeek(ctx context.Context, a *attempt, t target, dial func() (net.Conn, error)) func(net.Conn) {
	upstream, err := dial()
	var refused *egress.Refused
	if err != nil && !errors.As(err, &refused) {
		p.dialFailed(ctx, a, t, err)
		return nil
	}
	if upstream != nil {
		t.addr = remoteAddrPort(upstream)
	}
	return func(conn net.Conn) {
		if upstream != nil {
			defer hangUp(upstream)
		}
		if conn == nil {
			if upstream != nil {
				abort(upstream)
			}
			return
		}
		defer hangUp(conn)
		l := p.newLive(a.view.registration.ID, a.dst.Addr())
		defer p.leave(l)
		l.protocol = "tcp"
		held := l.hold(conn) && (upstream == nil || l.hold(upstream))
		if !held || !p.begin(l, target{kind: kindPeek, host: t.host, port: t.port}, decision{kind: kindPeek}) {
			abort(conn)
			return
		}
		p.peekThenServe(a, l, t, conn, upstream, refused)
	}
}

// peekThenServe looks at what is said first and goes by it.
func (p *Proxy) peekThenServe(a *attempt, l *live, t target, conn, upstream net.Conn, refused *egress.Refused) {
	defer p.contain(l.id, t.host)
	seen := peek(conn, upstream)
	t.sni = seen.sni
	if seen.sni != "" {
		v := p.gate.current().view(l.id)
		if m, ok := v.scope().Match(seen.sni, t.port); ok && m.Endpoint.Type == sniType && p.handlers[sniType] != nil {
			if upstream != nil {
				abort(upstream) // unused
			}
			l.served(m.Endpoint)
			if !p.become(l, handlerTarget(m), handlerDecision(a.view, m)) {
				abort(conn)
				return
			}
			p.handle(a, l, m, &replayConn{Conn: conn, head: seen.fromAgent})
			return
		}
	}
	if upstream == nil {
		p.denied(p.ctx, a, "tcp", summary(a, t), refused.Error())
		abort(conn)
		return
	}
	if !p.become(l, t, decision{kind: kindCarry}) {
		abort(conn)
		abort(upstream)
		return
	}
	p.carry(l, summary(a, t), halves{
		agent: conn, agentHead: seen.fromAgent,
		upstream: upstream, upstreamHead: seen.fromUpstream, upstreamErr: seen.upstreamErr,
	})
}

// handle runs the endpoint's handler on conn.
func (p *Proxy) handle(a *attempt, l *live, m policy.Match, conn net.Conn) {
	defer p.contain(l.id, m.Endpoint.Ref())
	err := p.handlers[m.Endpoint.Type].Serve(l.ctx, &Flow{
		Registration: l.id,
		Conn:         conn,
		Source:       a.src,
		Destination:  a.dst,
		Match:        m,
		gate:         p.gate,
		live:         l,
	})
	if err != nil {
		p.log.Debug("a flow ended", "registration", l.id, "endpoint", m.Endpoint.Ref(), "err", err)
	}
}

// carry records a spliced flow, splices it, and records how much it carried. No
// row, no splice (I19).
func (p *Proxy) carry(l *live, summary string, h halves) {
	defer p.contain(l.id, summary)
	started := time.Now()
	id, err := p.db.Append(l.ctx, registry.Action{
		Time:         started,
		Registration: l.id,
		Protocol:     l.protocol,
		Summary:      cleanSummary(summary),
		Verdict:      "allow",
	})
	if err != nil {
		if l.ctx.Err() == nil {
			p.log.Error("recording a spliced flow", "registration", l.id, "err", err)
		}
		abort(h.agent)
		abort(h.upstream)
		return
	}
	h.moved = &l.moved
	in, out, err := splice(h)
	status := "closed"
	switch {
	case l.ctx.Err() != nil:
		status = "cut off"
	case err != nil:
		status = "reset"
	}
	p.db.Finish(id, registry.ActionResult{Status: status, BytesIn: in, BytesOut: out, Duration: time.Since(started)})
}

// newLive starts the bookkeeping of an accepted flow to dst.
func (p *Proxy) newLive(id registry.ID, dst netip.Addr) *live {
	ctx, cancel := context.WithCancelCause(p.ctx)
	l := &live{id: id, draining: p.draining, ctx: ctx, cancel: cancel, began: time.Now()}
	if p.db.IsVirtual(dst) {
		l.virtual = dst
	}
	return l
}

// dialFailed records a dial that the rules refused. One that failed is the
// agent's to see.
func (p *Proxy) dialFailed(ctx context.Context, a *attempt, t target, err error) {
	var refused *egress.Refused
	if errors.As(err, &refused) {
		p.denied(ctx, a, "tcp", summary(a, t), refused.Error())
	}
}

// denied appends a row about a refused flow, denyRowsPerSecond of them.
func (p *Proxy) denied(ctx context.Context, a *attempt, protocol, summary, reason string) {
	if a.view.quota.deny.Allow() {
		p.appendDenied(ctx, a.view, protocol, summary, reason)
	}
}

func (p *Proxy) appendDenied(ctx context.Context, v *view, protocol, summary, reason string) {
	p.gate.deny(ctx, registry.Action{
		Time:         time.Now(),
		Registration: v.registration.ID,
		Protocol:     protocol,
		Summary:      cleanSummary(summary),
	}, &Refusal{Code: CodeDenied, Reason: reason})
}

// summary names a carried flow for the log: the name the agent used where there
// is one, and the address.
func summary(a *attempt, t target) string {
	switch {
	case t.sni != "":
		return hostPort(t.sni, t.port) + " (" + a.dst.String() + ")"
	case t.host != a.dst.Addr().String():
		return hostPort(t.host, t.port)
	}
	return a.dst.String()
}

func handlerTarget(m policy.Match) target {
	return target{kind: kindHandler, host: m.Host, port: m.Port}
}

// hostPort joins a host, which may be an IPv6 address, and a port.
func hostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// remoteAddrPort is what an upstream connection is connected to.
func remoteAddrPort(conn net.Conn) netip.AddrPort {
	if a, ok := conn.RemoteAddr().(interface{ AddrPort() netip.AddrPort }); ok {
		return unmap(a.AddrPort())
	}
	return netip.AddrPort{}
}

// unmap turns ::ffff:192.0.2.1 into 192.0.2.1.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
