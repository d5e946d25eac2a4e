package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// errUncovered is why a flow's context ended: the registry or the policy no
// longer has it.
var errUncovered = errors.New("the flow is no longer covered")

const (
	// drainIdle is how long after its last action a flow of a handler is closed
	// while the gateway drains: the answer may still be in a buffer.
	drainIdle = 200 * time.Millisecond

	// drainQuiet is how long a splice is silent before it counts as idle then.
	drainQuiet = 3 * time.Second

	// keepVirtualEvery is how often the virtual addresses of running flows count
	// as used: well within the day after which one stands for another host.
	keepVirtualEvery = time.Hour
)

// target is what a flow asked for, kept so that it can be routed again.
type target struct {
	kind kind
	udp  bool
	host string // what was matched: a name behind a virtual address or in an SNI, or the text of the address
	sni  string // that a spliced ClientHello named
	port uint16
	// addr is whom the gateway talks to for a flow it carries itself; zero for
	// handlers and DNS.
	addr netip.AddrPort
}

// kind is what becomes of a flow. The zero value refuses.
type kind int

const (
	kindRefuse kind = iota
	kindHandler
	kindCarry // spliced, or UDP relayed
	kindPeek  // accepted; a ClientHello may still select an endpoint
	kindDNS
)

// decision is what routing says about a target. Live flows end when theirs
// changes.
type decision struct {
	kind        kind
	endpoint    string // fingerprint
	credentials string // fingerprints, in order
	missing     string
}

func handlerDecision(v *view, m policy.Match) decision {
	fingerprints := make([]string, 0, len(m.Credentials))
	for _, c := range m.Credentials {
		fingerprints = append(fingerprints, c.Ref()+"="+c.Fingerprint)
	}
	for _, e := range jumps(m.Endpoint) {
		jump, _ := v.scope().Match(e.Hosts[0].Name, e.Hosts[0].Port)
		for _, c := range jump.Credentials {
			fingerprints = append(fingerprints, c.Ref()+"="+c.Fingerprint)
		}
	}
	return decision{
		kind:        kindHandler,
		endpoint:    m.Endpoint.Ref() + "=" + m.Endpoint.Fingerprint,
		credentials: strings.Join(fingerprints, ","),
		missing:     m.MissingProfile,
	}
}

// jumps returns the endpoints through which e is reached, the nearest first. The
// policy has neither circles of them nor any of several hosts.
func jumps(e *policy.Endpoint) []*policy.Endpoint {
	var way []*policy.Endpoint
	for e != nil && e.SSH != nil && e.SSH.Jump != nil && len(e.SSH.Jump.Hosts) > 0 {
		e = e.SSH.Jump
		way = append(way, e)
	}
	return way
}

// decide routes t for v by the present rules. A nil view is refused.
func (p *Proxy) decide(v *view, t target) decision {
	if v == nil {
		return decision{}
	}
	switch t.kind {
	case kindDNS, kindPeek:
		return decision{kind: t.kind}
	case kindHandler, kindCarry:
		if t.udp && refusesQUIC(v, t.host, t.port) {
			return decision{}
		}
		for _, host := range []string{t.host, t.sni} {
			if host == "" {
				continue
			}
			if m, ok := v.scope().Match(host, t.port); ok && m.Endpoint != nil {
				return handlerDecision(v, m)
			}
		}
		if t.kind == kindHandler || p.dialer.Check(t.addr) != nil {
			return decision{}
		}
		return decision{kind: kindCarry}
	}
	return decision{}
}

// place is where the flow's own actions go.
func (l *live) place() place {
	return place{host: l.target.host, port: l.target.port, endpoint: l.endpoint}
}

// live is one running flow: what it was decided to be, and how to end it.
type live struct {
	id       registry.ID
	protocol string           // for the log; what a peek changes, mu guards for who lists flows
	endpoint *policy.Endpoint // of handlers, as protocol; nil otherwise
	draining <-chan struct{}
	ctx      context.Context
	cancel   context.CancelCauseFunc
	moved    atomic.Int64 // bytes spliced, or of actions that have finished; both ways
	carried  func() int64 // of UDP: bytes relayed, both ways; else nil
	virtual  netip.Addr   // that the agent goes to; zero where it is another address
	began    time.Time

	mu       sync.Mutex // guards the rest
	target   target
	decision decision
	set      *profileSet // under which decision was last confirmed
	policy   *policy.Policy
	conns    []net.Conn
	closed   bool
	actions  map[*Grant]struct{} // not finished
	lastEnd  time.Time           // of an action
}

// hold makes conn one of those that end with the flow. Where the flow has ended
// already, it ends conn and reports false.
func (l *live) hold(conn net.Conn) bool {
	l.mu.Lock()
	if !l.closed {
		l.conns = append(l.conns, conn)
		l.mu.Unlock()
		return true
	}
	l.mu.Unlock()
	abort(conn)
	return false
}

