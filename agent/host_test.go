package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const testResolvConf = "# from DHCP\nnameserver " + routerIPv4 + "\nsearch lan\noptions ndots:1\n"

// newRoot makes the files of a host that join reads and changes: Debian's, with
// the AppArmor of Ubuntu.
func newRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for path, content := range map[string]string{
		resolvConf:                           testResolvConf,
		"/usr/sbin/update-ca-certificates":   "#!/bin/sh\n",
		"/etc/ssl/certs/ca-certificates.crt": newTestCA(t).pem(),
		restrictUserns:                       "1\n",
		"/usr/sbin/apparmor_parser":          "#!/bin/sh\n",
		"/etc/apparmor.d/README":             "",
		loadedProfiles:                       "other (enforce)\n",
	} {
		p := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(p, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "/usr/local/share/ca-certificates"), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// fakeRefresh does what update-ca-certificates and apparmor_parser do, as far as a
// file can show it: the result follows from what is in the directory, or in the
// profile.
func fakeRefresh(root string) func(context.Context, string, ...string) error {
	return func(_ context.Context, name string, args ...string) error {
		if filepath.Base(name) == "apparmor_parser" {
			return fakeParser(root, args)
		}
		if filepath.Base(name) != "update-ca-certificates" {
			return fmt.Errorf("unexpected program %s %q", name, args)
		}
		local, err := filepath.Glob(filepath.Join(root, "/usr/local/share/ca-certificates/*"))
		if err != nil {
			return err
		}
		var out []byte
		for _, p := range local {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			out = append(out, b...)
		}
		path := filepath.Join(root, "/etc/ssl/certs/local.crt")
		if len(out) == 0 {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}
		return os.WriteFile(path, out, 0o644)
	}
}

// snapshot describes everything that join may change, outside the state
// directory.
func snapshot(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	for _, f := range families {
		rules, err := netlink.RuleList(f.nl())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			lines = append(lines, fmt.Sprintf("rule %s %s mark %x goto %d proto %d", f, r, r.Mark, r.Goto, r.Protocol))
		}
		routes, err := netlink.RouteListFiltered(f.nl(), &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Dst != nil && r.Dst.IP.IsLinkLocalUnicast() {
				continue // appears by itself, some time after the link
			}
			lines = append(lines, fmt.Sprintf("route %s table %d type %d %s", f, r.Table, r.Type, r))
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		lines = append(lines, "link "+l.Attrs().Name)
	}
	sort.Strings(lines)
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("file %s %s", strings.TrimPrefix(path, root), info.Mode())
		if info.Mode()&fs.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			lines = append(lines, line+" -> "+target)
			return nil
		}
		b, err := os.ReadFile(path)
		lines = append(lines, fmt.Sprintf("%s %q", line, b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// running is a join or up in this process.
type running struct {
	*Agent
	out  *output
	stop context.CancelFunc
	done chan error
}

func newAgent(t *testing.T, g *testGateway, root string) (*Agent, *output) {
	t.Helper()
	out := new(output)
	return New(Config{
		StateDir: filepath.Join(t.TempDir(), "state"),
		Root:     root,
		Out:      out,
		Run:      fakeRefresh(root),
		Lookup:   g.lookup,
	}), out
}

// start runs f, which is Join or Up of a, until the test ends.
func start(t *testing.T, a *Agent, out *output, f func(context.Context) error) *running {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Agent: a, out: out, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- f(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case <-r.done:
		case <-time.After(20 * time.Second):
			t.Error("it did not stop")
		}
		if t.Failed() {
			t.Logf("it said:\n%s", out)
		}
	})
	return r
}

func (r *running) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		r.done <- err
		return err
	case <-time.After(60 * time.Second):
		t.Fatalf("it does not end; it said:\n%s", r.out)
		return nil
	}
}

// join starts a join with g and waits until it is ready.
func join(t *testing.T, g *testGateway, root string) *running {
	t.Helper()
	a, out := newAgent(t, g, root)
	g.setApprove(true)
	r := start(t, a, out, func(ctx context.Context) error {
		return a.Join(ctx, JoinRequest{URL: g.nameURL(), CAFingerprint: g.ca.pin().String(), Name: "one"})
	})
	eventually(t, "ready", func() bool {
		select {
		case err := <-r.done:
			t.Fatalf("join ended: %v\n%s", err, out)
		default:
		}
		return strings.Contains(out.String(), "\nready\n")
	})
	return r
}

// ask connects as any program of the host would, and returns the answer.
func ask(addr string) string {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func askUDP(addr string) string {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second)) // a query that is dropped takes as long as this
	if _, err := c.Write([]byte("?")); err != nil {
		return err.Error()
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}

func port(a netip.Addr, p uint16) string { return netip.AddrPortFrom(a, p).String() }

