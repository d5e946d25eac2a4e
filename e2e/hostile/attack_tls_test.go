package hostile

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// over returns a transport that uses conn, by the protocol it settled on, and
// nothing else.
func over(conn *tls.Conn) *http.Transport {
	var used atomic.Bool
	return &http.Transport{
		DisableCompression: true,
		ForceAttemptHTTP2:  true,
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the one connection is used up")
			}
			return conn, nil
		},
	}
}

// names calls try for so many names below wild.example, on connections to
// anywhere, several at a time.
func names(ctx context.Context, t *testing.T, n int, prefix string, try func(ctx context.Context, conn net.Conn, name string) error) (done int64) {
	t.Helper()
	var wg sync.WaitGroup
	var next, good atomic.Int64
	for range 16 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				err := func() error {
					ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
					defer cancel()
					// A direct address: the name is the ClientHello's alone.
					conn, err := ci.Dial(ctx, "tcp", "192.0.2.13:443")
					if err != nil {
						return err
					}
					defer conn.Close()
					return try(ctx, conn, fmt.Sprintf("%s%d.wild.example", prefix, i))
				}()
				if err == nil {
					good.Add(1)
				} else if next.Add(int64(n)) < 3*int64(n) { // once is enough to know
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
	return good.Load()
}

// The attack: a certificate for each of thousands of names, which a wildcard
// endpoint lets the agent choose.
func TestI16_CertificateFloodsByServerNameAreBounded(t *testing.T) {
	const n = 4200 // more than the 4096 leaves that are kept
	needRoom(t, 100)
	var done int64
	c := unharmed(t, func(ctx context.Context) {
		done = names(ctx, t, n, "leaf", func(ctx context.Context, conn net.Conn, name string) error {
			secure, err := handshake(ctx, conn, name, "h2")
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			leaf := secure.ConnectionState().PeerCertificates[0]
			if len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != name || len(leaf.IPAddresses) > 0 {
				return fmt.Errorf("%s: a certificate for %v", name, leaf.DNSNames)
			}
			return nil
		})
	})
	t.Logf("%d certificates; %v", done, c)
	if done < n {
		t.Errorf("%d handshakes of %d", done, n)
	}
	// Names that the wildcard does not match get none. Sent by openssl: crypto/tls
	// takes a dot at the end away.
	for name, ours := range map[string]bool{
		"x.wild.example": true, "under_score.wild.example": true,
		"wild.example": false, "a.b.wild.example": false, "*.wild.example": false, "x.wild.example.": false, strings.Repeat("a", 64) + ".wild.example": false,
	} {
		out, err := ci.Shell(t.Context(), "timeout 20 openssl s_client -connect 192.0.2.13:443 -servername '"+name+"' </dev/null 2>&1; true")
		if err != nil || !strings.Contains(out, "CONNECTED") || strings.Contains(out, "Claw Patrol") != ours {
			t.Errorf("%s: a certificate of the gateway's %t, %v: %s", name, ours, err, out)
		}
	}
}

// The attack: handshakes by the thousands that are given up at every point, the
// dearest for the gateway among them.
func TestI16_AbandonedHandshakesCostTheAttackerOnly(t *testing.T) {
	hello := clientHello(t, "target.example.com")
	for _, c := range []struct {
		name string
		n    int
		do   func(conn net.Conn) error
	}{
		{"after the ClientHello", 3000, func(conn net.Conn) error {
			_, err := conn.Write(hello)
			return err
		}},
		{"after the certificate", 2000, func(conn net.Conn) error {
			_, err := conn.Write(hello)
			if err == nil {
				_, err = io.ReadFull(conn, make([]byte, 900))
			}
			return err
		}},
		{"records of no kind", 1000, func(conn net.Conn) error {
			_, err := conn.Write(bytes.Repeat([]byte{22, 3, 3, 0, 1, 1}, 200))
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var done atomic.Int64
			toll := unharmed(t, func(ctx context.Context) {
				var wg sync.WaitGroup
				var next atomic.Int64
				for range 32 {
					wg.Go(func() {
						for next.Add(1) <= int64(c.n) {
							conn, err := reach(ctx, ci, "target.example.com")
							if err != nil {
								t.Error(err)
								return
							}
							_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
							if err := c.do(conn); err != nil {
								t.Error(err)
							}
							_ = conn.(*net.TCPConn).SetLinger(0)
							_ = conn.Close()
							done.Add(1)
						}
					})
				}
				wg.Wait()
			})
			t.Logf("%d handshakes; %v", done.Load(), toll)
		})
	}
	needAnswer(t, "target.example.com")
}

// clientHello returns the first flight of a handshake.
func clientHello(t *testing.T, host string) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, careless(host, "h2")).Handshake()
		near.Close()
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(far, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(far, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// The attack: a second handshake inside the first, or a request before it has
// ended, which could be replayed.
func TestI16_NoRenegotiationAndNoEarlyData(t *testing.T) {
	line := "openssl s_client -connect target.example.com:443 -servername target.example.com "
	// "R" on a line makes s_client renegotiate.
	out, _ := ci.Shell(t.Context(), `(sleep 0.3; echo R; sleep 0.7) | timeout 10 `+line+`-tls1_2 2>&1`)
	if !strings.Contains(out, "RENEGOTIATING") || !strings.Contains(out, "no renegotiation") && !strings.Contains(out, ":error:") {
		t.Errorf("renegotiation: %s", tail(out, 600))
	}
	theTarget.total.Store(0)
	out, err := ci.Shell(t.Context(), `set -e; cd "$(mktemp -d)"; printf 'GET / HTTP/1.1\r\nHost: target.example.com\r\nConnection: close\r\n\r\n' >r
		{ cat r; sleep 0.5; } | timeout 10 `+line+`-tls1_3 -sess_out s >first 2>&1
		{ sleep 0.5; } | timeout 10 `+line+`-tls1_3 -sess_in s -early_data r 2>&1; cat first`)
	if err != nil || !strings.Contains(out, "Max Early Data: 0") || strings.Contains(out, "Early data was accepted") {
		t.Errorf("early data: %v: %s", err, tail(out, 1500))
	}
	if n := theTarget.total.Load(); n != 1 {
		t.Errorf("the upstream saw %d requests, one was made in full", n)
	}
}

// The attack: a connection to one endpoint that asks for another, as browsers do
// where a certificate has both names: the credential must not go along.
func TestI04_ConnectionsAreNotCoalesced(t *testing.T) {
	conn, err := reach(t.Context(), ci, "target.example.com")
	if err != nil {
		t.Fatal(err)
	}
	c, err := frames(t.Context(), conn, "target.example.com", true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close(true)
	upstream.Forget()
	for _, authority := range []string{
		"api.example.com", "shared.example.com", "ops.example.com", "web.example.org", "target1.example.com", "target.example.com:8443",
		"a.wild.example", "target.example.com.evil.example", "localhost", "192.0.2.30", "",
	} {
		for _, fields := range [][]field{
			{f(":method", "GET"), f(":scheme", "https"), f(":path", "/coalesced"), f(":authority", authority)},
			{f(":method", "GET"), f(":scheme", "https"), f(":path", "/coalesced"), f(":authority", "target.example.com"), f("host", authority)},
			{f(":method", "GET"), f(":scheme", "https"), f(":path", "/coalesced"), f("host", authority)},
		} {
			id, err := c.open(true, fields)
			if err != nil {
				t.Fatal(err)
			}
			a, err := c.answered(t.Context(), id)
			if err != nil || a.status != "421" && a.status != "400" && !a.reset {
				t.Errorf("%v: %+v, %v", fields, a, err)
			}
		}
	}
	for _, s := range upstream.Seen() {
		t.Errorf("an upstream saw %s for %s", s.URI, s.Host)
	}
	// The connection is as good as before.
	id, err := c.open(true, c.request("GET", "/"))
	if err != nil {
		t.Fatal(err)
	}
	if a, err := c.answered(t.Context(), id); err != nil || a.status != "200" {
		t.Errorf("afterwards: %+v, %v", a, err)
	}
}

// The attack: a session ticket of one registration in another's hands, and one
// endpoint's at another.
func TestI05_SessionTicketsAreOfOneRegistrationAndHost(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := &stolen{}
		visit := func(agent *lab.Joined, dialled, name, path string) (resumed bool) {
			t.Helper()
			conn, err := reach(t.Context(), agent, dialled)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			config := careless(name)
			config.ClientSessionCache, config.MaxVersion = cache, version
			secure := tls.Client(conn, config)
			if _, err := io.WriteString(secure, "GET "+path+" HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if answer, err := io.ReadAll(secure); err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) {
				t.Fatalf("%s: %v: %.200q", name, err, answer)
			}
			return secure.ConnectionState().DidResume
		}
		upstream.Forget()
		visit(ci, "shared.example.com", "shared.example.com", "/by-ci")
		if !visit(ci, "shared.example.com", "shared.example.com", "/by-ci") {
			t.Errorf("%x: a registration's own ticket was not taken", version)
		}
		if visit(ops, "shared.example.com", "shared.example.com", "/by-ops") {
			t.Errorf("%x: another registration's ticket was taken", version)
		}
		visit(ci, "shared.example.com", "shared.example.com", "/by-ci")
		if visit(ci, "target.example.com", "target.example.com", "/") {
			t.Errorf("%x: another host's ticket was taken", version)
		}
		for _, s := range upstream.Seen() {
			want := map[string]string{"/by-ci": "Bearer " + targetToken, "/by-ops": "Bearer " + opsToken}[s.URI]
			if got := s.Header.Get("Authorization"); want == "" || got != want {
				t.Errorf("%x: %s came with another's credential", version, s.URI)
			}
		}
	}
}

// stolen is a session cache that offers the latest session to everybody.
type stolen struct {
	mu     sync.Mutex
	latest *tls.ClientSessionState
}

func (s *stolen) Get(string) (*tls.ClientSessionState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest, s.latest != nil
}

func (s *stolen) Put(_ string, session *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = session
}
