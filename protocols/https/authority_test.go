package https_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// counted is an upstream that counts requests and answers "ok".
func counted(n *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "ok")
	}
}

// send writes a raw request and returns the status of the answer.
func send(t testing.TB, conn net.Conn, br *bufio.Reader, raw string) int {
	t.Helper()
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(raw, " ")
	resp, err := http.ReadResponse(br, &http.Request{Method: method})
	if err != nil {
		t.Fatalf("reading the answer to %q: %v", raw, err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if (resp.StatusCode == 421 || resp.StatusCode == 405) && resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%q: %d without a problem", raw, resp.StatusCode)
	}
	return resp.StatusCode
}

func TestI04_ClaimsThatDisagreeAreMisdirected(t *testing.T) {
	var n atomic.Int32
	l := newLab(t, counted(&n))
	id := l.Approve("a", "ci")

	bad := map[string]string{
		"wrong host":                 "GET /x HTTP/1.1\r\nHost: evil.example.com\r\n\r\n",
		"wrong port":                 "GET /x HTTP/1.1\r\nHost: api.example.com:8443\r\n\r\n",
		"port 80":                    "GET /x HTTP/1.1\r\nHost: api.example.com:80\r\n\r\n",
		"prefix":                     "GET /x HTTP/1.1\r\nHost: api.example.com.evil.example\r\n\r\n",
		"subdomain":                  "GET /x HTTP/1.1\r\nHost: x.api.example.com\r\n\r\n",
		"empty":                      "GET /x HTTP/1.1\r\nHost: \r\n\r\n",
		"none, HTTP/1.0":             "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
		"signed port":                "GET /x HTTP/1.1\r\nHost: api.example.com:+443\r\n\r\n",
		"address":                    "GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
		"brackets":                   "GET /x HTTP/1.1\r\nHost: [api.example.com]\r\n\r\n",
		"absolute, wrong host":       "GET https://evil.example/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"absolute, wrong port":       "GET https://api.example.com:444/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"absolute, http":             "GET http://api.example.com/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"absolute, http on 443":      "GET http://api.example.com:443/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"absolute, userinfo":         "GET https://a:b@api.example.com/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"absolute, Host disagrees":   "GET https://api.example.com/x HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"absolute, Host far behind":  "GET https://api.example.com/x HTTP/1.1\r\nX: " + strings.Repeat("y", 9000) + "\r\nHost: evil.example\r\n\r\n",
		"absolute, lower-case field": "GET https://api.example.com/x HTTP/1.1\r\nhost:evil.example\r\n\r\n",
	}
	// net/http answers these itself: RFC 9112 section 3.2 wants 400.
	malformed := map[string]string{
		"userinfo":  "GET /x HTTP/1.1\r\nHost: me@api.example.com\r\n\r\n",
		"list":      "GET /x HTTP/1.1\r\nHost: api.example.com, evil.example\r\n\r\n",
		"two Hosts": "GET /x HTTP/1.1\r\nHost: api.example.com\r\nHost: evil.example\r\n\r\n",
		"no Host":   "GET /x HTTP/1.1\r\n\r\n",
	}
	good := map[string]string{
		"plain":             "GET /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"port":              "GET /x HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n",
		"case and dot":      "GET /x HTTP/1.1\r\nHost: API.Example.COM.\r\n\r\n",
		"absolute":          "GET https://api.example.com/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"absolute, port":    "GET https://api.example.com:443/x HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n",
		"HTTP/1.0 and Host": "GET /x HTTP/1.0\r\nHost: api.example.com\r\nConnection: keep-alive\r\n\r\n",
		"path with slashes": "GET //evil.example/x HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
	}
	for name, raw := range good {
		conn := l.dial(id, host)
		if status := send(t, conn, bufio.NewReader(conn), raw); status != 200 {
			t.Errorf("%s: %d, want 200", name, status)
		}
	}
	reached := n.Load()
	for name, raw := range bad {
		conn := l.dial(id, host)
		if status := send(t, conn, bufio.NewReader(conn), raw); status != 421 {
			t.Errorf("%s: %d, want 421", name, status)
		}
	}
	for name, raw := range malformed {
		conn := l.dial(id, host)
		_, err := io.WriteString(conn, raw)
		must(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		must(t, err)
		if resp.StatusCode != 400 {
			t.Errorf("%s: %d, want 400", name, resp.StatusCode)
		}
	}
	if n.Load() != reached {
		t.Errorf("%d misdirected requests reached the upstream", n.Load()-reached)
	}

	t.Run("reused connection", func(t *testing.T) {
		conn := l.dial(id, host)
		br := bufio.NewReader(conn)
		for range 2 {
			if s := send(t, conn, br, good["plain"]); s != 200 {
				t.Fatalf("status %d", s)
			}
			if s := send(t, conn, br, bad["wrong host"]); s != 421 {
				t.Fatalf("status %d", s)
			}
			if s := send(t, conn, br, bad["absolute, Host disagrees"]); s != 421 {
				t.Fatalf("status %d", s)
			}
		}
	})
	t.Run("pipelined", func(t *testing.T) {
		conn := l.dial(id, host)
		br := bufio.NewReader(conn)
		_, err := io.WriteString(conn, good["plain"]+bad["absolute, Host disagrees"]+good["plain"])
		must(t, err)
		for i, want := range []int{200, 421, 200} {
			resp, err := http.ReadResponse(br, nil)
			must(t, err)
			_, _ = io.Copy(io.Discard, resp.Body)
			if resp.StatusCode != want {
				t.Errorf("answer %d: %d, want %d", i, resp.StatusCode, want)
			}
		}
	})
	var denied int
	for _, row := range l.Actions(id) {
		if row.Verdict == "deny" {
			denied++
		}
	}
	if want := len(bad) + 2*2 + 1; denied != want {
		t.Errorf("%d refusals logged, want %d", denied, want)
	}
}

// h2Request sends one request with exactly these fields and returns :status, or
// "reset".
func h2Request(t *testing.T, conn *tls.Conn, fields ...string) string {
	t.Helper()
	return h2Send(t, conn, "", fields...)
}

// h2Send is h2Request with a body, in one DATA frame where it is not empty.
func h2Send(t testing.TB, conn *tls.Conn, body string, fields ...string) string {
	t.Helper()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Fatalf("negotiated %q", p)
	}
	_, err := io.WriteString(conn, http2.ClientPreface)
	must(t, err)
	fr := http2.NewFramer(conn, conn)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(t, fr.WriteSettings())
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		must(t, enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	const most = 16 << 10 // of a frame
	head := []byte(block.String())
	part := head[:min(most, len(head))]
	head = head[len(part):]
	must(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: part, EndStream: body == "", EndHeaders: len(head) == 0}))
	for len(head) > 0 {
		part, head = head[:min(most, len(head))], head[min(most, len(head)):]
		must(t, fr.WriteContinuation(1, len(head) == 0, part))
	}
	if body != "" {
		must(t, fr.WriteData(1, true, []byte(body)))
	}
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return "reset"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "reset"
		}
	}
}