func sysctl(t *testing.T, key, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// Everything a joined host does, on the strictest setting of reverse path
// filtering.
func TestJoin_TrafficGoesThroughTheTunnel(t *testing.T) {
	w := newWorld(t)
	sysctl(t, "net.ipv4.conf.all.rp_filter", "1")
	sysctl(t, "net.ipv4.conf.default.rp_filter", "1")
	sysctl(t, "net.ipv4.conf.eth0.rp_filter", "1")
	sysctl(t, "net.ipv4.conf.all.src_valid_mark", "0")
	for _, a := range []netip.Addr{site4, site6} {
		w.serve(t, port(a, 80), "direct")
	}
	for _, a := range []string{routerIPv4, routerIPv6} {
		w.serve(t, net.JoinHostPort(a, "80"), "lan")
		w.serveUDP(t, net.JoinHostPort(a, "53"), "lan")
		w.serveUDP(t, net.JoinHostPort(a, "5353"), "lan")
	}
	// An inbound connection that is there before the join, from beyond the LAN.
	inbound, err := net.Listen("tcp", ":2222")
	if err != nil {
		t.Fatal(err)
	}
	defer inbound.Close()
	go func() {
		for {
			c, err := inbound.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	echo := func(c net.Conn) error {
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}
	old, err := w.dial(site4.String(), net.JoinHostPort(hostIPv4, "2222"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()

	root := newRoot(t)
	g := newTestGateway(t, &w.ns, gatewayIPv4, gatewayIPv6)
	before := snapshot(t, root)
	for _, a := range []netip.Addr{site4, site6} {
		if got := ask(port(a, 80)); got != "direct" {
			t.Fatalf("before the join %s answers %q", a, got)
		}
	}
	r := join(t, g, root)

	for _, line := range []string{
		"name: one", "registration: r_1", "user code: ABCD-EFGH", "address: " + hostIPv4, "address: " + hostIPv6,
		"tunnel up", "approved", "profiles: ci", "CA installed: /usr/local/share/ca-certificates/clawpatrol.crt", "ready",
	} {
		if !strings.Contains("\n"+r.out.String(), "\n"+line+"\n") {
			t.Errorf("it did not say %q:\n%s", line, r.out)
		}
	}
	for _, a := range []netip.Addr{site4, site6} {
		if got := ask(port(a, 80)); got != "tunnel" {
			t.Errorf("%s answers %q; want it through the tunnel", a, got)
		}
	}
	for _, a := range []string{routerIPv4, routerIPv6} {
		if got := ask(net.JoinHostPort(a, "80")); got != "lan" {
			t.Errorf("%s answers %q; want the LAN direct", a, got)
		}
		if got := askUDP(net.JoinHostPort(a, "5353")); got != "lan" {
			t.Errorf("%s answers %q on UDP; want the LAN direct", a, got)
		}
		if got := askUDP(net.JoinHostPort(a, "53")); got == "lan" {
			t.Errorf("a DNS query to %s went around the tunnel", a)
		}
	}
	for _, a := range []netip.Addr{tunnelDNS4, tunnelDNS6} {
		if got := askUDP(port(a, 53)); got != "tunnel" {
			t.Errorf("the gateway's resolver %s answers %q", a, got)
		}
	}
	if err := echo(old); err != nil {
		t.Errorf("the inbound connection from before the join: %v", err)
	}
	for from, to := range map[string]string{site4.String(): hostIPv4, site6.String(): hostIPv6} {
		c, err := w.dial(from, net.JoinHostPort(to, "2222"))
		if err != nil {
			t.Errorf("a new inbound connection: %v", err)
			continue
		}
		if err := echo(c); err != nil {
			t.Errorf("a new inbound connection: %v", err)
		}
		c.Close()
	}
	if b, err := os.ReadFile(filepath.Join(root, resolvConf)); err != nil || string(b) != fileMark+"nameserver 10.55.0.1\nnameserver fd55:c1a5::1\n"+patience+"search lan\noptions ndots:1\n" {
		t.Errorf("resolv.conf: %v %q", err, b)
	}

	st, err := r.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !st.Enrolled || !st.Tunnel.Up || st.Tunnel.PID != os.Getpid() || st.State != stateApproved || st.Pin.IPv4 != hostIPv4 || st.Pin.IPv6 != hostIPv6 || st.Tunnel.LastHandshake == nil {
		t.Errorf("status: %+v", st)
	}

	// An address that the host is given while joined answers as well.
	second := "198.51.100.77"
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(second + "/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(eth0, addr); err != nil {
		t.Fatal(err)
	}
	eventually(t, "answer from the new address", func() bool {
		c, err := w.dial(site4.String(), net.JoinHostPort(second, "2222"))
		if err != nil {
			return false
		}
		defer c.Close()
		return echo(c) == nil
	})
	if err := netlink.AddrDel(eth0, addr); err != nil {
		t.Fatal(err)
	}
	eventually(t, "removal of its rule", func() bool {
		rules, err := netlink.RuleList(unix.AF_INET)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			if r.Src != nil && r.Src.IP.String() == second {
				return false
			}
		}
		return true
	})

	// Down keeps the enrolment and the CA.
	if err := r.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(t); err != nil {
		t.Errorf("join ended with %v", err)
	}
	if got := ask(port(site4, 80)); got != "direct" {
		t.Errorf("after down %s answers %q", site4, got)
	}
	if _, err := os.Stat(filepath.Join(root, "/etc/ssl/certs/local.crt")); err != nil {
		t.Errorf("down removed the CA: %v", err)
	}
	up := start(t, r.Agent, r.out, r.Up)
	eventually(t, "tunnel after up", func() bool { return ask(port(site4, 80)) == "tunnel" })
	if err := r.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := up.wait(t); err != nil {
		t.Errorf("up ended with %v", err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before join:\n%s\n\nafter leave:\n%s", before, after)
	}
	if _, err := os.Stat(r.paths.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("leave left the state directory: %v", err)
	}
}

// hostCommand runs a command of the agent in a process of its own.
func hostCommand(t *testing.T, g *testGateway, root, state, command string, killAt int) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), hostProcessEnv+"="+command, hostStateEnv+"="+state, hostRootEnv+"="+root,
		hostURLEnv+"="+g.nameURL(), hostGatewayEnv+"="+g.addrs[0].String(), hostPinEnv+"="+g.ca.pin().String(), fmt.Sprintf("%s=%d", hostKillEnv, killAt))
	return cmd
}
