package dashboard

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/clawpatrol/clawpatrol/registry"
)

// carrierNAT is shared by the hosts behind one carrier's NAT (RFC 6598).
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

// pinRemarks says of each address in a pin why it proves nothing about who is
// behind it, where that is so. own are the gateway's addresses.
func pinRemarks(pin registry.Pin, own []netip.Addr) []string {
	remarks := []string{}
	for _, a := range []netip.Addr{pin.IPv4, pin.IPv6} {
		if what := shared(a, own); what != "" {
			remarks = append(remarks, fmt.Sprintf("%s is %s: this pin proves nothing", a, what))
		}
	}
	return remarks
}

// shared says what makes an address one that many hosts can have, or "".
func shared(a netip.Addr, own []netip.Addr) string {
	switch {
	case !a.IsValid():
		return ""
	case slices.Contains(own, a):
		return "the gateway's own address"
	case a.IsLoopback():
		return "a loopback address"
	case a.IsLinkLocalUnicast():
		return "a link-local address"
	case carrierNAT.Contains(a):
		return "a carrier-grade NAT address"
	case a.IsPrivate(): // RFC 1918, RFC 4193
		return "a private address"
	}
	return ""
}

func interfaceAddrs() []netip.Addr {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil // only a remark is lost
	}
	var out []netip.Addr
	for _, n := range nets {
		if p, err := netip.ParsePrefix(n.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}
