package agent

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/clawpatrol/clawpatrol/secret"
)

// LinkName is the tunnel's interface.
const LinkName = "clawpatrol0"

const (
	keySize = 32 // bytes of a Curve25519 key

	defaultMTU = 1420
	minMTU     = 1280 // RFC 8200 section 5: what every IPv6 link carries
	maxMTU     = 65535 - 80

	keepalive = 25 // seconds; below the 30 s after which common NATs forget a UDP mapping

	// staleAfter is when a session has no keys left (wireguard's Reject-After-Time)
	// plus a handshake's time. Then the gateway is gone or has moved.
	staleAfter = 200 * time.Second
	// A handshake is begun anew after firstHandshake, then after twice that, and so
	// on until lastHandshake; then the next endpoint's turn comes. wireguard-go by
	// itself waits 5 s, and a first initiation is easily lost: the gateway takes
	// none that is 16 ms younger than the last, and a TUN that gets its carrier
	// back takes the device down and up.
	firstHandshake = 1 * time.Second
	lastHandshake  = 8 * time.Second
)

// newKey makes a WireGuard private key (I12: here, and it stays here).
func newKey() secret.Secret {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic("agent: making a Curve25519 key: " + err.Error()) // crypto/rand does not fail
	}
	return secret.New(k.Bytes())
}

// publicKey returns the public half in standard base64.
func publicKey(private secret.Secret) (string, error) {
	k, err := ecdh.X25519().NewPrivateKey(private.Reveal())
	if err != nil {
		return "", errors.New("not a WireGuard key")
	}
	return base64.StdEncoding.EncodeToString(k.PublicKey().Bytes()), nil
}

// tunnelConfig is a claim, checked.
type tunnelConfig struct {
	privateKey   secret.Secret
	presharedKey secret.Secret
	gatewayKey   []byte         // keySize bytes
	host         string         // of the gateway's WireGuard endpoint
	port         uint16         // same
	addresses    []netip.Prefix // the interface's
	dns          []netip.Addr
	mtu          int
	keepalive    int // seconds
}

// newTunnelConfig checks what the gateway sent before any of it is used.
func newTunnelConfig(st *state) (tunnelConfig, error) {
	c := st.Claim
	cfg := tunnelConfig{
		privateKey:   st.WireGuardKey,
		presharedKey: st.JoinCredential.Keys().PresharedKey,
		mtu:          defaultMTU,
		keepalive:    keepalive,
	}
	bad := func(what string) (tunnelConfig, error) {
		return cfg, fmt.Errorf("reading the gateway's claim answer: %s", what)
	}
	var err error
	if cfg.gatewayKey, err = base64.StdEncoding.DecodeString(c.WireGuard.PublicKey); err != nil || len(cfg.gatewayKey) != keySize {
		return bad("its WireGuard key is not 32 bytes in base64")
	}
	host, port, err := net.SplitHostPort(c.WireGuard.Endpoint)
	if err != nil || !plainHost(host) {
		return bad("its WireGuard endpoint is not host:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return bad("its WireGuard endpoint is not host:port")
	}
	cfg.host, cfg.port = host, uint16(n)
	for _, s := range c.Addresses {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Addr().Is4In6() || p.Addr().Zone() != "" || !p.Addr().IsGlobalUnicast() {
			return bad("an interface address is not one")
		}
		cfg.addresses = append(cfg.addresses, p)
	}
	if len(cfg.addresses) == 0 || len(cfg.addresses) > 8 {
		return bad("it has no interface address, or more than 8")
	}
	for _, s := range c.DNS {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Is4In6() || a.Zone() != "" || !a.IsGlobalUnicast() {
			return bad("a resolver is not an address")
		}
		// A resolver of a family that the tunnel does not carry would only be slow.
		if cfg.carries(familyOf(a)) {
			cfg.dns = append(cfg.dns, a)
		}
	}
	if len(cfg.dns) == 0 || len(cfg.dns) > 3 { // resolv.conf(5): MAXNS
		return bad("it has no resolver, or more than 3")
	}
	if m := c.WireGuard.MTU; m != 0 {
		if m < minMTU || m > maxMTU {
			return bad(fmt.Sprintf("its MTU is not between %d and %d", minMTU, maxMTU))
		}
		cfg.mtu = m
	}
	if k := c.WireGuard.Keepalive; k != 0 {
		if k < 1 || k > 65535 {
			return bad("its keepalive is not between 1 and 65535 seconds")
		}
		cfg.keepalive = k
	}
	return cfg, nil
}

// plainHost accepts a name, or an address that a packet can be sent to from any
// interface. A zone is refused in particular: it may be any text, line breaks
// included, and would be part of the device's line-based configuration.
func plainHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return sendable(a)
	}
	const maxName = 253 // RFC 1035 section 2.3.4, without the length bytes of first label and root
	return s != "" && s[0] != '-' && len(s) <= maxName && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_')
	})
}