// end closes the flow at once, from whatever goroutine. Both sides see a reset.
func (l *live) end(cause error) { l.close(cause, abort) }

// close takes the flow's connections from it, for good, and closes them.
func (l *live) close(cause error, how func(net.Conn)) {
	l.cancel(cause)
	l.mu.Lock()
	conns := l.conns
	l.conns, l.closed = nil, true
	l.mu.Unlock()
	for _, conn := range conns {
		how(conn)
	}
}

// actionBegan reports false where the flow has ended already.
func (l *live) actionBegan(g *Grant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if l.actions == nil {
		l.actions = make(map[*Grant]struct{})
	}
	l.actions[g] = struct{}{}
	return true
}

func (l *live) actionEnded(g *Grant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.actions, g)
	l.lastEnd = time.Now()
}

// finishActions ends what the handler left open.
func (l *live) finishActions() {
	l.mu.Lock()
	open := make([]*Grant, 0, len(l.actions))
	for g := range l.actions {
		open = append(open, g)
	}
	l.mu.Unlock()
	for _, g := range open {
		g.Finish(registry.ActionResult{Status: "aborted"})
	}
}

// quiet is what drain remembers of a splice.
type quiet struct {
	moved int64
	since time.Time
}

// idle reports whether a flow has nothing running, nor had lately. Of UDP
// nothing is taken any more while the gateway drains. before is what idle
// returned the last time, or zero.
func (l *live) idle(now time.Time, before quiet) (bool, quiet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.target.udp:
		return true, quiet{}
	case l.target.kind == kindCarry:
		if moved := l.moved.Load(); before.since.IsZero() || moved != before.moved {
			return false, quiet{moved, now}
		}
		return now.Sub(before.since) >= drainQuiet, before
	}
	return len(l.actions) == 0 && now.Sub(l.lastEnd) >= drainIdle, quiet{}
}

// liveTable is all running flows.
type liveTable struct {
	mu    sync.Mutex
	flows map[*live]struct{}
}

func (t *liveTable) add(l *live) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flows == nil {
		t.flows = make(map[*live]struct{})
	}
	t.flows[l] = struct{}{}
}

func (t *liveTable) remove(l *live) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.flows, l)
}

func (t *liveTable) all() []*live {
	t.mu.Lock()
	defer t.mu.Unlock()
	flows := make([]*live, 0, len(t.flows))
	for l := range t.flows {
		flows = append(flows, l)
	}
	return flows
}

func (t *liveTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}

// begin puts a flow into the table under t as decided. It reports false where
// the present state decides differently. Either way the caller ends it with
// p.leave.
func (p *Proxy) begin(l *live, t target, d decision) bool {
	l.target, l.decision = t, d
	p.flows.add(l)
	// In the table first, checked second: a change that comes after the check
	// finds the flow in the table.
	if !p.confirm(l) {
		p.flows.remove(l)
		return false
	}
	return true
}

// served says who speaks for a flow in the table, once a peek has told.
func (l *live) served(e *policy.Endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.protocol, l.endpoint = e.Type, e
}

// become changes what a flow in the table is, once a peek has told.
func (p *Proxy) become(l *live, t target, d decision) bool {
	l.mu.Lock()
	l.target, l.decision, l.set = t, d, nil
	l.mu.Unlock()
	return p.confirm(l)
}

// confirm reports whether the present state still decides about l as it did.
func (p *Proxy) confirm(l *live) bool {
	st := p.gate.current()
	v := st.view(l.id)
	if v == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set == v.set && l.policy == st.policy {
		return true // neither the policy nor the profiles changed
	}
	if p.decide(v, l.target) != l.decision {
		return false
	}
	l.set, l.policy = v.set, st.policy
	return true
}

// leave ends a flow that has run its course.
func (p *Proxy) leave(l *live) {
	l.close(context.Canceled, hangUp)
	l.finishActions()
	p.flows.remove(l)
}

// sweep closes every flow that the present state no longer covers.
func (p *Proxy) sweep() {
	for _, l := range p.flows.all() {
		if !p.confirm(l) {
			l.end(errUncovered)
			p.counters.swept.Add(1)
		}
	}
}

// keepVirtual counts the virtual addresses of running flows as used now, so that
// none is given to another host while packets of the first still come.
func (p *Proxy) keepVirtual() {
	for _, l := range p.flows.all() {
		if l.virtual.IsValid() {
			p.db.VirtualHost(l.id, l.virtual) // looking it up is using it
		}
	}
}

// abort closes conn so that the other end sees a reset where the connection can
// say so.
func abort(conn net.Conn) {
	switch c := conn.(type) {
	case interface{ Abort() }:
		c.Abort()
	case interface{ Abort() error }:
		_ = c.Abort()
	case interface{ SetLinger(sec int) error }: // *net.TCPConn
		_ = c.SetLinger(0)
		_ = conn.Close()
	default:
		_ = conn.Close()
	}
}
