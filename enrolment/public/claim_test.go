package public_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/enrolment/public"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

func TestClaim_PinsBothFamiliesAndConfiguresTheTunnel(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	refused(t, a.post(enrolment.PathClaim, "192.0.2.2"), http.StatusConflict, "claim_refused") // not start's address

	var four, six enrolment.ClaimResponse
	read(t, a.post(enrolment.PathClaim, "192.0.2.1"), http.StatusOK, &four)
	read(t, a.post(enrolment.PathClaim, "2001:db8::1"), http.StatusOK, &six)
	if four.Pin != (enrolment.Pin{IPv4: "192.0.2.1"}) || six.Pin != (enrolment.Pin{IPv4: "192.0.2.1", IPv6: "2001:db8::1"}) {
		t.Errorf("pins %+v, then %+v", four.Pin, six.Pin)
	}
	reg, _ := g.db.Snapshot().ByID(registry.ID(a.Registration))
	for i, p := range []netip.Prefix{reg.Prefix4, reg.Prefix6} {
		got, err := netip.ParsePrefix(six.Addresses[i])
		if err != nil || got.Masked() != p || got.Addr() != p.Addr().Next() || got.Bits() != p.Bits() {
			t.Errorf("address %q of the range %v", six.Addresses[i], p)
		}
	}
	if six.WireGuard.MTU != 1420 || six.WireGuard.Keepalive != 25 || six.WireGuard.Endpoint != "gw.example.com:51820" || six.CAPEM == "" {
		t.Errorf("claim %+v", six)
	}
	var want []string
	for _, r := range g.db.Resolvers() {
		want = append(want, r.String())
	}
	if !slices.Equal(six.DNS, want) {
		t.Errorf("dns %v, want %v", six.DNS, want)
	}
	if len(six.Env) != 0 {
		t.Errorf("a pending registration gets %v", six.Env)
	}

	refused(t, a.post(enrolment.PathClaim, "2001:db8::2"), http.StatusConflict, "pin_sealed") // once per family
	a.approve("ci")
	refused(t, a.post(enrolment.PathClaim, "2001:db8::1"), http.StatusConflict, "pin_sealed")
}

// An operator's script can be faster than the agent host's next request, which
// must then still get what the tunnel needs.
func TestClaim_OvertakenByTheApproval(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	a.approve("ci")
	var got enrolment.ClaimResponse
	read(t, a.post(enrolment.PathClaim, "192.0.2.1"), http.StatusOK, &got)
	if want := (enrolment.Pin{IPv4: "192.0.2.1"}); got.Pin != want || len(got.Addresses) != 2 || got.Env["GH_TOKEN"] == "" {
		t.Errorf("%+v", got)
	}
	refused(t, a.post(enrolment.PathClaim, "2001:db8::1"), http.StatusConflict, "pin_sealed")
}

func TestClaim_EndsAMinuteAfterStart(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	g.clock.pass(61 * time.Second)
	refused(t, a.post(enrolment.PathClaim, "192.0.2.1"), http.StatusConflict, "pin_sealed")
}

func TestPoll_TellsWhereTheRegistrationStands(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	if p := a.poll(); p.State != "pending" || p.Profiles == nil || p.SSHHosts == nil || p.RetryAfter <= 0 || len(p.Env) != 0 {
		t.Errorf("pending: %+v", p)
	}
	a.approve("ci")
	p := a.poll()
	if p.State != "approved" || !slices.Equal(p.Profiles, []string{"ci"}) {
		t.Errorf("approved: %+v", p)
	}
	// Only the registration's own profiles, only credentials with an env.
	if want := map[string]string{"GH_TOKEN": "clawpatrol-github_token"}; !reflect.DeepEqual(p.Env, want) {
		t.Errorf("env %v, want %v", p.Env, want)
	}
	if err := g.db.SetProfiles(t.Context(), registry.ID(a.Registration), []string{"other", "gone"}); err != nil {
		t.Fatal(err)
	}
	if p := a.poll(); len(p.Env) != 0 {
		t.Errorf("other profile: %+v", p)
	}
	if err := g.db.SetProfiles(t.Context(), registry.ID(a.Registration), []string{"ci"}); err != nil {
		t.Fatal(err)
	}
	if err := g.db.Block(t.Context(), registry.ID(a.Registration), "why"); err != nil {
		t.Fatal(err)
	}
	if p := a.poll(); p.State != "blocked" || len(p.Env) != 0 {
		t.Errorf("blocked: %+v", p)
	}
}

