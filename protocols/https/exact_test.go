package https_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tape is an HTTP/1.1 upstream that records each request's bytes and answers
// with bytes given beforehand.
type tape struct {
	requests chan string
	answer   atomic.Pointer[string]
}

func (l *lab) tape(t *testing.T) (*tape, string) {
	t.Helper()
	leaf, err := l.world.Leaf(host)
	must(t, err)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*leaf}})
	must(t, err)
	tp := &tape{requests: make(chan string, 100)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { tp.serve(conn) })
		}
	})
	t.Cleanup(func() { ln.Close(); l.handler.Close(); wg.Wait() })
	return tp, ln.Addr().String()
}

func (tp *tape) serve(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * wait))
	var record strings.Builder
	br := bufio.NewReader(io.TeeReader(conn, &record))
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		tp.requests <- record.String()
		record.Reset()
		if _, err := io.WriteString(conn, *tp.answer.Load()); err != nil {
			return
		}
	}
}

// sorted is a head as its first line and its fields in order: net/http keeps
// the fields in a map.
func sorted(raw string) []string {
	head, body, _ := strings.Cut(raw, "\r\n\r\n")
	lines := strings.Split(head, "\r\n")
	slices.Sort(lines[1:])
	if slices.Contains(lines, "Transfer-Encoding: chunked") { // where chunks end says nothing
		if whole, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(body))); err == nil {
			body = string(whole)
		}
	}
	return append(lines, "body: "+body)
}

