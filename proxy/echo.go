package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

const (
	// maxEchoes is how many echo requests of a registration are outstanding.
	maxEchoes = 64

	echoWait = 10 * time.Second
)

// Echo: see wireguard.Config. Requests go out through an unprivileged ping
// socket where the kernel allows (net.ipv4.ping_group_range); elsewhere they are
// prohibited.
func (p *Proxy) Echo(e wireguard.Echo) wireguard.Disposition {
	if p.gate == nil || p.closing.Load() {
		return wireguard.Taken
	}
	dst := e.Dst.Unmap()
	v := p.gate.current().identify(e.Src.Unmap())
	if v == nil {
		return wireguard.Taken // not even an ICMP error (I07)
	}
	var host string
	if p.db.IsVirtual(dst) {
		var ok bool
		if host, ok = p.db.VirtualHost(v.registration.ID, dst); !ok {
			return wireguard.Prohibited
		}
	} else if p.dialer.CheckAddr(dst) != nil {
		return wireguard.Prohibited
	}
	if !p.ping.allowed(dst) {
		return wireguard.Prohibited
	}
	if v.quota.echo.Add(1) > maxEchoes {
		v.quota.echo.Add(-1)
		p.counters.echoDropped.Add(1)
		return wireguard.Taken
	}
	e.Payload = append([]byte(nil), e.Payload...)
	if !p.start(func() {
		defer v.quota.echo.Add(-1)
		defer p.contain(v.registration.ID, "echo")
		p.echo(v, e, host)
	}) {
		v.quota.echo.Add(-1)
	}
	return wireguard.Taken
}

// echo asks the target, or what host resolves to, and returns its reply. What
// does not answer is not answered.
func (p *Proxy) echo(v *view, e wireguard.Echo, host string) {
	ctx, cancel := context.WithTimeout(p.ctx, echoWait)
	defer cancel()
	dst := e.Dst.Unmap()
	if host != "" {
		var err error
		if dst, err = p.lookup(ctx, v.registration.ID, host, dst.Is6()); err != nil {
			return
		}
	}
	// On the very address that is asked: a name cannot change its mind between.
	if p.dialer.CheckAddr(dst) != nil {
		return
	}
	reply, err := p.ping.ask(ctx, dst, e.Seq, e.Payload)
	if err != nil || !p.Admit(e.Src) {
		return
	}
	if back := p.back.Load(); back != nil {
		e.Payload = reply
		if err := (*back).SendEcho(e); err != nil {
			p.log.Debug("answering an echo request", "err", err)
		}
	}
}

// pinger asks through ping sockets (SOCK_DGRAM with IPPROTO_ICMP).
type pinger struct{ four, six bool }

// newPinger finds out what the kernel allows this process.
func newPinger() pinger {
	try := func(network, address string) bool {
		conn, err := icmp.ListenPacket(network, address)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	}
	return pinger{four: try("udp4", "0.0.0.0"), six: try("udp6", "::")}
}

func (g pinger) allowed(dst netip.Addr) bool {
	if dst.Is4() {
		return g.four
	}
	return g.six
}

// ask sends one echo request and returns the payload of its reply. The kernel
// picks the identifier, and hands over replies with that one only.
func (g pinger) ask(ctx context.Context, dst netip.Addr, seq uint16, payload []byte) ([]byte, error) {
	network, local, protocol := "udp4", "0.0.0.0", 1
	request, reply := icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if dst.Is6() {
		network, local, protocol = "udp6", "::", 58
		request, reply = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	conn, err := icmp.ListenPacket(network, local)
	if err != nil {
		return nil, fmt.Errorf("opening a ping socket: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) })()

	message, err := (&icmp.Message{Type: request, Body: &icmp.Echo{Seq: int(seq), Data: payload}}).Marshal(nil)
	if err != nil {
		return nil, fmt.Errorf("making an echo request: %w", err)
	}
	to := &net.UDPAddr{IP: dst.AsSlice(), Zone: dst.Zone()}
	if _, err := conn.WriteTo(message, to); err != nil {
		return nil, fmt.Errorf("sending an echo request: %w", err)
	}
	buf := make([]byte, len(message)+1)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return nil, fmt.Errorf("waiting for an echo reply: %w", err)
		}
		if addr, ok := from.(*net.UDPAddr); !ok || addr.AddrPort().Addr().Unmap() != dst {
			continue
		}
		m, err := icmp.ParseMessage(protocol, buf[:n])
		if err != nil || m.Type != reply {
			continue
		}
		if body, ok := m.Body.(*icmp.Echo); ok && body.Seq == int(seq) {
			return body.Data, nil
		}
	}
}
