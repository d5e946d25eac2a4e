package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	resolveTimeout = 5 * time.Second         // for one question, all resolvers together
	tryTimeout     = 1500 * time.Millisecond // for one of them
	resolveRounds  = 2                       // through the list
)

var (
	errBusy       = errors.New("dns: too many queries at once")
	errNoUpstream = errors.New("dns: no resolvers configured, and none in the gateway host's resolv.conf")
)

// resolve answers from the cache or from the operator's resolvers.
func (r *Resolver) resolve(ctx context.Context, id registry.ID, p *query) (*entry, error) {
	key := cacheKey{p.name, p.qtype, p.qclass, p.do, p.flags&bitCD != 0}
	if e := r.cache.get(key, r.cfg.Now()); e != nil {
		return e.result()
	}
	if !r.limit.enter(id) {
		return nil, errBusy
	}
	defer r.limit.leave(id)
	for {
		// The first who asks runs the flight, under its own context: who
		// waited for one that gave up takes over.
		v, err, _ := r.flights.Do(key.String(), func() (any, error) {
			if e := r.cache.get(key, r.cfg.Now()); e != nil {
				return e, nil // another flight landed since we looked
			}
			e, err := r.ask(ctx, key)
			if err != nil {
				if over := ended(ctx); over != nil {
					return nil, over
				}
				r.complainUpstream.Do(func() { r.cfg.Log.Warn("the resolvers gave no answer", "err", err) })
				e = failure(err, r.cfg.Now())
			}
			r.cache.put(key, e)
			return e, nil
		})
		switch {
		case err == nil:
			return v.(*entry).result()
		case ended(ctx) != nil:
			return nil, ended(ctx)
		}
	}
}

