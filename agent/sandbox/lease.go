package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/clawpatrol/clawpatrol/agent"
)

// runBits is how many of the last bits of an address tell runs apart: a
// registration's IPv4 range is a /28.
const runBits = 4

// addressPool hands out the addresses of one registration: to each run the
// same place in its IPv4 and its IPv6 range.
type addressPool struct {
	ranges []netip.Prefix // masked
	kept   []netip.Addr   // of the host's, see keep

	mu    sync.Mutex
	used  [1 << runBits]bool
	after int // the place that was given last: one that is free is left alone for as long as possible
}

func newAddressPool(addresses []netip.Prefix) (*addressPool, error) {
	p := new(addressPool)
	for _, a := range addresses {
		if a.Addr().BitLen()-a.Bits() < runBits {
			return nil, fmt.Errorf("the gateway gives this registration %s, which is too few addresses for runs", a)
		}
		p.ranges = append(p.ranges, a.Masked())
	}
	// The first and the last address of an IPv4 range mean something to some
	// programs (RFC 919).
	p.used[0], p.used[len(p.used)-1] = true, true
	return p, nil
}

// keep takes the places of these addresses for good: the host has them itself.
func (p *addressPool) keep(own []netip.Prefix) {
	for _, a := range own {
		for place := range p.used {
			if at(a.Masked(), place) == a.Addr() {
				p.used[place] = true
				p.kept = append(p.kept, a.Addr())
			}
		}
	}
}

// at is one place's address in a range.
func at(r netip.Prefix, place int) netip.Addr {
	b := r.Addr().AsSlice()
	b[len(b)-1] |= byte(place)
	a, _ := netip.AddrFromSlice(b) // 4 or 16 bytes, as AsSlice made them
	return a
}

// reserved reports whether an address is for runs, whether one has it or not.
func (p *addressPool) reserved(a netip.Addr) bool {
	return slices.ContainsFunc(p.ranges, func(r netip.Prefix) bool {
		return r.Contains(a) && at(r, int(a.AsSlice()[a.BitLen()/8-1])&(len(p.used)-1)) == a
	}) && !slices.Contains(p.kept, a)
}

// maxRuns is how many run at once with one registration.
const maxRuns = 1<<runBits - 2

var errFull = agent.WithHint(errors.New("no address is free"), fmt.Sprintf("a registration has room for %d runs at once: wait for one to end", maxRuns))

// take returns the addresses of a free place, and what gives them back.
func (p *addressPool) take() (addrs []netip.Addr, release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.used {
		place := (p.after + 1 + i) % len(p.used)
		if p.used[place] {
			continue
		}
		p.used[place], p.after = true, place
		for _, r := range p.ranges {
			addrs = append(addrs, at(r, place))
		}
		return addrs, sync.OnceFunc(func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.used[place] = false
		}), nil
	}
	return nil, nil, errFull
}
