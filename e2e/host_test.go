package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// state is what join may change on a host, as text to compare.
func state(t *testing.T, h *lab.Host) string {
	t.Helper()
	out, err := h.Run(t.Context(), "sh", "-c", `
		ip rule; ip -6 rule; ip -4 route show table all | grep -v cache; ip -6 route show table all | grep -v -e cache -e expires -e 'local fe80'; ip -br link | awk '{print $1}'
		cat /etc/resolv.conf; ls -l /etc/resolv.conf | cut -c1-10; ls /usr/local/share/ca-certificates; md5sum /etc/ssl/certs/ca-certificates.crt; ls /etc/ssl/certs
		! command -v keytool >/dev/null || keytool -list -cacerts -storepass changeit 2>/dev/null | grep -c trustedCertEntry
		sysctl -a 2>/dev/null | grep -E 'net.ipv[46].conf.(all|default|eth0|lo).(rp_filter|src_valid_mark|disable_ipv6)'`)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func works(ctx context.Context, j *lab.Joined) error {
	out, err := j.Shell(ctx, "curl -sS --max-time 5 https://api.example.com/works")
	if err == nil && !strings.HasPrefix(out, "ok") {
		err = fmt.Errorf("answered %q", out)
	}
	return err
}

func TestHost_LeaveUndoesEverything(t *testing.T) {
	w := ownWorld(t)
	h := w.lab.Agents[1]
	before := state(t, h)
	t.Run("joined", func(t *testing.T) {
		j := w.joinSecond(t)
		if err := works(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		if state(t, h) == before {
			t.Error("join changed nothing that state shows: the comparison proves nothing")
		}
	})
	if after := state(t, h); after != before {
		t.Errorf("before join:\n%s\nafter leave:\n%s", before, after)
	}
}

func TestHost_LeaveRepairsAfterKillNine(t *testing.T) {
	w := ownWorld(t)
	h := w.lab.Agents[1]
	before := state(t, h)
	t.Run("joined", func(t *testing.T) {
		j := w.joinSecond(t)
		if err := works(t.Context(), j); err != nil {
			t.Fatal(err)
		}
		if err := j.Kill(); err != nil {
			t.Fatal(err)
		}
	})
	if after := state(t, h); after != before {
		t.Errorf("before join:\n%s\nafter kill -9 and leave:\n%s", before, after)
	}
}

// A dead tunnel fails closed: what would have gone through it goes nowhere.
func TestHost_DeadTunnelFailsClosed(t *testing.T) {
	w := ownWorld(t)
	j := w.joinSecond(t)
	if err := works(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	if err := j.Kill(); err != nil {
		t.Fatal(err)
	}
	w.upstream.Forget()
	for _, url := range []string{"https://192.0.2.11/", "https://[2001:db8:c::11]/"} {
		if out, err := j.Run(t.Context(), "curl", "-skS", "--max-time", "4", url); err == nil {
			t.Errorf("%s answered without a tunnel: %s", url, out)
		}
	}
	if n := len(w.upstream.Seen()); n != 0 {
		t.Errorf("%d requests went around the tunnel", n)
	}
	// The next `up` repairs.
	up, err := w.lab.StartUp(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := up.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if err := lab.Eventually(t.Context(), 20*time.Second, func() error { return works(t.Context(), j) }); err != nil {
		t.Error(err)
	}
}

// The LAN stays direct, but for DNS.
func TestHost_LANStaysDirectExceptDNS(t *testing.T) {
	w := ownWorld(t)
	j := w.joinSecond(t)
	for target, want := range map[string]string{
		"198.51.101.1": "eth0", "2001:db8:101::1": "eth0",
		"198.51.101.1 ipproto udp dport 53": "clawpatrol0", "198.51.101.1 ipproto tcp dport 53": "clawpatrol0",
		"192.0.2.11": "clawpatrol0", "2001:db8:c::11": "clawpatrol0", "8.8.8.8": "clawpatrol0",
		lab.GatewayIPv4.String(): "clawpatrol0", // the host's own traffic; the tunnel's is marked
	} {
		out, err := j.Run(t.Context(), "sh", "-c", "ip route get "+target)
		if err != nil || !strings.Contains(out, "dev "+want+" ") {
			t.Errorf("%s: %v %s; want dev %s", target, err, strings.TrimSpace(out), want)
		}
	}
}

// A host that is joined over ssh is not cut off: inbound connections keep
// answering the way they came in.
func TestHost_JoinOverSSHIsNotCutOff(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	h := w.lab.Agents[1]
	if err := h.Script(ctx, `mkdir -p /run/sshd /root/.ssh; chmod 700 /root/.ssh
		rm -f /root/host /root/key; ssh-keygen -q -t ed25519 -N '' -f /root/host; ssh-keygen -q -t ed25519 -N '' -f /root/key
		cp /root/key.pub /root/.ssh/authorized_keys
		/usr/sbin/sshd -f /dev/null -o HostKey=/root/host -o PidFile=/run/sshd.pid -o UsePAM=no -o PermitRootLogin=yes -o StrictModes=no`); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Script(ctx, `kill "$(cat /run/sshd.pid)"`); err != nil {
			t.Error(err)
		}
	}()
	if err := lab.Eventually(ctx, 10*time.Second, func() error { // it listens after it has gone into the background
		c, err := h.Dial(ctx, "tcp", "127.0.0.1:22")
		if err != nil {
			return err
		}
		return c.Close()
	}); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(h.Path("/root/key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.lab.World.WriteFile("/root/key", string(key), 0o600); err != nil {
		t.Fatal(err)
	}
	// From beyond the LAN: the answer must not take the tunnel's default route.
	// One line in before join starts, one after it is up.
	ssh := w.lab.World.Command(ctx, "ssh", "-b", lab.WorldIPv4.String(), "-i", "/root/key", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@198.51.101.2",
		"echo in; read go; echo still in")
	in, err := ssh.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := new(lab.Output)
	ssh.Stdout, ssh.Stderr = out, out
	if err := ssh.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Wait(ctx, 15*time.Second, `(?m)^in`); err != nil {
		t.Fatal(err)
	}
	j := w.joinSecond(t)
	if err := works(ctx, j); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Wait(ctx, 10*time.Second, `(?m)^still in`); err != nil {
		t.Errorf("the session that was there before: %v", err)
	}
	_ = ssh.Wait()
	for _, addr := range []string{"198.51.101.2", "2001:db8:101::2"} {
		b := lab.WorldIPv4.String()
		if strings.Contains(addr, ":") {
			b = lab.WorldIPv6.String()
		}
		got, err := w.lab.World.Run(ctx, "ssh", "-b", b, "-i", "/root/key", "-o", "ConnectTimeout=8", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@"+addr, "echo new")
		if err != nil || strings.TrimSpace(got) != "new" {
			t.Errorf("a new session over %s: %v %q", addr, err, got)
		}
	}
}

// After a restart the gateway shakes hands with the endpoints it remembers;
// agents do nothing.
func TestHost_TrafficFlowsAgainAfterGatewayRestart(t *testing.T) {
	ctx := t.Context()
	if err := works(ctx, agent); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func() error{gateway.Stop, gateway.Kill} {
		// The endpoint is persisted within seconds of a handshake.
		if err := end(); err != nil {
			t.Fatal(err)
		}
		gateway.Log.Mark()
		if err := gateway.Start(ctx); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := lab.Eventually(ctx, 30*time.Second, func() error { return works(ctx, agent) }); err != nil {
			t.Fatal(err)
		}
		t.Logf("traffic flows %v after the start", time.Since(start).Round(10*time.Millisecond))
	}
}

func TestHost_WithoutRootNothingIsDone(t *testing.T) {
	w := ownWorld(t)
	h := w.lab.Agents[1]
	before := state(t, h)
	out, err := h.Run(t.Context(), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", w.lab.Bin, "join", "https://"+lab.GatewayHost+":8443", "--ca-fingerprint", w.gateway.CAFingerprint)
	if err == nil || !strings.Contains(err.Error(), "root") || !strings.Contains(err.Error(), "hint:") || strings.Contains(out, "nstalled") {
		t.Errorf("join without root: %v\n%s", err, out)
	}
	if after := state(t, h); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}
