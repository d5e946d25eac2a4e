package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

// TestI07_ChangeWhileAnActionIsDecided: between the decision and the release
// there may be a wait for room on the log. Choose stands at the same place.
func TestI07_ChangeWhileAnActionIsDecided(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*proxytest.Kit, registry.ID) error
		code   string
	}{
		"blocked": {
			func(k *proxytest.Kit, id registry.ID) error { return k.DB.Block(context.Background(), id, "test") },
			proxy.CodeNotApproved,
		},
		"credential taken away": {
			func(k *proxytest.Kit, id registry.ID) error {
				return k.DB.SetProfiles(context.Background(), id, []string{"blue"})
			},
			proxy.CodePolicyChanged,
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := proxytest.New(t, twoTeams)
			k.SetSecret("bearer.red", "secret", "red-token")
			id := k.Approve("a", "red", "blue")
			f, _ := pipeFlow(t, k, id, "api.test")
			value, code := authorize(t, f, proxy.Action{Choose: func(all []*policy.Credential) *policy.Credential {
				if err := c.change(k, id); err != nil {
					t.Error(err)
				}
				return all[0]
			}})
			if value != "" || code != c.code {
				t.Errorf("got %q %s, want %s", value, code, c.code)
			}
			if rows := k.Actions(id); len(rows) == 0 || rows[0].Verdict == "allow" && rows[0].Result == nil {
				t.Errorf("logged %+v", rows)
			}
		})
	}
}

// TestI05_RegistrationComesFromTheChannelOnly: the fields of a Flow are for
// handlers to read. Whatever a bug in one writes into them changes nobody.
func TestI05_RegistrationComesFromTheChannelOnly(t *testing.T) {
	k := proxytest.New(t, twoTeams)
	k.SetSecret("bearer.red", "secret", "red-token")
	k.SetSecret("bearer.other", "secret", "other-token")
	red, other := k.Approve("red", "red"), k.Approve("other", "other")
	f, _ := pipeFlow(t, k, red, "api.test")
	theirs, _ := pipeFlow(t, k, other, "other.test")
	if f.Registration != red || theirs.Registration != other {
		t.Fatal("the registration is not that of the address")
	}
	f.Registration, f.Source, f.Destination, f.Match = theirs.Registration, theirs.Source, theirs.Destination, theirs.Match
	if value, code := authorize(t, f, proxy.Action{}); value != "red-token" {
		t.Errorf("got %q %s", value, code)
	}
	rows := k.Actions(red)
	if len(rows) != 1 || rows[0].Endpoint != "https.api" {
		t.Errorf("logged %+v", rows)
	}
}

// TestI06_Isolation is the matrix: agents x credentials x profile state x {new,
// live} connection.
func TestI06_Isolation(t *testing.T) {
	const removed = `
endpoint "https" "api" {
  hosts = ["api.test"]
}
endpoint "https" "other" {
  hosts = ["other.test"]
}
credential "bearer" "red" {
  endpoint = https.api
}
credential "bearer" "blue" {
  endpoint = https.api
}
credential "bearer" "other" {
  endpoint = https.other
}
profile "blue" {
  credentials = [bearer.blue]
}
profile "other" {
  credentials = [bearer.other]
}
`
	renamed := strings.Replace(twoTeams, `profile "red"`, `profile "crimson"`, 1)

	changes := []struct {
		name   string
		change func(k *proxytest.Kit, red registry.ID)
		// What the red agent then gets at api.test: a secret or a code. The code
		// "spliced" is a flow that no handler sees, as for a service the gateway
		// has no credential for.
		want string
	}{
		{"assigned", func(*proxytest.Kit, registry.ID) {}, "red-token"},
		{"other's", func(k *proxytest.Kit, red registry.ID) { setProfiles(t, k, red, "blue") }, "blue-token"},
		{"none of this endpoint", func(k *proxytest.Kit, red registry.ID) { setProfiles(t, k, red, "other") }, "spliced"},
		{"removed", func(k *proxytest.Kit, _ registry.ID) { k.Reload(removed) }, proxy.CodeProfileMissing},
		{"renamed", func(k *proxytest.Kit, _ registry.ID) { k.Reload(renamed) }, proxy.CodeProfileMissing},
	}
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			k := proxytest.New(t, twoTeams)
			for _, name := range []string{"red", "blue", "other"} {
				k.SetSecret("bearer."+name, "secret", name+"-token")
			}
			red, blue := k.Approve("red", "red"), k.Approve("blue", "blue")
			live, agent := pipeFlow(t, k, red, "api.test")
			bystander, bystanderAgent := pipeFlow(t, k, blue, "api.test")
			if value, _ := authorize(t, live, proxy.Action{}); value != "red-token" {
				t.Fatalf("before the change the red agent gets %q", value)
			}

			c.change(k, red)

			// The live connection: at once nothing but what a new one would get,
			// and within a second it is closed.
			value, code := authorize(t, live, proxy.Action{})
			if value == "red-token" != (c.want == "red-token") {
				t.Errorf("the live flow gets %q %s", value, code)
			}
			if value != "" && value != c.want {
				t.Errorf("the live flow gets %q, want nothing or %s", value, c.want)
			}
			if c.want != "red-token" {
				closedSoon(t, agent)
			}

			// A new one.
			got := newConnection(t, k, red, "api.test")
			if got != c.want {
				t.Errorf("a new flow gets %s, want %s", got, c.want)
			}
			if got := newConnection(t, k, red, "other.test"); strings.HasSuffix(got, "-token") != (c.name == "none of this endpoint") {
				t.Errorf("a new flow to another's endpoint gets %s", got)
			}

			// Nobody else notices.
			if value, code := authorize(t, bystander, proxy.Action{}); value != "blue-token" {
				t.Errorf("the other agent gets %q %s", value, code)
			}
			if got := newConnection(t, k, blue, "api.test"); got != "blue-token" {
				t.Errorf("the other agent newly gets %s", got)
			}
			if bystander.Current() != true {
				t.Error("the other agent's flow is not current")
			}
			_ = bystanderAgent.SetReadDeadline(time.Now().Add(-time.Second))
			if _, err := bystanderAgent.Read(make([]byte, 1)); err == io.EOF {
				t.Error("the other agent's flow is closed")
			}
		})
	}
}

