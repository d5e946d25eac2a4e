package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	queryTimeout = 2 * time.Second // for one resolver's answer
	queryRounds  = 2               // through the list of resolvers
	ednsSize     = 1232            // DNS flag day 2020: never fragmented
	maxChain     = 12              // CNAMEs followed within an answer
)

// askUpstream asks the operator's resolvers in order, twice, until one answers.
func (r *resolver) askUpstream(ctx context.Context, host string, f family) ([]netip.Addr, time.Duration, error) {
	qtype := dns.TypeA
	if f == "ip6" {
		qtype = dns.TypeAAAA
	}
	query := new(dns.Msg)
	query.SetQuestion(host+".", qtype)
	query.SetEdns0(ednsSize, false)

	var last error
	for range queryRounds {
		for _, server := range r.upstream {
			answer, err := exchange(ctx, query, server)
			if err == nil {
				switch answer.Rcode {
				case dns.RcodeSuccess:
					addrs, ttl := addressesIn(answer, qtype)
					return addrs, ttl, nil
				case dns.RcodeNameError:
					return nil, 0, notFound(host)
				}
				err = fmt.Errorf("answered %s", dns.RcodeToString[answer.Rcode])
			}
			if ctx.Err() != nil {
				return nil, 0, &net.DNSError{Err: "timed out", Name: host, IsTimeout: true, UnwrapErr: ctx.Err()}
			}
			last = fmt.Errorf("resolver %s: %w", server, err)
		}
	}
	timeout, _ := errors.AsType[net.Error](last)
	return nil, 0, &net.DNSError{
		Err:         last.Error(),
		Name:        host,
		IsTimeout:   timeout != nil && timeout.Timeout(),
		IsTemporary: true,
		UnwrapErr:   last,
	}
}

// exchange asks one resolver: over UDP from a fresh port under a fresh id, over
// TCP where the answer did not fit. An answer to another question is an error.
func exchange(ctx context.Context, query *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	for _, network := range []string{"udp", "tcp"} {
		q := query.Copy()
		q.Id = dns.Id()
		exchanger := dns.Client{Net: network, Timeout: queryTimeout, UDPSize: ednsSize}
		answer, _, err := exchanger.ExchangeContext(ctx, q, server.String())
		if err != nil {
			return nil, err
		}
		if !answer.Response || answer.Id != q.Id || len(answer.Question) != 1 ||
			answer.Question[0].Qtype != q.Question[0].Qtype || answer.Question[0].Qclass != dns.ClassINET ||
			!strings.EqualFold(answer.Question[0].Name, q.Question[0].Name) {
			return nil, errors.New("the answer is to another question")
		}
		if !answer.Truncated {
			return answer, nil
		}
	}
	return nil, errors.New("truncated over TCP")
}

// addressesIn follows the aliases from the question to its addresses; records of
// other names are ignored. The ttl is the lowest on the way.
func addressesIn(answer *dns.Msg, qtype uint16) (addrs []netip.Addr, ttl time.Duration) {
	name := answer.Question[0].Name
	ttl = maxTTL
	heed := func(h *dns.RR_Header) { ttl = min(ttl, time.Duration(h.Ttl)*time.Second) }
	for range maxChain {
		var alias string
		for _, rr := range answer.Answer {
			h := rr.Header()
			if !strings.EqualFold(h.Name, name) || h.Class != dns.ClassINET {
				continue
			}
			var ip net.IP
			switch rr := rr.(type) {
			case *dns.CNAME:
				alias = rr.Target
				heed(h)
				continue
			case *dns.A:
				ip = rr.A
			case *dns.AAAA:
				ip = rr.AAAA
			}
			if h.Rrtype != qtype {
				continue
			}
			if a, ok := netip.AddrFromSlice(ip); ok && len(addrs) < maxAddrs {
				addrs = append(addrs, a.Unmap())
				heed(h)
			}
		}
		if len(addrs) > 0 || alias == "" {
			return addrs, ttl
		}
		name = alias
	}
	return nil, 0
}