func sendable(a netip.Addr) bool {
	return a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

// carries reports whether the tunnel has an address of this family.
func (c tunnelConfig) carries(f family) bool {
	for _, p := range c.addresses {
		if familyOf(p.Addr()) == f {
			return true
		}
	}
	return false
}

// tunnel is a running agent's end: userspace WireGuard on a kernel TUN. The
// device survives a restart of the gateway by itself.
type tunnel struct {
	dev     *device.Device
	bind    *pinnedBind
	cfg     tunnelConfig
	ifindex int
}

// openAt is how a tunnel begins.
type openAt struct {
	first  netip.AddrPort // where the handshake starts at once
	source netip.Addr     // this host's address that it starts from

	share func(tun.Device) (tun.Device, error) // returns what WireGuard gets in place of the TUN; nil: the TUN
}

// openTunnel makes the TUN, or takes the one that a killed process left, and
// gives it its addresses.
//
// The TUN outlives its process. That is what makes a dead tunnel fail closed for
// IPv6: when a route lookup without a source address ends in an error, as at an
// unreachable route, the kernel picks some address of the host and looks again
// with it (ip6_dst_lookup_tail), and by that address the packet would pass for an
// answer and leave directly.
//
// With a zero first the device has nowhere to send its first initiation to, and
// after that one it waits 5 s (Rekey-Timeout).
func openTunnel(j *journal, cfg tunnelConfig, how openAt) (_ *tunnel, err error) {
	if l, err := netlink.LinkByName(LinkName); err == nil && (j.find(stepLink, LinkName) == nil || l.Type() != "tuntap") {
		return nil, WithHint(fmt.Errorf("making the tunnel: an interface named %s exists", LinkName), "another join may be running: clawpatrol status; otherwise: ip link delete "+LinkName)
	}
	if err := clash(cfg.addresses); err != nil {
		return nil, err
	}
	if err := j.record(entry{Step: stepLink, Scope: scopeTunnel, Key: LinkName}); err != nil {
		return nil, err
	}
	t, err := tun.CreateTUN(LinkName, cfg.mtu)
	if err != nil {
		return nil, WithHint(fmt.Errorf("making the tunnel: %w", err), "in a container, it needs /dev/net/tun and CAP_NET_ADMIN")
	}
	bind := newPinnedBind(byMark)
	if how.first.IsValid() {
		bind.setSource(familyOf(how.first.Addr()), how.source)
	}
	inner := t
	if how.share != nil {
		if inner, err = how.share(t); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	dev := device.NewDevice(inner, bind, device.NewLogger(device.LogLevelSilent, ""))
	defer func() {
		if err != nil {
			dev.Close()
		}
	}()
	if err := persist(t.File()); err != nil {
		return nil, fmt.Errorf("making %s outlive this process: %w", LinkName, err)
	}
	j.checkpoint("made " + LinkName)
	wg := &tunnel{dev: dev, bind: bind, cfg: cfg}
	if err := dev.IpcSet(cfg.uapi(how.first)); err != nil {
		return nil, fmt.Errorf("configuring WireGuard: %w", err)
	}
	link, err := netlink.LinkByName(LinkName)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", LinkName, err)
	}
	wg.ifindex = link.Attrs().Index
	if err := wg.address(link); err != nil {
		return nil, err
	}
	if err := dev.Up(); err != nil {
		return nil, fmt.Errorf("starting WireGuard: %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("setting %s up: %w", LinkName, err)
	}
	j.checkpoint("set up " + LinkName)
	return wg, nil
}

// persist keeps a TUN when its last descriptor is closed. It has an owner first:
// the kernel lets anyone who may open /dev/net/tun, which is everyone, attach to
// a TUN that nobody holds and nobody owns (tun_not_capable), to read what the
// host sends and to answer it.
func persist(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if ctl := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetInt(int(fd), unix.TUNSETOWNER, os.Geteuid()); err == nil {
			err = unix.IoctlSetInt(int(fd), unix.TUNSETPERSIST, 1)
		}
	}); ctl != nil {
		return ctl
	}
	return err
}