// TestI10_EveryUnprovenRequestGetsTheSameAnswer: whichever check fails, status,
// headers and body are the same, byte for byte.
func TestI10_EveryUnprovenRequestGetsTheSameAnswer(t *testing.T) {
	g := newGateway(t)
	revoked := g.start("revoked", "192.0.2.3")
	if err := g.db.Revoke(t.Context(), registry.ID(revoked.Registration)); err != nil {
		t.Fatal(err)
	}
	expired := g.start("expired", "192.0.2.4")
	g.clock.pass(16 * time.Minute)
	a := g.start("fresh", "192.0.2.5")
	other := g.start("other", "192.0.2.2")
	now := g.clock.Now()
	none := http.Header{}
	replayed := a.authorization(enrolment.PathPoll, "{}", now)
	if r := g.send("POST", enrolment.PathPoll, "192.0.2.5", "{}", replayed); r.StatusCode != http.StatusOK {
		t.Fatalf("the request to be replayed: %d", r.StatusCode)
	}
	unknown := *a
	unknown.Registration = "r_0000000000000000000000000a"
	wrongKey := *a
	wrongKey.credential = other.credential
	good := a.authorization(enrolment.PathPoll, "{}", now).Get("Authorization")

	cases := map[string]http.Header{
		"no header":      none,
		"garbage":        {"Authorization": {"CP-MAC id=,ts=,nonce=,mac="}},
		"other scheme":   {"Authorization": {"Bearer x"}},
		"two headers":    {"Authorization": {good, good}},
		"unknown":        unknown.authorization(enrolment.PathPoll, "{}", now),
		"wrong key":      wrongKey.authorization(enrolment.PathPoll, "{}", now),
		"wrong mac":      {"Authorization": {good[:len(good)-64] + strings.Repeat("0", 64)}},
		"other path":     a.authorization(enrolment.PathClaim, "{}", now),
		"other body":     a.authorization(enrolment.PathPoll, "{ }", now),
		"too old":        a.authorization(enrolment.PathPoll, "{}", now.Add(-61*time.Second)),
		"too far ahead":  a.authorization(enrolment.PathPoll, "{}", now.Add(61*time.Second)),
		"end of time":    a.authorization(enrolment.PathPoll, "{}", time.Unix(1<<62, 0)),
		"start of time":  a.authorization(enrolment.PathPoll, "{}", time.Unix(-1<<62, 0)),
		"replay":         replayed,
		"expired":        expired.authorization(enrolment.PathPoll, "{}", now),
		"revoked":        revoked.authorization(enrolment.PathPoll, "{}", now),
		"another's name": {"Authorization": {strings.Replace(good, a.Registration, other.Registration, 1)}},
	}
	answer := func(h http.Header) string {
		r := g.send("POST", enrolment.PathPoll, "192.0.2.5", "{}", h)
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		var head bytes.Buffer
		if err := r.Header.Write(&head); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d\n%s\n%s", r.StatusCode, head.String(), b)
	}
	want := answer(none)
	if !strings.HasPrefix(want, "401\n") {
		t.Fatalf("without a header: %s", want)
	}
	for what, h := range cases {
		if got := answer(h); got != want {
			t.Errorf("%s: answered\n%s\nwant\n%s", what, got, want)
		}
	}
	if r := g.send("POST", enrolment.PathPoll, "192.0.2.5", "{}", http.Header{"Authorization": {good}}); r.StatusCode != http.StatusOK {
		t.Errorf("after all this the agent host is refused: %d", r.StatusCode)
	}
}

