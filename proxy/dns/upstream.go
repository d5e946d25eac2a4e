package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	sickTime  = 10 * time.Second // a resolver that failed is asked after the others
	maxSick   = 64               // remembered
	confFresh = 5 * time.Second  // between looks at resolv.conf
)

// health remembers which resolvers failed lately.
type health struct {
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

// order is servers in the operator's order, those that failed lately at the end.
func (h *health) order(servers []netip.AddrPort, now time.Time) []netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.until) == 0 {
		return servers
	}
	sorted := slices.Clone(servers)
	slices.SortStableFunc(sorted, func(a, b netip.AddrPort) int {
		return h.rank(a, now) - h.rank(b, now)
	})
	return sorted
}

func (h *health) rank(server netip.AddrPort, now time.Time) int {
	if now.Before(h.until[server]) {
		return 1
	}
	return 0
}

func (h *health) sick(server netip.AddrPort, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.until == nil || len(h.until) >= maxSick {
		h.until = make(map[netip.AddrPort]time.Time)
	}
	h.until[server] = now.Add(sickTime)
}

func (h *health) well(server netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.until, server)
}

// hostResolvers reads the resolvers of the gateway host, again when the file
// may have changed.
type hostResolvers struct {
	path string

	mu   sync.Mutex
	list []netip.AddrPort
	read time.Time
}

func (h *hostResolvers) servers(now time.Time) []netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.read.IsZero() && now.Sub(h.read) < confFresh {
		return h.list
	}
	h.read = now
	conf, err := dns.ClientConfigFromFile(h.path)
	if err != nil {
		return h.list // half-written or gone for now: what was read before stands
	}
	port, err := strconv.ParseUint(conf.Port, 10, 16)
	if err != nil {
		port = 53
	}
	var list []netip.AddrPort // those handed out stay as they are
	for _, s := range conf.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			list = append(list, netip.AddrPortFrom(a, uint16(port)))
		}
	}
	h.list = list
	return h.list
}
