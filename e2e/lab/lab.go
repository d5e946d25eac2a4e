// Package lab builds a small internet out of network namespaces on this
// machine: agent hosts, a gateway host, and the world between and beyond them.
// The tests in e2e and `make demo` run real programs in it.
//
// Nothing of the machine's own network or file system changes: the namespaces
// have no names, their links run between them only, what a host writes goes to
// an overlay in memory, and all of it vanishes with the process that holds the
// host, which dies with the lab.
//
// All addresses are from the documentation ranges (RFC 5737, RFC 3849).
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Where things are.
var (
	GatewayIPv4 = netip.MustParseAddr("203.0.113.2")
	GatewayIPv6 = netip.MustParseAddr("2001:db8:200::2")
	WorldIPv4   = netip.MustParseAddr("192.0.2.10") // web servers
	WorldIPv6   = netip.MustParseAddr("2001:db8:c::10")
	NamesIPv4   = netip.MustParseAddr("192.0.2.53") // the public resolver
	NamesIPv6   = netip.MustParseAddr("2001:db8:c::53")
)

// GatewayHost is the gateway's public name.
const GatewayHost = "gw.example.net"

// Config describes a lab. Bin is required.
type Config struct {
	Bin    string    // path of the built clawpatrol
	Agents int       // agent hosts; 0: one
	Log    io.Writer // what the programs print; nil: discarded
}

// Lab is a running lab. The world routes between all hosts.
type Lab struct {
	Bin     string // where it is installed on the hosts
	Gateway *Host
	World   *Host
	Agents  []*Host
	Names   *Names
	PKI     *PKI

	log *lockedWriter

	mu      sync.Mutex
	closers []func() error // guarded by mu
}

// New builds a lab. It needs root.
func New(ctx context.Context, cfg Config) (_ *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the lab needs root: it makes network namespaces")
	}
	l := &Lab{Bin: "/usr/local/bin/clawpatrol", log: &lockedWriter{w: cfg.Log}}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.PKI, err = publicPKI(); err != nil {
		return nil, err
	}
	if l.World, err = l.newHost(ctx, "world"); err != nil {
		return nil, err
	}
	if err := l.World.Script(ctx, `
		sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
		ip address add 192.0.2.10/32 dev lo; ip address add 2001:db8:c::10/128 dev lo nodad
		ip address add 192.0.2.53/32 dev lo; ip address add 2001:db8:c::53/128 dev lo nodad`); err != nil {
		return nil, err
	}
	if l.Gateway, err = l.newHost(ctx, "gateway"); err != nil {
		return nil, err
	}
	// A stock Debian lets every group use ping sockets; a new namespace does not.
	if err := l.Gateway.Script(ctx, "sysctl -qw 'net.ipv4.ping_group_range=0 2147483647'"); err != nil {
		return nil, err
	}
	if err := l.install(ctx, l.Gateway, cfg.Bin); err != nil {
		return nil, err
	}
	if err := l.link(ctx, l.Gateway, "203.0.113", "2001:db8:200:"); err != nil {
		return nil, err
	}
	l.Agents = make([]*Host, max(cfg.Agents, 1))
	var hosts errgroup.Group
	for i := range l.Agents {
		hosts.Go(func() (err error) {
			if l.Agents[i], err = l.newHost(ctx, fmt.Sprintf("agent%d", i+1)); err != nil {
				return err
			}
			if err := l.link(ctx, l.Agents[i], fmt.Sprintf("198.51.%d", 100+i), fmt.Sprintf("2001:db8:10%d:", i)); err != nil {
				return err
			}
			return l.install(ctx, l.Agents[i], cfg.Bin)
		})
	}
	if err := hosts.Wait(); err != nil {
		return nil, err
	}
	if err := l.PKI.Trust(ctx, l.Agents...); err != nil {
		return nil, err
	}
	if l.Names, err = l.serveNames(); err != nil {
		return nil, err
	}
	l.Names.Set(GatewayHost, GatewayIPv4, GatewayIPv6)
	return l, nil
}

// install copies the program to where a person would. Without one (a lab for its
// own sake) there is nothing to copy.
func (l *Lab) install(ctx context.Context, h *Host, bin string) error {
	if bin == "" {
		return nil
	}
	return h.Script(ctx, "install -m 755 "+Quote(bin)+" "+l.Bin)
}

// link connects h to the world: h is .2 (::2) of the two prefixes, the world .1
// (::1) and h's default route.
func (l *Lab) link(ctx context.Context, h *Host, v4, v6 string) error {
	w := "to-" + h.Name
	if err := run(ctx, "ip", "link", "add", "eth0", "netns", h.pid(), "type", "veth", "peer", "name", w, "netns", l.World.pid()); err != nil {
		return err
	}
	// nodad: an address that is still tentative cannot be bound, and nobody else
	// is on the link.
	if err := l.World.Script(ctx, fmt.Sprintf(`
		ip address add %[1]s.1/24 dev %[3]s; ip address add %[2]s:1/64 dev %[3]s nodad
		ip link set %[3]s up`, v4, v6, w)); err != nil {
		return err
	}
	return h.Script(ctx, fmt.Sprintf(`
		ip address add %[1]s.2/24 dev eth0; ip address add %[2]s:2/64 dev eth0 nodad
		ip link set eth0 up
		ip route add default via %[1]s.1
		ip -6 route add default via %[2]s:1
		printf 'nameserver %[3]s\n' >/etc/resolv.conf`, v4, v6, NamesIPv4))
}

func (l *Lab) onClose(f func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

// Close ends everything the lab started.
func (l *Lab) Close() error {
	l.mu.Lock()
	closers := l.closers
	l.closers = nil
	l.mu.Unlock()
	var errs []error
	for _, f := range slices.Backward(closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}