func TestProof_TimestampWindow(t *testing.T) {
	g := newGateway(t)
	g.clock.pass(5 * time.Minute)
	a := g.start("host", "192.0.2.1")
	for _, skew := range []time.Duration{-60 * time.Second, -time.Second, 0, time.Second, 60 * time.Second} {
		h := a.authorization(enrolment.PathPoll, "{}", g.clock.Now().Add(skew))
		if r := g.send("POST", enrolment.PathPoll, a.from, "{}", h); r.StatusCode != http.StatusOK {
			t.Errorf("skew %v: status %d", skew, r.StatusCode)
		}
	}
}

// A nonce is refused for as long as its timestamp is accepted, clocks that run
// ahead included.
func TestProof_ReplayIsRefusedForTheWholeWindow(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	a.poll()
	g.clock.pass(20 * time.Second) // so that the store's sweeps fall on the window's last second
	h := a.authorization(enrolment.PathPoll, "{}", g.clock.Now().Add(60*time.Second))
	if r := g.send("POST", enrolment.PathPoll, a.from, "{}", h); r.StatusCode != http.StatusOK {
		t.Fatalf("status %d", r.StatusCode)
	}
	for range 13 {
		if r := g.send("POST", enrolment.PathPoll, a.from, "{}", h); r.StatusCode != http.StatusUnauthorized {
			t.Fatalf("replayed at %v: status %d", g.clock.Now().Sub(start), r.StatusCode)
		}
		a.poll() // makes the store sweep
		g.clock.pass(10 * time.Second)
	}
}

// A restart forgets nonces, so what was recorded before it must not verify
// after it, however fresh.
func TestProof_NothingFromBeforeARestartVerifies(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	recorded := a.authorization(enrolment.PathPoll, "{}", g.clock.Now())
	if r := g.send("POST", enrolment.PathPoll, a.from, "{}", recorded); r.StatusCode != http.StatusOK {
		t.Fatalf("status %d", r.StatusCode)
	}
	g.clock.pass(300 * time.Millisecond)
	g.restart()
	refused(t, g.send("POST", enrolment.PathPoll, a.from, "{}", recorded), http.StatusUnauthorized, "unauthorized")
	g.clock.pass(time.Second)
	a.poll()
}

// Timestamps have whole seconds: one made in the second of the start is from
// before it, by the letter. Nobody who joins then is to wait for that.
func TestProof_JoiningInTheFirstSecond(t *testing.T) {
	g := newGateway(t)
	g.clock.pass(300 * time.Millisecond)
	g.restart()
	a := g.start("host", "192.0.2.1")
	a.poll()
}

// A host that boots with its clock ahead, and then hears of the right time, has
// not been up for less than nothing.
func TestProof_ClockSetBackLocksNobodyOut(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	g.restart()
	g.clock.pass(time.Second)
	a.poll()
	public.SetUptime(g.handler, time.Minute)
	g.clock.pass(-time.Hour)
	a.poll()
}

// One registration's nonces are bounded, and using them up hurts nobody else.
func TestProof_NoncesAreBoundedPerRegistration(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	b := g.start("other", "192.0.2.2")
	n := 0
	for ; n < 1000; n++ {
		r := a.post(enrolment.PathPoll, a.from)
		if r.StatusCode == http.StatusTooManyRequests {
			break
		}
		if r.StatusCode != http.StatusOK {
			t.Fatalf("poll %d: status %d", n, r.StatusCode)
		}
	}
	if n < 100 || n > 200 {
		t.Errorf("refused after %d polls", n)
	}
	b.poll()
	g.clock.pass(2 * time.Minute)
	a.poll()
}

func TestProof_BodyIsCheckedAfterTheMAC(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	for _, body := range []string{"", "null", `{"x":1}`, "{}{}"} {
		h := a.authorization(enrolment.PathPoll, body, g.clock.Now())
		refused(t, g.send("POST", enrolment.PathPoll, a.from, body, h), http.StatusBadRequest, "bad_request")
	}
}

