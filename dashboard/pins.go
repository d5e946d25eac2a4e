package dashboard

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/clawpatrol/clawpatrol/registry"
)

// pinView is a pin as the API has it. The addresses of datagrams are there only
// where a NAT gives them others.
type pinView struct {
	IPv4    string `json:"ipv4"`
	IPv6    string `json:"ipv6"`
	UDPIPv4 string `json:"udp_ipv4,omitempty"`
	UDPIPv6 string `json:"udp_ipv6,omitempty"`
}

func viewPin(p registry.Pin) pinView {
	return pinView{addrText(p.IPv4), addrText(p.IPv6), addrText(p.UDP4), addrText(p.UDP6)}
}

// pin undoes viewPin.
func (v pinView) pin() (registry.Pin, error) {
	var p registry.Pin
	for _, f := range []struct {
		text string
		to   *netip.Addr
		v4   bool
	}{{v.IPv4, &p.IPv4, true}, {v.IPv6, &p.IPv6, false}, {v.UDPIPv4, &p.UDP4, true}, {v.UDPIPv6, &p.UDP6, false}} {
		if f.text == "" {
			continue
		}
		a, err := netip.ParseAddr(f.text)
		if err != nil || a != a.Unmap().WithZone("") || a.Is4() != f.v4 {
			return registry.Pin{}, badRequest("a pin is not the addresses as they were shown")
		}
		*f.to = a
	}
	return p, nil
}

// addrText is empty for no address.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// carrierNAT is shared by the hosts behind one carrier's NAT (RFC 6598).
var carrierNAT = netip.MustParsePrefix("100.64.0.0/10")

// pinRemarks says of each address in a pin why it proves nothing about who is
// behind it, where that is so. own are the gateway's addresses.
func pinRemarks(pin registry.Pin, own []netip.Addr) []string {
	remarks := []string{}
	for _, a := range pin.Addrs() {
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
