package policy

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// The functions here read addresses as they stand in the file. Their errors are
// sentences for the operator.

// parseListen reads what to listen on: ":8443", "127.0.0.1:8080", "[::1]:8080".
func parseListen(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("%q is not an address to listen on, such as \":8443\" or \"127.0.0.1:8080\"", clip(s))
	}
	n, err := parsePort(port)
	if err != nil {
		return "", err
	}
	if host == "" {
		return net.JoinHostPort("", strconv.Itoa(int(n))), nil
	}
	a, err := netip.ParseAddr(host)
	if err != nil || a.Zone() != "" || a.IsMulticast() {
		return "", fmt.Errorf("%q is not an IP address; to listen on the loopback interface write 127.0.0.1, on all of them nothing", clip(host))
	}
	return netip.AddrPortFrom(a.Unmap(), n).String(), nil
}

// parsePublicURL reads gateway.public_url and returns it as https://host:port,
// and its host.
func parsePublicURL(s string) (canonical, host string, err error) {
	const form = "https://host or https://host:port"
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return "", "", fmt.Errorf("this is not a URL; write %s", form)
	}
	if u.Scheme != "https" {
		return "", "", fmt.Errorf("the scheme is %q, but agent hosts enrol over https only; write %s", clip(u.Scheme), form)
	}
	if u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(s, "#") {
		return "", "", fmt.Errorf("there is more than a host and a port; write %s", form)
	}
	hp, err := parseHostPort(u.Host, 443)
	if err != nil {
		return "", "", err
	}
	return "https://" + net.JoinHostPort(hp.Name, strconv.Itoa(int(hp.Port))), hp.Name, nil
}

// parseHostPort reads a single host with a port; a port of 0 as fallback means
// that there must be one.
func parseHostPort(s string, fallback uint16) (Host, error) {
	h, err := parseHost(s, fallback)
	if err != nil {
		return Host{}, err
	}
	if strings.HasPrefix(h.Name, "*") {
		return Host{}, fmt.Errorf("%q is a wildcard; one host belongs here", clip(s))
	}
	if h.Port == 0 {
		return Host{}, fmt.Errorf("%q has no port", clip(s))
	}
	return h, nil
}

// parseAddrPort reads ip:port; a port of 0 as fallback means that there must be
// one.
func parseAddrPort(s string, fallback uint16) (netip.AddrPort, error) {
	bad := fmt.Errorf("%q is not an IP address with a port, such as 10.20.0.7:8443 or [2001:db8::7]:8443", clip(s))
	a, err := netip.ParseAddr(s)
	port := fallback
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.AddrPort{}, bad
		}
		a, port = ap.Addr(), ap.Port()
	}
	if port == 0 || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		return netip.AddrPort{}, bad
	}
	return netip.AddrPortFrom(a.Unmap(), port), nil
}

// parsePrefix reads a CIDR prefix, masked and unmapped.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a range such as 10.20.0.0/16", clip(s))
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4 range in IPv6 form; write it as IPv4", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("%q has address bits beyond its length. Did you mean %q?", s, p.Masked())
	}
	return p, nil
}

// outside is a literal address of the policy, where it stands and what it is.
type outside struct {
	prefix netip.Prefix
	rng    hcl.Range
	what   string
}

// keepOutside notes that a must not lie in the tunnel's subnets.
func (c *compiler) keepOutside(a netip.Addr, rng hcl.Range, what string) {
	c.outside = append(c.outside, outside{netip.PrefixFrom(a, a.BitLen()), rng, what})
}

// checkOutside reports every noted address that lies in the tunnel's subnets:
// behind such an address there is an agent, or nothing.
func (c *compiler) checkOutside() {
	for _, o := range c.outside {
		for _, subnet := range c.policy.WireGuard.Subnets {
			if o.prefix.Overlaps(subnet) {
				c.errorf(o.rng, "Address inside the tunnel",
					"%s overlaps the tunnel's subnet %s, whose addresses belong to agents. Change it, or wireguard.subnets.", o.what, subnet)
			}
		}
	}
}
