package public_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// invite makes one as an operator would.
func (g *gateway) invite(req invites.Request) *invites.Issued {
	g.t.Helper()
	made, err := g.office.Make(g.t.Context(), "test", req)
	if err != nil {
		g.t.Fatal(err)
	}
	return made
}

// startWith sends a start with an invite's token from a source that no other
// start has used, so that the limits on sources stay out of it.
func (g *gateway) startWith(token, from string) *http.Response {
	g.t.Helper()
	body, err := json.Marshal(enrolment.StartRequest{Name: "host " + from, WireGuardPublicKey: newKey(g.t), Invite: token})
	if err != nil {
		g.t.Fatal(err)
	}
	return g.send("POST", enrolment.PathStart, from, string(body), nil)
}

func (g *gateway) invited(token, from string) *agentHost {
	g.t.Helper()
	a := &agentHost{g: g, from: from}
	read(g.t, g.startWith(token, from), http.StatusCreated, &a.StartResponse)
	var err error
	if a.credential, err = enrolment.ParseJoinCredential(a.JoinCredential); err != nil {
		g.t.Fatal(err)
	}
	return a
}

func (g *gateway) registration(a *agentHost) *registry.Registration {
	g.t.Helper()
	reg, ok := g.db.Snapshot().ByID(registry.ID(a.Registration))
	if !ok {
		g.t.Fatal("the registration is gone")
	}
	return reg
}

// setEnrolment puts the policy in force with this gateway.enrolment.
func (g *gateway) setEnrolment(e policy.Enrolment) {
	next := *g.policy
	next.Gateway.Enrolment = e
	g.policy = &next
}

// shake is the first handshake of a registration's tunnel, as the data path
// records it.
func (a *agentHost) shake() {
	a.g.t.Helper()
	err := a.g.db.RecordPeers(a.g.t.Context(), map[registry.ID]registry.PeerState{registry.ID(a.Registration): {Handshake: a.g.clock.Now(), Newest: [12]byte{1}}})
	if err != nil {
		a.g.t.Fatal(err)
	}
}

func dump(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	head := new(bytes.Buffer)
	if err := r.Header.Write(head); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d\n%s\n%s", r.StatusCode, head, b)
}

// TestI10_EveryBadInviteIsOneAnswer: which check an invite fails is not for its
// sender to know. Status, headers and body are the same to the byte, also for a
// start without one where one is needed.
func TestI10_EveryBadInviteIsOneAnswer(t *testing.T) {
	g, other := newGateway(t), newGateway(t)
	used := g.invite(invites.Request{})
	g.invited(used.Token, "192.0.2.10")
	voided := g.invite(invites.Request{Profiles: []string{"ci"}})
	if err := g.office.Void(t.Context(), "test", voided.ID); err != nil {
		t.Fatal(err)
	}
	expired := g.invite(invites.Request{TTL: "1m"})
	g.clock.pass(2 * time.Minute)
	good := g.invite(invites.Request{})
	elsewhere := g.invite(invites.Request{Source: "203.0.113.0/24"})
	raw, err := base64.RawURLEncoding.DecodeString(good.Token[5:])
	if err != nil {
		t.Fatal(err)
	}
	raw[60] ^= 1
	bad := map[string]string{
		"used up": used.Token, "voided": voided.Token, "expired": expired.Token, "wrong source": elsewhere.Token,
		"another gateway's": other.invite(invites.Request{}).Token,
		"forged":            "cpi1_" + base64.RawURLEncoding.EncodeToString(raw),
		"cut":               good.Token[:50], "an ID": good.ID, "a word": "x", "long": strings.Repeat("A", 3000),
	}
	want, n := "", 20
	check := func(what, token string) {
		t.Helper()
		n++
		got := dump(t, g.startWith(token, fmt.Sprintf("192.0.2.%d", n)))
		if want == "" {
			want = got
		}
		if got != want || !strings.HasPrefix(got, "403\n") || !strings.Contains(got, `"invite_refused"`) {
			t.Errorf("%s is answered\n%s\nothers\n%s", what, got, want)
		}
	}
	for _, mode := range []policy.Enrolment{policy.EnrolmentOpen, policy.EnrolmentInvite} {
		g.setEnrolment(mode)
		for what, token := range bad {
			check(string(mode)+": "+what, token)
		}
	}
	check("none", "")
	if regs := g.db.Snapshot().All(); len(regs) != 1 {
		t.Errorf("%d registrations", len(regs))
	}
	// The invite that was tampered with is as good as before, and its token nowhere.
	g.invited(good.Token, "192.0.2.90")
	for _, token := range append(slices.Collect(maps.Values(bad)), good.Token) {
		if len(token) > 40 && strings.Contains(g.log.String(), token[5:]) {
			t.Errorf("the log has the token %s", token)
		}
	}
}

