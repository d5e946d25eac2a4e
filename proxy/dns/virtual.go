package dns

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// inScope finds the endpoint host that a question is about.
func (r *Resolver) inScope(scope *policy.Scope, p *query) (host string, ok bool) {
	host = p.host
	if scope == nil || host == "" || p.qclass != dns.ClassINET {
		return "", false
	}
	// Names with an underscore are no hosts (RFC 8552): a wildcard's TXT and
	// SRV records stay the world's. But the service bindings of a host stand
	// below it, at _port._https.host (RFC 9460, section 9.1).
	for strings.HasPrefix(host, "_") {
		if p.qtype != dns.TypeHTTPS && p.qtype != dns.TypeSVCB {
			return "", false
		}
		_, host, _ = strings.Cut(host, ".")
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return "", false // an address in hosts is not a name
	}
	return host, scope.HasHost(host)
}

// answerHost answers for an endpoint host in the registration's scope.
func (r *Resolver) answerHost(ctx context.Context, q Query, p *query, host string) ([]byte, error) {
	switch p.qtype {
	case dns.TypeA, dns.TypeAAAA:
		v4, v6, err := r.cfg.Virtual(ctx, q.Registration, host)
		switch {
		case ended(ctx) != nil:
			return nil, ended(ctx)
		case errors.Is(err, registry.ErrTableFull):
			r.complainVirtual.Do(func() {
				r.cfg.Log.Warn("no virtual address left", "registration", q.Registration, "host", host)
			})
			return p.fail(dns.RcodeRefused, edePolicy("no virtual address left for this registration")), nil
		case err != nil:
			r.complainVirtual.Do(func() {
				r.cfg.Log.Error("virtual address", "registration", q.Registration, "host", host, "err", err)
			})
			return p.fail(dns.RcodeServerFailure, nil), nil
		case p.qtype == dns.TypeA:
			return p.address(v4), nil
		}
		return p.address(v6), nil
	case dns.TypeHTTPS, dns.TypeSVCB:
		// No ECH, which would hide the name from us, no h3, and no other
		// address hints: there is no such record.
		return p.none(dns.RcodeSuccess), nil
	case dns.TypeCNAME:
		return p.none(dns.RcodeSuccess), nil // or the addresses above could not be there
	case dns.TypeANY:
		return p.any(), nil
	}
	// The rest (MX, TXT, CAA, ...) is what the world says about the name.
	e, err := r.resolve(ctx, q.Registration, p)
	if err != nil {
		return r.failed(ctx, p, err)
	}
	return p.cached(e.withoutName(), r.cfg.Now()), nil
}

// special answers what no resolver of the world is to be asked about, or nil.
func (r *Resolver) special(q Query, p *query) []byte {
	if p.qtype == dns.TypePTR {
		return r.pointer(q, p)
	}
	switch name := p.host; {
	case within(name, "localhost"): // RFC 6761, section 6.3
		switch p.qtype {
		case dns.TypeA:
			return p.address(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
		case dns.TypeAAAA:
			return p.address(netip.IPv6Loopback())
		}
		return p.none(dns.RcodeSuccess)
	case within(name, "invalid"), // RFC 6761, section 6.4
		within(name, "onion"),                   // RFC 7686, section 2
		within(name, "use-application-dns.net"): // browsers: leave DNS where the network has it
		return p.none(dns.RcodeNameError)
	case within(name, "resolver.arpa"):
		// RFC 9462, section 6.4: what the operator's resolvers offer under
		// this name is an encrypted way around us.
		return p.none(dns.RcodeSuccess)
	}
	return nil
}

// within reports whether name is zone or below it.
func within(name, zone string) bool {
	rest, ok := strings.CutSuffix(name, zone)
	return ok && (rest == "" || strings.HasSuffix(rest, "."))
}

// pointer names the host that a virtual address stands for, or returns nil.
func (r *Resolver) pointer(q Query, p *query) []byte {
	a, ok := reverse(p.host)
	if !ok {
		return nil
	}
	host, ok := r.cfg.VirtualHost(q.Registration, a)
	if !ok || q.Scope == nil || !q.Scope.HasHost(host) {
		return nil
	}
	return p.one(dns.TypePTR, appendName(nil, host))
}

// reverse reads an address out of its name under in-addr.arpa (RFC 1035,
// section 3.5) or ip6.arpa (RFC 3596, section 2.5).
func reverse(name string) (netip.Addr, bool) {
	if digits, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(digits, ".")
		if len(labels) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return a, err == nil && a.Is4()
	}
	digits, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(digits) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		c := digits[2*i]
		if i < 31 && digits[2*i+1] != '.' {
			return netip.Addr{}, false
		}
		var v byte
		switch {
		case c >= '0' && c <= '9':
			v = c - '0'
		case c >= 'a' && c <= 'f':
			v = c - 'a' + 10
		default:
			return netip.Addr{}, false
		}
		b[15-i/2] |= v << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}
