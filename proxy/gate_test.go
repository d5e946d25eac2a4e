package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

// soon is how fast a change has to reach the data path (DESIGN.md).
const soon = time.Second

const twoTeams = `
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
profile "red" {
  credentials = [bearer.red]
}
profile "blue" {
  credentials = [bearer.blue]
}
profile "other" {
  credentials = [bearer.other]
}
`

// authorize asks for one action and returns the secret that comes with it, or
// the refusal's code.
func authorize(t *testing.T, f *proxy.Flow, a proxy.Action) (value, code string) {
	t.Helper()
	grant, err := f.Authorize(t.Context(), a)
	if err != nil {
		return "", refusalCode(t, err)
	}
	defer grant.Finish(registry.ActionResult{Status: "200"})
	s, err := grant.Secret("secret")
	if err != nil {
		return "", refusalCode(t, err)
	}
	return string(s.Reveal()), ""
}

func refusalCode(t *testing.T, err error) string {
	t.Helper()
	var refusal *proxy.Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("got the error %v, want a *proxy.Refusal", err)
	}
	return refusal.Code
}

// pipeFlow begins a flow and returns the agent's end with it.
func pipeFlow(t *testing.T, k *proxytest.Kit, id registry.ID, host string) (*proxy.Flow, net.Conn) {
	t.Helper()
	agent, gateway := net.Pipe()
	t.Cleanup(func() { agent.Close() })
	return k.Flow(id, host, 443, gateway), agent
}

// closedSoon waits until the proxy has closed the agent's connection.
func closedSoon(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(soon)); errors.Is(err, io.ErrClosedPipe) {
		return
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		var timeout interface{ Timeout() bool }
		if errors.As(err, &timeout) && timeout.Timeout() {
			t.Fatalf("the connection is still open after %v", soon)
		}
	}
}

func TestZeroValuesRefuse(t *testing.T) {
	var f proxy.Flow
	if _, err := f.Authorize(t.Context(), proxy.Action{}); refusalCode(t, err) != proxy.CodeNotInScope {
		t.Errorf("the zero Flow: %v", err)
	}
	if (&proxy.Flow{Registration: "r"}).Current() {
		t.Error("a Flow made by hand is current")
	}
	f.Refuse(t.Context(), "x", &proxy.Refusal{})
	var g proxy.Grant
	if _, err := g.Secret("secret"); err == nil {
		t.Error("the zero Grant has a secret")
	}
	g.Finish(registry.ActionResult{})
	var p proxy.Proxy
	if _, ok := p.TCP(t.Context(), addrPort("10.55.0.2:1"), addrPort("192.0.2.1:80")); ok {
		t.Error("the zero Proxy accepts")
	}
	if p.Admit(addrPort("10.55.0.2:1").Addr()) {
		t.Error("the zero Proxy admits")
	}
}

func TestAuthorizeReleasesTheCredentialAndLogsIt(t *testing.T) {
	k := proxytest.New(t, twoTeams)
	k.SetSecret("bearer.red", "secret", "red-token")
	id := k.Approve("a", "other", "red")
	f, _ := pipeFlow(t, k, id, "API.test.")
	grant, err := f.Authorize(t.Context(), proxy.Action{Summary: "GET /\x00\x1b[31m\u202e" + strings.Repeat("é", 600)})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := grant.Secret("secret"); err != nil || string(s.Reveal()) != "red-token" {
		t.Errorf("the secret is %q, %v", s.Reveal(), err)
	}
	if grant.Credential.Ref() != "bearer.red" || grant.Version != k.DB.CredentialVersion("bearer.red") {
		t.Errorf("granted %s version %d", grant.Credential.Ref(), grant.Version)
	}
	grant.Finish(registry.ActionResult{Status: "200", BytesOut: 5})
	grant.Finish(registry.ActionResult{Status: "500"})

	rows := k.Actions(id)
	if len(rows) != 1 {
		t.Fatalf("%d rows, want 1", len(rows))
	}
	row := rows[0]
	if row.Profile != "red" || row.Endpoint != "https.api" || row.Credential != "bearer.red" || row.Protocol != "https" || row.Verdict != "allow" {
		t.Errorf("logged %+v", row.Action)
	}
	if row.Result == nil || row.Result.Status != "200" || row.Result.BytesOut != 5 || row.Result.Duration <= 0 {
		t.Errorf("the result is %+v", row.Result)
	}
	if !strings.HasPrefix(row.Summary, "GET /[31mé") || len(row.Summary) > 512 || strings.ContainsAny(row.Summary, "\x00\x1b\u202e\ufffd") {
		t.Errorf("the summary is %q", row.Summary)
	}
	if strings.Contains(k.Log(), "red-token") {
		t.Error("the log holds the secret")
	}
}

