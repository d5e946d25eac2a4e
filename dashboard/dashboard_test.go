package dashboard_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

const (
	password = "correct horse battery"
	listen   = "127.0.0.1:8080"

	gatewayHCL = `
gateway {
  state_dir  = "/tmp/never-used"
  public_url = "https://gw.example.com:8443"
}
endpoint "https" "github" {
  hosts = ["api.github.com", "uploads.github.com"]
}
endpoint "https" "internal" {
  hosts   = ["api.internal.example.com:8443"]
  address = "10.20.0.7:8443"
  cookies = "pass"
}
credential "bearer" "github_token" {
  endpoint = https.github
  env      = "GH_TOKEN"
}
credential "basic" "registry" {
  endpoint = https.internal
  username = "ci"
}
credential "header" "apikey" {
  endpoint = https.internal
  header   = "X-Api-Key"
}
profile "ci" {
  credentials = [bearer.github_token]
  default     = true
}
profile "deploy" {
  credentials = [basic.registry, header.apikey]
}
`
)

// clock is a clock that tests turn.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu   sync.Mutex
	b    bytes.Buffer
	drop bool
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.drop {
		return len(p), nil
	}
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// gateway is a dashboard over a real registry.
type gateway struct {
	t       testing.TB
	clock   *clock
	db      *registry.DB
	policy  atomic.Pointer[policy.Policy]
	cfg     dashboard.Config
	handler http.Handler
	log     *syncBuffer // everything logged, down to debug
	seen    *syncBuffer // everything answered, headers and bodies
}

