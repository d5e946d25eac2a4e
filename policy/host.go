package policy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"
)

const (
	maxHost  = 253 // bytes of a host name in text form (RFC 1035, section 2.3.4)
	maxLabel = 63  // bytes of one label, same section
)

// toASCII is UTS 46 processing as a browser does before it asks the resolver.
// Which characters a name may have is checked afterwards, by hostName.
var toASCII = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(false), idna.Transitional(false))

// CanonicalHost returns the one spelling of a host that a Policy uses: lower
// case, without a trailing dot, IP addresses in canonical text with IPv4-mapped
// ones unmapped. It takes what stands in a TLS SNI, a DNS question or, without
// its port, a Host header, where names are ASCII already; IPv6 may stand in
// brackets. ok is false for what is no host. Canonical input costs no
// allocation, unless it is an IP address.
func CanonicalHost(host string) (canonical string, ok bool) {
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		a, err := netip.ParseAddr(host[1 : len(host)-1])
		if err != nil || !a.Is6() || a.Zone() != "" {
			return "", false
		}
		return a.Unmap().String(), true
	}
	if looksLikeIP(host) {
		a, err := netip.ParseAddr(host)
		if err != nil || a.Zone() != "" {
			return "", false
		}
		return a.Unmap().String(), true
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host, hostName(host)
}

// looksLikeIP reports whether s can only be an IP address: a colon, or a last
// label that is a number (https://url.spec.whatwg.org/#ends-in-a-number-checker).
func looksLikeIP(s string) bool {
	if strings.IndexByte(s, ':') >= 0 {
		return true
	}
	s = strings.TrimSuffix(s, ".")
	last := s[strings.LastIndexByte(s, '.')+1:]
	if last == "" {
		return false
	}
	if hex, ok := strings.CutPrefix(strings.ToLower(last), "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// hostName reports whether s is a host name in canonical form: labels of
// letters, digits, dashes (not at the ends) and underscores.
func hostName(s string) bool {
	if s == "" || len(s) > maxHost {
		return false
	}
	start := 0
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			ch := s[i]
			if !(ch >= 'a' && ch <= 'z' || ch >= '0' && ch <= '9' || ch == '-' || ch == '_') {
				return false
			}
			continue
		}
		if i == start || i-start > maxLabel || s[start] == '-' || s[i-1] == '-' {
			return false
		}
		start = i + 1
	}
	return true
}

// addr returns the address of a host that is one.
func (h Host) addr() (netip.Addr, bool) {
	if !looksLikeIP(h.Name) {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(h.Name)
	return a, err == nil
}

// hostText returns h as "host:port", IPv6 in brackets.
func hostText(h Host) string {
	return net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port)))
}

// parentName returns the name without its first label; a wildcard for it
// matches name. ok is false where there is none.
func parentName(name string) (parent string, ok bool) {
	_, parent, ok = strings.Cut(name, ".")
	return parent, ok
}

// parseHost reads an entry of an endpoint's hosts: "name", "name:port",
// "*.name", "192.0.2.1", "[2001:db8::1]:port". Errors are sentences for the
// operator.
func parseHost(s string, defaultPort uint16) (Host, error) {
	if strings.Contains(s, "://") {
		return Host{}, fmt.Errorf("%q is a URL; write the host alone, or host:port", clip(s))
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
		return Host{}, fmt.Errorf("%q is an IPv6 address; write it in brackets: %q", s, "["+s+"]")
	}
	name, port, err := splitPort(s, defaultPort)
	if err != nil {
		return Host{}, err
	}
	if strings.HasPrefix(name, "[") {
		canonical, ok := CanonicalHost(name)
		if !ok {
			return Host{}, fmt.Errorf("%q is not an IPv6 address in brackets", clip(name))
		}
		return Host{canonical, port}, unicast(canonical)
	}
	if looksLikeIP(name) {
		canonical, ok := CanonicalHost(name)
		if !ok {
			return Host{}, fmt.Errorf("%q is neither an IP address nor a host name", clip(name))
		}
		return Host{canonical, port}, unicast(canonical)
	}
	base, wildcard := strings.CutPrefix(name, "*.")
	if strings.Contains(base, "*") {
		return Host{}, fmt.Errorf("%q: a wildcard is a first label of its own, as in *.example.com", clip(s))
	}
	base, err = canonicalName(base)
	if err != nil {
		return Host{}, err
	}
	if !wildcard {
		return Host{base, port}, nil
	}
	if suffix, _ := publicsuffix.PublicSuffix(base); suffix == base {
		return Host{}, fmt.Errorf("%q covers names of strangers: everyone can have one directly below %s (public suffix list)", "*."+base, base)
	}
	return Host{"*." + base, port}, nil
}

// canonicalName turns a host name as an operator writes it into ASCII.
func canonicalName(s string) (string, error) {
	if len(s) > 4*maxHost { // IDNA only makes it longer
		return "", fmt.Errorf("%q is not a host name: it is too long", clip(s))
	}
	ascii, err := toASCII.ToASCII(strings.TrimSuffix(s, "."))
	if err != nil || !hostName(ascii) || looksLikeIP(ascii) {
		return "", fmt.Errorf("%q is not a host name", clip(s))
	}
	return ascii, nil
}

// splitPort splits "host:port"; the host keeps its brackets.
func splitPort(s string, fallback uint16) (host string, port uint16, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.HasSuffix(s, "]") {
		return s, fallback, nil
	}
	port, err = parsePort(s[i+1:])
	return s[:i], port, err
}

// parsePort reads 1 to 65535, in the one spelling.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%q is not a port, 1 to 65535", clip(s))
	}
	return uint16(n), nil
}

// unicast refuses addresses nobody can be dialled at. What the gateway dials is
// egress's decision, this only catches mistakes.
func unicast(addr string) error {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.IsUnspecified() || a.IsMulticast() {
		return errors.New(addr + " is not the address of a host")
	}
	return nil
}

func (h Host) isWildcard() bool { return strings.HasPrefix(h.Name, "*.") }
