package webhook_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard/webhook"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// received is what the operator's server got.
type received struct {
	header http.Header
	body   string
}

// bench is a registry, an operator's server, and a webhook that may run.
type bench struct {
	t      *testing.T
	db     *registry.DB
	server *httptest.Server
	got    chan received
	answer atomic.Pointer[http.HandlerFunc] // nil: 204
	log    *syncBuffer
	cfg    webhook.Config
	hook   *webhook.Webhook
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const path = "/hooks/token-4711"

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, got: make(chan received, 1000), log: new(syncBuffer)}
	var err error
	b.db, err = registry.Open(t.Context(), registry.Config{
		Dir: filepath.Join(t.TempDir(), "state"), Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.db.Close() })
	b.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s, %v, %v", r.Method, r.Header, err)
		}
		b.got <- received{r.Header, string(body)}
		if answer := b.answer.Load(); answer != nil {
			(*answer)(w, r)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	b.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	b.server.StartTLS()
	t.Cleanup(b.server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(b.server.Certificate())
	b.cfg = webhook.Config{
		Registry: b.db, URL: b.server.URL + path, Dashboard: "https://dash.example.com:8080", TLS: &tls.Config{RootCAs: roots},
		Log: slog.New(slog.NewTextHandler(b.log, nil)),
	}.Quickly(time.Millisecond)
	return b
}

// run announces until the test ends.
func (b *bench) run() {
	b.t.Helper()
	var err error
	if b.hook, err = webhook.New(b.cfg); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- b.hook.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				b.t.Error(err)
			}
		case <-time.After(10 * time.Second):
			b.t.Error("still running")
		}
	})
}

func (b *bench) enrol(name string) *registry.Registration {
	b.t.Helper()
	var a [4]byte
	rand.Read(a[1:])
	a[0] = 11
	n := registry.NewRegistration{Name: name, MACKey: secret.New([]byte("m")), PresharedKey: secret.New([]byte("p")), Source: netip.AddrFrom4(a)}
	rand.Read(n.PublicKey[:])
	reg, err := b.db.Enrol(b.t.Context(), n)
	if err != nil {
		b.t.Fatal(err)
	}
	return reg
}

func (b *bench) approved(name string) registry.ID {
	b.t.Helper()
	reg := b.enrol(name)
	if err := b.db.Approve(b.t.Context(), reg.ID, []string{"ci"}, ""); err != nil {
		b.t.Fatal(err)
	}
	return reg.ID
}

// hold asks an operator, who is never to answer; leave ends it.
func (b *bench) hold(reg registry.ID, summary string) (leave func()) {
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = b.db.Hold(ctx, registry.HeldRequest{Registration: reg, Endpoint: "https.github", Kind: registry.ApproveAction, Rule: "r", Summary: summary,
			Detail: registry.ActionDetail{RuleReason: "detail-4711"}})
	}()
	leave = func() { cancel(); <-done }
	b.t.Cleanup(leave)
	return leave
}

func (b *bench) next() received {
	b.t.Helper()
	select {
	case r := <-b.got:
		return r
	case <-time.After(20 * time.Second):
		b.t.Fatal("nothing is announced")
		return received{}
	}
}

func (b *bench) status(what string, ok func(webhook.Status) bool) webhook.Status {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if s := b.hook.Status(); ok(s) {
			return s
		} else if time.Now().After(deadline) {
			b.t.Fatalf("%s: %+v", what, s)
		}
	}
}

