package egress

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	resolutionDelay = 50 * time.Millisecond // RFC 8305, section 3: what the A answer waits for the AAAA one
	maxNames        = 4096                  // cached (name, family) pairs
	maxAddrs        = 16                    // used of one answer
	maxTTL          = time.Hour
	hostTTL         = 5 * time.Second // the host's resolver does not tell
	maxLookups      = 256             // on the wire at once
)

// family is "ip4" or "ip6", as net.Resolver has it.
type family string

// resolver turns names into addresses, through the operator's resolvers or the
// host's. It judges nothing.
type resolver struct {
	upstream []netip.AddrPort // empty: the host's
	query    func(ctx context.Context, host string, f family) ([]netip.Addr, time.Duration, error)

	// A lookup outlives the dial that began it, so that its answer is cached
	// for the next; close ends and awaits them.
	ctx     context.Context
	cancel  context.CancelFunc
	flights singleflight.Group
	slots   chan struct{}

	mu     sync.Mutex
	closed bool
	wait   sync.WaitGroup // Add under mu, and only while not closed
	cache  map[nameKey]cachedAddrs
}

type nameKey struct {
	host string
	f    family
}

type cachedAddrs struct {
	addrs   []netip.Addr
	expires time.Time
}

func newResolver(upstream []netip.AddrPort) *resolver {
	r := &resolver{
		upstream: slices.Clone(upstream),
		slots:    make(chan struct{}, maxLookups),
		cache:    make(map[nameKey]cachedAddrs),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.query = r.askHost
	if len(upstream) > 0 {
		r.query = r.askUpstream
	}
	return r
}

func (r *resolver) sameUpstream(upstream []netip.AddrPort) bool {
	return slices.Equal(r.upstream, upstream)
}

// close ends the lookups under way and waits for them.
func (r *resolver) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wait.Wait()
}

// lookup returns the addresses of host in the order to try them, at least one,
// IPv6 first and the families taking turns (RFC 8305, section 4). An IP address
// stands for itself. The error is a *net.DNSError or ctx's.
func (r *resolver) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if !validName(name) {
		return nil, notFound(host)
	}
	// RFC 6761, section 6.3: localhost names are loopback without asking.
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return []netip.Addr{netip.IPv6Loopback(), netip.AddrFrom4([4]byte{127, 0, 0, 1})}, nil
	}

	six, four := r.start(name, "ip6"), r.start(name, "ip4")
	var (
		addrs6, addrs4 []netip.Addr
		err6, err4     error
		late           <-chan time.Time
	)
	for six != nil || four != nil {
		select {
		case res := <-six:
			six = nil
			addrs6, err6 = addrsOf(res)
		case res := <-four:
			four = nil
			addrs4, err4 = addrsOf(res)
			if len(addrs4) > 0 && six != nil {
				timer := time.NewTimer(resolutionDelay)
				defer timer.Stop()
				late = timer.C
			}
		case <-late:
			six = nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if addrs := interleave(addrs6, addrs4); len(addrs) > 0 {
		return addrs, nil
	}
	// No address: the more telling of the two failures.
	for _, err := range []error{err4, err6} {
		if dns, ok := errors.AsType[*net.DNSError](err); ok && !dns.IsNotFound {
			return nil, err
		}
	}
	return nil, notFound(host)
}

func addrsOf(res singleflight.Result) ([]netip.Addr, error) {
	addrs, _ := res.Val.([]netip.Addr)
	return addrs, res.Err
}

// start answers from the cache, or joins or begins a lookup. The channel
// receives exactly once.
func (r *resolver) start(name string, f family) <-chan singleflight.Result {
	key := nameKey{name, f}
	r.mu.Lock()
	defer r.mu.Unlock()
	if addrs := r.cached(key); addrs != nil {
		return done(addrs, nil)
	}
	if r.closed {
		return done(nil, context.Canceled)
	}
	r.wait.Add(1)
	out := make(chan singleflight.Result, 1)
	go r.join(key, out)
	return out
}

// cached returns what is known of key, or nil; mu is held.
func (r *resolver) cached(key nameKey) []netip.Addr {
	if c, ok := r.cache[key]; ok && time.Now().Before(c.expires) {
		return c.addrs
	}
	return nil
}

func done(addrs []netip.Addr, err error) <-chan singleflight.Result {
	c := make(chan singleflight.Result, 1)
	c <- singleflight.Result{Val: addrs, Err: err}
	return c
}

// join is the goroutine of one caller's lookup; of those for the same key at the
// same time one asks.
func (r *resolver) join(key nameKey, out chan<- singleflight.Result) {
	defer r.wait.Done()
	val, err, _ := r.flights.Do(string(key.f)+key.host, func() (any, error) {
		r.mu.Lock()
		known := r.cached(key) // since we looked, another flight may have landed
		r.mu.Unlock()
		if known != nil {
			return known, nil
		}
		select {
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-r.ctx.Done():
			return nil, r.ctx.Err()
		}
		ctx, cancel := context.WithTimeout(r.ctx, dialTimeout)
		defer cancel()
		addrs, ttl, err := r.query(ctx, key.host, key.f)
		if err != nil {
			return nil, err
		}
		addrs = addrs[:min(len(addrs), maxAddrs)]
		r.store(key, addrs, min(ttl, maxTTL))
		return addrs, nil
	})
	out <- singleflight.Result{Val: val, Err: err}
}

func (r *resolver) store(key nameKey, addrs []netip.Addr, ttl time.Duration) {
	if len(addrs) == 0 || ttl <= 0 {
		return
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.cache[key]; !ok && len(r.cache) >= maxNames {
		r.evict(now)
	}
	r.cache[key] = cachedAddrs{addrs, now.Add(ttl)}
}

// evict makes room for one: whatever a few random entries show to be stale,
// else one of them. mu is held.
func (r *resolver) evict(now time.Time) {
	victims := 0
	for key, c := range r.cache { // map order is random enough
		if victims++; victims > 8 {
			break
		}
		if !now.Before(c.expires) {
			delete(r.cache, key)
		}
	}
	for key := range r.cache {
		if len(r.cache) < maxNames {
			return
		}
		delete(r.cache, key)
	}
}

// askHost asks the gateway host's own resolver, its /etc/hosts included.
func (r *resolver) askHost(ctx context.Context, host string, f family) ([]netip.Addr, time.Duration, error) {
	// A name of several labels is complete: what the search list would append
	// is for names the operator abbreviates.
	if strings.Contains(host, ".") {
		host += "."
	}
	addrs, err := (&net.Resolver{PreferGo: true}).LookupNetIP(ctx, string(f), host)
	if err != nil {
		return nil, 0, err
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, hostTTL, nil
}

// interleave lets the families take turns, the first one first; within a family
// the order is random, so that repeated dials spread.
func interleave(a, b []netip.Addr) []netip.Addr {
	a, b = shuffled(a), shuffled(b)
	out := make([]netip.Addr, 0, len(a)+len(b))
	for i := 0; i < max(len(a), len(b)); i++ {
		if i < len(a) {
			out = append(out, a[i])
		}
		if i < len(b) {
			out = append(out, b[i])
		}
	}
	return out
}

func shuffled(addrs []netip.Addr) []netip.Addr {
	addrs = slices.Clone(addrs) // the cache's is shared
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return addrs
}

// validName holds a canonical name to what can be asked for (RFC 1035, section
// 2.3.4) and shown in an error: visible ASCII.
func validName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			if c := label[i]; c <= ' ' || c >= 0x7f || c == '\\' || c == '"' {
				return false
			}
		}
	}
	return true
}

func notFound(host string) error {
	return &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}
