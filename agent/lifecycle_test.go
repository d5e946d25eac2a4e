package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// joining starts a join that nobody approves, and waits until it waits.
func joining(t *testing.T, g *testGateway, root string) *running {
	t.Helper()
	a, out := newAgent(t, g, root)
	r := start(t, a, out, func(ctx context.Context) error { return a.Join(ctx, request(g)) })
	out.waitFor(t, "waiting for approval")
	return r
}

func request(g *testGateway) JoinRequest {
	return JoinRequest{URL: g.nameURL(), CAFingerprint: g.ca.pin().String(), Name: "one"}
}

// While nobody has approved it nothing is installed, and its end leaves nothing
// but the enrolment.
func TestJoin_Pending(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	root := newRoot(t)
	before := snapshot(t, root)
	r := joining(t, g, root)
	if s := r.out.String(); strings.Contains(s, "CA installed") || strings.Contains(s, "ready") || strings.Contains(s, "approved\n") {
		t.Errorf("it said:\n%s", s)
	}
	if _, err := os.Stat(filepath.Join(root, "/usr/local/share/ca-certificates/clawpatrol.crt")); err == nil {
		t.Error("the CA is installed before the approval")
	}
	if _, err := r.Env(); err == nil {
		t.Error("env works before the approval")
	}
	r.stop()
	if err := r.wait(t); err == nil || !strings.Contains(err.Error(), "before the registration was approved") || HintOf(err) == "" {
		t.Errorf("it ended with %v", err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}

	// The next join goes on with the same registration.
	g.setApprove(true)
	again := start(t, r.Agent, r.out, func(ctx context.Context) error { return r.Join(ctx, request(g)) })
	r.out.waitFor(t, "ready")
	if g.starts != 1 {
		t.Errorf("%d registrations were opened", g.starts)
	}
	if err := r.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := again.wait(t); err != nil {
		t.Error(err)
	}
}

// A registration that was turned down before it was approved ends the join; the
// next one asks anew.
func TestJoin_TurnedDown(t *testing.T) {
	for state, want := range map[string]string{stateRevoked: "refused the registration", stateBlocked: "is blocked"} {
		t.Run(state, func(t *testing.T) {
			g := newTestGateway(t, nil, "127.0.0.1")
			root := newRoot(t)
			before := snapshot(t, root)
			r := joining(t, g, root)
			g.setState("r_1", state)
			if err := r.wait(t); err == nil || !strings.Contains(err.Error(), want) || HintOf(err) == "" {
				t.Errorf("it ended with %v; want %q and a hint", err, want)
			}
			if after := snapshot(t, root); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			if state != stateRevoked {
				return
			}
			g.setApprove(true)
			start(t, r.Agent, r.out, func(ctx context.Context) error { return r.Join(ctx, request(g)) })
			r.out.waitFor(t, "ready")
			r.out.waitFor(t, "registration: r_2")
		})
	}
}

func TestJoin_ExpiredCode(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	root := newRoot(t)
	a, out := newAgent(t, g, root)
	var mu sync.Mutex
	var ahead time.Duration
	a.cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(ahead) }
	r := start(t, a, out, func(ctx context.Context) error { return a.Join(ctx, request(g)) })
	out.waitFor(t, "waiting for approval")
	st, err := loadState(a.paths)
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.override = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat)) // time passes for the gateway too
		return false
	}
	g.regs = nil // as when the row has expired
	g.mu.Unlock()
	mu.Lock()
	ahead = time.Until(st.ExpiresAt) + time.Minute
	mu.Unlock()
	if err := r.wait(t); err == nil || !strings.Contains(err.Error(), "user code ABCD-EFGH has expired") || HintOf(err) == "" {
		t.Errorf("it ended with %v", err)
	}
}

// After the approval a block holds the host closed, and a new approval opens it
// again, without anyone on the agent host.
func TestJoin_BlockedAndApprovedAgain(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	root := newRoot(t)
	r := join(t, g, root)
	g.setState("r_1", stateBlocked)
	r.out.waitFor(t, "blocked: nothing leaves this host")
	st, err := r.Status(t.Context())
	if err != nil || st.State != stateBlocked {
		t.Errorf("status %+v, %v", st, err)
	}
	g.mu.Lock()
	g.regs["r_1"].state, g.profiles = stateApproved, []string{"ci", "more"}
	g.mu.Unlock()
	r.out.waitFor(t, "profiles: ci, more")
	select {
	case err := <-r.done:
		t.Errorf("join ended: %v", err)
	default:
	}
}

