package public_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
	"github.com/clawpatrol/clawpatrol/enrolment/public"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

const gatewayHCL = `
gateway {
  state_dir  = "/tmp/never-used"
  public_url = "https://gw.example.com:8443"
}
endpoint "https" "github" {
  hosts = ["api.github.com"]
}
credential "bearer" "github_token" {
  endpoint = https.github
  env      = "GH_TOKEN"
}
credential "header" "apikey" {
  endpoint = https.github
  header   = "X-Api-Key"
}
profile "ci" {
  credentials = [bearer.github_token]
  default     = true
}
profile "other" {
  credentials = [header.apikey]
}
`

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

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

// gateway is a public listener over a real registry.
type gateway struct {
	t       testing.TB
	clock   *clock
	db      *registry.DB
	policy  *policy.Policy
	key     [32]byte
	handler http.Handler
	log     *bytes.Buffer // what was logged, down to debug
	dir     string        // the registry's
	office  *invites.Office
	ssh     bool // whether it has an SSH CA
}

func newGateway(t testing.TB) *gateway {
	t.Helper()
	g := &gateway{t: t, clock: &clock{now: start}, log: new(bytes.Buffer)}
	rand.Read(g.key[:])
	g.key[31] &= 0x7f
	g.dir = filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(g.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	g.openRegistry()
	t.Cleanup(func() {
		if err := g.db.Close(); err != nil {
			t.Error(err)
		}
	})
	p, diags := policy.Compile("gateway.hcl", []byte(gatewayHCL), policy.Options{})
	if p == nil {
		t.Fatal(diags)
	}
	g.policy = p
	g.restart()
	g.clock.pass(time.Second) // timestamps have whole seconds
	return g
}

func (g *gateway) openRegistry() {
	g.t.Helper()
	var err error
	g.db, err = registry.Open(g.t.Context(), registry.Config{
		Dir:     g.dir,
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")},
		Now:     g.clock.Now,
		Log:     g.logger(),
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

// copyState is a backup of the state directory, made while the gateway is down.
func (g *gateway) copyState() (dir string) {
	g.t.Helper()
	if err := g.db.Close(); err != nil {
		g.t.Fatal(err)
	}
	dir = filepath.Join(g.t.TempDir(), "backup")
	g.copyDir(dir, g.dir)
	g.openRegistry()
	g.restart()
	return dir
}

// restore puts a backup in the place of the state directory.
func (g *gateway) restore(backup string) {
	g.t.Helper()
	if err := g.db.Close(); err != nil {
		g.t.Fatal(err)
	}
	if err := os.RemoveAll(g.dir); err != nil {
		g.t.Fatal(err)
	}
	g.copyDir(g.dir, backup)
	g.openRegistry()
	g.restart()
}

// copyDir copies a directory with its modes, which the registry insists on.
func (g *gateway) copyDir(to, from string) {
	g.t.Helper()
	if out, err := exec.CommandContext(g.t.Context(), "cp", "-a", from, to).CombinedOutput(); err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
}

func (g *gateway) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// restart replaces the listener, as a new process would; the registry stays.
func (g *gateway) restart() {
	g.t.Helper()
	var err error
	g.office, err = invites.New(g.t.Context(), invites.Config{
		Registry:      g.db,
		Policy:        func() *policy.Policy { return g.policy },
		CAFingerprint: "sha256:" + strings.Repeat("00", 32),
		Now:           g.clock.Now,
		Log:           g.logger(),
	})
	if err != nil {
		g.t.Fatal(err)
	}
	cfg := public.Config{
		Registry:           g.db,
		Policy:             func() *policy.Policy { return g.policy },
		Version:            "1.2.3",
		CAFingerprint:      "sha256:00",
		CAPEM:              []byte("-----BEGIN CERTIFICATE-----\n"),
		WireGuardPublicKey: g.key,
		WireGuardEndpoint:  "gw.example.com:51820",
		MTU:                1420,
		Invites:            g.office,
		Now:                g.clock.Now,
		Log:                g.logger(),
	}
	if g.ssh {
		cfg.SSHAuthority = "ssh-ed25519 AAAA"
		cfg.KnownHost = func(ref, host string, port uint16) string { return fmt.Sprint(ref, " ", host, " ", port) }
	}
	if g.handler, err = public.New(cfg); err != nil {
		g.t.Fatal(err)
	}
}

// send sends a request from address from.
func (g *gateway) send(method, path, from, body string, header http.Header) *http.Response {
	g.t.Helper()
	r := httptest.NewRequestWithContext(g.t.Context(), method, path, strings.NewReader(body))
	r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(from), 40000).String()
	for k, v := range header {
		r.Header[k] = v
	}
	w := httptest.NewRecorder()
	g.handler.ServeHTTP(w, r)
	return w.Result()
}

// agentHost is one that has started.
type agentHost struct {
	g    *gateway
	from string
	enrolment.StartResponse
	credential enrolment.JoinCredential
}

func newKey(t testing.TB) string {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(k.PublicKey().Bytes())
}

func startBody(t testing.TB, name, key string) string {
	t.Helper()
	b, err := json.Marshal(enrolment.StartRequest{Name: name, WireGuardPublicKey: key})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (g *gateway) start(name, from string) *agentHost {
	g.t.Helper()
	r := g.send("POST", enrolment.PathStart, from, startBody(g.t, name, newKey(g.t)), nil)
	a := &agentHost{g: g, from: from}
	read(g.t, r, http.StatusCreated, &a.StartResponse)
	var err error
	if a.credential, err = enrolment.ParseJoinCredential(a.JoinCredential); err != nil {
		g.t.Fatal(err)
	}
	return a
}

func (a *agentHost) authorization(path, body string, at time.Time) http.Header {
	return http.Header{"Authorization": {enrolment.Authorize(a.credential.Keys().MAC, a.Registration, "POST", path, []byte(body), at)}}
}

func (a *agentHost) post(path, from string) *http.Response {
	a.g.t.Helper()
	return a.g.send("POST", path, from, "{}", a.authorization(path, "{}", a.g.clock.Now()))
}

func (a *agentHost) poll() enrolment.PollResponse {
	a.g.t.Helper()
	var p enrolment.PollResponse
	read(a.g.t, a.post(enrolment.PathPoll, a.from), http.StatusOK, &p)
	return p
}

func (a *agentHost) approve(profiles ...string) {
	a.g.t.Helper()
	if err := a.g.db.Approve(a.g.t.Context(), registry.ID(a.Registration), profiles, a.UserCode); err != nil {
		a.g.t.Fatal(err)
	}
}

// read decodes an answer, which must have this status.
func read(t testing.TB, r *http.Response, status int, v any) {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if r.StatusCode != status {
		t.Fatalf("status %d, want %d: %s", r.StatusCode, status, b)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
}

// refused checks that an answer is an error of this status and code.
func refused(t testing.TB, r *http.Response, status int, code string) {
	t.Helper()
	var e enrolment.ErrorResponse
	read(t, r, status, &e)
	if e.Error.Code != code || e.Error.Message == "" {
		t.Fatalf("error %+v, want code %q", e.Error, code)
	}
}