// address gives the link its addresses and takes others away.
func (t *tunnel) address(link netlink.Link) error {
	for key, value := range map[string]string{
		// Without link-local address the kernel sends no router solicitations,
		// which the gateway would only drop.
		"addr_gen_mode": "1",
		// While no process holds the TUN it has no carrier, and must swallow packets
		// all the same.
		"ignore_routes_with_linkdown": "0",
	} {
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+LinkName+"/"+key, []byte(value), 0) // absent where there is no IPv6
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("listing the addresses of %s: %w", LinkName, err)
	}
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP)
		if slices.ContainsFunc(t.cfg.addresses, func(p netip.Prefix) bool { return p.Addr() == ip.Unmap() }) {
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("taking the address %s from %s: %w", a.IP, LinkName, err)
		}
	}
	for _, p := range t.cfg.addresses {
		if familyOf(p.Addr()) == ipv6 && !ipv6On() {
			continue // the routes block IPv6 instead
		}
		// No prefix route: the way into the tunnel is our table alone.
		flags := unix.IFA_F_NOPREFIXROUTE
		if p.Addr().Is6() {
			flags |= unix.IFA_F_NODAD // RFC 4862: nobody else is on this link
		}
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p), Flags: flags}); err != nil {
			return fmt.Errorf("giving %s the address %s: %w", LinkName, p, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// uapi is the device's configuration, in the cross-platform userspace protocol
// of WireGuard.
func (c tunnelConfig) uapi(first netip.AddrPort) string {
	return fmt.Sprintf("private_key=%s\n%s", hex.EncodeToString(c.privateKey.Reveal()), c.peer(first))
}

// peer is its part about the gateway. The endpoint comes before the addresses: a
// TUN that was there before may have packets waiting, and they start a handshake.
func (c tunnelConfig) peer(to netip.AddrPort) string {
	var endpoint string
	if to.IsValid() {
		endpoint = fmt.Sprintf("endpoint=%s\npersistent_keepalive_interval=%d\n", to, c.keepalive)
	}
	return fmt.Sprintf("replace_peers=true\npublic_key=%s\npreshared_key=%s\n%sreplace_allowed_ips=true\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		hex.EncodeToString(c.gatewayKey), hex.EncodeToString(c.presharedKey.Reveal()), endpoint)
}

// dial points the device at the gateway and begins a handshake, at once and
// whatever came of the one before: it forgets the session that there was.
func (t *tunnel) dial(to netip.AddrPort) error {
	if err := t.dev.IpcSet(t.cfg.peer(to)); err != nil {
		return fmt.Errorf("setting the gateway's endpoint: %w", err)
	}
	return nil
}

// from sets the one address that a family's packets leave from; the zero Addr:
// none does. The session with the gateway goes on.
func (t *tunnel) from(f family, source netip.Addr) error {
	if !t.bind.setSource(f, source) {
		return nil
	}
	if err := t.dev.BindUpdate(); err != nil {
		return fmt.Errorf("opening WireGuard's sockets: %w", err)
	}
	return nil
}

// tunnelStats is what the device knows of the gateway.
type tunnelStats struct {
	endpoint          string
	lastHandshake     time.Time
	bytesIn, bytesOut uint64
}

func (t *tunnel) stats() (tunnelStats, error) {
	text, err := t.dev.IpcGet() // holds both keys: it goes nowhere
	if err != nil {
		return tunnelStats{}, fmt.Errorf("asking WireGuard: %w", err)
	}
	var s tunnelStats
	var sec, nsec int64
	for line := range strings.Lines(text) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch k {
		case "endpoint":
			s.endpoint = v
		case "last_handshake_time_sec":
			sec, _ = strconv.ParseInt(v, 10, 64)
		case "last_handshake_time_nsec":
			nsec, _ = strconv.ParseInt(v, 10, 64)
		case "rx_bytes":
			s.bytesIn, _ = strconv.ParseUint(v, 10, 64)
		case "tx_bytes":
			s.bytesOut, _ = strconv.ParseUint(v, 10, 64)
		}
	}
	if sec != 0 {
		s.lastHandshake = time.Unix(sec, nsec)
	}
	return s, nil
}

// endpoints returns where the gateway may be reached, in the families whose
// address is pinned: from another the gateway would block us (I08).
func (c tunnelConfig) endpoints(ctx context.Context, lookup func(context.Context, string) ([]netip.Addr, error), pinned []family) ([]netip.AddrPort, error) {
	addrs, err := lookup(ctx, c.host)
	if err != nil {
		return nil, WithHint(fmt.Errorf("finding the gateway's WireGuard endpoint: %w", err), "the gateway's wireguard.endpoint must be a name or address that this host can resolve")
	}
	var out []netip.AddrPort
	for _, f := range pinned {
		for _, a := range f.of(addrs) {
			if !sendable(a) {
				continue
			}
			out = append(out, netip.AddrPortFrom(a, c.port))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("finding the gateway's WireGuard endpoint: %s has no address in a family that is enrolled", c.host)
	}
	return out, nil
}

// close stops the device. The TUN stays, without a carrier, until removeLink.
func (t *tunnel) close() { t.dev.Close() }

// removeLink undoes stepLink.
func removeLink(name string) error {
	l, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.Type() != "tuntap" {
		return nil // not one we made
	}
	return netlink.LinkDel(l)
}
