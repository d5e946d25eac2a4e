package dns_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"github.com/clawpatrol/clawpatrol/proxy/dns"
)

// inNamespace runs the calling test again in a process of its own, in a network
// namespace with nothing but loopback; it returns true there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const marker = "DNS_TEST_NAMESPACE"
	if os.Getenv(marker) == t.Name() {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			t.Fatal(err)
		}
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), marker+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in a network namespace: %v\n%s", err, out)
	}
	return false
}

// listenAt answers on port 53 of an address of loopback.
func listenAt(t *testing.T, host, answer string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", host+":53")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { pc.Close(); serving.Wait() })
	serving.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var q mdns.Msg
			if q.Unpack(buf[:n]) == nil {
				wire, _ := records("$ 0 IN A "+answer)("udp", &q).Pack()
				pc.WriteTo(wire, from)
			}
		}
	})
}

func TestDNS_HostsResolversByDefault(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	listenAt(t, "127.0.0.53", "192.0.2.1")
	listenAt(t, "127.0.0.54", "192.0.2.2")
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	h := build(t, nil, func(c *dns.Config) { c.ResolvConf = conf })
	want := func(answer string) {
		t.Helper()
		if a := only(t, h.ask(t, nil, gateway, question("a.example.org", mdns.TypeA))).(*mdns.A); a.A.String() != answer {
			t.Errorf("%s, want %s", a.A, answer)
		}
	}
	wantRcode(t, h.ask(t, nil, gateway, question("a.example.org", mdns.TypeA)), mdns.RcodeServerFailure) // no file yet
	for i, content := range []string{"nameserver 127.0.0.53\nsearch example.org\n", "# changed\nnameserver nonsense\nnameserver 127.0.0.54\n"} {
		if err := os.WriteFile(conf, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		h.pass(10 * time.Second)
		want([]string{"192.0.2.1", "192.0.2.2"}[i])
	}
	// Gone for now, while something rewrites it: what was read stands.
	if err := os.Remove(conf); err != nil {
		t.Fatal(err)
	}
	h.pass(10 * time.Second)
	want("192.0.2.2")
}
