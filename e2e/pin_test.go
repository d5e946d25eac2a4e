package e2e

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
	"github.com/clawpatrol/clawpatrol/enrolment"
)

const agentState = "/var/lib/clawpatrol-agent"

// stolen copies an agent host's state directory to the lab's third host, as
// whoever was root on the first for a moment would. It is gone with the test.
func (w *world) stolen(t *testing.T, j *lab.Joined) (thief *lab.Host, state map[string]any) {
	t.Helper()
	thief = w.lab.Agents[2]
	ctx := context.WithoutCancel(t.Context())
	if err := thief.Script(ctx, "cp -a "+j.Path(agentState)+" /var/lib/ && rm -f "+agentState+"/private/journal "+agentState+"/private/control.sock"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := thief.Run(ctx, w.lab.Bin, "leave"); err != nil {
			t.Errorf("leave: %v %s", err, out)
		}
	})
	b, err := os.ReadFile(thief.Path(agentState + "/private/state.json"))
	if err == nil {
		err = json.Unmarshal(b, &state)
	}
	if err != nil {
		t.Fatal(err)
	}
	return thief, state
}

// cut makes sure that the rightful host is cut off too, hears of it, and comes
// back when an operator approves it again.
func cut(t *testing.T, j *lab.Joined, thiefAddress string) {
	t.Helper()
	r := becomes(t, j, "blocked")
	if !strings.Contains(r.BlockedReason, thiefAddress) {
		t.Errorf("blocked because: %s; want %s in it", r.BlockedReason, thiefAddress)
	}
	gone(t, j)
	if _, err := j.Output.Wait(t.Context(), 30*time.Second, `(?m)^blocked: `); err != nil {
		t.Error(err)
	}
	if err := j.Gateway.Operator.Approve(t.Context(), lab.Registration{ID: j.Registration, UserCode: j.UserCode}, "ci"); err != nil {
		t.Fatal(err)
	}
	back(t, j, "the approval")
}

// wire is WireGuard by itself, without any program of ours, on a host of the lab.
func wire(t *testing.T, h *lab.Host, state map[string]any, gateway netip.AddrPort) (*device.Device, *netstack.Net) {
	t.Helper()
	claim := state["claim"].(map[string]any)
	credential, err := enrolment.ParseJoinCredential(state["join_credential"].(string))
	if err != nil {
		t.Fatal(err)
	}
	key := func(s any) string {
		b, err := base64.StdEncoding.DecodeString(s.(string))
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(b)
	}
	var addrs []netip.Addr
	for _, a := range claim["addresses"].([]any) {
		addrs = append(addrs, netip.MustParsePrefix(a.(string)).Addr())
	}
	link, stack, err := netstack.CreateNetTUN(addrs, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	dev := device.NewDevice(link, hostBind{conn.NewStdNetBind(), h}, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(dev.Close)
	err = dev.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\npreshared_key=%x\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		key(state["wireguard_private_key"]), key(claim["wireguard"].(map[string]any)["public_key"]), credential.Keys().PresharedKey.Reveal(), gateway))
	if err == nil {
		err = dev.Up()
	}
	if err != nil {
		t.Fatal(err)
	}
	return dev, stack
}

// hostBind opens WireGuard's sockets on a host of the lab.
type hostBind struct {
	conn.Bind
	host *lab.Host
}

func (b hostBind) Open(port uint16) (fns []conn.ReceiveFunc, got uint16, err error) {
	err = b.host.Inside(func() (err error) {
		fns, got, err = b.Bind.Open(port)
		return err
	})
	return fns, got, err
}

