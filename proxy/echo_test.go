package proxy_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

// inNamespace runs the test that calls it once more, in a process with a network
// namespace of its own, and reports whether this is that process. Ping sockets
// are a setting of the namespace, and nothing may be left behind in this one.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "CLAWPATROL_TEST_NAMESPACE"
	if os.Getenv(mark) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.SysProcAttr = ownNetwork()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("in a network namespace: %v\n%s", err, out)
	}
	return false
}

// ownNetwork starts a process in a network namespace of its own; that takes root
// or a user namespace.
func ownNetwork() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

// The world of the namespace: a network with one host on it, far. Its addresses
// are public ones, but lead nowhere else.
var (
	far4, far6   = netip.MustParseAddr("203.1.112.2"), netip.MustParseAddr("2a0f:ff00::2")
	near4, near6 = "203.1.112.1/24", "2a0f:ff00::1/64"
	nobody4      = netip.MustParseAddr("203.1.112.77")
)

// network makes that world around the calling process.
func network(t *testing.T) {
	t.Helper()
	// The far end is the kernel of another namespace, which a process holds open.
	holder := exec.Command("sleep", "60")
	holder.SysProcAttr = ownNetwork()
	holder.SysProcAttr.Cloneflags &^= syscall.CLONE_NEWUSER // inside one already
	holder.SysProcAttr.UidMappings, holder.SysProcAttr.GidMappings = nil, nil
	must(t, holder.Start())
	t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "near"}, PeerName: "far"}))
	far, err := netlink.LinkByName("far")
	must(t, err)
	must(t, netlink.LinkSetNsPid(far, holder.Process.Pid))
	ns, err := netns.GetFromPid(holder.Process.Pid)
	must(t, err)
	defer ns.Close()
	there, err := netlink.NewHandleAt(ns)
	must(t, err)
	defer there.Close()
	here, err := netlink.NewHandle()
	must(t, err)
	defer here.Close()
	for _, end := range []struct {
		handle *netlink.Handle
		name   string
		addrs  []string
	}{
		{here, "lo", nil},
		{here, "near", []string{near4, near6}},
		{there, "far", []string{far4.String() + "/24", far6.String() + "/64"}},
	} {
		link, err := end.handle.LinkByName(end.name)
		must(t, err)
		for _, text := range end.addrs {
			addr, err := netlink.ParseAddr(text)
			must(t, err)
			if addr.IP.To4() == nil {
				addr.Flags = syscall.IFA_F_NODAD
			}
			must(t, end.handle.AddrAdd(link, addr))
		}
		must(t, end.handle.LinkSetUp(link))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func allowPingSockets(t *testing.T) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(fmt.Sprintf("%d %d", os.Getgid(), os.Getgid())), 0))
}

func (r *recorder) echoed() []wireguard.Echo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]wireguard.Echo(nil), r.echoes...)
}

func TestEchoGoesOutThroughAPingSocket(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	network(t)
	allowPingSockets(t)
	k := proxytest.New(t, reaching(443))
	id, answers := k.Approve("a", "red"), record(k)
	for i, dst := range []netip.Addr{far4, far6} {
		e := wireguard.Echo{Src: k.Source(id, dst.Is6()).Addr(), Dst: dst, ID: 77, Seq: uint16(i + 5), Payload: []byte("ping " + dst.String())}
		if d := k.Proxy.Echo(e); d != wireguard.Taken {
			t.Fatalf("%v: disposition %v", dst, d)
		}
		k.Eventually(5*time.Second, "an answer from "+dst.String(), func() bool { return answers.len() == i+1 })
		got := answers.echoed()[i]
		if got.Src != e.Src || got.Dst != e.Dst || got.ID != e.ID || got.Seq != e.Seq || string(got.Payload) != string(e.Payload) {
			t.Errorf("sent %+v, answered %+v", e, got)
		}
	}

	// What egress refuses is prohibited, in every spelling.
	src := k.Source(id, false).Addr()
	for _, dst := range []string{"127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "10.1.2.3", "10.55.0.1", "10.55.0.34", "203.1.112.1", "10.55.192.9"} {
		if d := k.Proxy.Echo(wireguard.Echo{Src: src, Dst: netip.MustParseAddr(dst)}); d != wireguard.Prohibited {
			t.Errorf("%s: disposition %v", dst, d)
		}
	}

	// Nobody's requests, and a blocked registration's, have no answer at all.
	if d := k.Proxy.Echo(wireguard.Echo{Src: netip.MustParseAddr("10.55.99.2"), Dst: far4}); d != wireguard.Taken {
		t.Errorf("a request of nobody: disposition %v", d)
	}

	// Outstanding ones are bounded.
	for range 100 {
		k.Proxy.Echo(wireguard.Echo{Src: src, Dst: nobody4})
	}
	if n := k.Proxy.Counters().EchoDropped; n != 100-64 {
		t.Errorf("%d requests dropped, want %d", n, 100-64)
	}
	if n := answers.len(); n != 2 {
		t.Errorf("%d answers, want 2", n)
	}
}

func TestEchoToAnEndpointsHost(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	network(t)
	allowPingSockets(t)
	k := proxytest.New(t, reaching(443)+asking(resolverOf(t, net.IP(far4.AsSlice()))))
	id, answers := k.Approve("a", "red"), record(k)
	dst := k.Virtual(id, "api.test", 443).Addr()
	if d := k.Proxy.Echo(wireguard.Echo{Src: k.Source(id, false).Addr(), Dst: dst, Payload: []byte("x")}); d != wireguard.Taken {
		t.Fatalf("disposition %v", d)
	}
	k.Eventually(5*time.Second, "an answer", func() bool { return answers.len() == 1 })
	if got := answers.echoed()[0]; got.Dst != dst {
		t.Errorf("answered %+v", got)
	}
}

func TestEchoIsProhibitedWithoutPingSockets(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	network(t)
	conn, err := net.Dial("udp4", netip.AddrPortFrom(far4, 9).String())
	if err != nil {
		t.Fatalf("the world of the test is not there: %v", errors.Unwrap(err))
	}
	conn.Close()
	k := proxytest.New(t, reaching(443))
	src := k.Source(k.Approve("a", "red"), false).Addr()
	if d := k.Proxy.Echo(wireguard.Echo{Src: src, Dst: far4}); d != wireguard.Prohibited {
		t.Errorf("disposition %v", d)
	}
}
