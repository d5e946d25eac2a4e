package agent

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/secret"
)

// token is an invite's for a gateway, as an operator hands it out. change may be
// nil.
func token(t *testing.T, g *testGateway, change func(*enrolment.Invite)) string {
	t.Helper()
	i := enrolment.Invite{URL: g.nameURL(), CA: g.ca.pin(), Expires: time.Now().Add(15 * time.Minute), Uses: 1, Profiles: []string{"ci"}}
	if change != nil {
		change(&i)
	}
	token, _, err := enrolment.SignInvite(secret.New([]byte("the gateway's key")), i)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// sameHost is the agent of another process on a's host.
func sameHost(a *Agent) (*Agent, *output) {
	out := new(output)
	cfg := a.cfg
	cfg.Out = out
	return New(cfg), out
}

// starts records what each start is sent with, and lets the gateway go on.
func starts(g *testGateway) func() []string {
	var mu sync.Mutex
	var sent []string
	g.mu.Lock()
	defer g.mu.Unlock()
	g.started = func(req enrolment.StartRequest) {
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, req.Invite)
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return append([]string{}, sent...)
	}
}

func TestDestination_TakesAllFromTheToken(t *testing.T) {
	ca := fingerprint(sha256.Sum256([]byte("ca")))
	sign := func(change func(*enrolment.Invite)) string {
		i := enrolment.Invite{URL: "https://gw.example.net:443", CA: ca, Expires: time.Now(), Uses: 1}
		if change != nil {
			change(&i)
		}
		token, _, err := enrolment.SignInvite(secret.New([]byte("key")), i)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	plain, public := sign(nil), sign(func(i *enrolment.Invite) { i.PublicCertificate = true })
	other := fingerprint{}.String()
	for _, c := range []struct {
		what   string
		req    JoinRequest
		pinned bool
		fails  string
	}{
		{"the token alone", JoinRequest{Invite: plain}, true, ""},
		{"for a public certificate", JoinRequest{Invite: public}, false, ""},
		{"with its own URL", JoinRequest{Invite: plain, URL: "https://GW.example.net"}, true, ""},
		{"with its own fingerprint", JoinRequest{Invite: plain, CAFingerprint: ca.String()}, true, ""},
		{"pinned all the same", JoinRequest{Invite: public, CAFingerprint: ca.String()}, true, ""},
		{"another host", JoinRequest{Invite: plain, URL: "https://other.example.net"}, false, "not for https://other.example.net"},
		{"another port", JoinRequest{Invite: plain, URL: "https://gw.example.net:8443"}, false, "not for"},
		{"another CA", JoinRequest{Invite: plain, CAFingerprint: other}, false, "has the CA"},
		{"cut", JoinRequest{Invite: plain[:60]}, false, "not a whole token"},
		{"another format", JoinRequest{Invite: "cpi9_" + plain[5:]}, false, "not a whole token"},
		{"nothing", JoinRequest{}, false, "neither"},
	} {
		d, err := c.req.destination()
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) || HintOf(err) == "" || strings.Contains(err.Error()+HintOf(err), plain[5:50]) {
				t.Errorf("%s: error %v, hint %q", c.what, err, HintOf(err))
			}
			continue
		}
		if err != nil || d.url.Hostname() == "" || (d.pin != nil) != c.pinned || d.ca == nil || *d.ca != ca || d.inviteID() == "" {
			t.Errorf("%s: %+v, %v", c.what, d, err)
		}
	}
}

// A token is all that join needs, and is neither printed nor kept.
func TestJoin_WithATokenAlone(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	g.setApprove(true)
	sent := starts(g)
	a, out := newAgent(t, g, newRoot(t))
	tok := token(t, g, nil)
	r := start(t, a, out, func(ctx context.Context) error { return a.Join(ctx, JoinRequest{Invite: tok}) })
	out.waitFor(t, "ready")
	if s := sent(); len(s) != 1 || s[0] != tok {
		t.Errorf("start was sent with %q", s)
	}
	b, err := os.ReadFile(a.paths.state())
	if err != nil {
		t.Fatal(err)
	}
	if s := out.String(); strings.Contains(s+string(b), tok[5:]) || !strings.Contains(s, "the invite approves it") || !strings.Contains(s, "ci") {
		t.Errorf("the token is in the state file or the output:\n%s", s)
	}
	r.stop()
	if err := r.wait(t); err != nil {
		t.Fatal(err)
	}
	// The same token again resumes; it is not used twice.
	a, out = sameHost(a)
	again := start(t, a, out, func(ctx context.Context) error { return a.Join(ctx, JoinRequest{Invite: tok}) })
	out.waitFor(t, "ready")
	if s := sent(); len(s) != 1 {
		t.Errorf("%d starts", len(s))
	}
	if err := a.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := again.wait(t); err != nil {
		t.Error(err)
	}
}

