package https_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
)

// FuzzUpstreamBytes has an upstream answer a request with arbitrary bytes. The
// agent gets answers that are well-formed, or is cut off; and its next request,
// which the upstream answers as it should, never gets what was left of them.
func FuzzUpstreamBytes(f *testing.F) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, s := range []string{
		ok + "Content-Length: 2\r\n\r\nhi", ok + "Content-Length: 2\r\n\r\nhi" + ok + "Content-Length: 4\r\n\r\nevil",
		ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-T: y\r\n\r\n" + ok, ok + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok + "Content-Length: 0\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nto the end",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 304 x\r\n\r\n", "",
	} {
		f.Add([]byte(s))
	}
	var data atomic.Pointer[[]byte]
	out := &proxytest.Lasting{TB: f}
	l := newWorld(out)
	l.start(l.endpointAt("api", l.corked(func(_ int64, conn *tls.Conn, _ *cork, r *http.Request) bool {
		if r.URL.Path == "/good" {
			_, err := io.WriteString(conn, ok+"Content-Length: 4\r\nX-Good: yes\r\n\r\ngood")
			return err == nil
		}
		_, _ = conn.Write(*data.Load())
		return r.URL.Path == "/open"
	}), host) + `credential "bearer" "token" { endpoint = https.api }
		profile "ci" { credentials = [bearer.token] }`)
	l.SetSecret("bearer.token", "secret", token)
	id := l.Approve("a", "ci")
	f.Fuzz(func(t *testing.T, answer []byte) {
		defer out.Input()()
		data.Store(&answer)
		conn := l.dial(id, host)
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(wait)))
		br := bufio.NewReader(conn)
		_, err := io.WriteString(conn, "GET /bad HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		must(t, err)
		for {
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				if err != io.ErrUnexpectedEOF && err != io.EOF {
					t.Fatalf("the agent read: %v", err)
				}
				return
			}
			if resp.StatusCode < 200 && resp.StatusCode != 101 {
				continue
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				if strings.Contains(err.Error(), "timeout") {
					t.Fatal(err)
				}
				return // cut off
			}
			if resp.Close {
				return
			}
			break
		}
		// A GET is asked again where the upstream hangs up just now.
		_, err = io.WriteString(conn, "GET /good HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		must(t, err)
		resp, err := http.ReadResponse(br, nil)
		must(t, err)
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "good" || resp.Header.Get("X-Good") != "yes" {
			t.Fatalf("%d %q %v", resp.StatusCode, body, err)
		}
	})
}
