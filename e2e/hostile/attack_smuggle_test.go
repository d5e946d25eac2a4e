package hostile

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

const smuggled = "GET /smugg-CASE HTTP/1.1\r\nHost: raw.example.com\r\n\r\n"

// forget empties what arrived returns.
func forget() {
	theReferee.take()
	upstream.Forget()
}

// arrived returns the heads of the requests at one of the two referees since the
// last call, and fails the test for whatever is doubtful about them.
func arrived(t *testing.T, host, what string) (heads []string) {
	t.Helper()
	heads, faults := theReferee.take()
	for _, fault := range faults {
		t.Errorf("%s: the upstream: %s", what, fault)
	}
	for _, s := range upstream.Seen() { // raw2's, which net/http has read already
		head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n", s.Method, s.URI, s.Host)
		for name, values := range s.Header {
			for _, value := range values {
				head += name + ": " + value + "\r\n"
			}
		}
		heads = append(heads, head+"\r\n")
	}
	upstream.Forget()
	for _, head := range heads {
		if strings.Contains(strings.ToLower(head), "x-injected") {
			t.Errorf("%s: the upstream got %q", what, head)
		}
		if !strings.Contains(head, "\r\nHost: "+host+"\r\n") || strings.Count(head, "\r\nAuthorization: Bearer "+targetToken+"\r\n") != 1 {
			t.Errorf("%s: the upstream got %q", what, head)
		}
	}
	return heads
}

// The attack: over HTTP/2, what HTTP/1.1 would take for the end of a line, of a
// head or of a body. What is refused is refused on its stream or connection;
// what goes on is one request, beyond doubt.
func TestI04_NothingIsSmuggledFromHTTP2(t *testing.T) {
	for _, host := range []string{"raw.example.com", "raw2.example.com"} {
		t.Run(host, func(t *testing.T) { smuggleFromHTTP2(t, host) })
	}
}

