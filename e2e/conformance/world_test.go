package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/protocols/https"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	token = "tok_REALsecretOfTheConformanceTable0123456789"
	wait  = 10 * time.Second
)

// world is the gateway's real data path, and upstreams that speak one version
// of HTTP each. Rows run one at a time.
type world struct {
	*proxytest.Kit
	handler *https.Handler
	roots   *x509.CertPool // the gateway's CA
	ca      *ca.CA         // the upstreams'
	serving atomic.Pointer[http.HandlerFunc]
	raw     atomic.Pointer[rawHandler]
	conns   atomic.Int64 // connections of the gateway to upstreams so far
}

// rawHandler answers one request on a wire. Returning false closes the
// connection.
type rawHandler func(w wire, conn int64, m message, end bool) bool

// The upstream hosts: who answers, and in which version.
func hostOf(kind string, h2 bool) string {
	if h2 {
		return kind + "2.example.com"
	}
	return kind + "1.example.com"
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := new(world)
	var err error
	w.ca, err = ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "world")})
	must(t, err)
	pem := filepath.Join(t.TempDir(), "world.pem")
	must(t, os.WriteFile(pem, w.ca.CertPEM(), 0o600))

	var policy strings.Builder
	var credentials []string
	endpoint := func(kind string, h2 bool, address, more string) {
		host := hostOf(kind, h2)
		name, _, _ := strings.Cut(host, ".")
		fmt.Fprintf(&policy, "endpoint \"https\" %q {\n hosts = [%q]\n address = %q\n ca_file = %q\n %s\n}\n", name, host, address, pem, more)
		fmt.Fprintf(&policy, "credential \"bearer\" %q {\n endpoint = https.%s\n}\n", name, name)
		credentials = append(credentials, "bearer."+name)
	}
	for _, h2 := range []bool{false, true} {
		endpoint("go", h2, w.serveGo(t, h2), "")
		raw := w.serveRaw(t, h2)
		endpoint("raw", h2, raw, "")
		endpoint("cookies", h2, raw, `cookies = "pass"`)
	}
	endpoint("grpc", true, w.serveGRPC(t), "")
	fmt.Fprintf(&policy, "profile \"ci\" {\n credentials = [%s]\n}\n", strings.Join(credentials, ", "))

	w.Kit = proxytest.New(t, policy.String())
	gateway, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca")})
	must(t, err)
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(gateway.CertPEM())
	w.handler, err = https.New(https.Config{CA: gateway, Dialer: w.Dialer})
	must(t, err)
	w.Kit.Handler = w.handler
	t.Cleanup(w.handler.Close)
	for _, c := range credentials {
		w.SetSecret(c, "secret", token)
	}
	return w
}

// tlsConfig is an upstream's, which speaks one version of HTTP and refuses the
// other in the handshake.
func (w *world) tlsConfig(t *testing.T, h2 bool, host string) *tls.Config {
	t.Helper()
	leaf, err := w.ca.Leaf(host)
	must(t, err)
	proto := "http/1.1"
	if h2 {
		proto = "h2"
	}
	names, err := w.ca.Leaf(strings.Replace(host, "raw", "cookies", 1))
	must(t, err)
	config := func(alpn string, hello *tls.ClientHelloInfo) *tls.Config {
		c := leaf
		if strings.HasPrefix(hello.ServerName, "cookies") {
			c = names
		}
		return &tls.Config{Certificates: []tls.Certificate{*c}, NextProtos: []string{alpn}}
	}
	return &tls.Config{
		Certificates: []tls.Certificate{*leaf},
		NextProtos:   []string{proto},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			for _, p := range hello.SupportedProtos {
				if p == proto {
					return config(proto, hello), nil
				}
			}
			// crypto/tls lets a client of http/1.1 pass where h2 is offered.
			return config("neither", hello), nil
		},
	}
}

// serveGo starts an upstream on net/http, which answers by w.serving.
func (w *world) serveGo(t *testing.T, h2 bool) string {
	t.Helper()
	s := &http.Server{
		TLSConfig: w.tlsConfig(t, h2, hostOf("go", h2)),
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			(*w.serving.Load())(rw, r)
		}),
		DisableGeneralOptionsHandler: true,
		MaxHeaderBytes:               512 << 10,
		ErrorLog:                     log.New(io.Discard, "", 0),
		Protocols:                    new(http.Protocols),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				w.conns.Add(1)
			}
		},
	}
	s.Protocols.SetHTTP1(!h2)
	s.Protocols.SetHTTP2(h2)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ServeTLS(ln, "", "") // ends at Close
	}()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return ln.Addr().String()
}

