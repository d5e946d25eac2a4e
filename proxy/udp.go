package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/egress"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	// maxUDPFlows is how many UDP flows a registration has; a new one takes the
	// place of the one that has been quiet for longest.
	maxUDPFlows = 1024

	// maxUDPDials is how many of them may be in the making.
	maxUDPDials = 64

	// udpFlowRate and udpFlowBurst are how fast a registration may begin them:
	// each has a socket and a row on the log.
	udpFlowRate  = 512 // a second
	udpFlowBurst = 2048

	// What a flow in the making keeps of what the agent sends.
	maxUDPQueue      = 64
	maxUDPQueueBytes = 64 << 10

	udpIdle       = 60 * time.Second
	udpIdleSpoken = 120 * time.Second // RFC 4787, section 4.3, REQ-5: once both sides have spoken
)

// udpTable is the UDP flows of one registration.
type udpTable struct {
	mu      sync.Mutex
	flows   map[udpKey]*udpFlow
	dialing int
}

type udpKey struct{ src, dst netip.AddrPort }

// udpFlow is one conversation over UDP. The receive path writes, its own
// goroutine reads.
type udpFlow struct {
	key  udpKey
	host string // behind a virtual address; else empty
	view *view
	live *live

	lastActive atomic.Int64 // Unix nanoseconds
	in, out    atomic.Int64 // bytes from and to the agent
	spoken     atomic.Bool  // by the upstream

	mu          sync.Mutex // guards the rest
	queue       [][]byte   // until there is a socket
	queuedBytes int
	raw         syscall.RawConn // nil until there is one
	writeOnce   func(fd uintptr) bool
	payload     []byte // what writeOnce writes; nil otherwise
	writeErr    error
}

// UDP: see wireguard.Config. It runs on the receive path and never waits.
func (p *Proxy) UDP(src, dst netip.AddrPort, payload []byte) wireguard.Disposition {
	if p.gate == nil || p.closing.Load() {
		return wireguard.Taken
	}
	src, dst = unmap(src), unmap(dst)
	v := p.gate.current().identify(src.Addr())
	if v == nil {
		return wireguard.Taken // not even an ICMP error (I07)
	}
	if dst.Port() == portDNS {
		return p.dnsUDP(v, src, dst, payload)
	}
	key := udpKey{src, dst}
	if f := v.quota.udp.get(key); f != nil {
		return p.toUpstream(f, payload)
	}
	return p.newUDP(v, key, payload)
}

// newUDP starts a flow with its first datagram.
func (p *Proxy) newUDP(v *view, key udpKey, payload []byte) wireguard.Disposition {
	host := key.dst.Addr().String()
	virtual := p.db.IsVirtual(key.dst.Addr())
	if virtual {
		var ok bool
		if host, ok = p.db.VirtualHost(v.registration.ID, key.dst.Addr()); !ok {
			return wireguard.Prohibited
		}
	}
	if refusesQUIC(v, host, key.dst.Port()) {
		return wireguard.PortUnreachable
	}
	if !virtual {
		if err := p.dialer.Check(key.dst); err != nil {
			p.deniedSoon(v, "udp", key.dst.String(), err.Error())
			return wireguard.Prohibited
		}
	}
	if !v.quota.udpNew.Allow() {
		p.counters.udpDropped.Add(1)
		return wireguard.Taken
	}
	f := &udpFlow{key: key, view: v, live: p.newLive(v.registration.ID, key.dst.Addr())}
	f.live.protocol = "udp"
	f.live.carried = func() int64 { return f.in.Load() + f.out.Load() }
	if virtual {
		f.host = host
	}
	f.touch()
	f.enqueue(payload)
	evicted, ok := v.quota.udp.add(f)
	if evicted != nil {
		p.counters.udpEvicted.Add(1)
		evicted.live.end(errEvicted)
	}
	if !ok {
		p.counters.udpDropped.Add(1)
		f.live.end(errEvicted)
		return wireguard.Taken
	}
	if !p.start(func() { p.runUDP(f) }) {
		v.quota.udp.dialed()
		v.quota.udp.remove(f)
		f.live.end(errStopped)
	}
	return wireguard.Taken
}