func smuggleFromHTTP2(t *testing.T, host string) {
	forget()
	usual := func(fields ...field) []field {
		return append([]field{f(":method", "POST"), f(":scheme", "https"), f(":authority", host), f(":path", "/usual")}, fields...)
	}
	with := func(name, value string) []field {
		fields := usual()
		for i := range fields {
			if fields[i].Name == name {
				fields[i].Value = value
			}
		}
		return fields
	}
	const injected = "\r\nX-Injected: 1"
	for _, c := range []struct {
		name    string
		head    []field
		body    string
		trailer []field
		refused bool // it must not reach the upstream
	}{
		{name: "CR LF in a value", head: usual(f("x-a", "b"+injected)), refused: true},
		{name: "LF in a value", head: usual(f("x-a", "b\nX-Injected: 1")), refused: true},
		{name: "CR in a value", head: usual(f("x-a", "b\rX-Injected: 1")), refused: true},
		{name: "NUL in a value", head: usual(f("x-a", "b\x00c")), refused: true},
		{name: "CR LF in a name", head: usual(f("x-a: b"+injected, "c")), refused: true},
		{name: "LF in a name", head: usual(f("x-a\nx-injected", "c")), refused: true},
		{name: "colon in a name", head: usual(f("x-injected: 1", "c")), refused: true},
		{name: "blank in a name", head: usual(f("x-a ", "c")), refused: true},
		{name: "NUL in a name", head: usual(f("x\x00a", "c")), refused: true},
		{name: "capitals in a name", head: usual(f("X-Injected", "c")), refused: true},
		{name: "empty name", head: usual(f("", "c")), refused: true},
		{name: "CR LF in the method", head: with(":method", "GET / HTTP/1.1"+injected), refused: true},
		{name: "blank in the method", head: with(":method", "GET /smuggled"), refused: true},
		{name: "NUL in the method", head: with(":method", "GE\x00T"), refused: true},
		{name: "empty method", head: with(":method", ""), refused: true},
		{name: "CR LF in the path", head: with(":path", "/ HTTP/1.1"+injected), refused: true},
		{name: "LF in the path", head: with(":path", "/\nX-Injected: 1"), refused: true},
		{name: "blank in the path", head: with(":path", "/ HTTP/1.1\tX-Injected:"), refused: true},
		{name: "NUL in the path", head: with(":path", "/\x00"), refused: true},
		{name: "CR LF in the query", head: with(":path", "/?a=b HTTP/1.1"+injected), refused: true},
		{name: "blank in the query", head: with(":path", "/?a=b /smuggled"), refused: true},
		{name: "a path that is no path", head: with(":path", "smuggled"), refused: true},
		{name: "a path that is a URL", head: with(":path", "https://web.example.org/smuggled"), refused: true},
		{name: "an empty path", head: with(":path", ""), refused: true},
		{name: "CR LF in the authority", head: with(":authority", host+injected), refused: true},
		{name: "path in the authority", head: with(":authority", host+"/smuggled"), refused: true},
		{name: "user in the authority", head: with(":authority", "a@"+host), refused: true},
		{name: "CR LF in the scheme", head: with(":scheme", "https"+injected), refused: true},
		{name: "CR LF in a cookie crumb", head: usual(f("cookie", "a=b"), f("cookie", "c=d"+injected)), refused: true},
		{name: "two methods", head: append([]field{f(":method", "GET")}, usual()...), refused: true},
		{name: "two paths", head: append([]field{f(":path", "/smuggled")}, usual()...), refused: true},
		{name: "two authorities", head: append([]field{f(":authority", "web.example.org")}, usual()...), refused: true},
		{name: "a pseudo-field after the others", head: usual(f("x-a", "b"), f(":path", "/smuggled")), refused: true},
		{name: "a pseudo-field of no request", head: usual(f(":status", "200")), refused: true},
		{name: ":protocol", head: append([]field{f(":protocol", "websocket")}, with(":method", "CONNECT")...), refused: true},

		{name: "a length below the body's", head: usual(f("content-length", "3")), body: "abc" + smuggled},
		{name: "a length of nothing with a body", head: usual(f("content-length", "0")), body: smuggled},
		{name: "a length above the body's", head: usual(f("content-length", "300")), body: "abc"},
		{name: "two lengths", head: usual(f("content-length", "3"), f("content-length", "52")), body: "abc" + smuggled},
		{name: "two lengths in one", head: usual(f("content-length", "3, 52")), body: "abc" + smuggled},
		{name: "the same length twice", head: usual(f("content-length", "3"), f("content-length", "3")), body: "abc"},
		{name: "a length with a sign", head: usual(f("content-length", "+3")), body: "abc"},
		{name: "a negative length", head: usual(f("content-length", "-1")), body: "abc"},
		{name: "a hexadecimal length", head: usual(f("content-length", "0x3")), body: "abc"},
		{name: "a length beyond 64 bits", head: usual(f("content-length", "18446744073709551619")), body: "abc"},
		{name: "no length at all", head: usual(), body: "3\r\nabc\r\n0\r\n\r\n" + smuggled},
		{name: "transfer-encoding", head: usual(f("transfer-encoding", "chunked")), body: "0\r\n\r\n" + smuggled},
		{name: "transfer-encoding and a length", head: usual(f("transfer-encoding", "chunked"), f("content-length", "54")), body: "0\r\n\r\n" + smuggled},
		{name: "transfer-encoding that is another", head: usual(f("transfer-encoding", "x\vchunked")), body: "0\r\n\r\n" + smuggled},
		{name: "transfer_encoding", head: usual(f("transfer_encoding", "chunked")), body: "0\r\n\r\n" + smuggled},
		{name: "content_length", head: usual(f("content_length", "5")), body: "0\r\n\r\n" + smuggled},
		{name: "connection", head: usual(f("connection", "x-a, keep-alive, host, authorization, content-length"), f("x-a", "b")), body: "abc"},
		{name: "connection: close", head: usual(f("connection", "close")), body: "abc"},
		{name: "upgrade", head: usual(f("connection", "upgrade"), f("upgrade", "websocket"))},
		{name: "upgrade alone", head: usual(f("upgrade", "h2c"), f("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"))},
		{name: "keep-alive and proxy-connection", head: usual(f("keep-alive", "timeout=1"), f("proxy-connection", "close"))},
		{name: "te", head: usual(f("te", "chunked, trailers"))},
		{name: "expect", head: usual(f("expect", "100-continue"), f("content-length", "3")), body: "abc"},
		{name: "expect of something else", head: usual(f("expect", "x"+"y")), body: "abc"},
		{name: "a folded value", head: usual(f("x-a", "b\r\n c")), refused: true},
		{name: "trailers that frame", head: usual(f("trailer", "content-length, transfer-encoding, host, authorization, connection, x-a")), body: "abc",
			trailer: []field{f("content-length", "0"), f("transfer-encoding", "chunked"), f("host", "web.example.org"), f("authorization", "Bearer mine"), f("connection", "close"), f("x-a", "b")}},
		{name: "trailers that frame, unannounced", head: usual(), body: "abc",
			trailer: []field{f("content-length", "0"), f("transfer-encoding", "chunked"), f("host", "web.example.org"), f("authorization", "Bearer mine"), f("content_length", "4")}},
		{name: "CR LF in a trailer", head: usual(f("trailer", "x-a")), body: "abc", trailer: []field{f("x-a", "b"+injected)}},
		{name: "CR LF in a trailer's name", head: usual(f("trailer", "x-a")), body: "abc", trailer: []field{f("x-a: b"+injected, "c")}},
		{name: "a name announced that is none", head: usual(f("trailer", "x-a\tx-injected: 1")), body: "abc"},
		{name: "a pseudo-field in the trailer", head: usual(f("trailer", "x-a")), body: "abc", trailer: []field{f(":path", "/smuggled")}},
		{name: "GET with a body", head: with(":method", "GET"), body: smuggled},
		{name: "HEAD with a body", head: with(":method", "HEAD"), body: smuggled},
	} {
		conn, err := reach(t.Context(), ci, host)
		if err != nil {
			t.Fatal(err)
		}
		w, err := frames(t.Context(), conn, host, true, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		id, err := w.open(c.body == "" && c.trailer == nil, c.head)
		if err == nil && c.body != "" {
			err = w.WriteData(id, c.trailer == nil, []byte(strings.ReplaceAll(c.body, "CASE", "99")))
		}
		if err == nil && c.trailer != nil {
			w.next = id
			_, err = w.open(true, c.trailer)
		}
		a := answer{reset: true}
		if err == nil {
			a, err = w.answered(t.Context(), id)
		}
		if err != nil {
			t.Errorf("%s: no answer: %v", c.name, err)
		}
		w.close(true)
		heads := arrived(t, host, c.name)
		if len(heads) > 1 || len(heads) == 1 && strings.Contains(heads[0], "smugg") {
			t.Errorf("%s: at the upstream: %q", c.name, heads)
		}
		if c.refused && (len(heads) > 0 || a.status == "200") {
			t.Errorf("%s: was not refused: %+v, %q", c.name, a, heads)
		}
		t.Logf("%s: %+v, %d at the upstream", c.name, a, len(heads))
	}
}

// ambiguous is an HTTP/1.1 request that one server ends here and another there.
// CASE in it stands for two digits that tell it from the others, LENGTH for that of
// what is smuggled.
type ambiguous struct {
	name, raw string
	most      int // requests that may reach the upstream
}

const (
	usual = "POST /usual-CASE HTTP/1.1\r\nHost: raw.example.com\r\n"
	chunk = "0\r\n\r\n" + smuggled
)

// The attack: over HTTP/1.1, requests whose end is in doubt. The gateway answers
// 400 and closes, or passes on one request beyond doubt.
func TestI04_NothingIsSmuggledFromHTTP1(t *testing.T) {
	for _, host := range []string{"raw.example.com", "raw2.example.com"} {
		t.Run(host, func(t *testing.T) { notSmuggled(t, host, doubtful) })
	}
}

var doubtful = []ambiguous{
	{"two lengths", usual + "Content-Length: 5\r\nContent-Length: 60\r\n\r\n" + chunk, 0},
	{"two lengths in one", usual + "Content-Length: 5, 60\r\n\r\n" + chunk, 0},
	{"length with a sign", usual + "Content-Length: +5\r\n\r\n" + chunk, 0},
	{"length with blanks inside", usual + "Content-Length: 5 5\r\n\r\n" + chunk, 0},
	{"length with an underscore", usual + "Content-Length: 0_5\r\n\r\n" + chunk, 0},
	{"blank before the colon", usual + "Content-Length : 5\r\n\r\n" + chunk, 0},
	{"blank before the colon of the encoding", usual + "Transfer-Encoding : chunked\r\n\r\n" + chunk, 0},
	{"encoding folded", usual + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 1},
	{"encoding with a tab", usual + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", 1},
	{"encoding with VT", usual + "Transfer-Encoding: \x0bchunked\r\n\r\n" + chunk, 0},
	{"encoding with NUL", usual + "Transfer-Encoding: chunked\x00\r\n\r\n" + chunk, 0},
	{"encoding twice", usual + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk, 0},
	{"encoding that is another", usual + "Transfer-Encoding: identity, chunked\r\n\r\n" + chunk, 0},
	{"encoding not last", usual + "Transfer-Encoding: chunked, gzip\r\n\r\n" + chunk, 0},
	{"encoding quoted", usual + "Transfer-Encoding: \"chunked\"\r\n\r\n" + chunk, 0},
	{"encoding in HTTP/1.0", "POST /usual-CASE HTTP/1.0\r\nHost: raw.example.com\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk, 1},
	{"line that begins with a blank", usual + " Content-Length: 5\r\n\r\n" + chunk, 0},
	{"LF alone", strings.ReplaceAll(usual, "\r\n", "\n") + "Content-Length: 0\n\n", 1},
	{"CR alone", "POST /usual-CASE HTTP/1.1\rHost: raw.example.com\r\r\n\r\n", 0},
	{"CR in a value", usual + "X-A: b\rX-Injected: 1\r\nContent-Length: 0\r\n\r\n", 0},
	{"NUL in a value", usual + "X-A: b\x00c\r\nContent-Length: 0\r\n\r\n", 0},
	{"CR in the target", "GET /a\rX-Injected: a-CASE HTTP/1.1\r\nHost: raw.example.com\r\n\r\n", 0},
	{"blank in the target", "GET /a /smuggled-CASE HTTP/1.1\r\nHost: raw.example.com\r\n\r\n", 0},
	{"version that is none", "GET /usual-CASE HTTP/1.1x\r\nHost: raw.example.com\r\n\r\n", 0},
	{"version 1.9", "GET /usual-CASE HTTP/1.9\r\nHost: raw.example.com\r\n\r\n", 0},
	{"version 2.0", "GET /usual-CASE HTTP/2.0\r\nHost: raw.example.com\r\n\r\n", 0},
	{"HTTP/2 preface in HTTP/1.1", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
	{"trailers that frame", usual + "Trailer: Content-Length, X-A\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nContent-Length: 50\r\nX-A: b\r\n\r\n", 1},
	{"trailers unannounced", usual + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nHost: web.example.org\r\nAuthorization: mine\r\nTransfer-Encoding: chunked\r\n\r\n", 1},
	{"upgrade with a body", usual + "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: LENGTH\r\n\r\n" + smuggled, 1},
	{"upgrade to h2c", "GET /usual-CASE HTTP/1.1\r\nHost: raw.example.com\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", 1},
	{"connection that lists what frames", usual + "Connection: Content-Length, Host, Authorization\r\nContent-Length: LENGTH\r\n\r\n" + smuggled, 1},
	{"a body that GET has", "GET /usual-CASE HTTP/1.1\r\nHost: raw.example.com\r\nContent-Length: LENGTH\r\n\r\n" + smuggled, 1},
	{"two hosts", "GET /usual-CASE HTTP/1.1\r\nHost: raw.example.com\r\nHost: web.example.org\r\n\r\n", 0},
	{"no host", "GET /usual-CASE HTTP/1.1\r\n\r\n", 0},
	{"absolute form of another", "GET https://web.example.org/usual-CASE HTTP/1.1\r\nHost: raw.example.com\r\n\r\n", 0},
	{"absolute form beside another host", "GET https://raw.example.com/usual-CASE HTTP/1.1\r\nHost: web.example.org\r\n\r\n", 0},
}

// notSmuggled sends each and fails the test where more of it reaches the upstream
// than may.
func notSmuggled(t *testing.T, host string, requests []ambiguous) {
	t.Helper()
	forget()
	answers := make([][]int, len(requests))
	for i, c := range requests {
		conn, err := reachTLS(t.Context(), ci, host, "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		answers[i] = answersTo(conn, strings.NewReplacer("CASE", fmt.Sprintf("%02d", i), "raw.example.com", host,
			"LENGTH", strconv.Itoa(len(smuggled)-len("CASE")+2-len("raw.example.com")+len(host))).Replace(c.raw))
		_ = conn.Close()
	}
	for i := range 5 {
		if _, status := curl(t, ci, fmt.Sprintf("https://%s/follows/%d", host, i)); status != "200" {
			t.Errorf("what followed got status %s", status)
		}
	}
	heads := arrived(t, host, "all")
	known := 0
	for i, c := range requests {
		var got []string
		for _, head := range heads {
			if strings.Contains(head, fmt.Sprintf("-%02d HTTP", i)) {
				got = append(got, head)
			}
		}
		known += len(got)
		if len(got) > c.most {
			t.Errorf("%s: %d requests at the upstream, want at most %d: %q", c.name, len(got), c.most, got)
		}
		t.Logf("%s: answers %v, %d requests at the upstream", c.name, answers[i], len(got))
	}
	follows := 0
	for _, head := range heads {
		if strings.HasPrefix(head, "GET /follows/") {
			follows++
		}
	}
	if follows != 5 {
		t.Errorf("of what followed %d requests came, want 5", follows)
	}
	if n := len(heads) - known - follows; n != 0 {
		t.Errorf("%d requests at the upstream that nobody made: %q", n, heads)
	}
}

// answersTo sends raw and returns the status codes of what comes back: until the
// connection ends, or nothing more comes.
func answersTo(conn *tls.Conn, raw string) (statuses []int) {
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.WriteString(conn, raw) // fails where the rest is not wanted
	for br := bufio.NewReader(conn); ; {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return statuses
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		statuses = append(statuses, resp.StatusCode)
		// A second answer would be there by now or be noticed at the upstream.
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	}
}
