package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// Addresses that DHCP could give the second agent host instead of its own.
const (
	otherIPv4 = `ip address del 198.51.101.2/24 dev eth0; ip address add 198.51.101.77/24 dev eth0; ip route replace default via 198.51.101.1
`
	otherIPv6 = `ip -6 address del 2001:db8:101::2/64 dev eth0; ip -6 address add 2001:db8:101::77/64 dev eth0 nodad; ip -6 route replace default via 2001:db8:101::1
`
	// In this order: with a primary address its secondary ones go.
	ownAddresses = `ip address del 198.51.101.77/24 dev eth0 2>/dev/null || true; ip -6 address del 2001:db8:101::77/64 dev eth0 2>/dev/null || true
		ip address replace 198.51.101.2/24 dev eth0` + restoreDefaults
)

// givenBack gives a host its own addresses back at the end of a test.
func givenBack(t *testing.T, h *lab.Host) {
	t.Helper()
	t.Cleanup(func() {
		if err := h.Script(context.WithoutCancel(t.Context()), ownAddresses); err != nil {
			t.Error(err)
		}
	})
}

// agentStatus is what status --json says.
type agentStatus struct {
	State        string `json:"state"`
	Reason       string `json:"reason"`
	GatewayError string `json:"gateway_error"`
	Pin          struct{ IPv4, IPv6 string }
	Tunnel       struct{ Up bool }
}

func statusOf(t *testing.T, h *lab.Host) (s agentStatus) {
	t.Helper()
	code, out, errs := run(t, h, theLab.Bin, "status", "--json")
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 0 {
		t.Fatalf("status: exit status %d, %v: %s%s", code, err, out, errs)
	}
	return s
}

// becomes waits until a registration is in a state.
func becomes(t *testing.T, j *lab.Joined, state string) lab.Registration {
	t.Helper()
	if err := lab.Eventually(t.Context(), 20*time.Second, func() error {
		if r := registration(t, j); r.State != state {
			return fmt.Errorf("the registration is %s, not %s", r.State, state)
		}
		return nil
	}); err != nil {
		t.Fatalf("%v\n%s", err, j.Output)
	}
	return registration(t, j)
}

func approveAgain(t *testing.T, j *lab.Joined) {
	t.Helper()
	if err := gateway.Operator.Approve(t.Context(), lab.Registration{ID: j.Registration, UserCode: j.UserCode}, "ci"); err != nil {
		t.Fatal(err)
	}
}

// A host that is given another address does not block its own registration: it
// goes on in the family that has not changed, and falls silent where none is
// left. Back where it was, traffic is back without an operator.
func TestI08_AHostThatMovesHoldsStill(t *testing.T) {
	ctx := t.Context()
	j := joinSecond(t)
	givenBack(t, j.Host)
	back(t, j, "joining")
	if err := j.Script(ctx, otherIPv4); err != nil {
		t.Fatal(err)
	}
	back(t, j, "another IPv4 address")
	heard, err := theLab.World.Record("to-agent2", 51820)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Script(ctx, otherIPv6); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Output.Wait(ctx, 30*time.Second, `(?m)^moved: .*nothing leaves`); err != nil {
		t.Error(err)
	}
	for range 3 {
		gone(t, j)
	}
	_, from := heard.Stop()
	for _, a := range from {
		if a.String() != "2001:db8:101::2" { // before it was gone
			t.Errorf("a WireGuard packet came from %s", a)
		}
	}
	if s := statusOf(t, j.Host); s.Tunnel.Up || !strings.Contains(s.GatewayError, "moved") {
		t.Errorf("status: %+v", s)
	}
	if _, text, _ := run(t, j.Host, theLab.Bin, "status"); !strings.Contains(text, "nothing leaves this host") {
		t.Errorf("status:\n%s", text)
	}
	if r := registration(t, j); r.State != "approved" {
		t.Errorf("the registration is %s: %s", r.State, r.BlockedReason)
	}
	if err := j.Script(ctx, ownAddresses); err != nil {
		t.Fatal(err)
	}
	back(t, j, "its own addresses")
	if r := registration(t, j); r.State != "approved" {
		t.Errorf("the registration is %s: %s", r.State, r.BlockedReason)
	}
}