// TestI11_ATokenIsSentToItsOwnGatewayOnly: the token names the CA, and whoever
// else answers in the gateway's place gets nothing.
func TestI11_ATokenIsSentToItsOwnGatewayOnly(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	sent := starts(g)
	other := newTestCA(t)
	for what, change := range map[string]func(*enrolment.Invite){
		"another CA's": func(i *enrolment.Invite) { i.CA = other.pin() },
		// Its certificate is not publicly trusted, and the CA in the token is no
		// reason to trust it on first use.
		"a public certificate's": func(i *enrolment.Invite) { i.PublicCertificate = true },
	} {
		a, _ := newAgent(t, g, newRoot(t))
		err := a.Join(t.Context(), JoinRequest{Invite: token(t, g, change)})
		if err == nil || !strings.Contains(err.Error(), "verifying the gateway") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if s := sent(); len(s) != 0 {
		t.Errorf("%d starts", len(s))
	}
}

func TestJoin_SaysWhatIsWrongWithAnInvite(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	sent := starts(g)
	a, _ := newAgent(t, g, newRoot(t))
	join := func(req JoinRequest) (string, string) {
		err := a.Join(t.Context(), req)
		if err == nil {
			t.Fatal("it joined")
		}
		return err.Error(), HintOf(err)
	}
	expired := token(t, g, func(i *enrolment.Invite) { i.Expires = time.Now().Add(-2 * time.Minute) })
	if says, hint := join(JoinRequest{Invite: expired}); !strings.Contains(says, "expired at") || !strings.Contains(hint, "new one") {
		t.Errorf("expired: %s (%s)", says, hint)
	}
	if s := sent(); len(s) != 0 {
		t.Errorf("an expired token was sent")
	}
	if err := a.Join(t.Context(), JoinRequest{Invite: expired[:40]}); !errors.Is(err, ErrUsage) {
		t.Errorf("malformed: %v", err)
	}
	g.mu.Lock()
	g.override = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != enrolment.PathStart {
			return false
		}
		var e enrolment.ErrorResponse
		e.Error.Code, e.Error.Message = "invite_refused", "no"
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(e)
		return true
	}
	g.mu.Unlock()
	if says, hint := join(JoinRequest{Invite: token(t, g, nil)}); !strings.Contains(says, "does not take this invite") || !strings.Contains(hint, "used") {
		t.Errorf("used: %s (%s)", says, hint)
	}
	if says, hint := join(request(g)); !strings.Contains(says, "only who has an invite") || !strings.Contains(hint, "join -") {
		t.Errorf("without one: %s (%s)", says, hint)
	}
	if _, err := os.Stat(a.paths.state()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a state file stays: %v", err)
	}
}

// A registration that waits for an operator is given up for one that an invite
// approves, and one that an invite made is gone on with.
func TestJoin_AnInviteReplacesWhatWaits(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	sent := starts(g)
	r := joining(t, g, newRoot(t))
	r.stop()
	if err := r.wait(t); err == nil {
		t.Fatal("it joined")
	}
	first, second := token(t, g, nil), token(t, g, nil)
	for _, tok := range []string{first, first, second} {
		a, out := sameHost(r.Agent)
		again := start(t, a, out, func(ctx context.Context) error { return a.Join(ctx, JoinRequest{Invite: tok}) })
		out.waitFor(t, "waiting for approval")
		again.stop()
		if err := again.wait(t); err == nil {
			t.Fatal("it joined")
		}
	}
	if s := sent(); len(s) != 3 || s[0] != "" || s[1] != first || s[2] != second {
		t.Errorf("%d starts", len(s))
	}
}

// With a publicly trusted certificate, the CA in the token is still the one that
// the gateway has to have: it issues certificates for endpoints.
func TestI11_APublicCertificateIsNotEnough(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	sent := starts(g)
	for what, c := range map[string]struct {
		ca    *testCA
		fails string
	}{
		"its own CA": {g.ca, ""}, "another": {newTestCA(t), "another CA"},
	} {
		a, _ := newAgent(t, g, newRoot(t))
		req := JoinRequest{Invite: token(t, g, func(i *enrolment.Invite) { i.PublicCertificate, i.CA = true, c.ca.pin() })}
		dest, err := req.destination()
		if err != nil {
			t.Fatal(err)
		}
		s := newSession(dest.url, dest.pin, a.cfg.Lookup, a.cfg.Now)
		s.id.roots = x509.NewCertPool() // the world's, of which the gateway's certificate is
		s.id.roots.AddCert(g.ca.cert)
		s.connect()
		for _, dir := range []string{a.paths.dir, a.paths.private(), a.paths.public()} {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		_, err = a.enrol(t.Context(), s, dest, "one")
		s.close()
		if (err == nil) != (c.fails == "") || (err != nil && !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := len(sent()); n != 1 {
		t.Errorf("%d starts", n)
	}
}