func TestJoin_Faults(t *testing.T) {
	for name, c := range map[string]struct {
		override func(w http.ResponseWriter, r *http.Request) bool
		request  func(*JoinRequest)
		want     string
	}{
		"too many pending": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != enrolment.PathStart {
				return false
			}
			var e enrolment.ErrorResponse
			e.Error.Code, e.Error.Message = "too_many_pending", "too many registrations are waiting"
			w.Header().Set("Retry-After", "60")
			w.WriteHeader(http.StatusTooManyRequests)
			_ = json.NewEncoder(w).Encode(e)
			return true
		}, nil, "too many registrations are waiting"},
		"clock": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Date", time.Now().Add(-5*time.Minute).UTC().Format(http.TimeFormat))
			return false
		}, nil, "clock is 5m"},
		"not a gateway": {func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte("<html>"))
			return true
		}, nil, "not what this program expects"},
		"another CA in the claim": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != enrolment.PathClaim {
				return false
			}
			_ = json.NewEncoder(w).Encode(enrolment.ClaimResponse{CAPEM: newTestCA(t).pem()})
			return true
		}, nil, "proved to have"},
		"another CA in info": {func(w http.ResponseWriter, r *http.Request) bool {
			_ = json.NewEncoder(w).Encode(enrolment.Info{CAFingerprint: newTestCA(t).pin().String()})
			return r.URL.Path == enrolment.PathInfo
		}, nil, "another CA"},
		"a bad name":       {nil, func(r *JoinRequest) { r.Name = "a\x1b[2Jb" }, "name"},
		"no such host":     {nil, func(r *JoinRequest) { r.URL = "https://elsewhere.example.net" }, "no such host"},
		"no such port":     {nil, func(r *JoinRequest) { r.URL = "https://127.0.0.1:9" }, "no connection"},
		"no systemd":       {nil, func(r *JoinRequest) { r.Service = true }, "systemd does not run"},
		"not an https URL": {nil, func(r *JoinRequest) { r.URL = "http://127.0.0.1:9" }, "https"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newTestGateway(t, nil, "127.0.0.1")
			g.override = c.override
			root := newRoot(t)
			before := snapshot(t, root)
			a, out := newAgent(t, g, root)
			req := request(g)
			if c.request != nil {
				c.request(&req)
			}
			err := a.Join(t.Context(), req)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want one with %q", err, c.want)
			}
			if strings.Contains(out.String(), "nstalled") {
				t.Errorf("it said:\n%s", out)
			}
			if after := snapshot(t, root); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			if _, err := os.Stat(a.paths.dir); err == nil && g.starts == 0 {
				t.Error("nothing came of it, and the state directory stays")
			}
			if _, ok := a.cfg.Out.(*output); !ok {
				t.Fatal("no output")
			}
		})
	}
}

// One host, one tunnel.
func TestJoin_OnlyOne(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	root := newRoot(t)
	r := join(t, g, root)
	for name, f := range map[string]func(context.Context) error{
		"join": func(ctx context.Context) error { return r.Join(ctx, request(g)) },
		"up":   r.Up,
	} {
		if err := f(t.Context()); !errors.Is(err, errHeld) || HintOf(err) == "" {
			t.Errorf("a second %s: %v", name, err)
		}
	}
	other, _ := newAgent(t, g, root)
	if err := other.Join(t.Context(), request(g)); err == nil || !strings.Contains(err.Error(), LinkName) {
		t.Errorf("a join with another state directory: %v", err)
	}
	r.stop()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	req := request(g)
	req.URL = "https://127.0.0.1:1"
	if err := r.Join(t.Context(), req); err == nil || !strings.Contains(err.Error(), "is enrolled with") || HintOf(err) == "" {
		t.Errorf("a join with another gateway: %v", err)
	}
}

func TestNotEnrolled(t *testing.T) {
	a := New(Config{StateDir: filepath.Join(t.TempDir(), "state")})
	if err := a.Up(t.Context()); !errors.Is(err, errNotEnrolled) || HintOf(err) == "" {
		t.Errorf("up: %v", err)
	}
	if err := a.Down(t.Context()); !errors.Is(err, errNotEnrolled) {
		t.Errorf("down: %v", err)
	}
	if err := a.Leave(t.Context()); err != nil {
		t.Errorf("leave: %v", err)
	}
	st, err := a.Status(t.Context())
	if err != nil || st.Enrolled {
		t.Errorf("status: %+v, %v", st, err)
	}
}