// An approved registration learns the host keys of the SSH endpoints that its
// profiles reach, and of no others; a pending or blocked one learns none.
func TestPoll_NamesTheSSHHostsInReach(t *testing.T) {
	g := newGateway(t)
	g.ssh = true
	src := `
gateway { public_url = "https://gw.example.com:8443" }
endpoint "ssh" "build" {
  hosts     = ["build.example.com", "git.example.com:2222", "*.wild.example.com"]
  host_keys = "approve"
}
endpoint "ssh" "other" {
  hosts     = ["other.example.com"]
  host_keys = "approve"
}
endpoint "ssh" "many" {
  hosts     = [` + manyHosts(1024) + `]
  host_keys = "approve"
}
endpoint "https" "web" { hosts = ["web.example.com:22"] }
credential "ssh_key" "build" {
  endpoint = ssh.build
  user     = "u"
  wildcard = true
}
credential "ssh_key" "other" {
  endpoint = ssh.other
  user     = "u"
}
credential "ssh_key" "many" {
  endpoint = ssh.many
  user     = "u"
}
credential "bearer" "web" { endpoint = https.web }
profile "ci"    { credentials = [ssh_key.build, bearer.web] }
profile "other" { credentials = [ssh_key.other] }
profile "many"  { credentials = [ssh_key.many, ssh_key.build] }
`
	p, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{})
	if p == nil {
		t.Fatal(diags)
	}
	g.policy = p
	g.restart()
	a := g.start("host", "192.0.2.1")
	var claimed enrolment.ClaimResponse
	read(t, a.post(enrolment.PathClaim, "192.0.2.1"), http.StatusOK, &claimed)
	if claimed.SSHCA != "ssh-ed25519 AAAA" {
		t.Errorf("the claim has the SSH CA %q", claimed.SSHCA)
	}
	if p := a.poll(); len(p.SSHHosts) != 0 {
		t.Errorf("pending: %q", p.SSHHosts)
	}
	a.approve("ci")
	if p := a.poll(); !slices.Equal(p.SSHHosts, []string{"ssh.build build.example.com 22", "ssh.build git.example.com 2222"}) {
		t.Errorf("%q", p.SSHHosts)
	}
	for _, profiles := range [][]string{{"other"}, {"other", "gone"}} {
		if err := g.db.SetProfiles(t.Context(), registry.ID(a.Registration), profiles); err != nil {
			t.Fatal(err)
		}
		if p := a.poll(); !slices.Equal(p.SSHHosts, []string{"ssh.other other.example.com 22"}) {
			t.Errorf("%q: %q", profiles, p.SSHHosts)
		}
	}
	// An answer is never more than an agent host takes.
	if err := g.db.SetProfiles(t.Context(), registry.ID(a.Registration), []string{"many"}); err != nil {
		t.Fatal(err)
	}
	r := a.post(enrolment.PathPoll, "192.0.2.1")
	body, err := io.ReadAll(r.Body)
	if err != nil || len(body) > enrolment.MaxBody-1024*100 { // the keys themselves are not in it here
		t.Errorf("an answer of %d bytes, %v", len(body), err)
	}
	var polled enrolment.PollResponse
	if err := json.Unmarshal(body, &polled); err != nil || len(polled.SSHHosts) != 1024 || polled.SSHHosts[1] != "ssh.build git.example.com 2222" {
		t.Errorf("%d lines, %v", len(polled.SSHHosts), err)
	}
	if err := g.db.Block(t.Context(), registry.ID(a.Registration), "x"); err != nil {
		t.Fatal(err)
	}
	if p := a.poll(); len(p.SSHHosts) != 0 {
		t.Errorf("blocked: %d lines", len(p.SSHHosts))
	}
}

// manyHosts lists n hosts, as long as a policy's can be.
func manyHosts(n int) string {
	var b strings.Builder
	label := strings.Repeat("a", 60)
	for i := range n {
		fmt.Fprintf(&b, "\"h%04d.%s.%s.%s.example.com\", ", i, label, label, label)
	}
	return b.String()
}
