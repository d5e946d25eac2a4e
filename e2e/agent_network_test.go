package e2e

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// back waits for traffic in both families, and that doctor finds the routes as
// they should be. Nobody helps.
func back(t *testing.T, j *lab.Joined, after string) {
	t.Helper()
	began := time.Now()
	if err := lab.Eventually(t.Context(), 60*time.Second, func() error {
		for _, family := range []string{"-4", "-6"} {
			if _, err := j.Shell(t.Context(), "curl -sS -o /dev/null --max-time 3 "+family+" https://api.example.com/"); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatalf("after %s: %v\n%s", after, err, j.Output)
	}
	t.Logf("after %s traffic is back in %v", after, time.Since(began).Round(10*time.Millisecond))
	if err := lab.Eventually(t.Context(), 10*time.Second, func() error {
		names := []string{"tunnel", "routes", "resolver", "dns"}
		results := doctorUntil(t.Context(), t, j.Host, names)
		for _, name := range names {
			if results[name] != "ok" {
				return &faultError{name, results[name], "ok"}
			}
		}
		return nil
	}); err != nil {
		t.Errorf("after %s: %v", after, err)
	}
}

// gone makes sure that the fault was one.
func gone(t *testing.T, j *lab.Joined) {
	t.Helper()
	if out, err := j.Shell(t.Context(), "curl -sS -o /dev/null --max-time 2 https://api.example.com/"); err == nil {
		t.Errorf("traffic flows during the fault: %s", out)
	}
}

const restoreDefaults = `
	ip route replace default via 198.51.101.1
	ip -6 address replace 2001:db8:101::2/64 dev eth0 nodad
	ip -6 route replace default via 2001:db8:101::1`

// A cable that is pulled, a Wi-Fi that is lost, a machine that sleeps: the kernel
// forgets routes and IPv6 addresses, and the network manager gives them back.
func TestAgentNetwork_LinkDownAndUp(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	j := w.joinSecond(t)
	back(t, j, "joining")
	if err := j.Script(ctx, "ip link set eth0 down"); err != nil {
		t.Fatal(err)
	}
	gone(t, j)
	if err := j.Script(ctx, "ip link set eth0 up"+restoreDefaults); err != nil {
		t.Fatal(err)
	}
	back(t, j, "link down and up")

	// The link of the other side.
	if err := w.lab.World.Script(ctx, "ip link set to-agent2 down"); err != nil {
		t.Fatal(err)
	}
	gone(t, j)
	if err := w.lab.World.Script(ctx, "ip link set to-agent2 up; ip address replace 2001:db8:101::1/64 dev to-agent2 nodad"); err != nil {
		t.Fatal(err)
	}
	back(t, j, "a lost carrier")
}

// The default routes go and come.
func TestAgentNetwork_DefaultRouteChange(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	j := w.joinSecond(t)
	t.Cleanup(func() {
		if err := j.Script(context.WithoutCancel(ctx), "ip route del default metric 300 2>/dev/null || true; ip -6 route del default metric 300 2>/dev/null || true"+restoreDefaults); err != nil {
			t.Error(err)
		}
	})
	back(t, j, "joining")
	if err := j.Script(ctx, "ip route del default; ip -6 route del default"); err != nil {
		t.Fatal(err)
	}
	gone(t, j)
	if err := j.Script(ctx, "ip route add default via 198.51.101.1 metric 300; ip -6 route add default via 2001:db8:101::1 metric 300"); err != nil {
		t.Fatal(err)
	}
	back(t, j, "other default routes")
	if err := j.Script(ctx, "ip route del default metric 300; ip -6 route del default metric 300"+restoreDefaults); err != nil {
		t.Fatal(err)
	}
	back(t, j, "the first default routes")
	if r := registration(t, j); r.State != "approved" {
		t.Errorf("the registration is %s", r.State)
	}
}

// A process that stands still for a while, as all do in a suspended machine.
func TestAgentNetwork_Suspend(t *testing.T) {
	w := ownWorld(t)
	j := w.joinSecond(t)
	back(t, j, "joining")
	if err := syscall.Kill(j.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	gone(t, j)
	suspended := time.NewTimer(20 * time.Second)
	select {
	case <-suspended.C:
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
	if err := syscall.Kill(j.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	back(t, j, "20 s of standing still")
}

// A LAN without IPv6 gets it while the host is joined: IPv6 goes through the
// tunnel before and after, and the new address blocks nobody.
func TestAgentNetwork_IPv4OnlyBecomesDualStack(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	h := w.lab.Agents[1]
	t.Cleanup(func() {
		if err := h.Script(context.WithoutCancel(ctx), "true"+restoreDefaults); err != nil {
			t.Error(err)
		}
	})
	if err := h.Script(ctx, "ip -6 route del default; ip -6 address del 2001:db8:101::2/64 dev eth0"); err != nil {
		t.Fatal(err)
	}
	j := w.joinSecond(t)
	if pin := registration(t, j).Pin; pin["ipv4"] == "" || pin["ipv6"] != "" {
		t.Fatalf("the pin is %v; want IPv4 only", pin)
	}
	back(t, j, "joining on an IPv4-only LAN")
	if err := j.Script(ctx, "true"+restoreDefaults); err != nil {
		t.Fatal(err)
	}
	back(t, j, "the LAN became dual stack")
	out, err := j.Run(ctx, "ip", "-6", "route", "get", "2001:db8:c::11")
	if err != nil || !strings.Contains(out, "dev clawpatrol0 ") {
		t.Errorf("IPv6 goes %s, %v", strings.TrimSpace(out), err)
	}
	if r := registration(t, j); r.State != "approved" {
		t.Errorf("the registration is %s", r.State)
	}
}

func registration(t *testing.T, j *lab.Joined) lab.Registration {
	t.Helper()
	r, err := j.Gateway.Operator.Registration(t.Context(), j.Registration)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// From the cable to the other network card: the default routes lead out of
// another interface, and the host is seen from the same address.
func TestAgentNetwork_OtherInterface(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	j := w.joinSecond(t)
	back(t, j, "joining")
	pid := strings.Split(j.Path(""), "/")[2]
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		if err := w.lab.World.Script(ctx, "ip link del to-agent2b"); err != nil { // its routes and eth1 go with it
			t.Error(err)
		}
		if err := j.Script(ctx, "ip link set eth0 up"+restoreDefaults); err != nil {
			t.Error(err)
		}
	})
	if err := w.lab.World.Script(ctx, "ip link add to-agent2b type veth peer name eth1 netns "+pid+`
		ip address add 198.51.109.1/24 dev to-agent2b; ip address add 2001:db8:109::1/64 dev to-agent2b nodad; ip link set to-agent2b up`); err != nil {
		t.Fatal(err)
	}
	if err := j.Script(ctx, `
		ip address add 198.51.109.2/24 dev eth1; ip address add 2001:db8:109::2/64 dev eth1 nodad; ip link set eth1 up
		ip link set eth0 down
		ip -6 address add 2001:db8:101::2/128 dev eth1 nodad
		ip route add default via 198.51.109.1 dev eth1 src 198.51.101.2
		ip -6 route add default via 2001:db8:109::1 dev eth1 src 2001:db8:101::2`); err != nil {
		t.Fatal(err)
	}
	gone(t, j) // the world does not know yet where it is
	if err := w.lab.World.Script(ctx, `ip route add 198.51.101.2/32 via 198.51.109.2; ip -6 route add 2001:db8:101::2/128 via 2001:db8:109::2`); err != nil {
		t.Fatal(err)
	}
	back(t, j, "a change to another interface")
	if r := registration(t, j); r.State != "approved" {
		t.Errorf("the registration is %s", r.State)
	}
}