func TestWebhook_AnnouncesWhatWaitsOnce(t *testing.T) {
	b := newBench(t)
	b.enrol("waits-since-before")
	reg := b.approved("build-01")
	b.run()
	b.hold(reg, "DELETE /x\u202e<b>")
	list := func() []registry.Held {
		all, err := b.db.Approvals(t.Context(), registry.ApprovalPending)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	got := b.next()
	want := map[string]string{"kind": "approval", "summary": "build-01 waits: DELETE /x\uFFFD<b>", "url": "https://dash.example.com:8080/approvals/" + string(list()[0].ID)}
	var v map[string]string
	if err := json.Unmarshal([]byte(got.body), &v); err != nil || fmt.Sprint(v) != fmt.Sprint(want) {
		t.Errorf("%s, %v", got.body, err)
	}
	if got.header.Get("X-Clawpatrol-Signature") != "" {
		t.Error("signed without a secret")
	}
	fresh := b.enrol("new-host")
	got = b.next()
	want = map[string]string{"kind": "registration", "summary": "new-host wants to enrol, from " + fresh.Source.String(), "url": "https://dash.example.com:8080/registrations/" + string(fresh.ID)}
	v = nil
	if err := json.Unmarshal([]byte(got.body), &v); err != nil || fmt.Sprint(v) != fmt.Sprint(want) {
		t.Errorf("%s, %v", got.body, err)
	}
	if strings.Contains(got.body, fresh.UserCode) {
		t.Error("the user code goes along")
	}
	b.hold(reg, "the next")
	if got = b.next(); !strings.Contains(got.body, "the next") {
		t.Errorf("something is announced twice: %s", got.body)
	}
	b.status("all three are counted", func(s webhook.Status) bool { return s.Sent == 3 && s.Problem == "" && s.Dropped == 0 })
}

func TestWebhook_Signs(t *testing.T) {
	b := newBench(t)
	key := atomic.Pointer[secret.Secret]{}
	b.cfg.Secret = func() (secret.Secret, error) {
		if s := key.Load(); s != nil {
			return *s, nil
		}
		return secret.Secret{}, errors.New("the secret HOOK is not set")
	}
	b.cfg.Now = func() time.Time { return time.Unix(1700000000, 0) }
	b.run()
	b.enrol("unsigned")
	b.status("without its secret it fails", func(s webhook.Status) bool { return s.Problem == "the secret HOOK is not set" })
	if len(b.got) != 0 {
		t.Error("sent without a signature")
	}
	s := secret.New([]byte("hook-secret-4711"))
	key.Store(&s)
	b.enrol("signed")
	got := b.next()
	mac := hmac.New(sha256.New, []byte("hook-secret-4711"))
	mac.Write([]byte("1700000000." + got.body))
	if want := "t=1700000000,v1=" + hex.EncodeToString(mac.Sum(nil)); got.header.Get("X-Clawpatrol-Signature") != want {
		t.Errorf("%q, want %q", got.header.Get("X-Clawpatrol-Signature"), want)
	}
	b.status("it works", func(s webhook.Status) bool { return s.Sent == 1 && s.Since.IsZero() })
}

// However the other end fails, it is tried three times at most where another
// attempt could help, said once, and what the URL hides is not told.
func TestI02_WebhookFailuresAreSaidOnceWithoutTheURL(t *testing.T) {
	for name, c := range map[string]struct {
		answer   http.HandlerFunc
		attempts int
		problem  string
	}{
		"an error":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, 3, "it answers 500"},
		"a refusal": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }, 1, "it answers 403"},
		"another place": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, 1, "it answers 307: redirects are not followed"},
		"nothing at all": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 3, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.answer.Store(&c.answer)
			b.run()
			for n := range 2 {
				b.enrol(fmt.Sprintf("host-%d", n))
				b.status("it fails", func(s webhook.Status) bool { return s.Dropped == n+1 })
			}
			s := b.hook.Status()
			if s.Problem != c.problem || s.Since.IsZero() || s.Sent != 0 || len(b.got) != 2*c.attempts {
				t.Errorf("%+v, %d attempts", s, len(b.got))
			}
			if n := strings.Count(b.log.String(), "cannot be announced"); n != 1 {
				t.Errorf("said %d times:\n%s", n, b.log)
			}
			b.answer.Store(nil)
			b.enrol("host-at-last")
			b.status("it works again", func(s webhook.Status) bool { return s.Sent == 1 && s.Problem == "" })
			if !strings.Contains(b.log.String(), "works again") || strings.Contains(b.log.String(), "4711") || strings.Contains(fmt.Sprint(s), "4711") {
				t.Errorf("%s", b.log)
			}
		})
	}
}

// Who is not who the URL names hears nothing.
func TestWebhook_VerifiesTLS(t *testing.T) {
	b := newBench(t)
	b.cfg.TLS = nil
	b.run()
	b.enrol("host")
	s := b.status("it fails", func(s webhook.Status) bool { return s.Dropped == 1 })
	if len(b.got) != 0 || !strings.Contains(s.Problem, "certificate") || strings.Contains(b.log.String(), "4711") {
		t.Errorf("%d announced, %+v, %s", len(b.got), s, b.log)
	}
}

// A server that never answers holds up nothing, and what it is owed is bounded.
func TestI16_WebhookThatHangs(t *testing.T) {
	b := newBench(t)
	released := make(chan struct{})
	hang := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-released:
		case <-r.Context().Done():
		}
	})
	b.answer.Store(&hang)
	b.run()
	t.Cleanup(func() { close(released) })
	b.enrol("first")
	b.next()
	for n := range webhook.Queue + 10 {
		b.enrol(fmt.Sprintf("host-%03d", n))
	}
	b.hook.WaitQueued(webhook.Queue)
	b.status("it is said", func(s webhook.Status) bool {
		return strings.Contains(s.Problem, "too much is to be announced") && s.Dropped == 0
	})
}

// What is over by its turn is not announced.
func TestWebhook_LeavesOutWhatIsOver(t *testing.T) {
	b := newBench(t)
	reg := b.approved("build-01")
	released := make(chan struct{})
	hang := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released })
	b.answer.Store(&hang)
	b.run()
	b.enrol("first")
	b.next()
	leave := b.hold(reg, "goes away")
	for deadline := time.Now().Add(10 * time.Second); b.db.PendingApprovals() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing waits")
		}
	}
	b.hook.WaitQueued(1)
	leave()
	b.answer.Store(nil)
	b.enrol("last")
	b.hook.WaitQueued(2)
	close(released)
	if got := b.next(); !strings.Contains(got.body, "last") {
		t.Errorf("announced: %s", got.body)
	}
}

func TestSummary_IsFitToBePassedOn(t *testing.T) {
	for in, want := range map[string]string{
		"build-01 größe":          "build-01 größe",
		"a\nb\x1b[2J\u202e\xff":   "a\uFFFDb\uFFFD[2J\uFFFD\uFFFD",
		strings.Repeat("é", 200):  strings.Repeat("é", 126) + "…",
		strings.Repeat("ab", 128): strings.Repeat("ab", 128),
	} {
		if got := webhook.Summary(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestNew_RefusesWhatCannotWork(t *testing.T) {
	b := newBench(t)
	for name, change := range map[string]func(*webhook.Config){
		"no registry":  func(c *webhook.Config) { c.Registry = nil },
		"no URL":       func(c *webhook.Config) { c.URL = "" },
		"a bad URL":    func(c *webhook.Config) { c.URL = "https://token-4711@[::1" },
		"no dashboard": func(c *webhook.Config) { c.Dashboard = "" },
	} {
		cfg := b.cfg
		change(&cfg)
		if _, err := webhook.New(cfg); err == nil || strings.Contains(err.Error(), "4711") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
