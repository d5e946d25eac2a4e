package hostile

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// What ci attacks the gateway through: hosts that it has credentials for, and
// one that both registrations reach, each with a credential of its own.
const (
	targetToken = "tgt_REALsecretOfTargetExampleCom0123456"
	opsToken    = "ops_REALsecretOfSharedExampleCom6543210"

	targetPolicy = `
endpoint "https" "target" {
  hosts   = ["target.example.com", "target1.example.com", "raw.example.com", "raw2.example.com", "mute.example.com"]
  ca_file = "lab-ca.pem"
}
endpoint "https" "shared" {
  hosts   = ["shared.example.com"]
  ca_file = "lab-ca.pem"
}
endpoint "https" "wild" {
  hosts   = ["*.wild.example"]
  ca_file = "lab-ca.pem"
}
credential "bearer" "target" { endpoint = https.target }
credential "bearer" "shared_ci" { endpoint = https.shared }
credential "bearer" "shared_ops" { endpoint = https.shared }
credential "bearer" "wild" {
  endpoint = https.wild
  wildcard = true
}
`
)

// target is the web server behind them. Its paths:
//
//	/hold     takes no body and gives no answer until the asker has gone
//	/endless  answers bytes without end
//	/swallow  reads the body
//	/digest   reads the body and answers its SHA-256, and its coding
//	/still    reads the body and answers the one of still, with its fields
//	else      answers "ok"
type target struct {
	running atomic.Int64 // requests
	most    atomic.Int64 // of them at once
	total   atomic.Int64
	still   atomic.Pointer[still]
}

type still struct {
	header http.Header
	body   []byte
}

var theTarget target

func (s *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.total.Add(1)
	now := s.running.Add(1)
	defer s.running.Add(-1)
	for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
	}
	switch r.URL.Path {
	case "/hold":
		<-r.Context().Done()
	case "/endless":
		b := make([]byte, 32<<10)
		for {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	case "/swallow":
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n)
	case "/digest":
		h := sha256.New()
		_, _ = io.Copy(h, r.Body)
		fmt.Fprintf(w, "%x %s\n", h.Sum(nil), r.Header.Get("Content-Encoding"))
	case "/still":
		_, _ = io.Copy(io.Discard, r.Body)
		still := s.still.Load()
		for name, values := range still.header {
			w.Header()[name] = values
		}
		_, _ = w.Write(still.body)
	default:
		_, _ = io.WriteString(w, "ok\n")
	}
}

// serveTargets starts them: target.example.com speaks both versions of HTTP,
// target1.example.com HTTP/1.1 alone, and raw.example.com is a referee,
// mute.example.com never answers.
func serveTargets(ctx context.Context) error {
	both := func(name string, offset int, h http.Handler) error { return theLab.ServeHTTPS(ctx, name, offset, h) }
	if err := both("target.example.com", 20, &theTarget); err != nil {
		return err
	}
	if err := both("shared.example.com", 21, upstream); err != nil {
		return err
	}
	serve := func(h http.Handler, h1 bool) func(net.Listener) {
		server := &http.Server{Handler: h, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
		server.Protocols.SetHTTP1(h1)
		server.Protocols.SetHTTP2(!h1)
		return func(ln net.Listener) { _ = server.Serve(ln) }
	}
	for _, t := range []struct {
		name, addr, alpn string
		serve            func(net.Listener)
	}{
		{"target1.example.com", "192.0.2.32", "http/1.1", serve(&theTarget, true)},
		{"raw.example.com", "192.0.2.33", "http/1.1", theReferee.serve},
		{"mute.example.com", "192.0.2.34", "http/1.1", theMute.serve},
		{"raw2.example.com", "192.0.2.35", "h2", serve(upstream, false)},
	} {
		if err := serveTLS(ctx, t.name, t.addr, t.alpn, t.serve); err != nil {
			return err
		}
	}
	return nil
}

// theMute is mute.example.com, which accepts connections and says nothing.
var theMute mute

type mute struct {
	open atomic.Int64 // connections
	most atomic.Int64
}

func (s *mute) serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		now := s.open.Add(1)
		s.most.Store(max(s.most.Load(), now)) // this is the only goroutine that does
		go func() {
			defer s.open.Add(-1)
			defer c.Close()
			_, _ = io.Copy(io.Discard, c.(*tls.Conn).NetConn())
		}()
	}
}

