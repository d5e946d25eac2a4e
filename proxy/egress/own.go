package egress

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownFresh is how long a reading of the interfaces' addresses is believed. A
// new address is refused before that too: the kernel's own routing decision is
// asked each time, this is for when it cannot be.
const ownFresh = time.Second

// hostAddrs knows the addresses of this host's interfaces.
type hostAddrs struct {
	routes *netlink.Handle // nil: no netlink here

	mu    sync.Mutex
	addrs map[netip.Addr]struct{}
	read  time.Time
	err   error // of the last reading; addrs is then nil
}

func newHostAddrs() *hostAddrs {
	h := &hostAddrs{}
	if routes, err := netlink.NewHandle(unix.NETLINK_ROUTE); err == nil {
		// A lost answer must not hold a dial for long.
		if routes.SetSocketTimeout(time.Second) == nil {
			h.routes = routes
		} else {
			routes.Close()
		}
	}
	return h
}

func (h *hostAddrs) close() {
	if h.routes != nil {
		h.routes.Close()
	}
}

// refuses says why a canonical address counts as this host's, or "".
func (h *hostAddrs) refuses(a netip.Addr) string {
	if h == nil {
		return reasonUnsure
	}
	own, err := h.has(a)
	switch {
	case err != nil:
		return reasonUnsure
	case own:
		return reasonOwn
	}
	return h.routed(a)
}

// has reports whether an interface holds a, as of at most ownFresh ago.
func (h *hostAddrs) has(a netip.Addr) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.read.IsZero() || time.Since(h.read) >= ownFresh {
		h.addrs, h.err = interfaceAddrs()
		h.read = time.Now()
	}
	_, ok := h.addrs[a]
	return ok, h.err
}

func interfaceAddrs() (map[netip.Addr]struct{}, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	addrs := make(map[netip.Addr]struct{}, len(list))
	for _, n := range list {
		if ipnet, ok := n.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(ipnet.IP); ok {
				addrs[canonical(a)] = struct{}{}
			}
		}
	}
	return addrs, nil
}

// routed asks the kernel what it would do with a packet to a: deliver it here
// (an address added this instant, or a whole range made local), or to all
// neighbours. Where there is no answer, connecting fails just the same or the
// interfaces' addresses have to do.
func (h *hostAddrs) routed(a netip.Addr) string {
	if h.routes == nil {
		return ""
	}
	routes, err := h.routes.RouteGet(net.IP(a.AsSlice()))
	if err != nil {
		return ""
	}
	for _, r := range routes {
		switch r.Type {
		case unix.RTN_LOCAL, unix.RTN_ANYCAST:
			return reasonOwn
		case unix.RTN_BROADCAST:
			return "broadcast"
		case unix.RTN_MULTICAST:
			return "multicast"
		}
	}
	return ""
}
