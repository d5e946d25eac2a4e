// Package framing judges how the gateway delimits messages. A stream of bytes,
// mostly odd ones, goes into the real https handler at one end; what comes out at
// the other must be what strict programs read in the same bytes, or less:
//
//   - requests of an agent over HTTP/1.1, against net/http's server and nginx;
//   - requests of an agent over HTTP/2, against net/http's server;
//   - responses of an upstream, against net/http's client.
//
// What leaves the gateway must be well-formed and carry the credential, once.
//
// Cases are made from a seed: `go test ./e2e/framing -args -seed N -cases N
// -budget D` runs others, and more of them, than the plain test. The fuzz targets
// check the same in-process.
package framing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols/https"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

var (
	seed   = flag.Uint64("seed", 1, "of the cases")
	cases  = flag.Uint64("cases", 1200, "at most, in each test")
	budget = flag.Duration("budget", 4*time.Second, "for the cases of each test")
)

const (
	host  = "api.example.com"
	token = "tok_REALsecretOfTheFramingTests0123456789"
	own   = "tok-the-agents-own-value" // of the agent
	wait  = 10 * time.Second

	// pause is how long an agent stays after what whole requests it sent were
	// answered, for an answer that must not come.
	pause = 4 * time.Millisecond

	// patience is how long an agent waits for an answer that an oracle gave.
	patience = 400 * time.Millisecond

	markField   = "X-Mark"            // tells messages apart, end to end
	idField     = "X-Upstream-Id"     // of the request that an upstream's answer is for
	methodField = "X-Upstream-Method" // its method

	maxHead = 256 << 10 // docs/http.md
)

// world is the handler with a registration in front of it and an upstream behind.
type world struct {
	*proxytest.Kit
	out     *proxytest.Lasting
	handler *https.Handler
	roots   *x509.CertPool
	up      *upstream
	id      registry.ID
	resting int // goroutines when nothing happens
}

func newWorld(t testing.TB) *world {
	t.Helper()
	out := &proxytest.Lasting{TB: t}
	dir := t.TempDir()
	issuer, err := ca.Open(ca.Config{Dir: filepath.Join(dir, "world")})
	must(t, err)
	pem := filepath.Join(dir, "world.pem")
	must(t, os.WriteFile(pem, issuer.CertPEM(), 0o600))
	leaf, err := issuer.Leaf(host)
	must(t, err)
	w := &world{out: out, up: newUpstream(t, *leaf)}
	w.Kit = proxytest.New(out, fmt.Sprintf(`
		endpoint "https" "api" {
		  hosts   = [%q]
		  address = %q
		  ca_file = %q
		}
		credential "bearer" "token" { endpoint = https.api }
		profile "ci" { credentials = [bearer.token] }`, host, w.up.listener.Addr(), pem))
	gateway, err := ca.Open(ca.Config{Dir: filepath.Join(dir, "ca")})
	must(t, err)
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(gateway.CertPEM())
	w.handler, err = https.New(https.Config{CA: gateway, Dial: w.reach})
	must(t, err)
	w.Kit.Handler = w.handler
	t.Cleanup(w.handler.Close)
	w.SetSecret("bearer.token", "secret", token)
	w.id = w.Approve("agent", "ci")
	return w
}

// reach dials the upstream as the gateway does.
func (w *world) reach(ctx context.Context, endpoint *policy.Endpoint, host string, port uint16) (net.Conn, error) {
	return w.up.reach(func() (net.Conn, error) { return w.Dialer.DialEndpoint(ctx, endpoint.Address, host, port) })
}

// agent is one connection of an agent to the handler, over a net.Pipe.
type agent struct {
	*tls.Conn
	pipe net.Conn
	done chan error
	stop func()
}

// dial begins a flow. It must be ended by leave.
func (w *world) dial(alpn string) (*agent, error) {
	stop := w.out.Input()
	near, far := net.Pipe()
	flow := w.Flow(w.id, host, 443, far)
	a := &agent{pipe: near, done: make(chan error, 1), stop: stop}
	go func() {
		err := w.handler.Serve(context.Background(), flow)
		_ = far.Close() // as the proxy does
		a.done <- err
	}()
	a.Conn = tls.Client(near, &tls.Config{RootCAs: w.roots, ServerName: host, NextProtos: []string{alpn}})
	_ = near.SetDeadline(time.Now().Add(3 * wait))
	if err := a.Handshake(); err != nil {
		_ = a.leave()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return a, nil
}

// leave closes the connection, and says if the flow outlives it.
func (a *agent) leave() error {
	defer a.stop()
	_ = a.pipe.Close()
	select {
	case <-a.done:
		return nil
	case <-time.After(wait):
		return fmt.Errorf("the flow outlives its connection")
	}
}

// rest waits until as few goroutines run as did the first time, once the
// upstream's connections have ended. more is how many the test knows of.
func (w *world) rest(more int) error {
	if err := w.up.renew(); err != nil {
		return err
	}
	end := time.Now().Add(wait)
	n := runtime.NumGoroutine() - more
	for w.resting != 0 && n > w.resting+2 {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			return fmt.Errorf("%d goroutines were left behind:\n%s", n-w.resting, stacks[:runtime.Stack(stacks, true)])
		}
		time.Sleep(time.Millisecond)
		n = runtime.NumGoroutine() - more
	}
	if w.resting == 0 {
		w.resting = w.settled(more)
	}
	return nil
}

// settled is the number of goroutines once it no longer falls.
func (w *world) settled(more int) int {
	least := runtime.NumGoroutine() - more
	for range 50 {
		time.Sleep(time.Millisecond)
		least = min(least, runtime.NumGoroutine()-more)
	}
	return least
}

// leaks returns a form of the secret that text holds, or "".
func leaks(text string) string {
	low := strings.ToLower(text)
	for _, needle := range needles {
		if strings.Contains(low, needle) {
			return needle
		}
	}
	return ""
}

// needles are the secret as it is, and the part of its base64 that is the same
// wherever it stands.
var needles = func() []string {
	all := []string{strings.ToLower(token)}
	for shift := range 3 {
		coded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + token))
		all = append(all, strings.ToLower(coded[4:len(coded)-4]))
	}
	return all
}()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
