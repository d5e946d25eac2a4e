package agent

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bypass is a route of the host's own that takes addresses of the gateway's out
// of the tunnel: one of the LAN's, by DHCP or by hand, wins over ours. Endpoint
// hosts are unreachable then, or answered by somebody else.
type Bypass struct {
	Route     string `json:"route"`               // destination
	Interface string `json:"interface,omitempty"` // "": it leads nowhere
	// Certain is false where this host does not know whether the gateway has
	// addresses there.
	Certain bool `json:"certain"`
}

func (b Bypass) String() string {
	to := "nowhere"
	if b.Interface != "" {
		to = "to " + b.Interface
	}
	verb := "takes"
	if !b.Certain {
		verb = "may take"
	}
	return fmt.Sprintf("the route %s %s %s the gateway's addresses out of the tunnel", b.Route, to, verb)
}

// The gateway's plan of its subnets, which the claim does not name: the first
// address is the resolver's, and the last quarter has the virtual addresses, the
// first of them first. These are the sizes that its policy allows.
var subnetBits = map[family][2]int{ipv4: {8, 20}, ipv6: {32, 56}}

// virtualRanges are where the virtual addresses of a gateway with this resolver
// may be, one for each size its subnet can have. They do not overlap: any virtual
// address tells which it is.
func virtualRanges(resolver netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	sizes := subnetBits[familyOf(resolver)]
	for bits := sizes[0]; bits <= sizes[1]; bits++ {
		subnet := netip.PrefixFrom(resolver, bits).Masked()
		if subnet.Addr().Next() != resolver {
			continue
		}
		b := subnet.Addr().AsSlice()
		for _, bit := range []int{bits, bits + 1} {
			b[bit/8] |= 0x80 >> (bit % 8)
		}
		quarter, _ := netip.AddrFromSlice(b) // 4 or 16 bytes, as AsSlice made them
		out = append(out, netip.PrefixFrom(quarter, bits+2))
	}
	return out
}

const (
	discoverTimeout = 2 * time.Second

	// discoverFirst is how many addresses of each range are asked for: one host may
	// no longer be in the registration's scope.
	discoverFirst = 2
)

// virtualHost is a name that the gateway has made addresses for.
type virtualHost struct {
	name  string
	addrs []netip.Addr
}

// discover asks the gateway's resolver for a host that it has a virtual address
// for, and that is in the registration's scope. There is none until something
// here, or on this host before, has asked for one: then it returns nil.
func (c tunnelConfig) discover(ctx context.Context) *virtualHost {
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	at := c.dns[0]
	var ask []netip.Addr
	for _, r := range virtualRanges(at) {
		for a := range discoverFirst {
			addr := r.Addr().Next() // the first has no host
			for range a {
				addr = addr.Next()
			}
			ask = append(ask, addr)
		}
	}
	names := make([]string, len(ask))
	var all sync.WaitGroup
	for i, a := range ask {
		all.Go(func() {
			// The resolver answers for its own addresses only, or asks the world, which
			// knows nothing of them.
			if n, err := resolverAt(at).LookupAddr(ctx, a.String()); err == nil && len(n) > 0 {
				names[i] = strings.TrimSuffix(n[0], ".")
			}
		})
	}
	all.Wait()
	for i, n := range names {
		if n == "" || !plainHost(n) {
			continue
		}
		addrs, err := resolverAt(at).LookupNetIP(ctx, "ip", n+".")
		for j := range addrs {
			addrs[j] = addrs[j].Unmap()
		}
		if err == nil && slices.Contains(addrs, ask[i]) {
			return &virtualHost{n, addrs}
		}
	}
	return nil
}

// bypasses lists the host's routes that win over the tunnel's for addresses of
// the gateway's. Where one may or may not, known is asked; it returns a host with
// virtual addresses or nil.
func (c tunnelConfig) bypasses(known func() *virtualHost) ([]Bypass, error) {
	var out []Bypass
	for _, resolver := range c.dns {
		f := familyOf(resolver)
		routes, err := netlink.RouteListFiltered(f.nl(), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("listing the host's routes: %w", err)
		}
		for _, r := range routes {
			dst, ok := prefixOf(r.Dst)
			if !ok || dst.Bits() <= shortestLocal[f] {
				continue
			}
			b := Bypass{Route: dst.String(), Certain: dst.Contains(resolver)}
			if r.LinkIndex != 0 && r.Type == unix.RTN_UNICAST {
				if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
					b.Interface = l.Attrs().Name
				}
			}
			if b.Interface == LinkName {
				continue
			}
			ranges := slices.DeleteFunc(virtualRanges(resolver), func(v netip.Prefix) bool { return !v.Overlaps(dst) })
			if !b.Certain && len(ranges) == 0 {
				continue
			}
			if !b.Certain {
				if host := known(); host != nil && len(f.of(host.addrs)) > 0 {
					b.Certain = slices.ContainsFunc(ranges, func(v netip.Prefix) bool { return slices.ContainsFunc(host.addrs, v.Contains) })
					if !b.Certain {
						continue // the gateway's addresses are elsewhere
					}
				}
			}
			if !slices.Contains(out, b) {
				out = append(out, b)
			}
		}
	}
	return out, nil
}

// clash refuses tunnel addresses that are in a network of the host's: its
// neighbours would become unreachable, and whoever listens on this host could
// pass for them.
func clash(addresses []netip.Prefix) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("listing the host's interfaces: %w", err)
	}
	for _, l := range links {
		if l.Attrs().Name == LinkName {
			continue
		}
		have, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("listing the host's addresses: %w", err)
		}
		for _, h := range have {
			own, ok := prefixOf(h.IPNet)
			if !ok {
				continue
			}
			for _, p := range addresses {
				if own.Overlaps(p) {
					return WithHint(fmt.Errorf("making the tunnel: the gateway gives it %s, which is in %s of this host's interface %s", p, own.Masked(), l.Attrs().Name),
						"choose other wireguard.subnets on the gateway, or another network here")
				}
			}
		}
	}
	return nil
}

// prefixOf is the kernel's form of a prefix; false: it is none.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}