func setProfiles(t *testing.T, k *proxytest.Kit, id registry.ID, profiles ...string) {
	t.Helper()
	if err := k.DB.SetProfiles(t.Context(), id, profiles); err != nil {
		t.Fatal(err)
	}
}

// TestI07_ChangeBetweenAcceptingAndServing: the agent's handshake stands between
// the two, and may take its time.
func TestI07_ChangeBetweenAcceptingAndServing(t *testing.T) {
	up := upstream(t, echo)
	for name, dst := range map[string]func(*proxytest.Kit, registry.ID) netip.AddrPort{
		"endpoint": func(k *proxytest.Kit, id registry.ID) netip.AddrPort { return k.Virtual(id, "api.test", 443) },
		"splice":   func(*proxytest.Kit, registry.ID) netip.AddrPort { return up },
		"peek":     func(*proxytest.Kit, registry.ID) netip.AddrPort { return addrPort("127.0.0.1:443") },
		"dns": func(k *proxytest.Kit, _ registry.ID) netip.AddrPort {
			return netip.AddrPortFrom(k.DB.Resolvers()[0], 53)
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := proxytest.New(t, reaching(443, up))
			k.Handler = handler(func(context.Context, *proxy.Flow) error {
				t.Error("a handler is asked")
				return nil
			})
			id := k.Approve("a", "red")
			serve, ok := k.Proxy.TCP(t.Context(), k.Source(id, false), dst(k, id))
			if !ok {
				t.Fatal("refused")
			}
			if err := k.DB.Block(t.Context(), id, "test"); err != nil {
				t.Fatal(err)
			}
			agent, gateway := net.Pipe()
			go func() { _, _ = agent.Write([]byte("x")) }()
			serve(gateway) // returns at once
			if n, err := agent.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Error("the agent is answered")
			}
			if n := k.Proxy.Counters().Flows; n != 0 {
				t.Errorf("%d flows, want none", n)
			}
			if rows := k.Actions(id); len(rows) != 0 {
				t.Errorf("logged %+v", rows)
			}
		})
	}
}

func TestI07_NoDNSAnswerToWhoeverWasBlockedMeanwhile(t *testing.T) {
	hold := make(chan struct{})
	k := proxytest.New(t, reaching(443)+asking(resolver(t, hold)))
	id, answers := k.Approve("a", "red"), record(k)
	k.Proxy.UDP(k.Source(id, false), netip.AddrPortFrom(k.DB.Resolvers()[0], 53), query(t, "slow.test."))
	if err := k.DB.Block(t.Context(), id, "test"); err != nil {
		t.Fatal(err)
	}
	close(hold)
	if err := k.Proxy.Shutdown(context.Background()); err != nil { // waits for the query
		t.Fatal(err)
	}
	if n := answers.len(); n != 0 {
		t.Errorf("%d answers, want none", n)
	}
}

