package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

const (
	lowerUp = unix.IFF_LOWER_UP // a TUN has a carrier while a process holds it

	doctorTimeout = 10 * time.Second // one question to the gateway
	dnsTimeout    = 5 * time.Second  // one question to a resolver

	// clockWarn is when a clock that still works should be looked at. At
	// enrolment.MACWindow the gateway refuses.
	clockWarn = 10 * time.Second

	// probeName is a name that the gateway's resolver answers by itself, whatever
	// its own resolvers do (RFC 6761 section 6.4).
	probeName = "clawpatrol-doctor.invalid."
)

// ipv6 says what becomes of it.
func (d *doctor) ipv6() {
	const name = "ipv6"
	switch {
	case !ipv6Present():
		d.ok(name, "the kernel has none")
		return
	case !d.cfg.carries(ipv6):
		d.warn(name, "the gateway's wireguard.subnets may lack an IPv6 prefix", "the tunnel carries none: IPv6 is unreachable beyond the LAN")
		return
	case !ipv6On():
		d.ok(name, "switched off on this host")
		return
	}
	if !d.root { // only root knows the pin
		d.ok(name, "through the tunnel")
		return
	}
	pin := d.st.Claim.Pin.IPv6
	if pin == "" {
		d.ok(name, "through the tunnel; not pinned")
		return
	}
	addr, err := netip.ParseAddr(pin)
	if err != nil {
		d.failed(name, fmt.Errorf("reading the pin: %w", err), "")
		return
	}
	switch kind, err := passing(addr); { // another's where NAT is in between: then nothing is known against it
	case err != nil:
		d.failed(name, err, "")
	case kind != "":
		d.warn(name, hintLasting, "the pinned address %s is a %s one: when it changes, the registration is blocked", addr, kind)
	default:
		d.ok(name, "through the tunnel")
	}
}

// resolver says whom the host's programs ask.
func (d *doctor) resolver(ctx context.Context) {
	const name = "resolver"
	content, err := readBounded(d.a.host(resolvConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.failed(name, fmt.Errorf("reading %s: %w", resolvConf, err), "")
		return
	}
	servers := nameservers(content)
	isOurs := func(a netip.Addr) bool { return slices.Contains(d.cfg.dns, a) }
	switch {
	case len(servers) > 0 && !slices.ContainsFunc(servers, func(a netip.Addr) bool { return !isOurs(a) }):
		d.ok(name, "%s names the gateway's", resolvConf)
	case slices.ContainsFunc(servers, isResolvedStub):
		bus, err := d.a.resolved(ctx)
		if err != nil || bus == nil {
			d.fail(name, "systemctl restart systemd-resolved", "%s leads to systemd-resolved, which does not run", resolvConf)
			return
		}
		bus.Close()
		uplinks, err := readBounded(d.a.host(resolvedUplinks))
		if err != nil || !slices.ContainsFunc(nameservers(uplinks), isOurs) {
			d.fail(name, hintUp, "systemd-resolved does not ask the gateway's resolver")
			return
		}
		d.ok(name, "systemd-resolved asks the gateway's")
	case len(servers) == 0:
		d.fail(name, hintUp, "%s names no resolver", resolvConf)
	default:
		if !d.held {
			d.fail(name, hintUp, "%s names %s, not the gateway's %s: no process holds the tunnel", resolvConf, addressList(servers), addressList(d.cfg.dns))
			return
		}
		hint := "the process that holds the tunnel puts it back within " + tickEvery.String() + "; if it stays, find out who writes it"
		if !bytes.HasPrefix(content, []byte(fileMark)) {
			d.fail(name, hint, "%s has been overwritten: it names %s, not the gateway's %s", resolvConf, addressList(servers), addressList(d.cfg.dns))
			return
		}
		d.fail(name, hint, "%s names %s besides the gateway's %s", resolvConf, addressList(servers), addressList(d.cfg.dns))
	}
}

func addressList(addrs []netip.Addr) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}

// dns asks the gateway's resolver through the tunnel, and whether the endpoint
// hosts resolve to addresses that the gateway made for them.
func (d *doctor) dns(ctx context.Context) {
	const name = "dns"
	silent := make([]bool, len(d.cfg.dns))
	var all sync.WaitGroup
	for i, s := range d.cfg.dns {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
			defer cancel()
			_, err := resolverAt(s).LookupNetIP(ctx, "ip", probeName)
			var de *net.DNSError
			silent[i] = !errors.As(err, &de) || !de.IsNotFound
		})
	}
	all.Wait()
	if i := slices.Index(silent, true); i >= 0 {
		d.fail(name, "see tunnel and routes", "the gateway's resolver %s does not answer", d.cfg.dns[i])
		return
	}
	hosts := d.hosts
	if len(hosts) == 0 {
		// Nobody has named one: any that the gateway has made addresses for will do.
		h := d.known()
		if h == nil {
			d.ok(name, "the gateway's resolver answers through the tunnel; no endpoint host was asked for yet, clawpatrol doctor HOST tries one")
			return
		}
		hosts = []string{h.name}
	}
	d.ok(name, "the gateway's resolver answers through the tunnel")
	for _, h := range hosts {
		d.host(ctx, h)
	}
}