// A copied join credential, in plain WireGuard, moves no byte, and is blocked; so
// is the rightful host, until an operator has looked.
func TestI08_CopiedJoinCredentialInPlainWireGuard(t *testing.T) {
	w := ownWorld(t)
	for _, c := range []struct {
		gateway netip.Addr
		from    string
	}{{lab.GatewayIPv4, "198.51.102.2"}, {lab.GatewayIPv6, "2001:db8:102::2"}} {
		t.Run(c.from, func(t *testing.T) {
			j := w.joinSecond(t)
			back(t, j, "joining")
			thief, state := w.stolen(t, j)
			heard, err := w.lab.World.Record("to-gateway", 51820)
			if err != nil {
				t.Fatal(err)
			}
			defer heard.Stop()
			w.upstream.Forget()
			began := time.Now()
			dev, stack := wire(t, thief, state, netip.AddrPortFrom(c.gateway, 51820))
			ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
			defer stop()
			blocked := make(chan time.Duration, 1)
			go func() {
				_ = lab.Eventually(ctx, 3*time.Second, func() error {
					if r, err := w.gateway.Operator.Registration(ctx, j.Registration); err != nil || r.State != "blocked" {
						return fmt.Errorf("%s, %v", r.State, err)
					}
					return nil
				})
				blocked <- time.Since(began)
			}()
			if conn, err := stack.DialContext(ctx, "tcp", "192.0.2.11:443"); err == nil {
				conn.Close()
				t.Error("the thief's tunnel carries a connection")
			}
			t.Logf("blocked %v after the thief began", (<-blocked).Round(time.Millisecond))
			if n := len(w.upstream.Seen()); n != 0 {
				t.Errorf("%d requests reached the upstream", n)
			}
			dev.Close() // as long as the thief goes on, each approval ends with its next packet
			cut(t, j, c.from)
		})
	}
}

// The copied state directory with our own program: as it is, the program holds
// still; changed to believe in the thief's address, it is blocked by its first
// word.
func TestI08_CopiedStateDirectory(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	j := w.joinSecond(t)
	back(t, j, "joining")
	thief, state := w.stolen(t, j)
	up, err := w.lab.BeginUp(&lab.Joined{Host: thief, Registration: j.Registration})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := up.Output.Wait(ctx, 30*time.Second, `(?m)^moved: `); err != nil {
		t.Error(err)
	}
	w.upstream.Forget()
	if out, err := thief.Run(ctx, "curl", "-skS", "--max-time", "2", "https://192.0.2.11/"); err == nil {
		t.Errorf("the thief gets an answer: %s", out)
	}
	if err := up.Stop(); err != nil {
		t.Error(err)
	}
	if r := registration(t, j); r.State != "approved" {
		t.Fatalf("the registration is %s: %s", r.State, r.BlockedReason)
	}

	state["claim"].(map[string]any)["pin"] = map[string]string{"ipv4": "198.51.102.2", "ipv6": "2001:db8:102::2"}
	b, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	if err := thief.WriteFile(agentState+"/private/state.json", string(b), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if up, err = w.lab.BeginUp(&lab.Joined{Host: thief, Registration: j.Registration}); err != nil {
		t.Fatal(err)
	}
	becomes(t, j, "blocked")
	t.Logf("blocked %v after the thief began", time.Since(began).Round(time.Millisecond))
	if out, err := thief.Run(ctx, "curl", "-skS", "--max-time", "2", "https://192.0.2.11/"); err == nil {
		t.Errorf("the thief gets an answer: %s", out)
	}
	if err := up.Stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(up.Output.String(), "tunnel up") {
		t.Errorf("the thief's tunnel came up:\n%s", up.Output)
	}
	if n := len(w.upstream.Seen()); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
	cut(t, j, "198.51.102.2")
}

// Another port is no other address: an agent host that starts anew has one.
func TestI08_AnotherPortPasses(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	j := w.joinSecond(t)
	back(t, j, "joining")
	heard, err := w.lab.World.Record("to-agent2", 51820)
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Stop()
	if err := j.Kill(); err != nil {
		t.Fatal(err)
	}
	up, err := w.lab.StartUp(ctx, j)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := up.Stop(); err != nil {
			t.Error(err)
		}
	}()
	back(t, up, "another port")
	becomes(t, j, "approved")
}