// newConnection reports what a new flow of id to host gets: a secret, a code, or
// "spliced" where no handler is asked.
func newConnection(t *testing.T, k *proxytest.Kit, id registry.ID, host string) string {
	t.Helper()
	got := make(chan string, 1)
	k.Handler = handler(func(ctx context.Context, f *proxy.Flow) error {
		value, code := authorize(t, f, proxy.Action{})
		got <- value + code
		return nil
	})
	conn, err := k.Dial(id, k.Virtual(id, host, 443))
	if errors.Is(err, proxytest.ErrRefused) {
		// The name does not exist, and so neither does what would be spliced to.
		return "spliced"
	}
	defer conn.Close()
	select {
	case s := <-got:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("no handler is asked")
		return ""
	}
}

type handler func(context.Context, *proxy.Flow) error

func (h handler) Serve(ctx context.Context, f *proxy.Flow) error { return h(ctx, f) }

func TestI07_ChangesCloseTheFlowsTheyNoLongerCover(t *testing.T) {
	for name, change := range map[string]func(*proxytest.Kit, registry.ID) error{
		"block":  func(k *proxytest.Kit, id registry.ID) error { return k.DB.Block(context.Background(), id, "test") },
		"revoke": func(k *proxytest.Kit, id registry.ID) error { return k.DB.Revoke(context.Background(), id) },
		"re-profile": func(k *proxytest.Kit, id registry.ID) error {
			return k.DB.SetProfiles(context.Background(), id, []string{"other"})
		},
		"policy": func(k *proxytest.Kit, _ registry.ID) error {
			k.Reload(strings.Replace(twoTeams, `hosts = ["api.test"]`, `hosts = ["api.test", "more.test"]`, 1))
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := proxytest.New(t, twoTeams)
			k.SetSecret("bearer.red", "secret", "red-token")
			id, other := k.Approve("a", "red"), k.Approve("b", "other")
			f, agent := pipeFlow(t, k, id, "api.test")
			pipeFlow(t, k, other, "other.test")
			begun, ended := make(chan struct{}), make(chan struct{})
			watched := k.Serve(handler(func(ctx context.Context, f *proxy.Flow) error {
				close(begun)
				<-ctx.Done()
				close(ended)
				return nil
			}), id, "api.test", 443)
			<-begun

			if err := change(k, id); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Authorize(t.Context(), proxy.Action{}); err == nil {
				t.Error("the live flow is still granted what it asks")
			}
			if f.Current() {
				t.Error("the live flow is still current")
			}
			closedSoon(t, agent)
			closedSoon(t, watched)
			select {
			case <-ended:
			case <-time.After(soon):
				t.Error("the handler's context does not end")
			}
			k.Eventually(soon, "only the other's flow is left", func() bool { return k.Proxy.Counters().Flows == 1 })
		})
	}
}

func TestI07_UnapprovedRegistrationGetsNothing(t *testing.T) {
	k := proxytest.New(t, twoTeams)
	pending := k.Enrol("pending")
	blocked, revoked := k.Approve("blocked", "red"), k.Approve("revoked", "red")
	k.Virtual(blocked, "api.test", 443)
	k.Virtual(revoked, "api.test", 443)
	if err := k.DB.Block(t.Context(), blocked, "test"); err != nil {
		t.Fatal(err)
	}
	if err := k.DB.Revoke(t.Context(), revoked); err != nil {
		t.Fatal(err)
	}
	answers := record(k)
	for _, id := range []registry.ID{pending, blocked, revoked} {
		src := k.Source(id, false)
		if k.Proxy.Admit(src.Addr()) {
			t.Errorf("%s is admitted", id)
		}
		for _, dst := range []string{"192.0.2.1:443", "10.55.0.1:53", "10.55.192.1:443"} {
			if _, err := k.Dial(id, addrPort(dst)); err != proxytest.ErrRefused {
				t.Errorf("%s connects to %s: %v", id, dst, err)
			}
			k.Proxy.UDP(src, addrPort(dst), query(t, "api.test."))
		}
	}
	unknown := addrPort("10.55.100.2:4000")
	if k.Proxy.Admit(unknown.Addr()) {
		t.Error("an address of nobody is admitted")
	}
	if _, ok := k.Proxy.TCP(t.Context(), unknown, addrPort("192.0.2.1:443")); ok {
		t.Error("an address of nobody connects")
	}
	if n := answers.len(); n != 0 {
		t.Errorf("%d answers were sent", n)
	}
}
