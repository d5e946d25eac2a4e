package egress

import "net/netip"

// A refusedRange is one row of what no agent reaches.
type refusedRange struct {
	prefix  netip.Prefix
	reason  string
	private bool // egress.allow lifts it; the others need an exact ip:port
}

// The ranges, the most specific reason first: metadata addresses lie within
// ranges that egress.allow may lift, and stay refused when it does.
// Documentation ranges (RFC 5737, RFC 3849, RFC 9637) are not refused: nothing
// routes them, and labs live on them.
var (
	ranges4 = []refusedRange{
		{cidr("168.63.129.16/32"), "cloud metadata", false},                   // Azure's wire server
		{cidr("100.100.100.200/32"), "cloud metadata", false},                 // Alibaba
		{cidr("192.0.0.192/32"), "cloud metadata", false},                     // Oracle
		{cidr("169.254.169.254/32"), "cloud metadata", false},                 // AWS, Google, Azure, most others
		{cidr("100.100.100.100/32"), "the gateway host's own service", false}, // Tailscale's local resolver and web page
		{cidr("0.0.0.0/8"), "unspecified address", false},                     // RFC 1122, 3.2.1.3; Linux connects 0.0.0.0 to loopback
		{cidr("127.0.0.0/8"), "loopback", false},
		{cidr("169.254.0.0/16"), "link-local range", false}, // RFC 3927
		{cidr("192.0.0.0/24"), "reserved range", false},     // RFC 6890: IETF protocol assignments
		{cidr("224.0.0.0/4"), "multicast", false},
		{cidr("255.255.255.255/32"), "broadcast", false},
		{cidr("240.0.0.0/4"), "reserved range", false}, // RFC 1112, section 4
		{cidr("10.0.0.0/8"), "private range", true},    // RFC 1918
		{cidr("172.16.0.0/12"), "private range", true},
		{cidr("192.168.0.0/16"), "private range", true},
		{cidr("100.64.0.0/10"), "carrier-grade NAT range", true}, // RFC 6598
		{cidr("198.18.0.0/15"), "benchmarking range", true},      // RFC 2544
	}
	ranges6 = []refusedRange{
		{cidr("fd00:ec2::/32"), "cloud metadata", false},                          // AWS: ::254, ::23, ::253, ::123
		{cidr("fd20:ce::254/128"), "cloud metadata", false},                       // Google
		{cidr("fd00:c1::a9fe:a9fe/128"), "cloud metadata", false},                 // Oracle
		{cidr("fd00:42::42/128"), "cloud metadata", false},                        // Scaleway
		{cidr("fd00:a9fe:a9fe::1/128"), "cloud metadata", false},                  // Linode
		{cidr("fe80::a9fe:a9fe/128"), "cloud metadata", false},                    // OpenStack
		{cidr("fd7a:115c:a1e0::53/128"), "the gateway host's own service", false}, // Tailscale's local resolver
		{cidr("::1/128"), "loopback", false},
		{cidr("::/128"), "unspecified address", false},
		{cidr("fe80::/10"), "link-local range", false},
		{cidr("fec0::/10"), "site-local range", false}, // RFC 3879: deprecated, still routed by some
		{cidr("ff00::/8"), "multicast", false},
		{cidr("fc00::/7"), "private range", true},         // RFC 4193
		{cidr("2001:2::/48"), "benchmarking range", true}, // RFC 5180
	}
	// nat64 is the one prefix outside 2000::/3 that leads to public addresses
	// (RFC 6052, section 2.1).
	nat64  = cidr("64:ff9b::/96")
	global = cidr("2000::/3") // IANA has assigned no other global unicast space
	sixTo4 = cidr("2002::/16")
	teredo = cidr("2001::/32")
)

func cidr(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// classify says why a canonical address is refused, and whether that is only
// for being private; "" means it is not. It takes the address literally: see
// embedded for what hides in it.
func classify(a netip.Addr) (reason string, private bool) {
	table := ranges6
	if a.Is4() {
		table = ranges4
	}
	for i := range table {
		if table[i].prefix.Contains(a) {
			return table[i].reason, table[i].private
		}
	}
	// Of IPv6 only what is known to be the internet is public. This refuses
	// IPv4-compatible addresses (::/96), IPv4-translated ones
	// (::ffff:0:0:0/96), local-use NAT64 (64:ff9b:1::/48, where RFC 8215
	// leaves open at which bits the IPv4 address stands), discard-only
	// (100::/64), SRv6 SIDs (5f00::/16) and whatever has no meaning yet.
	if a.Is6() && !global.Contains(a) && !nat64.Contains(a) {
		return "reserved range", false
	}
	return "", false
}

// spellings is an address and the IPv4 addresses written into it: a packet to
// the first may come out at any of them.
type spellings struct {
	addr [3]netip.Addr
	n    int
}

func (s *spellings) all() []netip.Addr { return s.addr[:s.n] }

func (s *spellings) add(a netip.Addr) {
	s.addr[s.n] = a
	s.n++
}

// embedded decodes a canonical address. Embeddings that are refused whole need
// no decoding: see classify.
func embedded(a netip.Addr) (s spellings) {
	s.add(a)
	if !a.Is6() {
		return s
	}
	b := a.As16()
	switch {
	case nat64.Contains(a): // RFC 6052, section 2.2
		s.add(netip.AddrFrom4([4]byte(b[12:16])))
	case sixTo4.Contains(a): // RFC 3056, section 2
		s.add(netip.AddrFrom4([4]byte(b[2:6])))
	case teredo.Contains(a): // RFC 4380, section 4: the server, and the host with its bits inverted
		s.add(netip.AddrFrom4([4]byte(b[4:8])))
		s.add(netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	}
	return s
}