// newGateway is a fresh install: no root password yet.
func newGateway(t testing.TB) *gateway {
	t.Helper()
	g := &gateway{t: t, clock: &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}, log: new(syncBuffer), seen: new(syncBuffer)}
	log := slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	dir := filepath.Join(t.TempDir(), "state")
	err := os.Mkdir(dir, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	g.db, err = registry.Open(t.Context(), registry.Config{
		Dir:     dir,
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")},
		Now:     g.clock.Now,
		Log:     log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.db.Close(); err != nil {
			t.Error(err)
		}
	})
	g.load(gatewayHCL)
	office, err := invites.New(t.Context(), invites.Config{
		Registry: g.db, Policy: g.policy.Load, CAFingerprint: "sha256:" + strings.Repeat("ab", 32), Now: g.clock.Now, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	g.cfg = dashboard.Config{Registry: g.db, Policy: g.policy.Load, Invites: office, Listen: listen, Now: g.clock.Now, Log: log}.
		ForTest(bcrypt.MinCost, netip.MustParseAddr("203.0.113.1"))
	g.restart()
	return g
}

// newOperated has a root password.
func newOperated(t testing.TB) *gateway {
	t.Helper()
	g := newGateway(t)
	g.setPassword(password)
	return g
}

// forget stops keeping what is logged and answered, for fuzzing.
func (g *gateway) forget() { g.log.drop, g.seen.drop = true, true }

func (g *gateway) load(src string) {
	g.t.Helper()
	p, diags := policy.Compile("gateway.hcl", []byte(src), policy.Options{})
	if p == nil {
		g.t.Fatal(diags)
	}
	g.policy.Store(p)
}

func (g *gateway) restart() {
	g.t.Helper()
	var err error
	if g.handler, err = dashboard.New(g.cfg); err != nil {
		g.t.Fatal(err)
	}
}

// setPassword is what --set-dashboard-password does.
func (g *gateway) setPassword(pw string) {
	g.t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(pw), bcrypt.MinCost)
	if err == nil {
		err = g.db.SetRootPasswordHash(g.t.Context(), hash, false)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// request is what send sends; zero fields are a plain request of this listener.
type request struct {
	method, path string
	body         string
	form         url.Values
	from         string // default 192.0.2.1
	host         string // default listen; "-": none
	local        string // the connection's own address; default listen
	cookie       string
	secret       string // X-Clawpatrol-Secret
	header       http.Header
}

func (g *gateway) send(q request) *http.Response {
	g.t.Helper()
	if q.form != nil {
		q.body = q.form.Encode()
	}
	r := httptest.NewRequestWithContext(g.t.Context(), q.method, q.path, strings.NewReader(q.body))
	for k, v := range q.header {
		r.Header[k] = v
	}
	if q.form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.Host = or(q.host, listen)
	if q.host == "-" {
		r.Host = ""
	}
	r.RemoteAddr = net.JoinHostPort(or(q.from, "192.0.2.1"), "40000")
	local, err := net.ResolveTCPAddr("tcp", or(q.local, listen))
	if err != nil {
		g.t.Fatal(err)
	}
	r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(local)))
	if q.cookie != "" {
		r.AddCookie(&http.Cookie{Name: "cp_dash", Value: q.cookie})
	}
	if q.secret != "" {
		r.Header.Set("X-Clawpatrol-Secret", q.secret)
	}
	w := httptest.NewRecorder()
	g.handler.ServeHTTP(w, r)
	resp := w.Result()
	_ = resp.Header.Write(g.seen)
	_, _ = g.seen.Write(w.Body.Bytes())
	if isAPI(r.URL.Path) {
		d, err := description()
		if err != nil {
			g.t.Fatal(err)
		}
		if err := d.answerFits(q.method, q.path, resp.StatusCode, resp.Header, w.Body.Bytes()); err != nil {
			g.t.Errorf("the API's description: %v", err)
		}
	}
	return resp
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// api sends an API request as a script of the operator would.
func (g *gateway) api(method, path, body string) *http.Response {
	g.t.Helper()
	return g.send(request{method: method, path: path, body: body, secret: password})
}

// logIn returns a session's cookie.
func (g *gateway) logIn() string {
	g.t.Helper()
	r := g.send(request{method: "POST", path: "/api/login", body: `{"password":"` + password + `"}`})
	if r.StatusCode != http.StatusNoContent {
		g.t.Fatalf("log-in: status %d: %s", r.StatusCode, text(g.t, r))
	}
	return sessionCookie(g.t, r).Value
}

func sessionCookie(t testing.TB, r *http.Response) *http.Cookie {
	t.Helper()
	for _, c := range r.Cookies() {
		if c.Name == "cp_dash" {
			return c
		}
	}
	t.Fatal("no session cookie")
	return nil
}

// enrol makes a pending registration.
func (g *gateway) enrol(name, from string) *registry.Registration {
	g.t.Helper()
	n := registry.NewRegistration{
		Name: name, Source: netip.MustParseAddr(from),
		MACKey: secret.New([]byte("mac-key-of-" + name)), PresharedKey: secret.New([]byte("preshared-key-of-" + name)),
	}
	rand.Read(n.PublicKey[:])
	reg, err := g.db.Enrol(g.t.Context(), n)
	if err != nil {
		g.t.Fatal(err)
	}
	return reg
}

func (g *gateway) get(id registry.ID) *registry.Registration {
	g.t.Helper()
	reg, ok := g.db.Snapshot().ByID(id)
	if !ok {
		g.t.Fatalf("registration %s is gone", id)
	}
	return reg
}

func text(t testing.TB, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// read decodes an answer, which must have this status.
func read(t testing.TB, r *http.Response, status int, v any) {
	t.Helper()
	body := text(t, r)
	if r.StatusCode != status {
		t.Fatalf("status %d, want %d: %s", r.StatusCode, status, body)
	}
	if ct := r.Header.Get("Content-Type"); ct != "application/json" {
		t.Fatalf("Content-Type %q", ct)
	}
	if err := json.Unmarshal([]byte(body), v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
}

// refused checks that an answer is an error of this status and code.
func refused(t testing.TB, r *http.Response, status int, code string) {
	t.Helper()
	var e struct {
		Error struct{ Code, Message, Hint string }
	}
	read(t, r, status, &e)
	if e.Error.Code != code || e.Error.Message == "" {
		t.Fatalf("error %+v, want code %q", e.Error, code)
	}
}

// status checks an answer's status and returns its body.
func status(t testing.TB, r *http.Response, want int) string {
	t.Helper()
	body := text(t, r)
	if r.StatusCode != want {
		t.Fatalf("status %d, want %d: %s", r.StatusCode, want, body)
	}
	return body
}

// goesTo checks for a 303 to this place.
func goesTo(t testing.TB, r *http.Response, to string) {
	t.Helper()
	status(t, r, http.StatusSeeOther)
	if got := r.Header.Get("Location"); got != to {
		t.Fatalf("goes to %q, want %q", got, to)
	}
}