// host checks that h is a virtual address to this host's own programs: the
// gateway, asked for the name of the address, says h.
func (d *doctor) host(ctx context.Context, h string) {
	name := "dns " + h
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", h)
	if err != nil {
		d.failed(name, err, "see resolver")
		return
	}
	for _, a := range addrs {
		a = a.Unmap()
		names, err := resolverAt(d.cfg.dns[0]).LookupAddr(ctx, a.String())
		if err != nil || !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(strings.TrimSuffix(n, "."), strings.TrimSuffix(h, ".")) }) {
			d.fail(name, "either no credential of this registration's profiles is for it, or /etc/hosts or a resolver other than the gateway's answers", "it resolves to %s, which is not an address of the gateway's making", a)
			return
		}
		if !tunnelled(a) {
			d.fail(name, "see routes; ip route get "+a.String()+" shows what wins", "it resolves to the gateway's %s, but that is not reached through %s", a, LinkName)
			return
		}
	}
	d.ok(name, "it resolves to the gateway's %s", addrs[0].Unmap())
}

// resolverAt asks one server only.
func resolverAt(server netip.Addr) *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, netip.AddrPortFrom(server, dnsPort).String())
		},
	}
}

// gateway asks the public listener, past the tunnel, and compares clocks. It
// returns how to reach it, nil where it cannot be.
func (d *doctor) gateway(ctx context.Context) *probeTarget {
	const name = "gateway"
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	u, err := parseGatewayURL(d.url())
	if err != nil {
		d.failed(name, err, "")
		return nil
	}
	ca, err := d.ca()
	if err != nil {
		d.failed(name, err, hintUp)
		return nil
	}
	// A host that joined with the CA's fingerprint wants that CA. Others, and users
	// who cannot know, also take a publicly trusted certificate.
	pins := []*fingerprint{ca, nil}
	lookup := lookupPlain
	f := families
	if d.root {
		lookup = d.a.cfg.Lookup
		if d.st.CAFingerprint != "" {
			pins = pins[:1]
		}
		f = []family{d.st.Family}
	}
	s := newSession(u, nil, lookup, d.a.cfg.Now)
	s.dialTo = directDialer
	defer s.close()
	for _, pin := range pins {
		s.id.pin = pin
		s.connect()
		for _, f := range f {
			var info enrolment.Info
			began := d.a.cfg.Now()
			var date time.Time
			date, err = s.do(ctx, s.clients[f], "GET", enrolment.PathInfo, nil, nil, &info)
			if err != nil {
				continue
			}
			d.ok(name, "%s has proven its identity, version %s", u.Host, oneLine(info.Version))
			d.clock(date, began, d.a.cfg.Now())
			if pin == nil {
				return &probeTarget{host: s.id.host}
			}
			return &probeTarget{host: s.id.host, dial: func(ctx context.Context) (net.Conn, error) { return s.dialer(f)(ctx, "", "") }}
		}
	}
	d.failed(name, err, "")
	return nil
}

// clock compares the gateway's Date, of whole seconds, with when the question
// was sent and answered.
func (d *doctor) clock(date, began, ended time.Time) {
	const name = "clock"
	if date.IsZero() {
		d.warn(name, "", "the gateway does not tell its own")
		return
	}
	var skew time.Duration
	switch {
	case began.After(date.Add(time.Second)):
		skew = began.Sub(date.Add(time.Second))
	case ended.Before(date):
		skew = ended.Sub(date)
	}
	err := clockError(skew)
	switch {
	case skew.Abs() > enrolment.MACWindow:
		d.failed(name, err, "")
	case skew.Abs() > clockWarn:
		d.warn(name, "timedatectl set-ntp true; at "+enrolment.MACWindow.String()+" the gateway refuses", "%v", err)
	default:
		d.ok(name, "within %s of the gateway's", max(skew.Abs(), time.Second).Round(time.Second))
	}
}

// directDialer reaches to past the tunnel: by mark, or without the right to set
// one from an address of the host's own, which routes as an answer would.
func directDialer(to netip.Addr) *net.Dialer {
	if hasCapability(unix.CAP_NET_ADMIN) {
		return markedDialer()
	}
	d := &net.Dialer{Timeout: dialTimeout}
	if routes, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{Mark: Mark}); err == nil && len(routes) > 0 && routes[0].Src != nil {
		d.LocalAddr = &net.TCPAddr{IP: routes[0].Src}
	}
	return d
}
