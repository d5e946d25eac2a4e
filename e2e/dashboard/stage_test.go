package dashboard

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/crypto/ssh"
	"golang.org/x/net/html"

	pages "github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// stage is the dashboard over a registry in this process, filled with what would
// take a day and twenty agent hosts to happen. It stands beside the gateway of
// world: held actions, for one, nothing that a policy can say makes yet.
type stage struct {
	t      testing.TB
	db     *registry.DB
	ln     net.Listener
	base   string
	policy atomic.Pointer[policy.Policy]
	store  *recording.Store
	office *invites.Office
	cookie string
	back   atomic.Int64 // how long ago it is, in nanoseconds
	cfg    pages.Config

	mu     sync.Mutex
	server *http.Server
}

const stagePassword = "a password for the stage"

func newStage(t testing.TB, hcl string) *stage {
	t.Helper()
	s := newUnsetStage(t, hcl)
	hash, err := bcrypt.GenerateFromPassword([]byte(stagePassword), bcrypt.MinCost)
	must(t, err)
	must(t, s.db.SetRootPasswordHash(t.Context(), hash, false))
	s.cookie = s.logIn()
	return s
}

// newUnsetStage is a fresh install, without a root password.
func newUnsetStage(t testing.TB, hcl string) *stage {
	t.Helper()
	s := &stage{t: t}
	dir := filepath.Join(t.TempDir(), "state")
	must(t, os.Mkdir(dir, 0o700))
	s.load(hcl)
	var err error
	s.db, err = registry.Open(t.Context(), registry.Config{
		Dir: dir, Now: s.now,
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")},
	})
	must(t, err)
	t.Cleanup(func() { must(t, s.db.Close()) })
	s.store, err = recording.Open(filepath.Join(t.TempDir(), "recordings"), recording.Limits{})
	must(t, err)
	t.Cleanup(func() { must(t, s.store.Close()) })
	ca := "sha256:" + strings.Repeat("3b1f", 16)
	s.office, err = invites.New(t.Context(), invites.Config{Registry: s.db, Policy: s.policy.Load, CAFingerprint: ca, Now: s.now})
	must(t, err)
	started := time.Now().Add(-75 * time.Hour)
	s.cfg = pages.Config{
		Registry: s.db, Policy: s.policy.Load, Invites: s.office, Recordings: s.store, Now: s.now,
		System: func() pages.System {
			return pages.System{
				Version: "1.4.0", Go: "go1.26.3", Started: started,
				Listeners: []pages.Listener{
					{Name: "gateway.listen", Address: "0.0.0.0:8443", TLS: true},
					{Name: "gateway.dashboard.listen", Address: s.ln.Addr().String()},
				},
				WireGuard:     pages.WireGuard{PublicKey: "qEVuIIeNZTs3ZQMY8gVfSfDCWYjlw1Cq1yBcPhUM4Ho=", Port: 51820},
				CAFingerprint: ca, CAExpires: started.AddDate(10, 0, 0), CAPEM: []byte("-----BEGIN CERTIFICATE-----\n"),
				StateDir: "/var/lib/clawpatrol", Database: 48 << 20, DiskFree: 61 << 30, DiskTotal: 98 << 30,
			}
		},
	}
	s.listen("127.0.0.1:0")
	s.base = "http://" + s.ln.Addr().String()
	s.cfg.Listen = s.ln.Addr().String()
	s.serve()
	t.Cleanup(s.stop)
	return s
}

func (s *stage) load(hcl string) {
	s.t.Helper()
	p, diags := policy.Compile("gateway.hcl", []byte(hcl), policy.Options{})
	if p == nil {
		s.t.Fatal(diags)
	}
	s.policy.Store(p)
}

// listen opens ln, which stop closes.
func (s *stage) listen(addr string) {
	s.t.Helper()
	var err error
	s.ln, err = net.Listen("tcp", addr)
	must(s.t, err)
}

// serve begins to serve on ln: also again, after stop, as a gateway that restarts.
func (s *stage) serve() {
	h, err := pages.New(s.cfg)
	must(s.t, err)
	srv := pages.Server(h)
	s.mu.Lock()
	s.server = srv
	s.mu.Unlock()
	go func() { _ = srv.Serve(s.ln) }() // until stop
}

func (s *stage) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.server.Close() // ends what is under way
}

// now is the stage's clock.
func (s *stage) now() time.Time { return time.Now().Add(-time.Duration(s.back.Load())) }

// ago turns it back.
func (s *stage) ago(d time.Duration) { s.back.Store(int64(d)) }

// logIn returns a session's cookie.
func (s *stage) logIn() string {
	s.t.Helper()
	resp, err := http.Post(s.base+"/api/login", "application/json", strings.NewReader(`{"password":"`+stagePassword+`"}`))
	must(s.t, err)
	defer resp.Body.Close()
	for _, c := range resp.Cookies() {
		if c.Name == "cp_dash" {
			return c.Value
		}
	}
	s.t.Fatalf("logging in: %s", resp.Status)
	return ""
}

// open opens a tab that is logged in.
func (s *stage) open(t *testing.T, set setting) *tab {
	t.Helper()
	p := chromium.open(t, s.base, set)
	p.enter(s.cookie)
	return p
}

// enter gives the tab a session.
func (p *tab) enter(cookie string) {
	p.t.Helper()
	_, err := call(p, network.SetCookie, network.SetCookieParams{Name: "cp_dash", Value: cookie, URL: p.base, HTTPOnly: new(true), SameSite: "Strict"})
	must(p.t, err)
}

// get reads a path as a script of the operator's would, without following.
func (s *stage) get(path string) (resp *http.Response, body []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", s.base+path, nil)
	must(s.t, err)
	req.AddCookie(&http.Cookie{Name: "cp_dash", Value: s.cookie})
	resp, err = http.DefaultTransport.RoundTrip(req)
	must(s.t, err)
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	must(s.t, err)
	return resp, body
}

