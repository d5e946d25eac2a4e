package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Table is the routing table that leads into the tunnel. It is not 51820, which
// wg-quick takes for its own.
const Table = 51888

// Priorities of our rules. They come before those of Tailscale (5210) and of
// wg-quick and the main table (32764 and up): whatever else routes on this host,
// what the agent sends goes to the gateway.
const (
	rulePass   = 5100 // marked sockets, and what already has an address of the host's: as if we were not here
	ruleDNS    = 5110 // port 53: the tunnel, also where the resolver is on the LAN
	ruleLocal  = 5120 // the main table without its default routes: LAN and static routes
	ruleTunnel = 5130 // everything else: the tunnel
	ruleEnd    = 5140 // where rulePass goes on
)

// protocolTag marks our rules and routes as ours (FRA_PROTOCOL, RTA_PROTOCOL):
// they are found by it, not by what they look like.
const protocolTag = 0xc1

const (
	// metricTunnel and metricUnreachable order the defaults of our table. Where
	// the TUN is gone, or does not carry the family, the second is left.
	metricTunnel      = 50
	metricUnreachable = 1 << 30

	dnsPort = 53
)

// shortestLocal is the longest prefix that counts as a default route in
// disguise: VPNs install 0.0.0.0/1 and 128.0.0.0/1, some routers 2000::/3. They
// must not pass for the LAN.
var shortestLocal = map[family]int{ipv4: 7, ipv6: 3}

// nlFamily is the kernel's number of a family.
func (f family) nl() int {
	if f == ipv4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// ipv6Present reports whether the kernel has IPv6 at all; without it there is
// nothing to route and nothing to leak.
func ipv6Present() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return !errors.Is(err, fs.ErrNotExist)
}

// ipv6On reports whether the TUN may have an IPv6 address. Where the host's
// operator has switched IPv6 off, rules and the unreachable route are installed
// all the same: they hold if it is switched on later.
func ipv6On() bool {
	for _, conf := range []string{LinkName, "all"} {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + conf + "/disable_ipv6")
		if err != nil || strings.TrimSpace(string(b)) != "0" {
			return false
		}
	}
	return true
}

// routing keeps the host's rules and our table as they should be. It is used by
// one goroutine.
type routing struct {
	h       *netlink.Handle
	tunnel  map[family]bool // the tunnel carries this family
	ifindex int             // of the TUN; 0: none, everything is unreachable
}

// newRouting prepares to route into the tunnel t, or into nothing.
func newRouting(t *tunnel) (*routing, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	r := &routing{h: h, tunnel: make(map[family]bool)}
	if t != nil {
		r.ifindex = t.ifindex
		r.tunnel[ipv4] = t.cfg.carries(ipv4)
		r.tunnel[ipv6] = t.cfg.carries(ipv6) && ipv6On()
	}
	return r, nil
}

func (r *routing) close() { r.h.Close() }

// seal is apply without a tunnel: nothing leaves.
func (r *routing) seal(checkpoint func(string)) error {
	r.ifindex, r.tunnel = 0, map[family]bool{}
	return r.apply(checkpoint)
}

// apply installs what is missing and removes what is no longer wanted; on a host
// where all is as it should be it changes nothing. The table comes first and the
// rule that leads everything there last: at no point does anything go half-way.
func (r *routing) apply(checkpoint func(string)) error {
	for _, f := range families {
		if f == ipv6 && !ipv6Present() {
			continue
		}
		if err := r.applyRoutes(f); err != nil {
			return fmt.Errorf("routing %s: %w", f, err)
		}
		checkpoint("routes " + string(f))
		if err := r.applyRules(f, checkpoint); err != nil {
			return fmt.Errorf("routing %s: %w", f, err)
		}
	}
	return nil
}