// serveTLS serves name at an address of its own, over one protocol alone.
func serveTLS(ctx context.Context, name, addr, alpn string, serve func(net.Listener)) error {
	if err := theLab.World.Script(ctx, "ip address add "+addr+"/32 dev lo"); err != nil {
		return err
	}
	cert, err := theLab.PKI.Certificate(name)
	if err != nil {
		return err
	}
	ln, err := theLab.World.Listen(addr + ":443")
	if err != nil {
		return err
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{alpn}}
	other := config.Clone() // with h2 alone crypto/tls would take HTTP/1.1 for the absence of ALPN
	other.NextProtos = []string{"none"}
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, alpn) {
			return nil, nil
		}
		return other, nil
	}
	go serve(tls.NewListener(ln, config))
	theLab.Names.Set(name, netip.MustParseAddr(addr))
	return nil
}

// resolved are the addresses that names have on an agent host, inside the
// tunnel.
var resolved sync.Map

// addressOf returns where host is for the agent: a virtual address.
func addressOf(ctx context.Context, agent *lab.Joined, host string) (string, error) {
	key := agent.Name + " " + host
	if a, ok := resolved.Load(key); ok {
		return a.(string), nil
	}
	out, err := agent.Run(ctx, "getent", "ahostsv4", host)
	if err != nil {
		return "", err
	}
	a, _, _ := strings.Cut(out, " ")
	resolved.Store(key, a)
	return a, nil
}

// reaching are, by agent host, the connections that are in the making. An agent
// may have 256 of them: beyond, it is refused.
var reaching sync.Map

// reach connects an agent to an endpoint's host.
func reach(ctx context.Context, agent *lab.Joined, host string) (net.Conn, error) {
	making, _ := reaching.LoadOrStore(agent.Name, make(chan struct{}, 64))
	making.(chan struct{}) <- struct{}{}
	defer func() { <-making.(chan struct{}) }()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	addr, err := addressOf(ctx, agent, host)
	if err != nil {
		return nil, err
	}
	return agent.Dial(ctx, "tcp", addr+":443")
}

// careless is an attacker's end of TLS.
func careless(host string, alpn ...string) *tls.Config {
	// Whom it talks to is no matter to an attacker, and the agent host's trust in
	// the gateway's CA is what other tests are about.
	return &tls.Config{InsecureSkipVerify: true, ServerName: host, NextProtos: alpn}
}

// handshake makes conn a TLS connection to host. It owns conn.
func handshake(ctx context.Context, conn net.Conn, host string, alpn ...string) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	secure := tls.Client(conn, careless(host, alpn...))
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// reachTLS is reach and a handshake.
func reachTLS(ctx context.Context, agent *lab.Joined, host string, alpn ...string) (*tls.Conn, error) {
	conn, err := reach(ctx, agent, host)
	if err != nil {
		return nil, err
	}
	return handshake(ctx, conn, host, alpn...)
}

// nothingLeft waits for the end of the requests of an attack that is over: they
// end at once, or where the tunnel was too busy for a reset, when the gateway has
// asked in vain for two minutes whether the agent is there.
func nothingLeft(ctx context.Context, limit time.Duration) error {
	return lab.Eventually(ctx, limit, func() error {
		if n := theTarget.running.Load(); n > 0 {
			return fmt.Errorf("the target is still busy with %d", n)
		}
		return nil
	})
}

// needAnswer fails the test unless the target answers at host. What an attack has
// left running counts against what ci may have in flight, and would make the next
// test fail: an operator ends it.
func needAnswer(t *testing.T, host string) {
	t.Helper()
	if nothingLeft(t.Context(), 5*time.Second) != nil {
		if err := gateway.Operator.SetProfiles(t.Context(), ci.Registration, "ops"); err != nil {
			t.Fatal(err)
		}
		if err := nothingLeft(t.Context(), 20*time.Second); err != nil {
			t.Errorf("without its profile: %v", err)
		}
		restoreProfile(t)
	}
	if err := lab.Eventually(t.Context(), 20*time.Second, func() error {
		_, status, err := tryCurl(t.Context(), ci, "https://"+host+"/")
		if err == nil && status != "200" {
			err = errStatus(status)
		}
		return err
	}); err != nil {
		t.Errorf("the attacker is not served any more: %v", err)
	}
}