// serveRaw starts an upstream that answers by w.raw.
func (w *world) serveRaw(t *testing.T, h2 bool) string {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", w.tlsConfig(t, h2, hostOf("raw", h2)))
	must(t, err)
	var running sync.WaitGroup
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			running.Go(func() {
				w.answer(conn.(*tls.Conn))
				_ = conn.Close()
				mu.Lock()
				delete(open, conn)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for c := range open {
			_ = c.(*tls.Conn).NetConn().Close()
		}
		mu.Unlock()
		running.Wait()
	})
	return ln.Addr().String()
}

func (w *world) answer(c *tls.Conn) {
	end, err := newWire(c, true, "")
	if err != nil {
		return // a version refused
	}
	n := w.conns.Add(1)
	for {
		m, ended, err := end.readHead()
		if err != nil || !(*w.raw.Load())(end, n, m, ended) {
			return
		}
	}
}

// pair is one row in one pairing.
type pair struct {
	*testing.T
	*world
	agentH2, upstreamH2 bool
	id                  registry.ID
	host                string
}

// Log is the test's, not the kit's.
func (p *pair) Log(args ...any) { p.T.Helper(); p.T.Log(args...) }

// serve answers with f, on net/http.
func (p *pair) serve(f http.HandlerFunc) {
	p.host = hostOf("go", p.upstreamH2)
	p.world.serving.Store(&f)
}

// script answers with f, on a bare connection.
func (p *pair) script(f rawHandler) {
	p.host = hostOf("raw", p.upstreamH2)
	p.world.raw.Store(&f)
}

func (p *pair) url(path string) string { return "https://" + p.host + path }

func (p *pair) tunnel(host string) net.Conn {
	return p.world.Serve(p.handler, p.id, host, 443)
}

// client is the agent as net/http has it.
func (p *pair) client() *http.Client {
	transport := &http.Transport{
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			name, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			return p.tunnel(name), nil
		},
		TLSClientConfig:        &tls.Config{RootCAs: p.roots},
		DisableCompression:     true,
		ExpectContinueTimeout:  wait,
		MaxResponseHeaderBytes: 1 << 20,
		Protocols:              new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(!p.agentH2)
	transport.Protocols.SetHTTP2(p.agentH2)
	p.T.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		Timeout:       3 * wait,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// dial is the agent as a bare connection.
func (p *pair) dial() wire {
	p.Helper()
	proto := "http/1.1"
	if p.agentH2 {
		proto = "h2"
	}
	c := tls.Client(p.tunnel(p.host), &tls.Config{RootCAs: p.roots, ServerName: p.host, NextProtos: []string{proto}})
	w, err := newWire(c, false, p.host)
	must(p, err)
	p.T.Cleanup(func() { _ = c.Close() })
	return w
}

// exchange sends a request and has it answered: what the upstream saw of the
// one, and the agent of the other.
func (p *pair) exchange(request, answer message) (seen, got message) {
	p.Helper()
	saw := make(chan message, 10)
	p.script(func(w wire, _ int64, m message, end bool) bool {
		if !end {
			var err error
			if m.body, err = readBody(w); err != nil {
				p.Errorf("upstream: %v", err)
			}
			m.trailer = w.trailer()
		}
		saw <- m
		return write(w, answer) == nil
	})
	if strings.HasPrefix(answer.target, "cookies") {
		p.host = hostOf("cookies", p.upstreamH2)
	}
	agent := p.dial()
	must(p, write(agent, request))
	got, err := read(agent)
	must(p, err)
	select {
	case seen = <-saw:
	default:
		p.Fatalf("the upstream saw nothing; the agent got %d %q", got.status, got.body)
	}
	return seen, got
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within fails the row unless c delivers.
func within[T any](p *pair, what string, c <-chan T) T {
	p.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(wait):
		p.Fatalf("not in time: %s", what)
		panic("unreachable")
	}
}