// wantedRoutes are the defaults of our table.
func (r *routing) wantedRoutes(f family) []netlink.Route {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if f == ipv6 {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	base := netlink.Route{Family: f.nl(), Table: Table, Dst: ipNet(all), Protocol: protocolTag}
	closed := base
	closed.Type, closed.Priority = unix.RTN_UNREACHABLE, metricUnreachable
	routes := []netlink.Route{closed}
	if r.ifindex != 0 && r.tunnel[f] {
		open := base
		open.Type, open.Priority, open.LinkIndex = unix.RTN_UNICAST, metricTunnel, r.ifindex
		if f == ipv4 {
			open.Scope = unix.RT_SCOPE_LINK
		}
		routes = append(routes, open)
	}
	return routes
}

func (r *routing) applyRoutes(f family) error {
	have, err := r.routes(f)
	if err != nil {
		return err
	}
	for _, w := range r.wantedRoutes(f) {
		if slices.ContainsFunc(have, func(h netlink.Route) bool { return sameRoute(h, w) }) {
			continue
		}
		if err := r.h.RouteReplace(&w); err != nil {
			return fmt.Errorf("adding a default route to table %d: %w", Table, err)
		}
	}
	return nil
}

func sameRoute(a, b netlink.Route) bool {
	return a.Type == b.Type && a.Priority == b.Priority && (a.Type == unix.RTN_UNREACHABLE || a.LinkIndex == b.LinkIndex)
}

// routes lists our routes in our table.
func (r *routing) routes(f family) ([]netlink.Route, error) {
	all, err := r.h.RouteListFiltered(f.nl(), &netlink.Route{Table: Table, Protocol: protocolTag}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("listing the routes of table %d: %w", Table, err)
	}
	return all, nil
}

// wantedRules are in the order in which they are installed.
func (r *routing) wantedRules(f family) ([]netlink.Rule, error) {
	local, err := r.localAddresses(f)
	if err != nil {
		return nil, err
	}
	rule := func(priority int) *netlink.Rule {
		w := netlink.NewRule()
		w.Family, w.Priority, w.Protocol = f.nl(), priority, protocolTag
		return w
	}
	var rules []netlink.Rule
	add := func(w *netlink.Rule) { rules = append(rules, *w) }

	end := rule(ruleEnd) // goto needs it to be there
	end.Type = nl.FR_ACT_NOP
	add(end)

	// "goto" and not "lookup main": what passes us by meets whatever else the
	// host has, another VPN's rules included.
	marked := rule(rulePass)
	mask := uint32(0xffffffff)
	marked.Mark, marked.Mask, marked.Goto = Mark, &mask, ruleEnd
	add(marked)

	// Only where our table leads somewhere: see openTunnel for what IPv6 does
	// otherwise. Such a host is closed, to what comes from beyond the LAN as well.
	if f == ipv6 && !r.tunnel[ipv6] {
		local = nil
	}
	// A socket that has an address of the host's got it by being connected from
	// outside, by being there before us, or by asking for it. This also is what
	// reverse path filtering looks up for a packet that arrives, so that it holds
	// in strict mode and whatever src_valid_mark says.
	for _, a := range local {
		from := rule(rulePass)
		from.Src, from.Goto = ipNet(netip.PrefixFrom(a, a.BitLen())), ruleEnd
		add(from)
	}

	dns := rule(ruleDNS)
	dns.Dport, dns.Table = netlink.NewRulePortRange(dnsPort, dnsPort), Table
	add(dns)

	lan := rule(ruleLocal)
	lan.Table, lan.SuppressPrefixlen = unix.RT_TABLE_MAIN, shortestLocal[f]
	add(lan)

	rest := rule(ruleTunnel)
	rest.Table = Table
	add(rest)
	return rules, nil
}

// localAddresses are those of every interface but the tunnel's. Loopback and
// IPv6 link-local ones need no rule: they never leave by a default route.
func (r *routing) localAddresses(f family) ([]netip.Addr, error) {
	addrs, err := r.h.AddrList(nil, f.nl())
	if err != nil {
		return nil, fmt.Errorf("listing the host's addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if ip = ip.Unmap(); !ok || a.LinkIndex == r.ifindex || ip.IsLoopback() || (ip.Is6() && ip.IsLinkLocalUnicast()) {
			continue
		}
		out = append(out, ip)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

func (r *routing) applyRules(f family, checkpoint func(string)) error {
	want, err := r.wantedRules(f)
	if err != nil {
		return err
	}
	have, err := r.rules(f)
	if err != nil {
		return err
	}
	for _, w := range want {
		if slices.ContainsFunc(have, func(h netlink.Rule) bool { return sameRule(h, w) }) {
			continue
		}
		if err := r.h.RuleAdd(&w); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding rule %d: %w", w.Priority, err)
		}
		checkpoint(fmt.Sprintf("rule %d", w.Priority))
	}
	for _, h := range have {
		if slices.ContainsFunc(want, func(w netlink.Rule) bool { return sameRule(h, w) }) {
			continue
		}
		if err := r.h.RuleDel(&h); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("removing rule %d: %w", h.Priority, err)
		}
	}
	return nil
}

// sameRule compares the fields in which ours differ from each other.
func sameRule(a, b netlink.Rule) bool {
	return a.Priority == b.Priority && a.Mark == b.Mark && a.Table == b.Table && a.Goto == b.Goto &&
		a.SuppressPrefixlen == b.SuppressPrefixlen && (a.Src == nil) == (b.Src == nil) && (a.Src == nil || a.Src.String() == b.Src.String()) &&
		(a.Dport == nil) == (b.Dport == nil) && (a.Dport == nil || *a.Dport == *b.Dport)
}

// rules lists our rules.
func (r *routing) rules(f family) ([]netlink.Rule, error) {
	all, err := r.h.RuleList(f.nl())
	if err != nil {
		return nil, fmt.Errorf("listing the rules: %w", err)
	}
	return slices.DeleteFunc(all, func(rule netlink.Rule) bool {
		return rule.Protocol != protocolTag || rule.Priority < rulePass || rule.Priority > ruleEnd
	}), nil
}

// remove undoes apply, in reverse: the rules that lead into the tunnel go first.
func (r *routing) remove(checkpoint func(string)) error {
	for _, f := range families {
		if f == ipv6 && !ipv6Present() {
			continue
		}
		rules, err := r.rules(f)
		if err != nil {
			return err
		}
		for _, rule := range slices.Backward(rules) {
			if rule.Priority == ruleEnd {
				continue // the others still go to it
			}
			if err := r.h.RuleDel(&rule); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("removing rule %d: %w", rule.Priority, err)
			}
			checkpoint(fmt.Sprintf("no rule %d", rule.Priority))
		}
		for _, rule := range rules {
			if rule.Priority != ruleEnd {
				continue
			}
			if err := r.h.RuleDel(&rule); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("removing rule %d: %w", rule.Priority, err)
			}
		}
		routes, err := r.routes(f)
		if err != nil {
			return err
		}
		for _, route := range routes {
			if err := r.h.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("removing a route of table %d: %w", Table, err)
			}
		}
	}
	return nil
}

// settle is how long a burst of changes is left to end before it is followed.
const settle = 50 * time.Millisecond

// watch sends on changed whenever the host's addresses or rules change, until
// ctx ends: an address that comes or goes moves the rules that let it answer,
// and network managers are known to remove rules they did not make. An error
// ends the watch; the caller looks by itself from time to time anyway.
func watchHost(ctx context.Context, changed chan<- struct{}) error {
	s, err := nl.SubscribeAt(netns.None(), netns.None(), unix.NETLINK_ROUTE,
		unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return fmt.Errorf("watching the host's addresses: %w", err)
	}
	defer context.AfterFunc(ctx, s.Close)()
	for {
		_, _, err := s.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN):
			continue
		case err != nil && !errors.Is(err, unix.ENOBUFS): // ENOBUFS: messages were lost, so something changed
			s.Close()
			return fmt.Errorf("watching the host's addresses: %w", err)
		}
		select {
		case changed <- struct{}{}:
		default: // one is pending already
		}
	}
}
