package dashboard_test

import (
	"crypto/sha256"
	"encoding/base64"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/registry"
)

// placeholders fills a pattern's wildcards with what exists.
func placeholders(g *gateway) *strings.Replacer {
	reg := g.enrol("host-of-the-walk", "198.51.100.200")
	return strings.NewReplacer("{id}", string(reg.ID), "{type}", "bearer", "{name}", "github_token", "{endpoint}", "ssh.build", "{host}", "build.example.com", "{port}", "22", "{$}", "")
}

// strayPaths are paths nobody registered, some of them tricky.
func strayPaths() []string {
	paths := []string{
		"/api", "/api/", "/api/nothing", "/apix", "/API/registrations", "/nothing", "/favicon.ico", "/metrics", "/debug/pprof/", "/static/", "/static/x",
		"/static/../registrations", "//registrations", "/registrations/", "/./registrations", "/setup/", "/setup/x", "/login/", "/login/../registrations",
		"/%73etup", "/setup%2f", "/login%2F..%2Fregistrations", "/api/login/", "/api/setup/x", "/api//registrations", "/api/%2e%2e/registrations",
		"/api/approvals", "/api/rules", "/api/invites", "/api/config", "/api/explain", "/api/actions/stream", "/healthz", "/info",
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		b := make([]byte, 1+rng.IntN(12))
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyz/.-_0"[rng.IntN(31)]
		}
		paths = append(paths, "/"+string(b))
	}
	return paths
}

func isAPI(path string) bool {
	return path == "/api" || strings.HasPrefix(path, "/api/") || path == "/metrics"
}

var methods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}

// TestI13_NothingAnswersWithoutACredential walks every route there is, and
// paths there are none for, with no credential and with bad ones.
func TestI13_NothingAnswersWithoutACredential(t *testing.T) {
	g := newOperated(t)
	fill := placeholders(g)
	gated, public := dashboard.Routes(g.handler)
	if len(gated) < 25 {
		t.Fatalf("only %d routes are gated", len(gated))
	}
	if want := []string{"GET /login", "GET /setup", "GET /static/icon.svg", "GET /static/style.css", "POST /api/login", "POST /api/setup", "POST /login", "POST /setup"}; !slices.Equal(public, want) {
		t.Fatalf("the public routes are %v, want %v", public, want)
	}

	expired := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	hash, err := g.db.RootPasswordHash(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.db.NewSession(t.Context(), hash, sha256.Sum256(make([]byte, 32)), registry.Session{Expires: g.clock.Now().Add(time.Second)}); err != nil {
		t.Fatal(err)
	}
	g.clock.pass(2 * time.Second)
	ended := g.logIn()
	status(t, g.send(request{method: "POST", path: "/api/logout", cookie: ended}), http.StatusNoContent)

	type probe struct{ method, path string }
	var probes []probe
	for _, p := range gated {
		m, path, _ := strings.Cut(p, " ")
		probes = append(probes, probe{m, fill.Replace(path)})
	}
	for _, p := range strayPaths() {
		for _, m := range methods {
			probes = append(probes, probe{m, p})
		}
	}
	for _, p := range probes {
		for what, q := range map[string]request{
			"no credential":    {},
			"unknown session":  {cookie: base64.RawURLEncoding.EncodeToString([]byte("01234567890123456789012345678901"))},
			"expired session":  {cookie: expired},
			"ended session":    {cookie: ended},
			"garbage cookie":   {cookie: "x"},
			"bearer":           {header: http.Header{"Authorization": {"Bearer " + password}}},
			"basic":            {header: http.Header{"Authorization": {"Basic cm9vdDpwYXNzd29yZA=="}}},
			"tailscale header": {header: http.Header{"Tailscale-User-Login": {"alice@example.com"}}, from: "127.0.0.1"},
			"forwarded":        {header: http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-User": {"root"}}},
		} {
			q.method, q.path = p.method, p.path
			r := g.send(q)
			if isAPI(pathOnly(p.path)) {
				if r.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s %s with %s: status %d, want 401", p.method, p.path, what, r.StatusCode)
				}
			} else if p.method == "POST" && p.path != "/logout" {
				if r.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s %s with %s: status %d, want 401", p.method, p.path, what, r.StatusCode)
				}
			} else if to, _, _ := strings.Cut(r.Header.Get("Location"), "?"); r.StatusCode != http.StatusSeeOther || to != "/login" {
				t.Errorf("%s %s with %s: status %d to %q, want 303 to /login", p.method, p.path, what, r.StatusCode, r.Header.Get("Location"))
			}
		}
	}
	if reg := g.get(g.db.Snapshot().All()[0].ID); reg.State != "pending" {
		t.Errorf("the walk changed the registration to %s", reg.State)
	}
}

