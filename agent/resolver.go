package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	resolvConf = "/etc/resolv.conf"

	// resolvedUplinks lists the resolvers that systemd-resolved itself uses.
	resolvedUplinks = "/run/systemd/resolve/resolv.conf"

	// maxResolvers bounds what is read of a resolv.conf. libc uses three of them,
	// but resolved's own list may begin with the gateway's.
	maxResolvers = 16

	busTimeout = 5 * time.Second
)

// resolvedStubs are where systemd-resolved answers (systemd-resolved.service(8)).
var resolvedStubs = []netip.Addr{netip.MustParseAddr("127.0.0.53"), netip.MustParseAddr("127.0.0.54")}

// pointResolver makes the host ask the gateway's resolver: through
// systemd-resolved where resolv.conf leads to it, else by a resolv.conf of ours.
// Calling it again repairs what has been changed since.
func (a *Agent) pointResolver(ctx context.Context, j *journal, t *tunnel) error {
	bus, err := a.resolved(ctx)
	if err != nil {
		return err
	}
	if bus != nil {
		defer bus.Close()
		if err := j.record(entry{Step: stepResolved, Scope: scopeTunnel, Key: LinkName}); err != nil {
			return err
		}
		if err := pointResolved(ctx, bus, t.ifindex, t.cfg.dns); err != nil {
			return err
		}
		j.checkpoint("pointed resolved")
		return nil
	}
	old, err := readBefore(a.host(resolvConf))
	if err != nil {
		return fmt.Errorf("reading %s: %w", resolvConf, err)
	}
	if e := j.find(stepFile, a.host(resolvConf)); old.ours() && e != nil {
		old = e.File
	}
	return writeHostFile(j, scopeTunnel, a.host(resolvConf), ourResolvConf(t.cfg.dns, old.Content), 0o644)
}

// patience is for how long libc waits for an answer (resolv.conf(5)). By itself
// it waits 5 s, and then asks again: what a restart of the gateway swallows would
// cost that much. The gateway remembers an answer that took longer.
const patience = "options timeout:1 attempts:3\n"

// ourResolvConf keeps the search list and the options of the one before.
func ourResolvConf(dns []netip.Addr, before []byte) []byte {
	b := bytes.NewBufferString(fileMark)
	for _, d := range dns {
		fmt.Fprintf(b, "nameserver %s\n", d)
	}
	if !bytes.Contains(before, []byte("timeout:")) && !bytes.Contains(before, []byte("attempts:")) {
		b.WriteString(patience)
	}
	for line := range strings.Lines(string(before)) {
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "search" || f[0] == "domain" || f[0] == "options") {
			fmt.Fprintln(b, strings.Join(f, " "))
		}
	}
	return b.Bytes()
}

// originalResolvers are the ones the host had before us.
func (a *Agent) originalResolvers() ([]netip.Addr, error) {
	content, err := readBounded(a.host(resolvConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading %s: %w", resolvConf, err)
	}
	if bytes.HasPrefix(content, []byte(fileMark)) {
		j, err := openJournal(a.paths.journal(), a.cfg.checkpoint)
		if err != nil {
			return nil, err
		}
		if e := j.find(stepFile, a.host(resolvConf)); e != nil {
			content = e.File.Content
		}
	}
	servers := nameservers(content)
	if slices.ContainsFunc(servers, isResolvedStub) {
		// Once resolved asks the gateway's resolver, only what it asked before helps.
		// The gateway's own is in that list then, and is left out.
		if uplinks, err := readBounded(a.host(resolvedUplinks)); err == nil {
			tunnel := a.tunnelResolvers()
			up := slices.DeleteFunc(nameservers(uplinks), func(s netip.Addr) bool { return slices.Contains(tunnel, s) })
			if len(up) > 0 {
				servers = up
			}
		}
	}
	if len(servers) == 0 {
		servers = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})} // resolv.conf(5)
	}
	return servers, nil
}

// tunnelResolvers are the gateway's, if the host is enrolled.
func (a *Agent) tunnelResolvers() []netip.Addr {
	st, err := loadState(a.paths)
	if err != nil || st.Claim == nil {
		return nil
	}
	cfg, err := newTunnelConfig(st)
	if err != nil {
		return nil
	}
	return cfg.dns
}