func TestNothingIsAddedOrLost(t *testing.T) {
	l := newWorld(t)
	tp, address := l.tape(t)
	l.start(l.endpointAt("api", address, host) + `
		credential "bearer" "token" { endpoint = https.api }
		profile "ci" { credentials = [bearer.token] }`)
	l.SetSecret("bearer.token", "secret", token)
	id := l.Approve("a", "ci")

	const auth = "Authorization: Bearer " + token
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, tc := range []struct {
		name          string
		request, sent string // by the agent; to the upstream
		answer, got   string // by the upstream; to the agent
	}{
		{
			"bare",
			"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: api.example.com\r\n" + auth + "\r\n\r\n",
			ok, ok,
		}, {
			"usual fields",
			"GET /a%2Fb/c;d=1?q=%20&r=+ HTTP/1.1\r\nHost: api.example.com:443\r\nUser-Agent: curl/8\r\nAccept: */*\r\nAccept-Encoding: br\r\nCookie: a=b; c=d\r\nX-Forwarded-For: 1.2.3.4\r\nRange: bytes=0-\r\n\r\n",
			"GET /a%2Fb/c;d=1?q=%20&r=+ HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/8\r\nAccept: */*\r\nAccept-Encoding: br\r\nCookie: a=b; c=d\r\nX-Forwarded-For: 1.2.3.4\r\nRange: bytes=0-\r\n" + auth + "\r\n\r\n",
			"HTTP/1.1 206 Partial\r\nContent-Length: 2\r\nContent-Encoding: br\r\nEtag: \"x\"\r\n\r\nhi",
			"HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Encoding: br\r\nEtag: \"x\"\r\n\r\nhi",
		}, {
			"strange target",
			"GET /a|b\"c<d>^`{e}?{\"x\":[1|2]} HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
			"GET /a|b\"c<d>^`{e}?{\"x\":[1|2]} HTTP/1.1\r\nHost: api.example.com\r\n" + auth + "\r\n\r\n",
			ok, ok,
		}, {
			"two slashes, empty query",
			"GET //admin//x? HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
			"GET //admin//x? HTTP/1.1\r\nHost: api.example.com\r\n" + auth + "\r\n\r\n",
			ok, ok,
		}, {
			"absolute form becomes origin form",
			"GET https://api.example.com/x?y HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
			"GET /x?y HTTP/1.1\r\nHost: api.example.com\r\n" + auth + "\r\n\r\n",
			ok, ok,
		}, {
			"asterisk",
			"OPTIONS * HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
			"OPTIONS * HTTP/1.1\r\nHost: api.example.com\r\n" + auth + "\r\n\r\n",
			ok, ok,
		}, {
			"hop-by-hop and the gateway's own",
			"GET / HTTP/1.1\r\nHost: api.example.com\r\nConnection: keep-alive, X-Hop, TE\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers, deflate\r\nProxy-Authorization: Basic eDp5\r\nProxy-Connection: close\r\nX-Clawpatrol-Verdict: allow\r\nX_Clawpatrol_Id: 1\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: api.example.com\r\nTe: trailers\r\n" + auth + "\r\n\r\n",
			"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-Clawpatrol-Verdict: allow\r\nContent-Length: 0\r\n\r\n",
			ok,
		}, {
			"body with length",
			"PUT /x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\nContent-Type: text/x\r\n\r\nhello",
			"PUT /x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 5\r\nContent-Type: text/x\r\n" + auth + "\r\n\r\nhello",
			"HTTP/1.1 201 Created\r\nDate: Fri, 20 Nov 2026 09:00:00 GMT\r\nServer: x\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 201 Created\r\nDate: Fri, 20 Nov 2026 09:00:00 GMT\r\nServer: x\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n",
		}, {
			"chunked body, GET with body, extension method",
			"SEARCH /x HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			"SEARCH /x HTTP/1.1\r\nHost: api.example.com\r\nTransfer-Encoding: chunked\r\n" + auth + "\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		}, {
			"Expect without a body",
			"GET / HTTP/1.1\r\nHost: api.example.com\r\nExpect: 100-continue\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: api.example.com\r\n" + auth + "\r\n\r\n",
			ok, ok,
		}, {
			"Pragma alone",
			"GET / HTTP/1.1\r\nHost: api.example.com\r\nPragma: no-cache\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: api.example.com\r\nPragma: no-cache\r\n" + auth + "\r\n\r\n",
			"HTTP/1.1 200 OK\r\nPragma: no-cache\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nPragma: no-cache\r\nContent-Length: 0\r\n\r\n",
		}, {
			"Pragma and Cache-Control",
			"GET / HTTP/1.1\r\nHost: api.example.com\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: api.example.com\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n" + auth + "\r\n\r\n",
			"HTTP/1.1 200 OK\r\nPragma: no-cache\r\ncache-control: no-cache\r\nContent-Length: 0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nContent-Length: 0\r\n\r\n",
		}, {
			"GET with a body",
			"GET /x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 2\r\n\r\nhi",
			"GET /x HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 2\r\n" + auth + "\r\n\r\nhi",
			"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tp.answer.Store(&tc.answer)
			conn := l.dial(id, host)
			_, err := io.WriteString(conn, tc.request)
			must(t, err)
			select {
			case sent := <-tp.requests:
				if !slices.Equal(sorted(sent), sorted(tc.sent)) {
					t.Errorf("upstream got\n%q, want\n%q", sorted(sent), sorted(tc.sent))
				}
			case <-time.After(wait):
				t.Fatal("nothing reached the upstream")
			}
			got := make([]byte, len(tc.got))
			if n, err := io.ReadFull(conn, got); err != nil {
				t.Fatalf("after %q: %v", got[:n], err)
			}
			if !slices.Equal(sorted(string(got)), sorted(tc.got)) {
				t.Errorf("agent got\n%q, want\n%q", sorted(string(got)), sorted(tc.got))
			}
		})
	}
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestI16_StreamsAreNotHeldInMemory(t *testing.T) {
	size := int64(256 << 20)
	if testing.Short() {
		size = 64 << 20
	}
	const ceiling = 48 << 20
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == "GET" {
			_, _ = io.CopyN(w, zeros{}, size)
		}
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		agent := l.agent(id, h2)
		agent.Timeout = 0
		runtime.GC()
		var before runtime.MemStats
		runtime.ReadMemStats(&before)
		var peak atomic.Uint64
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for tick := time.NewTicker(20 * time.Millisecond); ; {
				select {
				case <-tick.C:
					var now runtime.MemStats
					runtime.ReadMemStats(&now)
					peak.Store(max(peak.Load(), now.HeapInuse))
				case <-stop:
					tick.Stop()
					return
				}
			}
		}()
		resp, err := agent.Get("https://" + host + "/")
		must(t, err)
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
			t.Errorf("%d bytes down, %v", n, err)
		}
		resp.Body.Close()
		resp, err = agent.Post("https://"+host+"/", "", io.LimitReader(zeros{}, size))
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("upload: %d", resp.StatusCode)
		}
		close(stop)
		<-stopped
		if peak.Load() > before.HeapInuse+ceiling {
			t.Errorf("the heap grew from %d to %d MiB", before.HeapInuse>>20, peak.Load()>>20)
		}
	})
	for _, row := range l.Actions(id) {
		if row.Result == nil || row.Result.BytesIn+row.Result.BytesOut != size {
			t.Errorf("logged %+v", row.Result)
		}
	}
}
