package public_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/enrolment/public"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

func TestPublic_ServesItsListAndNothingElse(t *testing.T) {
	g := newGateway(t)
	// Credentials that open the dashboard open nothing here.
	if err := g.db.NewSession(t.Context(), nil, sha256.Sum256(make([]byte, 32)), registry.Session{Expires: g.clock.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	credentials := http.Header{
		"Cookie":              {"cp_dash=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
		"X-Clawpatrol-Secret": {"correct horse battery staple"},
		"Authorization":       {"Bearer token"},
	}
	paths := []string{
		"/", "//", "/setup", "/login", "/registrations", "/api", "/api/", "/api/login", "/api/setup", "/api/registrations",
		"/api/onboard", "/api/onboard/", "/api/onboard/start/", "/api/onboard/approve", "/api/cred/x", "/api/cred/x/webhook",
		"/info/", "//info", "/./info", "/x/../info", "/%69nfo", "/INFO", "/info%00", "/info/x", "/ca.crt/", "/ca.crt.pem", "/healthz/",
		"/metrics", "/debug/pprof/", "/debug/vars", "/static/style.css", "/favicon.ico", "/.well-known/acme-challenge/x",
	}
	for _, p := range paths {
		for _, m := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE", "PATCH"} {
			r := g.send(m, p, "192.0.2.1", "{}", credentials)
			if r.StatusCode != http.StatusNotFound {
				t.Errorf("%s %s: status %d, want 404", m, p, r.StatusCode)
			}
		}
	}
	for p, method := range map[string]string{
		"/info": "GET", "/ca.crt": "GET", "/healthz": "GET",
		enrolment.PathStart: "POST", enrolment.PathClaim: "POST", enrolment.PathPoll: "POST",
	} {
		for _, m := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"} {
			r := g.send(m, p, "192.0.2.1", "{}", credentials)
			if (r.StatusCode == http.StatusMethodNotAllowed) != (m != method) {
				t.Errorf("%s %s: status %d", m, p, r.StatusCode)
			}
			if m != method && r.Header.Get("Allow") != method {
				t.Errorf("%s %s: Allow %q", m, p, r.Header.Get("Allow"))
			}
		}
	}
}

func TestPublic_Info(t *testing.T) {
	g := newGateway(t)
	forged := http.Header{
		"X-Forwarded-For": {"203.0.113.9"}, "X-Real-Ip": {"203.0.113.9"}, "Forwarded": {"for=203.0.113.9"}, "Cf-Connecting-Ip": {"203.0.113.9"},
	}
	for from, want := range map[string]string{
		"192.0.2.7":        "192.0.2.7",
		"::ffff:192.0.2.7": "192.0.2.7",
		"2001:db8::7":      "2001:db8::7",
		"fe80::1%eth0":     "fe80::1",
	} {
		var info enrolment.Info
		read(t, g.send("GET", "/info", from, "", forged), http.StatusOK, &info)
		if info.YourAddress != want {
			t.Errorf("from %s: your_address %q", from, info.YourAddress)
		}
		if info.Version != "1.2.3" || info.CAFingerprint != "sha256:00" || info.WireGuard.Endpoint != "gw.example.com:51820" || len(info.WireGuard.PublicKey) != 44 {
			t.Errorf("info %+v", info)
		}
	}
	r := g.send("GET", "/ca.crt", "192.0.2.7", "", nil)
	if b, _ := io.ReadAll(r.Body); !strings.HasPrefix(string(b), "-----BEGIN CERTIFICATE") {
		t.Errorf("/ca.crt: %q", b)
	}
	if r := g.send("GET", "/healthz", "192.0.2.7", "", nil); r.StatusCode != http.StatusOK {
		t.Errorf("/healthz: %d", r.StatusCode)
	}
}

// A page that the operator visits must not enrol a key from the operator's
// address.
func TestPublic_BrowsersMayNotPost(t *testing.T) {
	g := newGateway(t)
	body := startBody(t, "host", newKey(t))
	for _, h := range []http.Header{{"Sec-Fetch-Site": {"cross-site"}}, {"Sec-Fetch-Site": {"same-site"}}, {"Origin": {"https://evil.example"}}, {"Origin": {"null"}}} {
		refused(t, g.send("POST", enrolment.PathStart, "192.0.2.1", body, h), http.StatusForbidden, "cross_origin")
	}
	if n := len(g.db.Snapshot().All()); n != 0 {
		t.Errorf("%d registrations", n)
	}
}

func TestNew_RefusesAnIncompleteConfig(t *testing.T) {
	if _, err := public.New(public.Config{}); err == nil {
		t.Error("the zero Config serves")
	}
}

// Driven over a socket: an oversized header is refused, and no wait is without
// a limit.
func TestServer_BoundsHeadersAndWaits(t *testing.T) {
	g := newGateway(t)
	s := public.Server(g.handler)
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Fatalf("a limit is missing: %+v", s)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	r, err := http.NewRequestWithContext(t.Context(), "GET", fmt.Sprintf("http://%s/info", ln.Addr()), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Long", strings.Repeat("x", 64<<10))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 KiB of header: status %d", resp.StatusCode)
	}
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 404 ") {
		t.Errorf("OPTIONS *: %q, %v", b, err)
	}
}

// A panic ends at its request, says nothing to the sender, and is logged
// without the value, which could quote the request (I16).
func TestI16_PanicEndsAtItsRequest(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	g.policy = nil
	a.g.handler = panicking(t, g)
	r := g.send("POST", enrolment.PathPoll, "192.0.2.1", "{}", a.authorization(enrolment.PathPoll, "{}", g.clock.Now()))
	refused(t, r, http.StatusInternalServerError, "internal")
	if log := g.log.String(); !strings.Contains(log, "panic") || strings.Contains(log, "sesame") {
		t.Errorf("log: %s", log)
	}
}

// panicking is a listener whose policy function panics with a secret.
func panicking(t *testing.T, g *gateway) http.Handler {
	t.Helper()
	h, err := public.New(public.Config{
		Registry: g.db, Policy: func() *policy.Policy { panic("open sesame") }, CAFingerprint: "x", CAPEM: []byte("x"),
		WireGuardPublicKey: g.key, WireGuardEndpoint: "x:1", MTU: 1420, Now: g.clock.Now, Log: g.logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.clock.pass(time.Second)
	return h
}

// Idle connections from one source are bounded, and keep out neither others nor
// other agent hosts behind the same NAT (I16).
func TestI16_ConnectionsPerSourceAreBounded(t *testing.T) {
	g := newGateway(t)
	s := public.Server(g.handler)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	get := func(from string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
		c, err := d.Dial("tcp", ln.Addr().String())
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") // and stays open
		if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return nil, err
		}
		_, err = io.ReadFull(c, make([]byte, len("HTTP/1.1 200 OK")))
		return c, err
	}
	var open []net.Conn
	for i := range public.MaxConnsPerSource {
		c, err := get("127.0.0.1")
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		open = append(open, c)
	}
	if _, err := get("127.0.0.1"); err != nil {
		t.Errorf("one more is not served: %v", err)
	}
	if !oneCloses(open) {
		t.Error("no idle one was closed for it")
	}
	if _, err := get("127.0.0.2"); err != nil {
		t.Errorf("another source is not served: %v", err)
	}
}

// oneCloses waits until the other end closes one of conns, of whose answers
// parts are unread.
func oneCloses(conns []net.Conn) bool {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		for _, c := range conns {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := io.Copy(io.Discard, c); !errors.Is(err, os.ErrDeadlineExceeded) {
				return true
			}
		}
	}
	return false
}
