package https_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
)

// FuzzAgentBytes feeds the handler arbitrary bytes inside the agent's TLS. It
// must survive, end with the connection, and let nothing upstream that is not
// for the endpoint and does not carry the credential, once.
func FuzzAgentBytes(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"POST /x HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"GET https://api.example.com/ HTTP/1.1\r\nHost: evil.example\r\nAuthorization: x\r\nAuthorization: y\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 9\r\nExpect: 100-continue\r\nConnection: Authorization\r\n\r\nabc",
		"GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nxyz",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"OPTIONS * HTTP/1.0\r\nHost: api.example.com\r\n\r\n", "\x16\x03\x01", "",
	} {
		f.Add([]byte(s), false)
	}
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x05\x01\x05\x00\x00\x00\x01\x82\x84\x87\x41\x00"), true)
	var fault atomic.Pointer[string]
	out := &proxytest.Lasting{TB: f}
	l := newLab(out, func(w http.ResponseWriter, r *http.Request) {
		if auth := r.Header["Authorization"]; len(auth) != 1 || auth[0] != "Bearer "+token || r.Host != host {
			said := strings.Join(auth, " | ") + " for " + r.Host
			fault.Store(&said)
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
	})
	id := l.Approve("a", "ci")
	f.Fuzz(func(t *testing.T, data []byte, h2 bool) {
		defer out.Input()()
		agent, gateway := net.Pipe()
		flow := l.Flow(id, host, 443, gateway)
		done := make(chan error, 1)
		go func() { done <- l.handler.Serve(t.Context(), flow) }()
		config := &tls.Config{RootCAs: l.roots, ServerName: host}
		if h2 {
			config.NextProtos = []string{"h2"}
		}
		conn := tls.Client(agent, config)
		read := make(chan struct{})
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, conn)
		}()
		written := make(chan struct{})
		go func() { // a pipe holds nothing: a write may wait for a reader that has left
			defer close(written)
			_, _ = conn.Write(data)
			_ = conn.CloseWrite()
		}()
		select { // what was whole gets its answer; the rest is cut off
		case <-read:
		case <-time.After(5 * time.Millisecond):
		}
		_ = agent.Close()
		select {
		case <-done:
		case <-time.After(wait):
			t.Fatal("the flow outlives its connection")
		}
		<-read
		<-written
		if said := fault.Load(); said != nil {
			t.Fatalf("the upstream got %s", *said)
		}
	})
}

// FuzzHandshakeBytes feeds the handler arbitrary bytes instead of TLS.
func FuzzHandshakeBytes(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"))
	f.Add([]byte{})
	out := &proxytest.Lasting{TB: f}
	l := newLab(out, echo)
	id := l.Approve("a", "ci")
	f.Fuzz(func(t *testing.T, data []byte) {
		defer out.Input()()
		agent, gateway := net.Pipe()
		flow := l.Flow(id, host, 443, gateway)
		done := make(chan error, 1)
		go func() { done <- l.handler.Serve(t.Context(), flow) }()
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, agent)
		}()
		written := make(chan struct{})
		go func() {
			defer close(written)
			_, _ = agent.Write(data)
			_ = agent.Close()
		}()
		select {
		case err := <-done:
			if err == nil {
				t.Error("a handshake came of it")
			}
		case <-time.After(wait):
			t.Fatal("the flow outlives its connection")
		}
		_ = agent.Close()
		<-read
		<-written
	})
}
