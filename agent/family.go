package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"
)

// Mark is set on the sockets that must not enter the tunnel: WireGuard's own,
// those to the gateway's public listener, and queries for the gateway's address.
// It keeps clear of the bits that Kubernetes (0xc000), Tailscale (0xff0000
// compared with 0x40000 and 0x80000) and Cilium (0x0f00) give a meaning to.
const Mark = 0x2c1a0000

// family is an address family.
type family string

const (
	ipv4 family = "4"
	ipv6 family = "6"
)

var families = []family{ipv4, ipv6}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// other is the other one.
func (f family) other() family {
	if f == ipv4 {
		return ipv6
	}
	return ipv4
}

func (f family) String() string { return "IPv" + string(f) }

// of returns the addresses of this family, in order.
func (f family) of(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if familyOf(a) == f {
			out = append(out, a)
		}
	}
	return out
}

const dialTimeout = 10 * time.Second

// markedDialer returns a dialer whose sockets bypass the tunnel.
func markedDialer() *net.Dialer {
	return &net.Dialer{Timeout: dialTimeout, Control: byMark.control}
}

// lookupOriginal resolves a name of the gateway's with the resolvers the host
// had before us. With our own in place, a query to them is the only one that
// works while the tunnel is down.
func (a *Agent) lookupOriginal(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip.Unmap()}, nil
	}
	servers, err := a.originalResolvers()
	if err != nil {
		return nil, err
	}
	var next atomic.Uint32
	r := &net.Resolver{
		PreferGo: true, // /etc/hosts is honoured; libc would use its own sockets
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			// The address given is one of the current resolv.conf, which is ours.
			s := servers[int(next.Add(1)-1)%len(servers)]
			return markedDialer().DialContext(ctx, network, netip.AddrPortFrom(s, 53).String())
		},
	}
	// The dot keeps the search list out of it: the name is one the operator gave
	// in full. A name without a dot may be one of /etc/hosts or the search list.
	name := host
	if strings.Contains(name, ".") && !strings.HasSuffix(name, ".") {
		name += "."
	}
	addrs, err := r.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", host, err)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}
