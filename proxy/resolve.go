package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/dns"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	// maxQueries is how many queries of a registration are being answered at
	// once. Over UDP more are dropped; a TCP connection with more is closed.
	maxQueries = 256

	// maxPipelined is how many of them one TCP connection has (RFC 7766, section
	// 6.2.1.1).
	maxPipelined = 16

	// maxQuery bounds a query. Real ones have less than 512 bytes; EDNS options
	// and padding add to that (RFC 7830).
	maxQuery = 4096

	queryWait  = 10 * time.Second // for one answer
	dnsTCPIdle = 10 * time.Second // RFC 7766, section 6.2.3
)

// dnsUDP takes a query off the receive path and answers it in a goroutine.
func (p *Proxy) dnsUDP(v *view, src, dst netip.AddrPort, payload []byte) wireguard.Disposition {
	if len(payload) > maxQuery || !v.takeQuery() {
		p.counters.dnsDropped.Add(1)
		return wireguard.Taken
	}
	message := append([]byte(nil), payload...)
	if !p.start(func() {
		defer v.quota.dns.Add(-1)
		defer p.contain(v.registration.ID, "dns")
		p.answerUDP(v, src, dst, message)
	}) {
		v.quota.dns.Add(-1)
	}
	return wireguard.Taken
}

func (p *Proxy) answerUDP(v *view, src, dst netip.AddrPort, message []byte) {
	ctx, cancel := context.WithTimeout(p.ctx, queryWait)
	defer cancel()
	reply, err := p.answer(ctx, dns.Query{Registration: v.registration.ID, Scope: v.scope(), Server: dst, Message: message})
	if err != nil {
		return
	}
	// Whoever was blocked while the answer was sought gets none (I07).
	if !p.Admit(src.Addr()) {
		return
	}
	p.sendUDP(dst, src, reply)
}

// takeQuery takes one of the registration's places for queries; the caller gives
// it back.
func (v *view) takeQuery() bool {
	if v.quota.dns.Add(1) > maxQueries {
		v.quota.dns.Add(-1)
		return false
	}
	return true
}

// routeDNS accepts DNS over TCP to any resolver: names in scope are answered
// here whomever the agent asks, and what would have to go to a resolver that
// egress forbids is answered REFUSED, as over UDP.
func (p *Proxy) routeDNS(a *attempt) func(net.Conn) {
	return func(conn net.Conn) {
		if conn == nil {
			return
		}
		defer hangUp(conn)
		l := p.newLive(a.view.registration.ID, a.dst.Addr())
		defer p.leave(l)
		l.protocol = "dns"
		if !l.hold(conn) || !p.begin(l, target{kind: kindDNS, host: a.dst.Addr().String(), port: portDNS}, decision{kind: kindDNS}) {
			abort(conn)
			return
		}
		defer p.contain(l.id, "dns over tcp")
		p.serveDNS(l, a.dst, conn)
	}
}

// serveDNS answers queries until the agent has no more. Answers may come out of
// order (RFC 7766, section 7).
func (p *Proxy) serveDNS(l *live, server netip.AddrPort, conn net.Conn) {
	var (
		running sync.WaitGroup
		slots   = make(chan struct{}, maxPipelined)
		write   sync.Mutex
	)
	defer running.Wait()
	for {
		_ = conn.SetReadDeadline(time.Now().Add(dnsTCPIdle))
		message, err := readMessage(conn)
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		case <-l.ctx.Done():
			return
		}
		v := p.gate.current().view(l.id)
		if v == nil || !v.takeQuery() {
			// A registration that floods has its connection closed: a resolver
			// under load may do so (RFC 7766, section 6.2.3).
			p.counters.dnsDropped.Add(1)
			return
		}
		running.Go(func() {
			defer func() { <-slots }()
			defer v.quota.dns.Add(-1)
			defer p.contain(l.id, "dns over tcp")
			ctx, cancel := context.WithTimeout(l.ctx, queryWait)
			defer cancel()
			reply, err := p.answer(ctx, dns.Query{Registration: l.id, Scope: v.scope(), Server: server, TCP: true, Message: message})
			if err != nil || len(reply) > 0xffff {
				abort(conn)
				return
			}
			write.Lock()
			defer write.Unlock()
			_ = conn.SetWriteDeadline(time.Now().Add(dnsTCPIdle))
			// Length and message in one write (RFC 7766, section 8).
			if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
				abort(conn)
			}
		})
	}
}

// readMessage reads one message with its length (RFC 1035, section 4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(length[:])
	if n > maxQuery {
		return nil, fmt.Errorf("a query of %d bytes", n)
	}
	message := make([]byte, n)
	_, err := io.ReadFull(r, message)
	return message, err
}

// lookup resolves a host through the configured resolvers, as a name out of
// scope: what stands behind a virtual address. six picks the family.
func (p *Proxy) lookup(ctx context.Context, id registry.ID, host string, six bool) (netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a, nil
	}
	question, family := new(mdns.Msg), mdns.TypeA
	if six {
		family = mdns.TypeAAAA
	}
	question.SetQuestion(mdns.Fqdn(host), family)
	message, err := question.Pack()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("asking for %q: %w", host, err)
	}
	own := p.db.Resolvers()
	if len(own) == 0 {
		return netip.Addr{}, errors.New("the tunnel has no resolver")
	}
	reply, err := p.answer(ctx, dns.Query{
		Registration: id,
		Scope:        nil, // reaches nothing: no name is virtual
		Server:       netip.AddrPortFrom(own[0], portDNS),
		TCP:          true,
		Message:      message,
	})
	if err != nil {
		return netip.Addr{}, fmt.Errorf("resolving %q: %w", host, err)
	}
	var answer mdns.Msg
	if err := answer.Unpack(reply); err != nil {
		return netip.Addr{}, fmt.Errorf("resolving %q: %w", host, err)
	}
	for _, rr := range answer.Answer {
		switch rr := rr.(type) {
		case *mdns.A:
			if a, ok := netip.AddrFromSlice(rr.A); ok && !six {
				return a.Unmap(), nil
			}
		case *mdns.AAAA:
			if a, ok := netip.AddrFromSlice(rr.AAAA); ok && six {
				return a, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("resolving %q: no address", host)
}
