package https_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// cork is a connection whose writes go out together.
type cork struct {
	net.Conn
	held bytes.Buffer
	on   bool
}

func (c *cork) Write(p []byte) (int, error) {
	if c.on {
		return c.held.Write(p)
	}
	return c.Conn.Write(p)
}

func (c *cork) pull() {
	c.on = false
	_ = c.SetWriteDeadline(time.Time{}) // which CloseWrite leaves in the past
	_, _ = c.Conn.Write(c.held.Bytes())
	c.held.Reset()
}

// corked serves every connection by serve, once for each request on it.
func (l *lab) corked(serve func(n int64, conn *tls.Conn, under *cork, r *http.Request) bool) string {
	l.t.Helper()
	leaf, err := l.world.Leaf(host)
	must(l.t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(l.t, err)
	l.t.Cleanup(func() { ln.Close() })
	var conns atomic.Int64
	go func() {
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			go func(n int64) {
				defer raw.Close()
				under := &cork{Conn: raw}
				conn := tls.Server(under, &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"http/1.1"}})
				br := bufio.NewReader(conn)
				for {
					r, err := http.ReadRequest(br)
					if err != nil || !serve(n, conn, under, r) {
						return
					}
				}
			}(conns.Add(1))
		}
	}()
	return ln.Addr().String()
}

// The attack: an upstream that answers before it is asked, so that one request
// gets the answer to another.
func TestI16_NothingUnaskedAnswersARequest(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
	respond := func(w io.Writer, body string) { fmt.Fprintf(w, answer, len(body), body) }
	for name, unasked := range map[string]func(conn *tls.Conn, under *cork, body string){
		"in the same record": func(conn *tls.Conn, _ *cork, body string) {
			_, _ = io.WriteString(conn, fmt.Sprintf(answer, len(body), body)+fmt.Sprintf(answer, 4, "evil"))
		},
		"in the next record": func(conn *tls.Conn, under *cork, body string) {
			under.on = true
			respond(conn, body)
			respond(conn, "evil")
			under.pull()
		},
		"behind a body read in large pieces": func(conn *tls.Conn, under *cork, body string) {
			under.on = true
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 100_000+len(body))
			_, _ = io.WriteString(conn, strings.Repeat("x", 100_000)+body+fmt.Sprintf(answer, 4, "evil"))
			under.pull()
		},
		"the end of the connection": func(conn *tls.Conn, under *cork, body string) {
			under.on = true
			respond(conn, body)
			_ = conn.CloseWrite()
			under.pull()
		},
		"later": func(conn *tls.Conn, _ *cork, body string) {
			respond(conn, body)
			respond(conn, "evil")
			_, _ = io.Copy(io.Discard, conn) // until the gateway has noticed
		},
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{}, 1)
			l := newWorld(t)
			l.start(l.endpointAt("api", l.corked(func(n int64, conn *tls.Conn, under *cork, r *http.Request) bool {
				if r.URL.Path == "/first" {
					unasked(conn, under, fmt.Sprint(n))
					gone <- struct{}{}
				} else {
					respond(conn, fmt.Sprint(n))
				}
				return true
			}), host) + `credential "bearer" "token" { endpoint = https.api }
				profile "ci" { credentials = [bearer.token] }`)
			l.SetSecret("bearer.token", "secret", token)
			id := l.Approve("a", "ci")
			versions(t, func(t *testing.T, h2 bool) {
				agent := l.agent(id, h2)
				_, first := do(t, agent, "GET", "https://"+host+"/first", nil)
				if name == "later" {
					<-gone
				} else {
					defer func() { <-gone }()
				}
				first = strings.TrimLeft(first, "x")
				for range 2 {
					if _, got := do(t, agent, "POST", "https://"+host+"/second", nil); got == "evil" || got == first {
						t.Errorf("%q, and before it %q", got, first)
					}
				}
			})
		})
	}
}

// Post-handshake messages of TLS are nothing unasked: Go's servers send tickets
// right behind the handshake, and the connection stays in use.
func TestUpstreamConnectionsLast(t *testing.T) {
	var up whoami
	l := newLab(t, up.ServeHTTP)
	l.upstream.TLS.NextProtos = []string{"http/1.1"}
	versions(t, func(t *testing.T, h2 bool) {
		agent := l.agent(l.Approve(t.Name(), "ci"), h2)
		for range 20 {
			do(t, agent, "GET", "https://"+host+"/", nil)
			do(t, agent, "POST", "https://"+host+"/", strings.NewReader("body"))
		}
	})
	up.mu.Lock()
	defer up.mu.Unlock()
	if len(up.seen) != 2 {
		t.Errorf("%d connections for two registrations with one request at a time", len(up.seen))
	}
}
