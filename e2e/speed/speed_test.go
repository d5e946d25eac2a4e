// Package speed holds the tests of what the gateway's speed rests on and that
// can be counted, not timed: reads of the database, and TLS records. What it
// comes to is measured by e2e/bench.
package speed

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/protocols/https"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	host = "api.example.com"
	kib  = 1 << 10
)

// world is the gateway's real data path, one registration, and an upstream on
// net/http that answers /N with N bytes after it has read the request.
type world struct {
	*proxytest.Kit
	handler *https.Handler
	roots   *x509.CertPool // the gateway's CA
	agent   registry.ID
}

// newWorld starts it. Every connection of the gateway to the upstream passes
// through accepted.
func newWorld(t *testing.T, accepted func(net.Conn) net.Conn) *world {
	t.Helper()
	upstreams, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "world")})
	must(t, err)
	pem := filepath.Join(t.TempDir(), "world.pem")
	must(t, os.WriteFile(pem, upstreams.CertPEM(), 0o600))
	leaf, err := upstreams.Leaf(host)
	must(t, err)
	address := serveUpstream(t, leaf, accepted)

	w := &world{Kit: proxytest.New(t, `
endpoint "https" "api" {
  hosts   = ["`+host+`"]
  address = "`+address+`"
  ca_file = "`+pem+`"
}
credential "bearer" "api" { endpoint = https.api }
profile "ci" { credentials = [bearer.api] }
`)}
	gateway, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "ca")})
	must(t, err)
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(gateway.CertPEM())
	w.handler, err = https.New(https.Config{CA: gateway, Dialer: w.Dialer})
	must(t, err)
	t.Cleanup(w.handler.Close)
	w.SetSecret("bearer.api", "secret", "the-real-token")
	w.agent = w.Approve("agent", "ci")
	return w
}

func serveUpstream(t *testing.T, leaf *tls.Certificate, accepted func(net.Conn) net.Conn) (address string) {
	t.Helper()
	s := &http.Server{
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{*leaf}, DynamicRecordSizingDisabled: true},
		ErrorLog:  log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			n, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
			if _, bodyErr := io.Copy(io.Discard, r.Body); err != nil || bodyErr != nil {
				rw.WriteHeader(http.StatusBadRequest)
				return
			}
			rw.Header().Set("Content-Length", strconv.Itoa(n))
			_, _ = rw.Write(make([]byte, n)) // the asker may be gone
		}),
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ServeTLS(wrapped{ln, accepted}, "", "") // ends at Close
	}()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return ln.Addr().String()
}

// wrapped is a listener whose connections pass through a function.
type wrapped struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (w wrapped) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err == nil && w.wrap != nil {
		c = w.wrap(c)
	}
	return c, err
}

// connect is an agent's connection, after its handshake.
func (w *world) connect(t *testing.T, wrap func(net.Conn) net.Conn, alpn string) *tls.Conn {
	t.Helper()
	var raw net.Conn = w.Serve(w.handler, w.agent, host, 443)
	if wrap != nil {
		raw = wrap(raw)
	}
	c := tls.Client(raw, &tls.Config{RootCAs: w.roots, ServerName: host, NextProtos: []string{alpn}, DynamicRecordSizingDisabled: true})
	must(t, c.HandshakeContext(t.Context()))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// request writes an HTTP/1.1 request in one piece and reads the response.
func request(t *testing.T, c net.Conn, br *bufio.Reader, method string, up, down int) {
	t.Helper()
	head := method + " /" + strconv.Itoa(down) + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: agent/1.0\r\nAuthorization: Bearer placeholder\r\n"
	if up > 0 {
		head += "Content-Length: " + strconv.Itoa(up) + "\r\n"
	}
	_, err := c.Write(append([]byte(head+"\r\n"), make([]byte, up)...))
	must(t, err)
	resp, err := http.ReadResponse(br, nil)
	must(t, err)
	n, err := io.Copy(io.Discard, resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK || n != int64(down) {
		t.Fatalf("%s with %d bytes, want %d", resp.Status, n, down)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