// refusesQUIC reports whether a datagram to host and port has to be refused so
// that the agent takes to TCP, where the endpoint is served.
func refusesQUIC(v *view, host string, port uint16) bool {
	if port == portHTTPS && v.scope().HasHost(host) {
		return true
	}
	_, ok := v.scope().Match(host, port)
	return ok
}

// errEvicted is why a UDP flow ended that had to make room.
var errEvicted = errors.New("evicted for a newer flow")

// runUDP dials, writes what has been queued, and relays what comes back until
// the flow is idle or closed.
func (p *Proxy) runUDP(f *udpFlow) {
	defer f.view.quota.udp.remove(f)
	defer p.leave(f.live)
	defer p.contain(f.live.id, f.key.dst.String())
	conn, row, ok := p.openUDP(f)
	if !ok {
		return
	}
	started := time.Now()
	status := "closed"
	if err := p.fromUpstream(f, conn); err != nil && f.live.ctx.Err() != nil {
		status = "cut off"
	}
	p.db.Finish(row, registry.ActionResult{Status: status, BytesIn: f.in.Load(), BytesOut: f.out.Load(), Duration: time.Since(started)})
}

// openUDP makes the flow's socket, enters the flow into the table and the log,
// and flushes its queue.
func (p *Proxy) openUDP(f *udpFlow) (conn *net.UDPConn, row int64, ok bool) {
	defer f.view.quota.udp.dialed()
	l, dst := f.live, f.key.dst
	t := target{kind: kindCarry, udp: true, host: dst.Addr().String(), port: dst.Port()}
	ctx, cancel := context.WithTimeout(l.ctx, queryWait)
	defer cancel()
	if f.host != "" {
		addr, err := p.lookup(ctx, l.id, f.host, dst.Addr().Is6())
		if err != nil {
			return nil, 0, false
		}
		dst, t.host = netip.AddrPortFrom(addr, dst.Port()), f.host
	}
	summary := hostPort(t.host, t.port)
	conn, err := p.dialer.DialUDP(ctx, dst)
	if err != nil {
		var refused *egress.Refused
		if errors.As(err, &refused) {
			p.deniedSoon(f.view, l.protocol, summary, refused.Error())
		}
		return nil, 0, false
	}
	t.addr = dst
	if !l.hold(conn) || !p.begin(l, t, decision{kind: kindCarry}) {
		hangUp(conn)
		return nil, 0, false
	}
	row, err = p.db.Append(ctx, registry.Action{
		Time:         time.Now(),
		Registration: l.id,
		Protocol:     l.protocol,
		Summary:      cleanSummary(summary),
		Verdict:      "allow",
	})
	if err != nil {
		return nil, 0, false // no row, no flow (I19)
	}
	if err := f.open(conn); err != nil {
		p.db.Finish(row, registry.ActionResult{Status: "failed"})
		return nil, 0, false
	}
	return conn, row, true
}

// fromUpstream relays answers until the flow has been idle for too long, which
// is no error.
func (p *Proxy) fromUpstream(f *udpFlow, conn *net.UDPConn) error {
	from, err := newDatagramSource(conn)
	if err != nil {
		return err
	}
	defer from.release()
	for {
		_ = conn.SetReadDeadline(f.deadline())
		b, err := from.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if time.Now().Before(f.deadline()) {
				continue // the agent has spoken meanwhile
			}
			return nil
		case errors.Is(err, syscall.ECONNREFUSED):
			p.refuseUDP(f)
			continue
		case err != nil:
			return err
		}
		f.out.Add(int64(len(b)))
		f.spoken.Store(true)
		f.touch()
		if !p.Admit(f.key.src.Addr()) {
			return errUncovered
		}
		p.sendUDP(f.key.dst, f.key.src, b)
	}
}

