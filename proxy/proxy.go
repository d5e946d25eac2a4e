// Package proxy is the data path: it accepts a flow, identifies it, finds its
// endpoint, and hands it to a protocol handler or splices it.
//
// A flow is identified by the tunnel address it comes from and by nothing else.
// It is routed by where it goes: a virtual address stands for a host of an
// endpoint; a direct address may itself be one; on ports where the registration
// has an endpoint, the name in a TLS ClientHello may select it. What no endpoint
// names is carried unchanged, if the egress rules allow.
//
// Everything is decided by an immutable state behind an atomic pointer, made
// from the policy and the registry's snapshot. When either changes, the flows
// that the new state decides differently about are closed at once.
//
// A handler gets at a credential's secret in one way: Flow.Authorize, which asks
// the Gate, which decides by the present state, records the action, and only
// then hands out a Grant.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy/dns"
	"github.com/clawpatrol/clawpatrol/proxy/egress"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
)

// Config assembles a Proxy. All fields but Log are required.
type Config struct {
	Registry *registry.DB
	Policy   *policy.Policy // the first; SetPolicy replaces it
	Dialer   *egress.Dialer
	Resolver *dns.Resolver
	Handlers map[string]Handler // by endpoint type
	Log      *slog.Logger
}

// Proxy routes flows. Its TCP, UDP, Echo and Admit methods are what a transport
// (wireguard.Config) calls. The zero Proxy refuses everything.
type Proxy struct {
	gate     *Gate
	db       *registry.DB
	dialer   *egress.Dialer
	handlers map[string]Handler
	log      *slog.Logger
	answer   func(context.Context, dns.Query) ([]byte, error)
	ping     pinger

	back     atomic.Pointer[answers] // nil until SetTunnel: answers are lost
	flows    liveTable
	counters counters

	ctx      context.Context // of all flows
	stop     context.CancelCauseFunc
	draining chan struct{}
	closing  atomic.Bool

	// accept guards running against a Wait that races with an Add: whoever
	// starts something holds it for reading while it looks at closing.
	accept  sync.RWMutex
	running sync.WaitGroup

	unfollow func()
	followed chan struct{}
}

// counters are what an operator watches.
type counters struct {
	refused     atomic.Uint64
	swept       atomic.Uint64
	panics      atomic.Uint64
	dnsDropped  atomic.Uint64
	udpEvicted  atomic.Uint64
	udpDropped  atomic.Uint64
	echoDropped atomic.Uint64
}

// Counters is what the data path has counted since it began.
type Counters struct {
	Flows       int    // running now
	Refused     uint64 // connections that were not accepted
	Swept       uint64 // flows closed because they were no longer covered
	Panics      uint64 // flows that ended in a panic
	DNSDropped  uint64 // queries over the limit of a registration
	UDPEvicted  uint64 // UDP flows that made room for newer ones
	UDPDropped  uint64 // datagrams over a limit
	EchoDropped uint64 // echo requests over the limit of a registration
}

// Counters reads them.
func (p *Proxy) Counters() Counters {
	return Counters{
		Flows:       p.flows.len(),
		Refused:     p.counters.refused.Load(),
		Swept:       p.counters.swept.Load(),
		Panics:      p.counters.panics.Load(),
		DNSDropped:  p.counters.dnsDropped.Load(),
		UDPEvicted:  p.counters.udpEvicted.Load(),
		UDPDropped:  p.counters.udpDropped.Load(),
		EchoDropped: p.counters.echoDropped.Load(),
	}
}

// errStopped is why flows end when the gateway does.
var errStopped = errors.New("the gateway is stopping")

// stopWait is how long Shutdown waits for flows whose connections it has closed.
const stopWait = 5 * time.Second

// New returns a Proxy that follows the registry's snapshots until Shutdown.
func New(cfg Config) (*Proxy, error) {
	switch {
	case cfg.Registry == nil:
		return nil, errors.New("assembling the proxy: no registry")
	case cfg.Policy == nil:
		return nil, errors.New("assembling the proxy: no policy")
	case cfg.Dialer == nil:
		return nil, errors.New("assembling the proxy: no dialer")
	case cfg.Resolver == nil:
		return nil, errors.New("assembling the proxy: no resolver")
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{
		gate:     &Gate{db: cfg.Registry, log: log},
		db:       cfg.Registry,
		dialer:   cfg.Dialer,
		handlers: maps.Clone(cfg.Handlers),
		log:      log,
		answer:   cfg.Resolver.Answer,
		ping:     newPinger(),
		draining: make(chan struct{}),
		followed: make(chan struct{}),
	}
	p.ctx, p.stop = context.WithCancelCause(context.Background())
	changed, stop := cfg.Registry.Changed()
	p.unfollow = stop
	p.gate.setPolicy(cfg.Policy)
	go p.follow(changed)
	return p, nil
}

// follow closes what a change of the registry no longer covers, and keeps what
// flows use.
func (p *Proxy) follow(changed <-chan struct{}) {
	defer close(p.followed)
	keep := time.NewTicker(keepVirtualEvery)
	defer keep.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-keep.C:
			p.keepVirtual()
		case _, ok := <-changed:
			if !ok {
				return
			}
			p.sweep()
		}
	}
}

