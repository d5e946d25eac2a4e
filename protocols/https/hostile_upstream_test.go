package https_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
)

// rawUpstream is an upstream that answers each connection's first request with
// what answer writes; answer ends when nobody reads any more.
func (l *lab) rawUpstream(answer func(io.Writer) error) string {
	l.t.Helper()
	leaf, err := l.world.Leaf(host)
	if err != nil {
		l.t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func(conn net.Conn) {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					_ = answer(conn)
				}
			}(conn)
		}
	}()
	return ln.Addr().String()
}

// endless writes head, and then line for as long as somebody reads.
func endless(head, line string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, head)
		many := strings.Repeat(line, 1+16<<10/len(line))
		for err == nil {
			_, err = io.WriteString(w, many)
		}
		return err
	}
}

func once(text string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := io.WriteString(w, text); return err }
}

// The attack: an upstream that says too much, for too long, or nonsense.
func TestI16_HostileUpstreamCostsItsOwnRequest(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for name, answer := range map[string]func(io.Writer) error{
		"endless fields":         endless(ok, "X-Filler: 0123456789012345678901234567890123456789\r\n"),
		"an endless field":       endless(ok+"X-Filler: ", "0123456789"),
		"an endless status":      endless("HTTP/1.1 200 ", "OK"),
		"endless informational":  endless("", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
		"endless continue":       endless("", "HTTP/1.1 100 Continue\r\n\r\n"),
		"an endless chunk size":  endless(ok+"Transfer-Encoding: chunked\r\n\r\n", "0"),
		"endless chunk comments": endless(ok+"Transfer-Encoding: chunked\r\n\r\n1;", "comment="),
		"an endless trailer":     endless(ok+"Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n0\r\nX-T: ", "0123456789"),
		"two lengths":            once(ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
		"a line break in a name": once(ok + "X\nY: z\r\nContent-Length: 0\r\n\r\n"),
		"no status":              once("HTTP/1.1 000 Zero\r\n\r\n"),
		"no HTTP":                once("220 mail.example.com ESMTP\r\n"),
		"nothing":                once(""),
	} {
		t.Run(name, func(t *testing.T) {
			l := newWorld(t)
			l.start(l.endpointAt("api", l.rawUpstream(answer), host) + `
				credential "bearer" "token" { endpoint = https.api }
				profile "ci" { credentials = [bearer.token] }`)
			l.SetSecret("bearer.token", "secret", token)
			agent := l.agent(l.Approve("a", "ci"), false)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			resp, err := agent.Get("https://" + host + "/")
			if err == nil {
				if resp.StatusCode == http.StatusOK {
					_, err = io.Copy(io.Discard, resp.Body)
				} else {
					err = errors.New(resp.Status)
				}
				_ = resp.Body.Close()
			}
			if err == nil {
				t.Error("the agent got a whole answer")
			}
			runtime.ReadMemStats(&after)
			if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 64 {
				t.Errorf("%d MiB were allocated", n)
			}
		})
	}
}

// What an upstream sends may read like an error of TLS's own. Nothing is sent
// again because of it.
func TestNothingIsSentTwiceForAnErrorsText(t *testing.T) {
	l := newWorld(t)
	leaf, err := l.world.Leaf(host)
	must(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"h2", "http/1.1"}})
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	var conns atomic.Int64
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func(conn net.Conn) {
				defer conn.Close()
				if n, err := io.ReadAtLeast(conn, make([]byte, 1024), 16); err == nil && n > 0 {
					conns.Add(1)
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n(: tls: no application protocol\r\n\r\n")
				}
			}(conn)
		}
	}()
	l.start(l.endpointAt("api", ln.Addr().String(), host) + `
		credential "bearer" "token" { endpoint = https.api }
		profile "ci" { credentials = [bearer.token] }`)
	l.SetSecret("bearer.token", "secret", token)
	agent := l.agent(l.Approve("a", "ci"), false)
	resp, err := agent.Post("https://"+host+"/", "text/plain", nil)
	must(t, err)
	_ = resp.Body.Close()
	if n := conns.Load(); resp.StatusCode != http.StatusBadGateway || n != 1 {
		t.Errorf("%s after %d connections, want 502 after 1", resp.Status, n)
	}
}
