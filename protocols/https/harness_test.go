package https_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/protocols/https"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	host  = "api.example.com"
	token = "ghp_S3cr3tT0ken+~x9" // may also stand in a field name
	wait  = 10 * time.Second
)

// lab is the real data path around the handler, and an upstream with a
// certificate for host from a CA of its own.
type lab struct {
	*proxytest.Kit
	t        testing.TB
	handler  *https.Handler
	roots    *x509.CertPool // the gateway's CA
	world    *ca.CA         // the upstreams'
	worldPEM string
	upstream *httptest.Server
	said     logBuffer // what the handler logged
}

// logBuffer collects a log.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// newLab starts serve as the upstream of https.api and a gateway with one
// bearer credential for it in profile ci, its secret stored.
func newLab(t testing.TB, serve http.HandlerFunc) *lab {
	t.Helper()
	l := newWorld(t)
	l.upstream = l.serve(serve, host)
	l.start(l.endpoint("api", l.upstream, host) + `
		credential "bearer" "token" { endpoint = https.api }
		profile "ci" { credentials = [bearer.token] }`)
	l.SetSecret("bearer.token", "secret", token)
	return l
}

func newWorld(t testing.TB) *lab {
	t.Helper()
	world, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "world")})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, world: world, worldPEM: filepath.Join(t.TempDir(), "world.pem")}
	if err := os.WriteFile(l.worldPEM, world.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

// start assembles the gateway under a policy.
func (l *lab) start(policy string) {
	l.t.Helper()
	l.Kit = proxytest.New(l.t, policy)
	gateway, err := ca.Open(ca.Config{Dir: filepath.Join(l.t.TempDir(), "ca")})
	if err != nil {
		l.t.Fatal(err)
	}
	l.roots = x509.NewCertPool()
	l.roots.AppendCertsFromPEM(gateway.CertPEM())
	l.handler, err = https.New(https.Config{CA: gateway, Dialer: l.Dialer, Log: slog.New(slog.NewTextHandler(&l.said, nil))})
	if err != nil {
		l.t.Fatal(err)
	}
	l.Kit.Handler = l.handler
	l.t.Cleanup(l.handler.Close)
}

// serve starts an HTTPS upstream whose certificate is for name.
func (l *lab) serve(h http.HandlerFunc, name string) *httptest.Server {
	l.t.Helper()
	leaf, err := l.world.Leaf(name)
	if err != nil {
		l.t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*leaf}}
	s.Config.DisableGeneralOptionsHandler = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	l.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

// endpoint is the policy text of an endpoint that is dialled at s.
func (l *lab) endpoint(name string, s *httptest.Server, hosts ...string) string {
	return l.endpointAt(name, s.Listener.Addr().String(), hosts...)
}

func (l *lab) endpointAt(name, address string, hosts ...string) string {
	return fmt.Sprintf("endpoint \"https\" %q {\n hosts = [\"%s\"]\n address = %q\n ca_file = %q\n}\n",
		name, strings.Join(hosts, `", "`), address, l.worldPEM)
}

// agent is an HTTP client on an agent host of the registration.
func (l *lab) agent(id registry.ID, h2 bool) *http.Client {
	transport := &http.Transport{
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			name, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return l.Serve(l.handler, id, name, 443), nil
		},
		TLSClientConfig:       &tls.Config{RootCAs: l.roots},
		DisableCompression:    true,
		ExpectContinueTimeout: wait,
		Protocols:             new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(!h2)
	transport.Protocols.SetHTTP2(h2)
	l.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		Timeout:       3 * wait,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// dial is a TLS connection of an agent for raw bytes; alpn is what it offers.
func (l *lab) dial(id registry.ID, name string, alpn ...string) *tls.Conn {
	l.t.Helper()
	conn := tls.Client(l.Serve(l.handler, id, name, 443), &tls.Config{RootCAs: l.roots, ServerName: name, NextProtos: alpn})
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		l.t.Fatal(err)
	}
	if err := conn.Handshake(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { conn.Close() })
	return conn
}

// versions runs a test with an HTTP/1.1 and an HTTP/2 agent.
func versions(t *testing.T, f func(t *testing.T, h2 bool)) {
	t.Run("h1", func(t *testing.T) { f(t, false) })
	t.Run("h2", func(t *testing.T) { f(t, true) })
}

func do(t testing.TB, c *http.Client, method, url string, body io.Reader, edit ...func(*http.Request)) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range edit {
		f(req)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("reading the body: %v", err)
	}
	return resp, string(text)
}

func set(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

// lastStatus is how the registration's latest finished action ended.
func (l *lab) lastStatus(id registry.ID) string {
	l.t.Helper()
	var status string
	l.Eventually(wait, "the action has a result", func() bool {
		rows := l.Actions(id)
		if len(rows) == 0 || rows[0].Result == nil {
			return false
		}
		status = rows[0].Result.Status
		return true
	})
	return status
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