// translate has the world masquerade what one LAN of the lab sends, as a router
// with a public address of its own would.
func (w *world) translate(t *testing.T, rules ...string) {
	t.Helper()
	for _, rule := range rules {
		program := "iptables"
		if strings.Contains(rule, "2001:") {
			program = "ip6tables"
		}
		if err := w.lab.World.Script(t.Context(), program+" -t nat -A POSTROUTING -o to-gateway "+rule); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := w.lab.World.Script(context.WithoutCancel(t.Context()), program+" -t nat -D POSTROUTING -o to-gateway "+rule+"; conntrack -F 2>/dev/null || true"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Two agent hosts behind one NAT address have one pin, and both work. One whose
// address on the LAN changes is still behind it.
func TestI08_TwoBehindOneNATAddress(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	w.translate(t,
		"-s 198.51.101.0/24 -j SNAT --to-source 192.0.2.10", "-s 198.51.102.0/24 -j SNAT --to-source 192.0.2.10",
		"-s 2001:db8:101::/64 -j SNAT --to-source 2001:db8:c::10", "-s 2001:db8:102::/64 -j SNAT --to-source 2001:db8:c::10")
	one := w.joinSecond(t)
	two := w.join(t, w.lab.Agents[2])
	for _, j := range []*lab.Joined{one, two} {
		if pin := registration(t, j).Pin; pin["ipv4"] != "192.0.2.10" || pin["ipv6"] != "2001:db8:c::10" {
			t.Errorf("%s is pinned to %v", j.Name, pin)
		}
		back(t, j, "joining behind NAT")
	}
	givenBack(t, one.Host)
	if err := one.Script(ctx, otherIPv4+otherIPv6); err != nil {
		t.Fatal(err)
	}
	back(t, one, "another address on the LAN")
	for _, j := range []*lab.Joined{one, two} {
		if r := registration(t, j); r.State != "approved" {
			t.Errorf("%s is %s: %s", j.Name, r.State, r.BlockedReason)
		}
	}
}

// Carrier NAT may give UDP another address than TCP: the first handshake's is
// pinned too, and no third.
func TestI08_UDPLeavesByAnotherNATAddress(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	const udp = "-p udp -s 198.51.101.0/24 -j SNAT --to-source 192.0.2.53"
	h := w.lab.Agents[1]
	t.Cleanup(func() {
		if err := h.Script(context.WithoutCancel(ctx), "true"+restoreDefaults); err != nil {
			t.Error(err)
		}
	})
	if err := h.Script(ctx, "ip -6 route del default; ip -6 address del 2001:db8:101::2/64 dev eth0"); err != nil {
		t.Fatal(err)
	}
	w.translate(t, "-p tcp -s 198.51.101.0/24 -j SNAT --to-source 192.0.2.10", udp)
	j := w.joinSecond(t)
	back(t, j, "joining")
	if r := registration(t, j); r.Pin["ipv4"] != "192.0.2.10" || r.State != "approved" {
		t.Errorf("it is %s and pinned to %v", r.State, r.Pin)
	}
	// A third address, which the host cannot see.
	if err := w.lab.World.Script(ctx, "ip address add 192.0.2.99/32 dev lo; iptables -t nat -I POSTROUTING 1 -o to-gateway -p udp -s 198.51.101.0/24 -j SNAT --to-source 192.0.2.99"); err != nil {
		t.Fatal(err)
	}
	undo := func() error {
		return w.lab.World.Script(context.WithoutCancel(ctx), "ip address del 192.0.2.99/32 dev lo; iptables -t nat -D POSTROUTING 1")
	}
	// A mapping that is there stays: only a new port gets the new address.
	if err := j.Stop(); err != nil {
		t.Error(err)
	}
	up, err := w.lab.BeginUp(j)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := up.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if r := becomes(t, j, "blocked"); !strings.Contains(r.BlockedReason, "192.0.2.99") {
		t.Errorf("blocked because: %s", r.BlockedReason)
	}
	if _, err := up.Output.Wait(ctx, 30*time.Second, `(?m)^blocked: `); err != nil {
		t.Error(err)
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
}

// A host that has joined over IPv6 alone stays with it when its LAN gets IPv4.
func TestI08_IPv6OnlyBecomesDualStack(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	h := w.lab.Agents[1]
	t.Cleanup(func() {
		if err := h.Script(context.WithoutCancel(ctx), ownAddresses+"\nprintf 'nameserver "+lab.NamesIPv4.String()+"\\n' >/etc/resolv.conf"); err != nil {
			t.Error(err)
		}
	})
	if err := h.Script(ctx, "ip route del default; ip address del 198.51.101.2/24 dev eth0; printf 'nameserver "+lab.NamesIPv6.String()+"\\n' >/etc/resolv.conf"); err != nil {
		t.Fatal(err)
	}
	j := w.joinSecond(t)
	if pin := registration(t, j).Pin; pin["ipv4"] != "" || pin["ipv6"] == "" {
		t.Fatalf("the pin is %v; want IPv6 only", pin)
	}
	back(t, j, "joining on an IPv6-only LAN")
	if err := j.Script(ctx, "ip address add 198.51.101.2/24 dev eth0; ip route replace default via 198.51.101.1"); err != nil {
		t.Fatal(err)
	}
	back(t, j, "the LAN became dual stack")
	if err := w.gateway.Stop(); err != nil {
		t.Fatal(err)
	}
	w.gateway.Log.Mark()
	if err := w.gateway.Start(ctx); err != nil {
		t.Fatal(err)
	}
	back(t, j, "a restart of the gateway")
	becomes(t, j, "approved")
}

// What somebody on the path has recorded, sent again from elsewhere, blocks
// nobody and reaches nothing: neither at once, nor after a restart of the
// gateway.
func TestI08_RecordedPacketsBlockNobody(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	heard, err := w.lab.World.Record("to-agent2", 51820)
	if err != nil {
		t.Fatal(err)
	}
	j := w.joinSecond(t)
	back(t, j, "joining")
	packets, _ := heard.Stop()
	if len(packets) < 10 {
		t.Fatalf("only %d packets recorded", len(packets))
	}
	kinds := map[byte]int{}
	for _, p := range packets {
		kinds[p[0]]++
	}
	if kinds[1] == 0 || kinds[4] == 0 {
		t.Fatalf("recorded, by type: %v; want initiations and data", kinds)
	}
	thief := w.lab.Agents[2]
	replay := func(when string) {
		t.Helper()
		w.upstream.Forget()
		for _, to := range []netip.Addr{lab.GatewayIPv4, lab.GatewayIPv6} {
			c, err := thief.Dial(ctx, "udp", net.JoinHostPort(to.String(), "51820"))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				for _, p := range packets {
					if _, err := c.Write(p); err != nil {
						t.Fatal(err)
					}
				}
			}
			_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if n, err := c.Read(make([]byte, 2048)); err == nil {
				t.Errorf("%s: the gateway answered with %d bytes", when, n)
			}
			c.Close()
		}
		if n := len(w.upstream.Seen()); n != 0 {
			t.Errorf("%s: %d requests reached the upstream", when, n)
		}
		back(t, j, "a replay "+when)
		if r := registration(t, j); r.State != "approved" {
			t.Fatalf("%s the registration is %s: %s", when, r.State, r.BlockedReason)
		}
	}
	replay("while the session lasts")
	if err := w.gateway.Stop(); err != nil {
		t.Fatal(err)
	}
	w.gateway.Log.Mark()
	if err := w.gateway.Start(ctx); err != nil {
		t.Fatal(err)
	}
	replay("after a restart of the gateway")
}
