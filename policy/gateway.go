package policy

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
)

// Defaults of the gateway and wireguard blocks.
const (
	defaultStateDir        = "/var/lib/clawpatrol"
	defaultListen          = ":8443"
	defaultDashboardListen = "127.0.0.1:8080"
	defaultTunnelListen    = ":51820"
	defaultSubnet4         = "10.55.0.0/16"
	defaultSubnet6         = "fd55:c1a5::/48"
)

// Sizes of the tunnel's subnets, in prefix bits. Every registration has a /28
// and a /64.
const (
	minBits4, maxBits4 = 8, 20
	minBits6, maxBits6 = 32, 56
)

// maxUpstreams bounds dns.upstream.
const maxUpstreams = 8

// PublicHost returns the host of PublicURL, without port and brackets.
func (g Gateway) PublicHost() string {
	u, err := url.Parse(g.PublicURL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

func (c *compiler) gateway(s section) {
	g := &c.policy.Gateway
	g.Mode = s.text("mode", "remote")
	g.Enrolment = Enrolment(s.text("enrolment", string(EnrolmentOpen)))
	g.StateDir = c.path(s.text("state_dir", defaultStateDir))
	if v, ok := s.has("state_dir"); ok && v.text == "" {
		c.errorf(v.rng, "Invalid path", "state_dir is empty.")
	}
	g.Listen = c.listen(s, defaultListen)
	if v, ok := s.has("public_url"); ok {
		u, host, err := parsePublicURL(v.text)
		if err != nil {
			c.invalid(v.rng, "public_url", err)
		}
		g.PublicURL = u
		if a, err := netip.ParseAddr(host); err == nil {
			c.keepOutside(a, v.rng, "public_url "+v.text)
		}
	}
	c.dashboardBlock(s.blocks["dashboard"])
	if tls, ok := s.blocks["tls"]; ok {
		for name, field := range map[string]*string{"cert_file": &g.TLSCertFile, "key_file": &g.TLSKeyFile} {
			v, ok := tls.has(name)
			if ok && v.text == "" {
				c.errorf(v.rng, "Invalid path", "%s is empty.", name)
			}
			*field = c.path(v.text)
		}
	}
	c.actionLog(s.blocks["action_log"])
}

func (c *compiler) wireGuard(s section) {
	w := &c.policy.WireGuard
	w.Listen = c.listen(s, defaultTunnelListen)
	w.Subnets = []netip.Prefix{netip.MustParsePrefix(defaultSubnet4), netip.MustParsePrefix(defaultSubnet6)}
	if v, ok := s.has("subnets"); ok {
		c.subnets(v)
	}
	if v, ok := s.has("endpoint"); ok {
		h, err := parseHostPort(v.text, 0)
		if err != nil {
			c.invalid(v.rng, "endpoint", err)
			return
		}
		w.Endpoint = net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port)))
		if a, err := netip.ParseAddr(h.Name); err == nil {
			c.keepOutside(a, v.rng, "endpoint "+v.text)
		}
		return
	}
	if _, port, err := net.SplitHostPort(w.Listen); err == nil {
		w.Endpoint = net.JoinHostPort(c.policy.Gateway.PublicHost(), port)
	}
}

// subnets reads one IPv4 and one IPv6 range, in either order.
func (c *compiler) subnets(v value) {
	var v4, v6 netip.Prefix
	for _, item := range v.items {
		p, err := parsePrefix(item.text)
		if err == nil {
			err = checkSubnet(p)
		}
		if err != nil {
			c.invalid(item.rng, "subnets", err)
			return
		}
		family := &v6
		if p.Addr().Is4() {
			family = &v4
		}
		if family.IsValid() {
			c.errorf(item.rng, "Too many subnets", "subnets is one IPv4 and one IPv6 range; this is a second one of its family.")
			return
		}
		*family = p
	}
	if !v4.IsValid() || !v6.IsValid() {
		c.errorf(v.rng, "Missing subnet", "subnets is one IPv4 and one IPv6 range, such as [%q, %q].", defaultSubnet4, defaultSubnet6)
		return
	}
	c.policy.WireGuard.Subnets = []netip.Prefix{v4, v6}
}

func checkSubnet(p netip.Prefix) error {
	least, most := minBits6, maxBits6
	if p.Addr().Is4() {
		least, most = minBits4, maxBits4
	}
	if p.Bits() < least || p.Bits() > most {
		return fmt.Errorf("%s is not between /%d and /%d", p, least, most)
	}
	for _, special := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/32", "64:ff9b::/32", "fe80::/10", "ff00::/8"} {
		if s := netip.MustParsePrefix(special); s.Overlaps(p) {
			return fmt.Errorf("%s holds addresses with a meaning of their own (%s)", p, s)
		}
	}
	return nil
}

func (c *compiler) dns(s section) {
	v, ok := s.has("upstream")
	if !ok {
		return
	}
	if len(v.items) > maxUpstreams {
		c.errorf(v.rng, "Too many resolvers", "upstream has at most %d addresses.", maxUpstreams)
		return
	}
	for _, item := range v.items {
		ap, err := parseAddrPort(item.text, 53)
		if err != nil {
			c.invalid(item.rng, "upstream", err)
			continue
		}
		if slices.Contains(c.policy.DNS.Upstream, ap) {
			c.errorf(item.rng, "Listed twice", "%s is in upstream already.", ap)
			continue
		}
		c.policy.DNS.Upstream = append(c.policy.DNS.Upstream, ap)
		c.keepOutside(ap.Addr(), item.rng, "The resolver "+item.text)
	}
}

// egress reads exceptions: a range or a bare address lifts the private-range
// refusal, an ip:port also those that need an exact one.
func (c *compiler) egress(s section) {
	e := &c.policy.Egress
	e.DenyUnknown = s.text("unknown", "forward") == "deny"
	v, ok := s.has("allow")
	if !ok {
		return
	}
	seen := map[string]bool{}
	for _, item := range v.items {
		var canonical string
		var o outside
		if p, err := parseAllowedRange(item.text); err == nil {
			e.Allow = append(e.Allow, p)
			canonical, o.prefix = p.String(), p
		} else if ap, errExact := parseAddrPort(item.text, 0); errExact == nil {
			e.AllowExact = append(e.AllowExact, ap)
			canonical, o.prefix = ap.String(), netip.PrefixFrom(ap.Addr(), ap.Addr().BitLen())
		} else {
			c.invalid(item.rng, "allow", err)
			continue
		}
		if seen[canonical] {
			c.errorf(item.rng, "Listed twice", "%s is in allow already.", canonical)
		}
		seen[canonical] = true
		o.rng, o.what = item.rng, item.text
		c.outside = append(c.outside, o)
	}
}

func parseAllowedRange(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return netip.Prefix{}, fmt.Errorf("%q is not the address of a host", clip(s))
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := parsePrefix(s)
	if err != nil && !p.IsValid() {
		if _, notRange := netip.ParsePrefix(s); notRange != nil {
			err = fmt.Errorf("%q is neither a range (10.20.0.0/16), nor an address (10.20.0.7), nor an address with a port (10.20.0.7:5432)", clip(s))
		}
	}
	return p, err
}

// listen reads a listen attribute.
func (c *compiler) listen(s section, fallback string) string {
	v, ok := s.has("listen")
	if !ok {
		return fallback
	}
	addr, err := parseListen(v.text)
	if err != nil {
		c.invalid(v.rng, "listen", err)
	}
	return addr
}

// path resolves a path of the file against the file's directory. An empty one
// stays empty.
func (c *compiler) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}