func isResolvedStub(a netip.Addr) bool { return slices.Contains(resolvedStubs, a) }

// nameservers reads a resolv.conf (resolv.conf(5)).
func nameservers(content []byte) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(string(content)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" || len(out) == maxResolvers {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = "/org/freedesktop/resolve1"
	resolvedManager = "org.freedesktop.resolve1.Manager."
)

// resolved connects to systemd-resolved, if it runs and resolv.conf leads to it.
// Otherwise it returns nil.
func (a *Agent) resolved(ctx context.Context) (*dbus.Conn, error) {
	path := a.host(resolvConf)
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	content, err := readBounded(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading %s: %w", resolvConf, err)
	}
	if !slices.ContainsFunc(nameservers(content), isResolvedStub) {
		return nil, nil
	}
	bus := a.cfg.SystemBus
	if bus == "" {
		bus = "unix:path=/run/dbus/system_bus_socket"
	}
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	c, err := dbus.Connect(bus)
	if err != nil {
		return nil, nil // no bus: nothing can be running on it
	}
	var owned bool
	if err := c.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, resolvedName).Store(&owned); err != nil || !owned {
		c.Close()
		return nil, nil
	}
	return c, nil
}

// Arguments of SetLinkDNS and SetLinkDomains (org.freedesktop.resolve1(5)).
type (
	linkDNS struct {
		Family  int32
		Address []byte
	}
	linkDomain struct {
		Domain  string
		Routing bool
	}
)

// pointResolved makes the tunnel's link the one for every name ("~."). The
// settings are the link's and go with it.
func pointResolved(ctx context.Context, bus *dbus.Conn, ifindex int, dns []netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	obj := bus.Object(resolvedName, resolvedPath)
	call := func(method string, args ...any) error {
		if err := obj.CallWithContext(ctx, resolvedManager+method, 0, args...).Err; err != nil {
			return fmt.Errorf("configuring systemd-resolved: %s: %w", method, err)
		}
		return nil
	}
	var servers []linkDNS
	for _, d := range dns {
		fam := int32(unix.AF_INET)
		if d.Is6() {
			fam = unix.AF_INET6
		}
		servers = append(servers, linkDNS{fam, d.AsSlice()})
	}
	link := int32(ifindex)
	if err := call("SetLinkDNS", link, servers); err != nil {
		return err
	}
	if err := call("SetLinkDomains", link, []linkDomain{{".", true}}); err != nil {
		return err
	}
	if err := call("SetLinkDefaultRoute", link, true); err != nil {
		return err
	}
	// The gateway answers for endpoint hosts itself, with addresses that no zone
	// has signed, and speaks plain DNS inside the tunnel. Old versions of resolved
	// lack these; then the host's own setting applies.
	_ = call("SetLinkDNSSEC", link, "no")
	_ = call("SetLinkDNSOverTLS", link, "no")
	_ = call("FlushCaches")
	return nil
}

// revertResolved undoes stepResolved. Where the link is gone, so are its
// settings.
func (a *Agent) revertResolved(ctx context.Context, name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil
	}
	bus, err := a.resolved(ctx)
	if err != nil || bus == nil {
		return err
	}
	defer bus.Close()
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	obj := bus.Object(resolvedName, resolvedPath)
	err = obj.CallWithContext(ctx, resolvedManager+"RevertLink", 0, int32(link.Attrs().Index)).Err
	_ = obj.CallWithContext(ctx, resolvedManager+"FlushCaches", 0).Err
	return err
}

// reassertResolver puts our resolv.conf back when a DHCP client or network
// manager has replaced it. What they wrote is what undoing restores.
func (a *Agent) reassertResolver(ctx context.Context, j *journal, t *tunnel) error {
	if j.find(stepFile, a.host(resolvConf)) == nil {
		return nil
	}
	now, err := os.ReadFile(a.host(resolvConf))
	if err == nil && bytes.HasPrefix(now, []byte(fileMark)) {
		return nil
	}
	return a.pointResolver(ctx, j, t)
}