// pathOnly is the path as net/http decodes it.
func pathOnly(p string) string {
	return strings.NewReplacer("%73", "s", "%2f", "/", "%2F", "/", "%2e", ".").Replace(p)
}

// TestI13_BeforeARootPassword: there is nothing but the set-up form.
func TestI13_BeforeARootPassword(t *testing.T) {
	g := newGateway(t)
	fill := placeholders(g)
	gated, _ := dashboard.Routes(g.handler)
	probes := slices.Clone(gated)
	for _, p := range strayPaths() {
		probes = append(probes, "GET "+p)
	}
	probes = append(probes, "GET /login", "POST /login", "POST /api/login")
	for _, p := range probes {
		m, path, _ := strings.Cut(p, " ")
		path = fill.Replace(path)
		r := g.send(request{method: m, path: path, secret: password})
		if isAPI(pathOnly(path)) {
			refused(t, r, http.StatusForbidden, "setup_required")
		} else {
			goesTo(t, r, "/setup")
		}
	}
	status(t, g.send(request{method: "GET", path: "/setup"}), http.StatusOK)
	status(t, g.send(request{method: "GET", path: "/static/style.css"}), http.StatusOK)
}

// TestI13_ARouteAddedLaterIsGated adds one the only way there is.
func TestI13_ARouteAddedLaterIsGated(t *testing.T) {
	g := newOperated(t)
	served := 0
	dashboard.AddRoute(g.handler, "GET /api/later", func(http.ResponseWriter, *http.Request) { served++ })
	refused(t, g.send(request{method: "GET", path: "/api/later"}), http.StatusUnauthorized, "unauthorized")
	if served != 0 {
		t.Fatal("served without a credential")
	}
	status(t, g.api("GET", "/api/later", ""), http.StatusOK)
	if served != 1 {
		t.Fatal("not served with one")
	}
}

// With a credential the gate is open: what does not exist is 404 or 405, and
// not a redirect that some client follows to a place it did not mean.
func TestGate_BehindIt(t *testing.T) {
	g := newOperated(t)
	refused(t, g.api("GET", "/api/nothing", ""), http.StatusNotFound, "not_found")
	r := g.api("PATCH", "/api/registrations", "")
	if allow := r.Header.Values("Allow"); !slices.Equal(allow, []string{"GET"}) {
		t.Errorf("Allow %v", allow)
	}
	refused(t, r, http.StatusMethodNotAllowed, "method_not_allowed")
	status(t, g.send(request{method: "GET", path: "/nothing", secret: password}), http.StatusNotFound)
	status(t, g.send(request{method: "GET", path: "/", secret: password}), http.StatusOK)
	for _, p := range []string{"/registrations", "/approvals", "/credentials", "/actions", "/api/registrations", "/api/endpoints", "/api/profiles", "/api/credentials", "/api/actions", "/api/approvals", "/api/host-keys"} {
		status(t, g.send(request{method: "GET", path: p, secret: password}), http.StatusOK)
		status(t, g.send(request{method: "GET", path: p, cookie: g.logIn()}), http.StatusOK)
	}
}

func TestNew_RefusesClearTextOffLoopback(t *testing.T) {
	g := newGateway(t)
	for _, l := range []string{"0.0.0.0:8080", ":8080", "192.0.2.1:8080", "[::]:8080", "dash.example.com:8080", "", "8080"} {
		cfg := g.cfg
		cfg.Listen = l
		if _, err := dashboard.New(cfg); err == nil {
			t.Errorf("serves %q without TLS", l)
		}
	}
	if _, err := dashboard.New(dashboard.Config{}); err == nil {
		t.Error("the zero Config serves")
	}
}