// TestI10_NothingIsEnrolledAgainstThePolicy: closed takes nobody, invite only
// those with one, and what the policy does not say takes nobody either.
func TestI10_NothingIsEnrolledAgainstThePolicy(t *testing.T) {
	g := newGateway(t)
	made := g.invite(invites.Request{Uses: 2})
	for _, mode := range []policy.Enrolment{policy.EnrolmentClosed, "", "Open"} {
		g.setEnrolment(mode)
		refused(t, g.startWith("", "192.0.2.1"), http.StatusForbidden, "enrolment_closed")
		refused(t, g.startWith(made.Token, "192.0.2.2"), http.StatusForbidden, "enrolment_closed")
	}
	if _, err := g.office.Make(t.Context(), "test", invites.Request{}); err == nil && g.policy.Gateway.Enrolment == policy.EnrolmentClosed {
		t.Error("an invite was made while enrolment is closed")
	}
	g.setEnrolment(policy.EnrolmentInvite)
	refused(t, g.startWith("", "192.0.2.3"), http.StatusForbidden, "invite_refused")
	g.invited(made.Token, "192.0.2.4")
	g.setEnrolment(policy.EnrolmentOpen)
	g.invited(made.Token, "192.0.2.5") // optional, and used all the same
	g.start("host", "192.0.2.6")
	if n := len(g.db.Snapshot().All()); n != 3 {
		t.Errorf("%d registrations", n)
	}
}

// An invite with profiles approves once the pin is complete: at the first poll
// after a handshake, or 10 s after start without one. Both families are in the pin.
func TestInvite_ApprovesOnceThePinIsComplete(t *testing.T) {
	g := newGateway(t)
	made := g.invite(invites.Request{Profiles: []string{"ci"}, Uses: 2})
	a := g.invited(made.Token, "192.0.2.7")
	if p := a.poll(); p.State != "pending" || p.RetryAfter != 1 {
		t.Errorf("before the claims: %+v", p)
	}
	for _, from := range []string{"192.0.2.7", "2001:db8::7"} {
		read(t, a.post(enrolment.PathClaim, from), http.StatusOK, new(enrolment.ClaimResponse))
	}
	if p := a.poll(); p.State != "pending" {
		t.Errorf("before the handshake: %+v", p)
	}
	a.shake()
	if reg := g.registration(a); reg.State != registry.Pending {
		t.Errorf("the handshake itself made it %s", reg.State)
	}
	if p := a.poll(); p.State != "approved" || strings.Join(p.Profiles, ",") != "ci" || p.Env["GH_TOKEN"] == "" {
		t.Errorf("after the handshake: %+v", p)
	}
	reg := g.registration(a)
	if !reg.PinSealed || reg.Pin.IPv4.String() != "192.0.2.7" || reg.Pin.IPv6.String() != "2001:db8::7" {
		t.Errorf("pin %+v", reg.Pin)
	}
	log := g.log.String()
	if !strings.Contains(log, `msg="registration approved" registration=`+string(reg.ID)) || !strings.Contains(log, "invite="+made.ID) {
		t.Errorf("the approval is not logged:\n%s", log)
	}

	// Without a tunnel it is approved when the claims have had their time.
	b := g.invited(made.Token, "192.0.2.8")
	read(t, b.post(enrolment.PathClaim, b.from), http.StatusOK, new(enrolment.ClaimResponse))
	g.clock.pass(10 * time.Second)
	if p := b.poll(); p.State != "pending" {
		t.Errorf("while claims may come: %+v", p)
	}
	g.clock.pass(time.Second)
	if p := b.poll(); p.State != "approved" {
		t.Errorf("after the time for claims: %+v", p)
	}
	// Approved, it is like any other: a block holds.
	if err := g.db.Block(t.Context(), registry.ID(b.Registration), "test"); err != nil {
		t.Fatal(err)
	}
	if p := b.poll(); p.State != "blocked" {
		t.Errorf("after a block: %+v", p)
	}
}

