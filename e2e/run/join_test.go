package run

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// joinArgs are of an enrolment beside the shared one.
func joinArgs(state string, more ...string) []string {
	return append([]string{"clawpatrol", "join", "https://" + lab.GatewayHost + ":8443", "--no-tunnel", "--state", state, "--name", "run-join-test"}, more...)
}

// I11: the gateway proves itself before anything is sent, here too.
func TestI11_JoinForRunVerifiesTheGateway(t *testing.T) {
	for name, more := range map[string][]string{
		"another fingerprint": {"--ca-fingerprint", "sha256:" + strings.Repeat("ab", 32)},
		"none":                nil, // and its certificate is not publicly trusted
	} {
		t.Run(name, func(t *testing.T) {
			r := finish(t, as(t.Context(), host, userID, userHome, joinArgs(userHome+"/refused", more...)...))
			if r.code != 1 || !strings.Contains(r.errs, "hint: ") || strings.Contains(r.out, "registration:") {
				t.Errorf("%+v", r)
			}
			if _, err := os.Stat(host.Path(userHome + "/refused")); !os.IsNotExist(err) {
				t.Errorf("it left its state directory: %v", err)
			}
		})
	}
}

func TestRun_JoinGoesOnWhereItWasStopped(t *testing.T) {
	state := userHome + "/stopped-early"
	good := []string{"--ca-fingerprint", gateway.CAFingerprint}
	first := start(t, joinArgs(state, good...)...)
	id := first.wait(`registration: (\S+)[\s\S]*waiting for approval`)[1]
	if err := first.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := first.end(); code != 1 || !strings.Contains(first.out.String(), "hint: ") {
		t.Errorf("status %d:\n%s", code, first.out)
	}
	if r := dev(t, "clawpatrol run --state "+state+" true"); r.code != 1 || !strings.Contains(r.errs, "approve") {
		t.Errorf("a run before the approval: %+v", r)
	}
	again := start(t, joinArgs(state, good...)...)
	m := again.wait(`registration: (\S+)[\s\S]*user code: (\S+)[\s\S]*waiting for approval`)
	if m[1] != id {
		t.Errorf("registration %s became %s", id, m[1])
	}
	if err := gateway.Operator.Approve(t.Context(), lab.Registration{ID: m[1], UserCode: m[2]}, "ci"); err != nil {
		t.Fatal(err)
	}
	if code := again.end(); code != 0 {
		t.Errorf("status %d:\n%s", code, again.out)
	}
	dev(t, "clawpatrol run --state "+state+" probe echo tcp 192.0.2.10:7007 joined").ok(t)

	// Nobody but the user can read the credential or connect to the daemon (I03).
	for path, mode := range map[string]os.FileMode{"/private": 0o700, "/private/state.json": 0o600, "/private/run.sock": 0o600, "/private/run.log": 0o600} {
		if st, err := os.Stat(host.Path(state + path)); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, st, err)
		}
	}
	// Revoked, it runs nothing, and says so as soon as the daemon has asked.
	if err := gateway.Operator.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := lab.Eventually(t.Context(), 60*time.Second, func() error {
		return failsWith(dev(t, "clawpatrol run --state "+state+" probe echo udp 192.0.2.10:7007 while-revoked"), "does not know this registration")
	}); err != nil {
		t.Error(err)
	}
	if seenDatagram("while-revoked") {
		t.Error("a revoked registration sent a datagram")
	}
}

func TestRun_JoinWithoutATunnelHasNoServiceAndNoUsers(t *testing.T) {
	for _, flags := range [][]string{{"--service"}, {"--run-users", "all"}} {
		r := finish(t, as(t.Context(), host, userID, userHome, joinArgs(userHome+"/refused", flags...)...))
		if r.code != 2 || !strings.Contains(r.errs, "--no-tunnel") {
			t.Errorf("%+v", r)
		}
	}
}

// With an operator's invite there is nothing to wait for: two commands to the
// first injected request.
func TestRun_JoinByInvite(t *testing.T) {
	token, err := theLab.Gateway.Run(t.Context(), theLab.Bin, "invite", "--profiles", "ci")
	if err != nil {
		t.Fatal(err)
	}
	state := userHome + "/invited"
	join := as(t.Context(), host, userID, userHome, "clawpatrol", "join", "-", "--no-tunnel", "--state", state)
	join.Stdin = strings.NewReader(token)
	if r := finish(t, join).ok(t); !strings.Contains(r.out, "\nready\n") {
		t.Fatalf("%+v", r)
	}
	upstream.Forget()
	dev(t, "clawpatrol run --state "+state+` sh -c 'curl -sS -H "Authorization: Bearer $API_TOKEN" https://api.example.com/'`).ok(t)
	if got := upstream.Seen(); len(got) != 1 || got[0].Header.Get("Authorization") != "Bearer "+apiToken {
		t.Fatalf("upstream saw %+v", got)
	}
}

// What join --no-tunnel has enrolled, leave --no-tunnel takes back: but not from
// under a run.
func TestRun_LeaveForgetsTheEnrolment(t *testing.T) {
	token, err := theLab.Gateway.Run(t.Context(), theLab.Bin, "invite", "--profiles", "ci")
	if err != nil {
		t.Fatal(err)
	}
	state := userHome + "/leaving"
	join := as(t.Context(), host, userID, userHome, "clawpatrol", "join", "-", "--no-tunnel", "--state", state)
	join.Stdin = strings.NewReader(token)
	finish(t, join).ok(t)
	before := len(daemons())
	going := start(t, "clawpatrol", "run", "--state", state, "sh", "-c", "echo going; read line; probe echo tcp 192.0.2.10:7007 still-there")
	going.wait("going")
	if len(daemons()) != before+1 {
		t.Fatalf("control: %d daemons, %d before", len(daemons()), before)
	}
	leave := "clawpatrol leave --no-tunnel --state " + state
	if err := failsWith(dev(t, leave), "serves at the moment: 1"); err != nil {
		t.Fatal(err)
	}
	going.press("\n")
	if code := going.end(); code != 0 || !strings.Contains(going.out.String(), "still-there") {
		t.Fatalf("the run ended with %d:\n%s", code, going.out)
	}
	if err := lab.Eventually(t.Context(), 10*time.Second, func() error {
		if r := dev(t, leave); r.code != 0 || !strings.Contains(r.out, "left: ") || !strings.Contains(r.out, "the gateway still lists r_") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(host.Path(state)); !os.IsNotExist(err) {
		t.Errorf("it left its state directory: %v", err)
	}
	if err := lab.Eventually(t.Context(), 10*time.Second, func() error {
		if n := len(daemons()); n != before {
			return fmt.Errorf("%d daemons, %d before", n, before)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if r := dev(t, leave).ok(t); !strings.Contains(r.out, "not enrolled") {
		t.Errorf("once more: %+v", r)
	}
	// Without the flag it is about the host, which needs root.
	if r := dev(t, "clawpatrol leave"); r.code != 1 || !strings.Contains(r.errs, "leave --no-tunnel") {
		t.Errorf("the host's: %+v", r)
	}
}