// toUpstream sends one datagram, or queues it while there is no socket. It never
// waits: what the socket does not take at once is dropped, as a network would.
func (p *Proxy) toUpstream(f *udpFlow, payload []byte) wireguard.Disposition {
	f.touch()
	f.mu.Lock()
	defer f.mu.Unlock()
	var sent bool
	if f.raw == nil {
		sent = f.enqueue(payload)
	} else {
		err := f.write(payload)
		if err == syscall.ECONNREFUSED {
			return wireguard.PortUnreachable // of a datagram before this one, which was not sent
		}
		sent = err == nil
	}
	if !sent {
		p.counters.udpDropped.Add(1)
	}
	return wireguard.Taken
}

// refuseUDP tells the agent that the upstream answered with port unreachable.
func (p *Proxy) refuseUDP(f *udpFlow) {
	if back := p.back.Load(); back != nil && p.Admit(f.key.src.Addr()) {
		(*back).RefuseUDP(f.key.dst, f.key.src, wireguard.PortUnreachable)
	}
}

// enqueue keeps a copy of payload for when there is a socket. f.mu is held, or f
// is not shared yet.
func (f *udpFlow) enqueue(payload []byte) bool {
	if len(f.queue) >= maxUDPQueue || f.queuedBytes+len(payload) > maxUDPQueueBytes {
		return false
	}
	f.queue = append(f.queue, append([]byte(nil), payload...))
	f.queuedBytes += len(payload)
	return true
}

// open gives the flow its socket and sends what was queued.
func (f *udpFlow) open(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.raw, f.writeOnce = raw, f.try
	for _, payload := range f.queue {
		_ = f.write(payload) // lost, as any datagram may be
	}
	f.queue, f.queuedBytes = nil, 0
	return nil
}

// write sends payload if the socket takes it now. f.mu is held.
func (f *udpFlow) write(payload []byte) error {
	f.payload = payload
	err := f.raw.Write(f.writeOnce)
	f.payload = nil
	if err == nil {
		err = f.writeErr
	}
	if err == nil {
		f.in.Add(int64(len(payload)))
	}
	return err
}

// try is one attempt, whatever comes of it: true never waits.
func (f *udpFlow) try(fd uintptr) bool {
	_, f.writeErr = syscall.Write(int(fd), f.payload)
	return true
}

func (f *udpFlow) touch() { f.lastActive.Store(time.Now().UnixNano()) }

// deadline is when the flow has been idle for too long, as things stand.
func (f *udpFlow) deadline() time.Time {
	idle := udpIdle
	if f.spoken.Load() {
		idle = udpIdleSpoken
	}
	return time.Unix(0, f.lastActive.Load()).Add(idle)
}

func (t *udpTable) get(key udpKey) *udpFlow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows[key]
}

// add enters a flow in the making, and returns the one it took the place of, if
// any. It reports false where too many are in the making.
func (t *udpTable) add(f *udpFlow) (evicted *udpFlow, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dialing >= maxUDPDials {
		return nil, false
	}
	if t.flows == nil {
		t.flows = make(map[udpKey]*udpFlow)
	}
	if len(t.flows) >= maxUDPFlows {
		for _, other := range t.flows {
			if evicted == nil || other.lastActive.Load() < evicted.lastActive.Load() {
				evicted = other
			}
		}
		delete(t.flows, evicted.key)
	}
	t.flows[f.key] = f
	t.dialing++
	return evicted, true
}

// dialed says that a flow is no longer in the making.
func (t *udpTable) dialed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dialing--
}

func (t *udpTable) remove(f *udpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flows[f.key] == f {
		delete(t.flows, f.key)
	}
}

// sendUDP returns an answer to the agent; one that the tunnel does not take is
// lost.
func (p *Proxy) sendUDP(from, to netip.AddrPort, payload []byte) {
	if back := p.back.Load(); back != nil {
		if err := (*back).SendUDP(from, to, payload); err != nil {
			p.log.Debug("answering over udp", "err", err)
		}
	}
}

// deniedSoon is denied for the receive path, which must not wait for the log.
func (p *Proxy) deniedSoon(v *view, protocol, summary, reason string) {
	if v.quota.deny.Allow() {
		p.start(func() { p.appendDenied(p.ctx, v, protocol, summary, reason) })
	}
}
