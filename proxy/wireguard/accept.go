package wireguard

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Limits of TCP connections in the making: from the agent's SYN to the end of
// the handshake, Config.TCP in between. Beyond them a SYN is answered with RST.
const (
	maxPeerAttempts = 256

	// maxAttempts is what netstack's forwarder is given. It drops silently what
	// exceeds that, whoever it is from, so it must never come to it: once half of
	// it is taken, a peer gets no more than crowdedPeerAttempts.
	maxAttempts         = 4096
	crowdedPeerAttempts = 16

	decideTimeout    = 15 * time.Second // of Config.TCP
	handshakeTimeout = 20 * time.Second // of the agent's answer to our SYN-ACK
)

// Limits of accepted connections, so that one agent that opens many and reads
// none, or sends faster than its upstreams read, costs no more than 700 MB.
const (
	maxPeerConns = 4096 // beyond, a SYN is answered with RST

	// The first roomyPeerConns open at once get netstack's buffers, which grow up
	// to 4 MiB each way; the others get smallBuffer each way.
	roomyPeerConns = 32
	smallBuffer    = 64 << 10
)

// timeWait is how long a connection that the gateway closed first keeps its
// address pair. Netstack drops the SYN of a new connection on the same pair
// meanwhile, and its 60 s would let an agent open no more than 500 connections a
// second to one destination. What the wait protects from, segments of the old
// connection that are still on the way, the tunnel holds back for no longer.
const timeWait = 2 * time.Second

// Keep-alive of accepted connections: an agent that is gone is noticed after
// two minutes.
const (
	keepAliveIdle     = 60 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 4
)

// attempts are the TCP connections in the making.
type attempts struct {
	mu     sync.Mutex
	byID   map[stack.TransportEndpointID]*attempt
	closed bool
}

type attempt struct {
	peer *peer
}

// begin notes an attempt. It says whether it is new, and whether there is room.
// The flow is then counted in flows until end.
func (a *attempts) begin(id stack.TransportEndpointID, p *peer, flows *sync.WaitGroup) (fresh, room bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byID[id] != nil {
		return false, true
	}
	limit := maxPeerAttempts
	if len(a.byID) >= maxAttempts/2 {
		limit = crowdedPeerAttempts
	}
	if a.closed || p.making >= limit || len(a.byID) >= maxAttempts-1 || p.making+int(p.open.Load()) >= maxPeerConns {
		return true, false
	}
	a.byID[id] = &attempt{peer: p}
	p.making++
	flows.Add(1)
	return true, true
}

func (a *attempts) get(id stack.TransportEndpointID) *attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byID[id]
}

// end makes room again.
func (a *attempts) end(id stack.TransportEndpointID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at := a.byID[id]; at != nil {
		at.peer.making--
		delete(a.byID, id)
	}
}

// stop lets no more attempts begin.
func (a *attempts) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
}

// handleTCP takes the segments that belong to no connection. False makes
// netstack answer RST, to anything but a RST.
func (t *Tunnel) handleTCP(id stack.TransportEndpointID, packet *stack.PacketBuffer) bool {
	flags := header.TCP(packet.TransportHeader().Slice()).Flags()
	if flags&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) != header.TCPFlagSyn {
		return false
	}
	if t.cfg.TCP == nil {
		return false
	}
	p := t.peers.Load().find(toAddr(id.RemoteAddress))
	if p == nil {
		return true
	}
	fresh, room := t.attempts.begin(id, p, &t.flows)
	if !fresh {
		return true // a retransmitted SYN: being decided
	}
	if !room {
		t.counters.overLimit.Add(1)
		return false
	}
	if !t.forwarder.HandlePacket(id, packet) {
		t.attempts.end(id)
		t.flows.Done()
		return false
	}
	return true
}

// accept decides about one connection attempt, completes it and serves it. The
// forwarder calls it in a goroutine of its own.
func (t *Tunnel) accept(r *tcp.ForwarderRequest) {
	defer t.flows.Done()
	id := r.ID()
	at := t.attempts.get(id)
	serve, ok := t.decide(at.peer, id)
	if !ok || serve == nil {
		r.Complete(true)
		t.attempts.end(id)
		return
	}
	conn := t.complete(r, at.peer)
	t.attempts.end(id)
	if conn == nil {
		defer t.contain("serve")
		serve(nil)
		return
	}
	t.serve(conn, serve)
}

// decide asks Config.TCP.
func (t *Tunnel) decide(p *peer, id stack.TransportEndpointID) (serve func(net.Conn), ok bool) {
	ctx, cancel := context.WithTimeout(p.ctx, decideTimeout)
	defer cancel()
	defer t.contain("TCP")
	src := netip.AddrPortFrom(toAddr(id.RemoteAddress), id.RemotePort)
	dst := netip.AddrPortFrom(toAddr(id.LocalAddress), id.LocalPort)
	return t.cfg.TCP(ctx, src, dst)
}

// complete does the handshake with the agent. It returns nil when that came to
// nothing: the agent or its registration has gone meanwhile.
func (t *Tunnel) complete(r *tcp.ForwarderRequest, p *peer) *Conn {
	if p.ctx.Err() != nil {
		r.Complete(false)
		return nil
	}
	id := r.ID()
	network := header.IPv6ProtocolNumber
	if id.RemoteAddress.Len() == header.IPv4AddressSize {
		network = header.IPv4ProtocolNumber
	}
	// CreateEndpoint waits for the agent as long as netstack sends SYN-ACKs,
	// which is two minutes, unless the endpoint goes away. The same when the peer
	// is removed or the tunnel closes just before it exists.
	abandon := func() {
		if ep := t.stack.FindTransportEndpoint(network, tcp.ProtocolNumber, id, nicVerified); ep != nil {
			ep.Abort()
		}
	}
	limit := time.AfterFunc(handshakeTimeout, abandon)
	defer limit.Stop()
	stop := context.AfterFunc(p.ctx, abandon)
	defer stop()

	queue := new(waiter.Queue)
	ep, err := r.CreateEndpoint(queue)
	// Without RST: a handshake fails because the agent sent one, or is away.
	r.Complete(false)
	if err != nil {
		return nil
	}
	if p.ctx.Err() != nil {
		ep.Abort()
		return nil
	}
	keepAlive(ep)
	if p.open.Add(1) > roomyPeerConns {
		ep.SocketOptions().SetSendBufferSize(smallBuffer, true)
		ep.SocketOptions().SetReceiveBufferSize(smallBuffer, true)
	}
	t.conns.Add(1)
	return newConn(gonet.NewTCPConn(queue, ep), ep, id, t.conns.Done, func() { p.open.Add(-1) })
}

func keepAlive(ep tcpip.Endpoint) {
	// Setting these on a connected TCP endpoint cannot fail.
	idle, interval := tcpip.KeepaliveIdleOption(keepAliveIdle), tcpip.KeepaliveIntervalOption(keepAliveInterval)
	_ = ep.SetSockOpt(&idle)
	_ = ep.SetSockOpt(&interval)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepAliveCount)
	ep.SocketOptions().SetKeepAlive(true)
}

// serve hands conn over. A panic resets it.
func (t *Tunnel) serve(conn *Conn, serve func(net.Conn)) {
	panicked := true
	defer func() {
		if panicked {
			conn.Abort()
		}
	}()
	defer t.contain("serve")
	serve(conn)
	panicked = false
}