func TestI04_HTTP2ClaimsThatDisagreeAreMisdirected(t *testing.T) {
	var n atomic.Int32
	l := newLab(t, counted(&n))
	id := l.Approve("a", "ci")
	for name, tc := range map[string]struct {
		fields []string
		want   string
	}{
		"plain":               {[]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/x"}, "200"},
		"Host only":           {[]string{":method", "GET", ":scheme", "https", ":path", "/x", "host", host}, "200"},
		"wrong authority":     {[]string{":method", "GET", ":scheme", "https", ":authority", "evil.example", ":path", "/x"}, "421"},
		"wrong port":          {[]string{":method", "GET", ":scheme", "https", ":authority", host + ":1", ":path", "/x"}, "421"},
		"Host disagrees":      {[]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/x", "host", "evil.example"}, "reset"},
		"second Host":         {[]string{":method", "GET", ":scheme", "https", ":path", "/x", "host", host, "host", "evil.example"}, "reset"},
		"scheme http":         {[]string{":method", "GET", ":scheme", "http", ":authority", host, ":path", "/x"}, "421"},
		"no authority":        {[]string{":method", "GET", ":scheme", "https", ":path", "/x"}, "421"},
		"absolute path":       {[]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "https://evil.example/x"}, "reset"},
		"userinfo":            {[]string{":method", "GET", ":scheme", "https", ":authority", "me@" + host, ":path", "/x"}, "reset"},
		"blank in path":       {[]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/x HTTP/1.1"}, "400"},
		"blank in query":      {[]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/x?a HTTP/1.1"}, "400"},
		"TRACE":               {[]string{":method", "TRACE", ":scheme", "https", ":authority", host, ":path", "/x"}, "405"},
		"CONNECT":             {[]string{":method", "CONNECT", ":authority", host + ":443"}, "405"},
		"extended CONNECT":    {[]string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", host, ":path", "/x"}, "reset"},
		"connection field":    {[]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/x", "connection", "x"}, "400"},
		"upper-case field":    {[]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "/x", "X-A", "x"}, "reset"},
		"path without slash":  {[]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "x"}, "reset"},
		"asterisk, OPTIONS":   {[]string{":method", "OPTIONS", ":scheme", "https", ":authority", host, ":path", "*"}, "200"},
		"asterisk, not legal": {[]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", "*"}, "400"},
	} {
		t.Run(name, func(t *testing.T) {
			before := n.Load()
			if got := h2Request(t, l.dial(id, host, "h2"), tc.fields...); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			if reached := n.Load() != before; reached != (tc.want == "200") {
				t.Errorf("reached the upstream: %v", reached)
			}
		})
	}
}

func TestConnectAndTraceAreRefused(t *testing.T) {
	var n atomic.Int32
	l := newLab(t, counted(&n))
	id := l.Approve("a", "ci")
	for _, raw := range []string{
		"TRACE /x HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
		"CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n",
		"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
	} {
		conn := l.dial(id, host)
		if s := send(t, conn, bufio.NewReader(conn), raw); s != 405 {
			t.Errorf("%q: %d", raw, s)
		}
	}
	if n.Load() != 0 {
		t.Error("the upstream was reached")
	}
}

func TestI04_ServerNameOfAnotherHostEndsTheHandshake(t *testing.T) {
	l := newLab(t, echo)
	id := l.Approve("a", "ci")
	try := func(name string, max uint16, cache tls.ClientSessionCache) error {
		conn := tls.Client(l.Serve(l.handler, id, host, 443), &tls.Config{
			InsecureSkipVerify: true, ServerName: name, MaxVersion: max, ClientSessionCache: cache, // what is tried here is the gateway
		})
		defer conn.Close()
		must(t, conn.SetDeadline(time.Now().Add(wait)))
		return conn.Handshake()
	}
	for _, max := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if err := try("evil.example.com", max, nil); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("TLS %x: %v", max, err)
		}
		if err := try("API.example.com", max, nil); err != nil {
			t.Errorf("TLS %x, upper case: %v", max, err)
		}
		if err := try("", max, nil); err != nil {
			t.Errorf("TLS %x, no server name: %v", max, err)
		}
	}
	if err := try(host, tls.VersionTLS11, nil); err == nil {
		t.Error("TLS 1.1 accepted")
	}
	l.Eventually(wait, "the refusals are logged", func() bool {
		n := 0
		for _, row := range l.Actions(id) {
			if row.Verdict == "deny" && strings.Contains(row.Reason, "evil.example.com") {
				n++
			}
		}
		return n == 2
	})
}

func TestI04_UnverifiedUpstreamNeverGetsTheRequest(t *testing.T) {
	var n atomic.Int32
	l := newWorld(t)
	wrongName := l.serve(counted(&n), "other.example.com")
	wrongCA := newWorld(t).serve(counted(&n), "b.example.com")
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { plain.Close() })
	go func() {
		for {
			conn, err := plain.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			_ = conn.Close()
		}
	}()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	closed.Close()

	targets := map[string]struct{ address, code string }{
		"a.example.com": {wrongName.Listener.Addr().String(), "certificate_host"},
		"b.example.com": {wrongCA.Listener.Addr().String(), "certificate_authority"},
		"c.example.com": {plain.Addr().String(), "tls"},
		"d.example.com": {closed.Addr().String(), "refused"},
	}
	var policy, refs strings.Builder
	for name, target := range targets {
		short := name[:1]
		policy.WriteString(l.endpointAt(short, target.address, name))
		fmt.Fprintf(&policy, "credential \"bearer\" %q { endpoint = https.%s }\n", short, short)
		fmt.Fprintf(&refs, "bearer.%s, ", short)
	}
	l.start(policy.String() + "profile \"ci\" { credentials = [" + refs.String() + "] }")
	id := l.Approve("a", "ci")
	for name := range targets {
		l.SetSecret("bearer."+name[:1], "secret", token)
	}
	versions(t, func(t *testing.T, h2 bool) {
		for name, target := range targets {
			resp, body := do(t, l.agent(id, h2), "POST", "https://"+name+"/", strings.NewReader("x"))
			if resp.StatusCode != 502 || !strings.Contains(body, `"code":"`+target.code+`"`) {
				t.Errorf("%s: %d %s, want %s", name, resp.StatusCode, body, target.code)
			}
			if strings.Contains(body, "127.0.0.1") || strings.Contains(body, token) {
				t.Errorf("%s: the problem says too much: %s", name, body)
			}
		}
	})
	if n.Load() != 0 {
		t.Errorf("%d requests reached an unverified upstream", n.Load())
	}
}
