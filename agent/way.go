package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// way is how packets to one address of the gateway's leave this host, without
// the tunnel.
type way struct {
	Source netip.Addr `json:"source"`
	Via    netip.Addr `json:"via,omitzero"` // the router; the zero Addr: none
}

// noWay is returned where this host has no route to the gateway, or no address
// for it: it sends nothing there.
type noWay struct{ to netip.Addr }

func (e *noWay) Error() string { return fmt.Sprintf("this host has no way to %s", e.to) }

// bypass says whether sockets are marked, so that they do not enter the tunnel.
// That takes a privilege, and an enrolment for `clawpatrol run` alone has no
// routes of its own to get around.
type bypass bool

const (
	byMark  bypass = true
	unasked bypass = false
)

// control prepares a socket: of this host's IPv6 addresses it takes one that lasts
// (RFC 5014 section 3, RFC 6724 section 5 rule 7).
func (b bypass) control(_, _ string, c syscall.RawConn) error {
	var err error
	if ctl := c.Control(func(fd uintptr) {
		if b == byMark {
			if err = os.NewSyscallError("setting SO_MARK", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, Mark)); err != nil {
				return
			}
		}
		domain, derr := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN)
		if derr == nil && domain == unix.AF_INET6 {
			err = os.NewSyscallError("setting IPV6_ADDR_PREFERENCES",
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_ADDR_PREFERENCES, preferPublic))
		}
	}); ctl != nil {
		return ctl
	}
	return err
}

// preferPublic is IPV6_PREFER_SRC_PUBLIC of RFC 5014, which x/sys does not have.
const preferPublic = 0x2

// wayTo asks the kernel for the way to an address. Nothing is sent.
func (b bypass) wayTo(to netip.Addr) (way, error) {
	// Connecting a UDP socket looks up route and source.
	d := net.Dialer{Control: b.control}
	c, err := d.Dial("udp"+string(familyOf(to)), netip.AddrPortFrom(to, dnsPort).String())
	switch {
	case errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EACCES):
		return way{}, &noWay{to}
	case err != nil:
		return way{}, fmt.Errorf("looking for the way to %s: %w", to, err)
	}
	defer c.Close()
	w := way{Source: c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")}
	options := &netlink.RouteGetOptions{SrcAddr: w.Source.AsSlice()}
	if b == byMark {
		options.Mark = Mark
	}
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), options)
	if err != nil || len(routes) == 0 {
		return way{}, &noWay{to}
	}
	if via, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		w.Via = via.Unmap()
	}
	return w, nil
}

// passing reports whether one of this host's own addresses will soon be another:
// a temporary one (RFC 8981), or one that is deprecated (RFC 4862 section 5.5.4).
func passing(addr netip.Addr) (string, error) {
	links, err := netlink.AddrList(nil, netlink.FAMILY_V6)
	if err != nil {
		return "", fmt.Errorf("listing the host's addresses: %w", err)
	}
	for _, a := range links {
		own, _ := netip.AddrFromSlice(a.IP)
		switch {
		case own.Unmap() != addr:
		case a.Flags&unix.IFA_F_TEMPORARY != 0:
			return "temporary", nil
		case a.Flags&unix.IFA_F_DEPRECATED != 0:
			return "deprecated", nil
		}
	}
	return "", nil
}

// lasting refuses a family in which the pin would be an address that passes.
func (b bypass) lasting(gateway netip.Addr) error {
	if familyOf(gateway) == ipv4 {
		return nil
	}
	w, err := b.wayTo(gateway)
	if err != nil {
		return nil // whoever connects will say it better
	}
	kind, err := passing(w.Source)
	if err != nil || kind == "" {
		return err
	}
	return WithHint(fmt.Errorf("this host would reach the gateway from %s, a %s address: when it changes, the registration is blocked", w.Source, kind),
		hintLasting)
}

const hintLasting = "give this host an IPv6 address that stays: net.ipv6.conf.all.addr_gen_mode=3 and use_tempaddr=0, a DHCPv6 lease, or one set by hand; docs/agent-hosts.md, When the host moves"

// waysTo returns the ways to these addresses of the gateway's.
func (b bypass) waysTo(addrs []netip.Addr) map[family][]way {
	out := make(map[family][]way)
	for _, a := range addrs {
		f := familyOf(a)
		if w, err := b.wayTo(a); err == nil && !slices.Contains(out[f], w) && len(out[f]) < maxWays {
			out[f] = append(out[f], w)
		}
	}
	return out
}