// An agent host that starts elsewhere says so, and asks nobody in its name.
func TestI08_AHostThatStartsElsewhereHoldsStill(t *testing.T) {
	ctx := t.Context()
	j := joinSecond(t)
	givenBack(t, j.Host)
	if err := j.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := j.Script(ctx, otherIPv4+otherIPv6); err != nil {
		t.Fatal(err)
	}
	if s := statusOf(t, j.Host); !strings.Contains(s.GatewayError, "moved") {
		t.Errorf("status without a tunnel: %+v", s)
	}
	up, err := theLab.BeginUp(j)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := up.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := up.Output.Wait(ctx, 30*time.Second, `(?m)^moved: `); err != nil {
		t.Fatal(err)
	}
	gone(t, j)
	if r := registration(t, j); r.State != "approved" {
		t.Errorf("the registration is %s: %s", r.State, r.BlockedReason)
	}
	if err := j.Script(ctx, ownAddresses); err != nil {
		t.Fatal(err)
	}
	if _, err := up.Output.Wait(ctx, 30*time.Second, `(?m)^ready`); err != nil {
		t.Fatal(err)
	}
	back(t, up, "its own addresses")
}

// Who moves for good asks for another pin: the registration is blocked until an
// operator decides. One who keeps the pin gets the host back where it was.
func TestI08_RepinThenTheOldPinKept(t *testing.T) {
	ctx := t.Context()
	j := joinSecond(t)
	givenBack(t, j.Host)
	if err := j.Script(ctx, otherIPv4+otherIPv6); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Output.Wait(ctx, 30*time.Second, `(?m)^moved: `); err != nil {
		t.Fatal(err)
	}
	code, out, errs := run(t, j.Host, theLab.Bin, "repin")
	if code != 0 || !strings.Contains(out, "198.51.101.77 and 2001:db8:101::77") {
		t.Fatalf("repin: exit status %d: %s%s", code, out, errs)
	}
	if r := becomes(t, j, "blocked"); !strings.Contains(r.BlockedReason, "198.51.101.77") {
		t.Errorf("blocked because: %s", r.BlockedReason)
	}
	if _, err := j.Output.Wait(ctx, 30*time.Second, `(?m)^blocked: nothing leaves this host; its operator knows why`); err != nil {
		t.Error(err)
	}
	gone(t, j)
	if s := statusOf(t, j.Host); s.State != "blocked" || s.Reason == "" || s.Tunnel.Up || strings.Contains(s.Reason, "198.51") {
		t.Errorf("status: %+v", s)
	}
	if err := j.Script(ctx, ownAddresses); err != nil {
		t.Fatal(err)
	}
	gone(t, j)
	approveAgain(t, j)
	back(t, j, "an approval that keeps the pin")
	if s := statusOf(t, j.Host); s.State != "approved" || s.Pin.IPv4 != "198.51.101.2" {
		t.Errorf("status: %+v", s)
	}
}

// One who names the new pair gets the host where it is now.
func TestI08_RepinToTheNewPair(t *testing.T) {
	ctx := t.Context()
	j := joinSecond(t)
	givenBack(t, j.Host)
	if err := j.Script(ctx, otherIPv4+otherIPv6); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Output.Wait(ctx, 30*time.Second, `(?m)^moved: `); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := run(t, j.Host, theLab.Bin, "repin"); code != 0 {
		t.Fatalf("repin: exit status %d: %s%s", code, out, errs)
	}
	becomes(t, j, "blocked")
	if err := gateway.Operator.Do(ctx, "POST", "/api/registrations/"+j.Registration+"/approve", map[string]any{
		"profiles": []string{"ci"}, "user_code": j.UserCode, "repin": map[string]string{"ipv4": "198.51.101.77", "ipv6": "2001:db8:101::77"},
	}, nil); err != nil {
		t.Fatal(err)
	}
	back(t, j, "an approval with the new pin")
	if s := statusOf(t, j.Host); s.State != "approved" || s.Pin.IPv4 != "198.51.101.77" || s.Pin.IPv6 != "2001:db8:101::77" {
		t.Errorf("status: %+v", s)
	}
	if code, out, errs := run(t, j.Host, theLab.Bin, "repin"); code != 0 || !strings.Contains(out, "nothing to ask for") {
		t.Errorf("repin where nothing has changed: exit status %d: %s%s", code, out, errs)
	}
	becomes(t, j, "approved")
	// Back where it was is elsewhere now.
	j.Output.Mark()
	if err := j.Script(ctx, ownAddresses); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Output.Wait(ctx, 30*time.Second, `(?m)^moved: `); err != nil {
		t.Error(err)
	}
	becomes(t, j, "approved")
}