// ended is ctx's error, also where a socket noticed the deadline before ctx did.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// String is unique to the key.
func (k cacheKey) String() string {
	b := make([]byte, 0, len(k.name)+6)
	b = binary.BigEndian.AppendUint16(b, k.qtype)
	b = binary.BigEndian.AppendUint16(b, k.qclass)
	for _, set := range []bool{k.do, k.cd} {
		if set {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	return string(append(b, k.name...))
}

// failure is the entry of a question that could not be answered.
func failure(err error, now time.Time) *entry {
	return &entry{err: err, stored: now, expires: now.Add(failureAge)}
}

func (e *entry) result() (*entry, error) {
	if e.err != nil {
		return nil, e.err
	}
	return e, nil
}

// ask goes through the resolvers until one gives an answer or denies the name.
func (r *Resolver) ask(ctx context.Context, key cacheKey) (*entry, error) {
	servers := r.cfg.Upstream()
	if len(servers) == 0 {
		servers = r.host.servers(r.cfg.Now())
	}
	if len(servers) == 0 {
		return nil, errNoUpstream
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	var last error
	for range resolveRounds {
		for _, server := range r.health.order(servers, time.Now()) {
			e, err := r.askOne(ctx, server, key)
			if err == nil {
				r.health.well(server)
				return e, nil
			}
			last = fmt.Errorf("asking resolver %s: %w", server, err)
			if ended(ctx) != nil {
				return nil, last
			}
			if !errors.Is(err, errAnswered) {
				r.health.sick(server, time.Now())
			}
		}
	}
	return nil, last
}

// askOne asks one resolver: over UDP with EDNS, without it where the resolver
// does not understand it (RFC 6891, section 7), over TCP where the answer did
// not fit or somebody is guessing.
func (r *Resolver) askOne(ctx context.Context, server netip.AddrPort, key cacheKey) (*entry, error) {
	network, edns := "udp", true
	for range 3 {
		e, err := r.try(ctx, network, server, key, edns)
		switch {
		case err == nil:
			return e, nil
		case (errors.Is(err, errTruncated) || errors.Is(err, errStray)) && network == "udp":
			network = "tcp"
		case errors.Is(err, errNoEDNS) && edns:
			edns = false
		default:
			return nil, err
		}
	}
	return nil, errTruncated
}

var (
	errTruncated = errors.New("the answer is truncated")
	errNoEDNS    = errors.New("the resolver does not know EDNS")
	errAnswered  = errors.New("the resolver reports an error") // about the name, it may be
)

func (r *Resolver) try(ctx context.Context, network string, server netip.AddrPort, key cacheKey, edns bool) (*entry, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	reply, err := exchange(ctx, dialUpstream, network, server, key.query(edns), maxUDP)
	if err != nil {
		return nil, err
	}
	switch rcode := int(reply[3] & maskRcode); rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	case dns.RcodeFormatError, dns.RcodeNotImplemented:
		if edns && !key.do {
			return nil, errNoEDNS
		}
		fallthrough
	default:
		return nil, fmt.Errorf("%w: %s", errAnswered, dns.RcodeToString[rcode])
	}
	if reply[2]&(bitTC>>8) != 0 {
		return nil, errTruncated
	}
	return key.read(reply, r.cfg.Now())
}

// dialUpstream connects to a resolver of the operator's choosing, which the
// egress rules are not about.
func dialUpstream(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, server.String())
}

// query is the message that asks for the key: a random id, recursion, and AD to
// be told of validation (RFC 6840, section 5.7).
func (k cacheKey) query(edns bool) []byte {
	b := make([]byte, 0, headerSize+len(k.name)+4+sizeOPT)
	flags := uint16(bitRD | bitAD)
	if k.cd {
		flags |= bitCD
	}
	b = binary.BigEndian.AppendUint16(b, uint16(rand.Uint32())) // math/rand/v2's global source is ChaCha8 seeded by the system
	b = binary.BigEndian.AppendUint16(b, flags)
	b = append(b, 0, 1, 0, 0, 0, 0, 0, 0)
	b = append(b, k.name...)
	b = binary.BigEndian.AppendUint16(b, k.qtype)
	b = binary.BigEndian.AppendUint16(b, k.qclass)
	if !edns {
		return b
	}
	b[11] = 1
	b = append(b, 0, 0, byte(dns.TypeOPT))
	b = binary.BigEndian.AppendUint16(b, maxUDP)
	do := byte(0)
	if k.do {
		do = 1 << 7
	}
	return append(b, 0, 0, do, 0, 0, 0)
}

// read makes an entry of an answer: no OPT, no DNSSEC records that were not
// asked for, and as long to live as its shortest record.
func (k cacheKey) read(reply []byte, now time.Time) (*entry, error) {
	var m dns.Msg
	if err := m.Unpack(reply); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if len(m.Question) != 1 {
		return nil, errWire
	}
	m.Answer, m.Ns, m.Extra = k.keep(m.Answer), k.keep(m.Ns), k.keep(m.Extra)
	ttl := k.lifetime(&m)
	m.Compress = true
	wire, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("packing the answer: %w", err)
	}
	// What was read leniently (records without data, say) may not be what is
	// written: nothing goes to an agent that would not be understood here.
	if err := new(dns.Msg).Unpack(wire); err != nil {
		return nil, fmt.Errorf("reading the answer again: %w", err)
	}
	qend := headerSize + len(k.name) + 4
	if len(wire) < qend || !equalFold(wire[headerSize:qend-4], []byte(k.name)) {
		return nil, errWire
	}
	e := &entry{
		wire:    wire,
		rcode:   m.Rcode,
		ad:      m.AuthenticatedData,
		stored:  now,
		expires: now.Add(ttl),
	}
	err = walk(wire, qend, func(rr record) error {
		e.ttls = append(e.ttls, rr.ttlAt)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// keep drops what is not for the agent. A record that RFC 2181, section 8,
// calls malformed, a TTL with its top bit set, lives for zero seconds.
func (k cacheKey) keep(rrs []dns.RR) []dns.RR {
	kept := rrs[:0]
	for _, rr := range rrs {
		h := rr.Header()
		switch h.Rrtype {
		case dns.TypeOPT, dns.TypeTSIG:
			continue
		case dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3:
			if !k.do && k.qtype != h.Rrtype { // RFC 4035, section 3.2.1
				continue
			}
		}
		if h.Ttl > 1<<31-1 {
			h.Ttl = 0
		}
		kept = append(kept, rr)
	}
	return kept
}

// lifetime is how long an answer may be kept. One without the records asked for
// counts as a denial, for which its SOA says how long (RFC 2308, section 5),
// and which without a SOA is not kept.
func (k cacheKey) lifetime(m *dns.Msg) time.Duration {
	ttl := uint32(maxAge / time.Second)
	positive := false
	for _, rr := range m.Answer {
		positive = positive || rr.Header().Rrtype == k.qtype || k.qtype == dns.TypeANY
	}
	if !positive || m.Rcode == dns.RcodeNameError {
		denied := false
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				denied = true
				soa.Hdr.Ttl = min(soa.Hdr.Ttl, soa.Minttl)
				ttl = min(ttl, uint32(maxNegativeAge/time.Second))
			}
		}
		if !denied {
			return 0
		}
	}
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			ttl = min(ttl, rr.Header().Ttl)
		}
	}
	return time.Duration(ttl) * time.Second
}
