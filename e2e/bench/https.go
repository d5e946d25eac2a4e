package main

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

var (
	getKiB  = exchange{down: kib}
	getMiB  = exchange{down: mib}
	postMiB = exchange{down: stored, up: mib}
)

// opener makes the load of a row for a way to the upstream.
type opener func(target) func(context.Context) (load, error)

func h1(conns int, e exchange) opener { return shape{conns: conns, streams: 1}.open(e) }

func h2(conns, streams int) opener {
	return shape{http2: true, conns: conns, streams: streams}.open(getKiB)
}

func fresh(t target) func(context.Context) (load, error) { return t.fresh(8, getKiB) }

// httpsRows compares HTTPS through the gateway with a TLS splice on the same
// tunnel that does not look at the bytes, with nginx behind a WireGuard link, and
// with no proxy or tunnel at all.
func (m *meter) httpsRows(ctx context.Context) error {
	s := m.stage
	t := &table{meter: m, title: "HTTPS through the tunnel", names: []string{"direct", "TLS splice", "nginx", "ours"}, against: []int{0, 1, 2}, compared: []int{1, 2}}
	client, upstream := otherPart("client", pid(os.Getpid())), otherPart("upstream", tree(s.upstream.Process.Pid))
	all := func(open opener) []contender {
		return []contender{
			{[]part{client, upstream}, open(s.to(s.plain, directIPv4, "443"))},
			{[]part{gatewayPart("splice", pid(s.splicer.Process.Pid)), otherPart("tunnel's other end", pid(s.spliceAgent.Process.Pid)), client, upstream},
				open(s.to(s.plain, lab.WorldIPv4.String(), "443"))},
			{[]part{gatewayPart("nginx", tree(s.nginx.Process.Pid)), gatewayPart("WireGuard", pid(s.plainPeer.Process.Pid)), otherPart("tunnel's other end", pid(s.plainAgent.Process.Pid)), client, upstream},
				open(s.to(s.plain, "10.77.0.1", "443"))},
			{[]part{gatewayPart("gateway", pid(s.gateway.PID())), otherPart("tunnel's other end", pid(s.joined.PID())), client, upstream},
				open(s.to(s.joined.Host, s.virtual.String(), "443"))},
		}
	}
	return t.end(errors.Join(
		t.row(ctx, row{"h1, 1 KiB, 1 connection", "/s", "", "h1, p50 at 1 connection, and what ours adds", ""}, all(h1(1, getKiB))...),
		t.row(ctx, row{"h1, 1 KiB, 4 connections", "/s", "", "", ""}, all(h1(4, getKiB))...),
		t.row(ctx, row{"h1, 1 KiB, 16 connections", "/s", "0.85 of the splice", "", ""}, all(h1(16, getKiB))...),
		t.row(ctx, row{"h1, 1 KiB, 64 connections", "/s", "", "", ""}, all(h1(64, getKiB))...),
		t.row(ctx, row{"h1, 1 KiB, 256 connections", "/s", "", "", ""}, all(h1(256, getKiB))...),
		t.row(ctx, row{"h1, 1 MiB down, 4 connections", "/s", "0.95 of the splice", "", ""}, all(h1(4, getMiB))...),
		t.row(ctx, row{"h1, 1 MiB up, 4 connections", "/s", "0.95 of the splice", "", ""}, all(h1(4, postMiB))...),
		t.row(ctx, row{"h2, 1 KiB, 10 streams on 1 connection", "/s", "", "", ""}, all(h2(1, 10))...),
		t.row(ctx, row{"h2, 1 KiB, 10 streams on each of 10 connections", "/s", "", "", ""}, all(h2(10, 10))...),
		t.row(ctx, row{"fresh connections, 8 at once", "/s", "0.9 of the splice", "", ""}, all(fresh)...),
	))
}

// aloneRows compares the HTTPS handler with the same limits where none has a
// tunnel.
func (m *meter) aloneRows(ctx context.Context) error {
	s := m.stage
	t := &table{meter: m, title: "the HTTPS handler alone, no tunnel", names: []string{"direct", "TLS splice", "nginx", "ours"}, against: []int{0, 1, 2}, compared: []int{1, 2}}
	client, upstream := otherPart("client", pid(os.Getpid())), otherPart("upstream", tree(s.upstream.Process.Pid))
	gateway := lab.GatewayIPv4.String()
	all := func(open opener) []contender {
		return []contender{
			{[]part{client, upstream}, open(s.to(s.plain, directIPv4, "443"))},
			{[]part{gatewayPart("splice", pid(s.splicerAlone.Process.Pid)), client, upstream}, open(s.to(s.plain, gateway, splicePort))},
			{[]part{gatewayPart("nginx", tree(s.nginx.Process.Pid)), client, upstream}, open(s.to(s.plain, gateway, "443"))},
			{[]part{gatewayPart("handler", pid(s.ourHandler.Process.Pid)), client, upstream}, open(s.to(s.plain, gateway, handlerPort))},
		}
	}
	// As net/http has it at every end.
	netHTTP := func(addr, port string) func(context.Context) (load, error) {
		return s.to(s.plain, addr, port).netHTTP(shape{http2: true, conns: 1, streams: 10}, goHost, getKiB)
	}
	ends := otherPart("client and upstream", pid(os.Getpid()))
	return t.end(errors.Join(
		t.row(ctx, row{"alone: h1, 1 KiB, 1 connection", "/s", "", "alone: h1, p50 at 1 connection, and what ours adds", "+75 to direct"}, all(h1(1, getKiB))...),
		t.row(ctx, row{"alone: h1, 1 KiB, 16 connections", "/s", "0.85 of the splice", "", ""}, all(h1(16, getKiB))...),
		t.row(ctx, row{"alone: h1, 1 KiB, 64 connections", "/s", "", "", ""}, all(h1(64, getKiB))...),
		t.row(ctx, row{"alone: h1, 1 MiB down, 4 connections", "/s", "", "", ""}, all(h1(4, getMiB))...),
		t.row(ctx, row{"alone: h2, 1 KiB, 10 streams on 1 connection", "/s", "", "", ""}, all(h2(1, 10))...),
		t.row(ctx, row{"alone: the same, client and upstream on net/http", "/s", "0.55 of direct", "", ""},
			contender{[]part{ends}, netHTTP(goIPv4, "443")}, contender{}, contender{},
			contender{[]part{gatewayPart("handler", pid(s.ourHandler.Process.Pid)), ends}, netHTTP(gateway, goHandlerPort)}),
		t.row(ctx, row{"alone: h2, 1 KiB, 10 streams on each of 10 connections", "/s", "", "", ""}, all(h2(10, 10))...),
		t.row(ctx, row{"alone: fresh connections, 8 at once", "/s", "", "", ""}, all(fresh)...),
	))
}

// to is the way from a host to an address that answers for apiHost.
func (s *stage) to(h *lab.Host, ip, port string) target {
	return target{host: h, addr: net.JoinHostPort(ip, port), stage: s}
}