func TestAuthorizeAmongSeveralCredentials(t *testing.T) {
	k := proxytest.New(t, twoTeams)
	k.SetSecret("bearer.red", "secret", "red-token")
	k.SetSecret("bearer.blue", "secret", "blue-token")
	k.SetSecret("bearer.other", "secret", "other-token")
	id := k.Approve("a", "red", "blue", "other")
	f, _ := pipeFlow(t, k, id, "api.test")

	pick := func(ref string) func([]*policy.Credential) *policy.Credential {
		return func(all []*policy.Credential) *policy.Credential {
			for _, c := range all {
				if c.Ref() == ref {
					return c
				}
			}
			return &policy.Credential{Type: "bearer", Name: strings.TrimPrefix(ref, "bearer.")}
		}
	}
	if value, code := authorize(t, f, proxy.Action{Choose: pick("bearer.blue")}); value != "blue-token" {
		t.Errorf("choosing blue: %q %s", value, code)
	}
	// One that is not offered, be it real or made up, is refused.
	for name, a := range map[string]proxy.Action{
		"nothing to choose with": {},
		"none chosen":            {Choose: func([]*policy.Credential) *policy.Credential { return nil }},
		"another endpoint's":     {Choose: pick("bearer.other")},
	} {
		_, err := f.Authorize(t.Context(), a)
		if code := refusalCode(t, err); code != proxy.CodePlaceholderRequired {
			t.Errorf("%s: %s", name, code)
		}
		if !strings.Contains(err.Error(), "clawpatrol-red") || !strings.Contains(err.Error(), "clawpatrol-blue") || strings.Contains(err.Error(), "clawpatrol-other") {
			t.Errorf("%s: the reason is %q", name, err)
		}
	}
}

func TestI19_NoRowNoSecret(t *testing.T) {
	k := proxytest.New(t, twoTeams)
	k.SetSecret("bearer.red", "secret", "red-token")
	id := k.Approve("a", "red")
	f, _ := pipeFlow(t, k, id, "api.test")
	if err := k.DB.Close(); err != nil { // the log takes no rows any more
		t.Fatal(err)
	}
	value, code := authorize(t, f, proxy.Action{})
	if value != "" || code != proxy.CodeLogUnavailable {
		t.Errorf("got %q %s", value, code)
	}
}

func TestI21_MissingSecretIsAnError(t *testing.T) {
	k := proxytest.New(t, twoTeams)
	id := k.Approve("a", "red")
	f, _ := pipeFlow(t, k, id, "api.test")
	grant, err := f.Authorize(t.Context(), proxy.Action{})
	if err != nil {
		t.Fatal(err)
	}
	defer grant.Finish(registry.ActionResult{Status: "502"})
	s, err := grant.Secret("secret")
	if code := refusalCode(t, err); code != proxy.CodeSecretMissing || !s.IsZero() {
		t.Errorf("got %v %s", s, code)
	}
	if !strings.Contains(err.Error(), "bearer.red") || !strings.Contains(err.Error(), "secret") {
		t.Errorf("the reason is %q", err)
	}
}

func TestDeniedActionsAreLogged(t *testing.T) {
	k := proxytest.New(t, twoTeams)
	id := k.Approve("a", "red")
	f, _ := pipeFlow(t, k, id, "api.test")
	f.Refuse(t.Context(), "GET /\nx", &proxy.Refusal{Code: "misdirected", Rule: "r", Reason: "Host says other.test"})
	setProfiles(t, k, id, "other")
	if _, err := f.Authorize(t.Context(), proxy.Action{Summary: "GET /y"}); err == nil {
		t.Fatal("granted")
	}
	rows := k.Actions(id)
	if len(rows) != 2 {
		t.Fatalf("%d rows, want 2", len(rows))
	}
	for i, want := range []string{"not_in_scope", "misdirected: Host says other.test"} {
		if r := rows[i]; r.Verdict != "deny" || !strings.HasPrefix(r.Reason, want) || r.Endpoint != "https.api" {
			t.Errorf("row %d is %+v", i, r.Action)
		}
	}
	if rows[1].Summary != "GET /x" || rows[1].Rule != "r" {
		t.Errorf("logged %+v", rows[1].Action)
	}
}

func TestPanicStopsAtTheFlow(t *testing.T) {
	k := proxytest.New(t, twoTeams)
	k.SetSecret("bearer.red", "secret", "red-token")
	id := k.Approve("a", "red")
	conn := k.Serve(handler(func(ctx context.Context, f *proxy.Flow) error {
		grant, err := f.Authorize(ctx, proxy.Action{Summary: "GET /"})
		if err != nil {
			return err
		}
		s, _ := grant.Secret("secret")
		panic(fmt.Sprintf("with %s in it", s.Reveal()))
	}), id, "api.test", 443)
	closedSoon(t, conn)
	k.Eventually(soon, "the flow is gone", func() bool { return k.Proxy.Counters().Flows == 0 })
	if n := k.Proxy.Counters().Panics; n != 1 {
		t.Errorf("%d panics counted", n)
	}
	if log := k.Log(); !strings.Contains(log, "TestPanicStopsAtTheFlow") || strings.Contains(log, "red-token") {
		t.Errorf("the log has no stack, or the secret:\n%s", log)
	}
	if rows := k.Actions(id); len(rows) != 1 || rows[0].Result == nil || rows[0].Result.Status != "aborted" {
		t.Errorf("logged %+v", rows)
	}
}