func TestInvite_WithoutProfilesWaitsForAnOperator(t *testing.T) {
	g := newGateway(t)
	a := g.invited(g.invite(invites.Request{}).Token, "192.0.2.7")
	a.shake()
	g.clock.pass(2 * time.Minute)
	if p := a.poll(); p.State != "pending" || p.RetryAfter != 2 {
		t.Errorf("%+v", p)
	}
	a.approve("ci")
	if p := a.poll(); p.State != "approved" {
		t.Errorf("%+v", p)
	}
}

// A profile that the policy has lost since the invite was made approves nothing,
// nor does the rest of the invite.
func TestInvite_UnknownProfileLeavesItPending(t *testing.T) {
	g := newGateway(t)
	made := g.invite(invites.Request{Profiles: []string{"ci", "other"}})
	next := *g.policy
	next.Profiles = next.Profiles[:1]
	before := g.policy
	g.policy = &next
	a := g.invited(made.Token, "192.0.2.7")
	a.shake()
	g.clock.pass(2 * time.Minute)
	if p := a.poll(); p.State != "pending" || len(p.Profiles) != 0 || p.RetryAfter != 2 {
		t.Errorf("%+v", p)
	}
	if !strings.Contains(g.log.String(), "profile=other") {
		t.Error("the operator is not told")
	}
	g.policy = before
	if p := a.poll(); p.State != "approved" {
		t.Errorf("once the profile is back: %+v", p)
	}
}

// Voiding stops what has not been approved yet, and nothing else.
func TestInvite_VoidedBeforeTheApproval(t *testing.T) {
	g := newGateway(t)
	made := g.invite(invites.Request{Profiles: []string{"ci"}, Uses: 3})
	a, b := g.invited(made.Token, "192.0.2.7"), g.invited(made.Token, "192.0.2.8")
	a.shake()
	b.shake()
	if p := a.poll(); p.State != "approved" {
		t.Fatalf("%+v", p)
	}
	if err := g.office.Void(t.Context(), "test", made.ID); err != nil {
		t.Fatal(err)
	}
	if p := b.poll(); p.State != "pending" {
		t.Errorf("started with an invite that is void now: %+v", p)
	}
	if p := a.poll(); p.State != "approved" {
		t.Errorf("approved before: %+v", p)
	}
	refused(t, g.startWith(made.Token, "192.0.2.9"), http.StatusForbidden, "invite_refused")
}

// The limits of start are those of CONTRACT.md with an invite as without.
func TestInvite_DoesNotLiftTheLimits(t *testing.T) {
	g := newGateway(t)
	made := g.invite(invites.Request{Uses: 100})
	for range 3 {
		g.invited(made.Token, "192.0.2.7")
	}
	refused(t, g.startWith(made.Token, "192.0.2.7"), http.StatusTooManyRequests, "too_many_pending")
	for range 6 {
		g.startWith("x", "192.0.2.7")
	}
	refused(t, g.startWith(made.Token, "192.0.2.7"), http.StatusTooManyRequests, "too_many_requests")
	all, err := g.office.List(t.Context())
	if err != nil || all[0].Used != 3 {
		t.Errorf("%+v %v", all, err)
	}
}

// What holds when the database is restored from a backup that is older than an
// invite's use: the invite can be used again until it expires, and one that was
// made after the backup cannot be used at all.
func TestInvite_AfterARestoredBackup(t *testing.T) {
	g := newGateway(t)
	inBackup := g.invite(invites.Request{TTL: "15m"})
	backup := g.copyState()
	made := g.invite(invites.Request{})
	g.invited(inBackup.Token, "192.0.2.7")
	g.restore(backup)
	if n := len(g.db.Snapshot().All()); n != 0 {
		t.Fatalf("%d registrations in the backup", n)
	}
	refused(t, g.startWith(made.Token, "192.0.2.8"), http.StatusForbidden, "invite_refused")
	again := g.copyState()
	g.invited(inBackup.Token, "192.0.2.9")
	g.restore(again)
	g.clock.pass(16 * time.Minute)
	refused(t, g.startWith(inBackup.Token, "192.0.2.10"), http.StatusForbidden, "invite_refused")
}