// api calls the API, which must take it.
func (s *stage) api(method, path string, in, out any) {
	s.t.Helper()
	b, err := json.Marshal(in)
	must(s.t, err)
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.base+path, bytes.NewReader(b))
	must(s.t, err)
	req.AddCookie(&http.Cookie{Name: "cp_dash", Value: s.cookie})
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultTransport.RoundTrip(req)
	must(s.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(s.t, err)
	if resp.StatusCode/100 != 2 {
		s.t.Fatalf("%s %s: %s: %s", method, path, resp.Status, body)
	}
	if out != nil {
		must(s.t, json.Unmarshal(body, out))
	}
}

// everyPage follows links from the overview, and returns every page that it comes
// to: one of each kind, or all that there are, at most 200.
func (s *stage) everyPage(all bool) []string {
	s.t.Helper()
	queue, seen, found := []string{"/"}, map[string]bool{"/": true}, []string(nil)
	for len(queue) > 0 && len(found) < 200 {
		path := queue[0]
		queue = queue[1:]
		resp, body := s.get(path)
		if resp.StatusCode != http.StatusOK {
			s.t.Errorf("a link leads to %s: %s", path, resp.Status)
			continue
		}
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			continue
		}
		found = append(found, path)
		doc, err := html.Parse(bytes.NewReader(body))
		must(s.t, err)
		for n := range doc.Descendants() {
			if n.Type != html.ElementNode || n.Data != "a" {
				continue
			}
			for _, a := range n.Attr {
				if a.Key != "href" {
					continue
				}
				u, err := url.Parse(a.Val)
				if err != nil || u.IsAbs() || u.Host != "" || strings.HasPrefix(a.Val, "#") {
					if u != nil && (u.Host != "" || u.Scheme != "") {
						s.t.Errorf("%s has a link elsewhere: %s", path, a.Val)
					}
					continue
				}
				to := (&url.URL{Path: path}).ResolveReference(u)
				to.Fragment = ""
				kind := kindOf(to)
				if all {
					kind = to.String()
				}
				if strings.Contains(to.Path, "/api/") || seen[kind] {
					continue
				}
				seen[kind] = true
				queue = append(queue, to.String())
			}
		}
	}
	return found
}

// kindOf is a page's path with its names and numbers left out.
func kindOf(u *url.URL) string {
	parts := strings.Split(u.Path, "/")
	for i, part := range parts {
		if i > 1 && (strings.ContainsAny(part, "_.0123456789") || i == 3 && parts[1] == "credentials" || i == 2 && parts[1] == "credentials") {
			parts[i] = "*"
		}
	}
	return strings.Join(parts, "/")
}

// enrol makes a registration that waits.
func (s *stage) enrol(name, from string) *registry.Registration {
	s.t.Helper()
	n := registry.NewRegistration{
		Name: name, Source: netip.MustParseAddr(from),
		MACKey: secret.New([]byte("mac-key-of-" + name)), PresharedKey: secret.New([]byte("preshared-key-of-" + name)),
	}
	_, _ = rand.Read(n.PublicKey[:]) // cannot fail
	reg, err := s.db.Enrol(s.t.Context(), n)
	must(s.t, err)
	return reg
}

// approved makes one that is approved, with a tunnel that is up.
func (s *stage) approved(name, from string, profiles ...string) *registry.Registration {
	s.t.Helper()
	reg := s.enrol(name, from)
	must(s.t, s.db.Approve(s.t.Context(), reg.ID, profiles, reg.UserCode))
	return reg
}

// act writes a row of the action log, as of the stage's clock.
func (s *stage) act(a registry.Action, r registry.ActionResult) {
	s.t.Helper()
	a.Time = s.now()
	id, err := s.db.Append(s.t.Context(), a)
	must(s.t, err)
	if r.Status != "" {
		s.db.Finish(id, r)
	}
}

// waiter is an agent's request that waits for an operator.
type waiter struct {
	outcome <-chan string
	leave   context.CancelFunc
}

// hold makes one wait, and returns when it does.
func (s *stage) hold(r registry.HeldRequest) waiter {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	outcome := make(chan string, 1)
	before := s.db.PendingApprovals()
	go func() {
		d, err := s.db.Hold(ctx, r)
		if err != nil {
			outcome <- err.Error()
			return
		}
		outcome <- strings.TrimSuffix(fmt.Sprintf("%s: %s", d.State, d.Reason), ": ")
	}()
	for deadline := time.Now().Add(patience); s.db.PendingApprovals() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("nothing waits")
		}
	}
	return waiter{outcome, cancel}
}

func (w waiter) ended(t *testing.T) string {
	t.Helper()
	select {
	case o := <-w.outcome:
		return o
	case <-time.After(patience):
		t.Fatal("it still waits")
		return ""
	}
}

// hostKey is a request to accept a new key of host.
func (s *stage) hostKey(reg *registry.Registration, host string, known ...string) registry.HeldRequest {
	s.t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	must(s.t, err)
	key, err := ssh.NewPublicKey(pub)
	must(s.t, err)
	print := ssh.FingerprintSHA256(key)
	return registry.HeldRequest{
		Registration: reg.ID, Endpoint: "ssh.build", Kind: registry.ApproveHostKey,
		Summary: "the host key of " + host + " port 22: " + print,
		Detail:  registry.HostKeyDetail{Host: host, Port: 22, KeyType: key.Type(), Key: string(ssh.MarshalAuthorizedKey(key)), Fingerprint: print, Known: known},
		HostKey: registry.HostKey{Host: host, Port: 22, Key: key.Marshal()},
	}
}