// SetPolicy swaps the policy. Set the dialer's rules first: flows that either no
// longer covers are closed when it returns.
func (p *Proxy) SetPolicy(pol *policy.Policy) {
	if pol == nil {
		return
	}
	p.gate.setPolicy(pol)
	p.sweep()
}

// SetTunnel says through what UDP and echo answers go back. Call it before the
// first packet.
func (p *Proxy) SetTunnel(t *wireguard.Tunnel) { p.setAnswers(t) }

// answers is the way back to the agents: *wireguard.Tunnel.
type answers interface {
	SendUDP(from, to netip.AddrPort, payload []byte) error
	SendEcho(e wireguard.Echo) error
	RefuseUDP(remote, agent netip.AddrPort, d wireguard.Disposition)
}

func (p *Proxy) setAnswers(a answers) { p.back.Store(&a) }

// Admit: see wireguard.Config. True for approved registrations only.
func (p *Proxy) Admit(src netip.Addr) bool {
	if p.gate == nil {
		return false
	}
	reg, ok := p.db.Snapshot().ByAddr(src.Unmap())
	return ok && reg.State == registry.Approved
}

// start runs f in a goroutine that Shutdown waits for. It reports false, and
// runs nothing, once the gateway stops.
func (p *Proxy) start(f func()) bool {
	if !p.join() {
		return false
	}
	go func() {
		defer p.running.Done()
		f()
	}()
	return true
}

// join counts the caller among what Shutdown waits for, until it calls
// p.running.Done. It reports false once the gateway stops.
func (p *Proxy) join() bool {
	p.accept.RLock()
	defer p.accept.RUnlock()
	if p.gate == nil || p.closing.Load() {
		return false
	}
	p.running.Add(1)
	return true
}

// contain stops a panic at the flow it happened in. Use it in a defer.
func (p *Proxy) contain(id registry.ID, what string) {
	r := recover()
	if r == nil {
		return
	}
	p.counters.panics.Add(1)
	// Any other value may quote what the flow carried: its type has to do.
	value := fmt.Sprintf("%T", r)
	if e, ok := r.(runtime.Error); ok {
		value = e.Error()
	}
	p.log.Error("a flow panicked", "registration", id, "flow", what, "panic", value, "stack", string(debug.Stack()))
}

// Shutdown stops accepting, lets running actions end until ctx does, then
// closes all flows. That some had to be closed is logged and no error; an error
// means that one does not end even so.
func (p *Proxy) Shutdown(ctx context.Context) error {
	if p.gate == nil {
		return nil
	}
	p.accept.Lock()
	if !p.closing.Swap(true) {
		close(p.draining)
	}
	p.accept.Unlock()

	done := make(chan struct{})
	go func() {
		p.running.Wait()
		close(done)
	}()
	p.drain(ctx, done)
	p.stop(errStopped)
	for _, l := range p.flows.all() {
		l.end(errStopped)
	}
	<-p.followed
	p.unfollow()
	select {
	case <-done:
		return nil
	case <-time.After(stopWait):
		return errors.New("stopping the proxy: a flow does not end though its connections are closed")
	}
}

// drain closes flows as they become idle, until all are gone or ctx ends.
func (p *Proxy) drain(ctx context.Context, done <-chan struct{}) {
	tick := time.NewTicker(drainIdle / 4)
	defer tick.Stop()
	seen := make(map[*live]quiet)
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			p.log.Info("closing flows that are not finished", "flows", p.flows.len())
			return
		case now := <-tick.C:
			for _, l := range p.flows.all() {
				idle, q := l.idle(now, seen[l])
				if seen[l] = q; idle {
					l.end(errStopped)
				}
			}
		}
	}
}

// hangUp closes conn in an orderly way: nil is a connection whose agent has gone.
func hangUp(conn net.Conn) {
	if conn != nil {
		_ = conn.Close()
	}
}