// State files that others can read are an error, not a warning.
func TestI03_WiderStateIsRefused(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	r := join(t, g, newRoot(t))
	r.stop()
	if err := r.wait(t); err != nil {
		t.Fatal(err)
	}
	for path, modes := range map[string][2]os.FileMode{r.paths.state(): {0o644, 0o600}, r.paths.private(): {0o750, 0o700}, r.paths.journal(): {0o640, 0o600}} {
		if err := os.Chmod(path, modes[0]); err != nil {
			t.Fatal(err)
		}
		if err := r.Up(t.Context()); err == nil || !strings.Contains(err.Error(), "wider than") || HintOf(err) == "" {
			t.Errorf("up with %s at %v: %v", path, modes[0], err)
		}
		if err := os.Chmod(path, modes[1]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDecodeState_Damaged(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	r := join(t, g, newRoot(t))
	b, err := os.ReadFile(r.paths.state())
	if err != nil {
		t.Fatal(err)
	}
	st, err := decodeState(b)
	if err != nil {
		t.Fatal(err)
	}
	secrets := []string{st.JoinCredential.Encode(), string(st.WireGuardKey.Reveal())}
	for cut := range len(b) - 2 {
		_, err := decodeState(b[:cut])
		if err == nil {
			t.Fatalf("cut at %d it is accepted", cut)
		}
		for _, s := range secrets {
			if strings.Contains(err.Error(), s) {
				t.Fatal("the error quotes a secret")
			}
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"version":1,"url":"https://x","registration":"r_1","family":"4"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := decodeState(b)
		if err == nil && st.Claim != nil {
			_, _ = newTunnelConfig(st)
		}
	})
}

// The gateway's claim answer is checked before any of it is used.
func TestNewTunnelConfig(t *testing.T) {
	good := func() *enrolment.ClaimResponse {
		return &enrolment.ClaimResponse{
			Addresses: []string{"10.55.0.17/28", "fd55:c1a5:0:1::1/64"},
			WireGuard: enrolment.ClaimWireGuard{PublicKey: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=", Endpoint: "gw.example.net:51820", MTU: 1420, Keepalive: 25},
			DNS:       []string{"10.55.0.1", "fd55:c1a5::1"},
		}
	}
	st := &state{WireGuardKey: newKey(), JoinCredential: enrolment.NewJoinCredential(), Claim: good()}
	if _, err := newTunnelConfig(st); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*enrolment.ClaimResponse){
		"no key":              func(c *enrolment.ClaimResponse) { c.WireGuard.PublicKey = "" },
		"a key with a line":   func(c *enrolment.ClaimResponse) { c.WireGuard.PublicKey += "\nallowed_ip=::/0" },
		"no endpoint":         func(c *enrolment.ClaimResponse) { c.WireGuard.Endpoint = "" },
		"a zone":              func(c *enrolment.ClaimResponse) { c.WireGuard.Endpoint = "[fe80::1%eth0]:51820" },
		"a zone with a line":  func(c *enrolment.ClaimResponse) { c.WireGuard.Endpoint = "[2001:db8::1%x\nallowed_ip=::/0]:51820" },
		"a name with a line":  func(c *enrolment.ClaimResponse) { c.WireGuard.Endpoint = "gw.example.net\nx:51820" },
		"a name with escapes": func(c *enrolment.ClaimResponse) { c.WireGuard.Endpoint = "gw\x1b[2J:51820" },
		"an endless name":     func(c *enrolment.ClaimResponse) { c.WireGuard.Endpoint = strings.Repeat("a", 254) + ":51820" },
		"a multicast group":   func(c *enrolment.ClaimResponse) { c.WireGuard.Endpoint = "[ff02::1]:51820" },
		"nowhere":             func(c *enrolment.ClaimResponse) { c.WireGuard.Endpoint = "0.0.0.0:51820" },
		"no port":             func(c *enrolment.ClaimResponse) { c.WireGuard.Endpoint = "gw.example.net" },
		"port zero":           func(c *enrolment.ClaimResponse) { c.WireGuard.Endpoint = "gw.example.net:0" },
		"no address":          func(c *enrolment.ClaimResponse) { c.Addresses = nil },
		"loopback":            func(c *enrolment.ClaimResponse) { c.Addresses[0] = "127.0.0.1/8" },
		"not a prefix":        func(c *enrolment.ClaimResponse) { c.Addresses[0] = "10.55.0.17" },
		"mapped":              func(c *enrolment.ClaimResponse) { c.Addresses[0] = "::ffff:10.55.0.17/128" },
		"many":                func(c *enrolment.ClaimResponse) { c.Addresses = slices.Repeat(c.Addresses, 10) },
		"no resolver":         func(c *enrolment.ClaimResponse) { c.DNS = nil },
		"a resolver's line":   func(c *enrolment.ClaimResponse) { c.DNS[0] = "10.55.0.1\nsearch evil" },
		"many resolvers":      func(c *enrolment.ClaimResponse) { c.DNS = slices.Repeat(c.DNS, 2) },
		"a small MTU":         func(c *enrolment.ClaimResponse) { c.WireGuard.MTU = 100 },
		"a large MTU":         func(c *enrolment.ClaimResponse) { c.WireGuard.MTU = 1 << 20 },
		"negative keepalive":  func(c *enrolment.ClaimResponse) { c.WireGuard.Keepalive = -1 },
		"excessive keepalive": func(c *enrolment.ClaimResponse) { c.WireGuard.Keepalive = 1 << 20 },
	} {
		st.Claim = good()
		spoil(st.Claim)
		if _, err := newTunnelConfig(st); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
