package https_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// answers reads the responses to requests of the given methods.
func answers(t *testing.T, br *bufio.Reader, methods ...string) (status []int, bodies []string) {
	t.Helper()
	for _, method := range methods {
		resp, err := http.ReadResponse(br, &http.Request{Method: method})
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		status, bodies = append(status, resp.StatusCode), append(bodies, string(body))
	}
	return status, bodies
}

func TestRequestsHoweverTheyArrive(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d %s", r.Method, r.URL.Path, len(r.Header.Get("X-Long")), body)
	})
	id := l.Approve("a", "ci")
	const head = " HTTP/1.1\r\nHost: " + host + "\r\n"
	long := strings.Repeat("x", 200<<10)
	raw := "GET /1" + head + "\r\n" +
		"POST /2" + head + "Content-Length: 4\r\n\r\nbody" +
		"\r\n" + // net/http lets this pass behind a POST
		"PUT /3" + head + "X-Long: " + long + "\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nch\r\n5;x=y\r\nunked\r\n0\r\n\r\n" +
		"GET /4" + head + "\r\n"
	want := []string{"GET /1 0 ", "POST /2 0 body", fmt.Sprintf("PUT /3 %d chunked", len(long)), "GET /4 0 "}
	for name, sizes := range map[string][]int{"at once": {len(raw)}, "byte by byte": {1}, "in pieces": {7, 1, 4096, 3}} {
		t.Run(name, func(t *testing.T) {
			conn := l.dial(id, host)
			go func() {
				rest := raw
				for i := 0; rest != ""; i++ {
					n := min(sizes[i%len(sizes)], len(rest))
					if n == 1 && len(rest) > 1000 && strings.HasPrefix(rest, "xxx") {
						n = 1000 // of the long field
					}
					if _, err := io.WriteString(conn, rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
			}()
			_, got := answers(t, bufio.NewReader(conn), "GET", "POST", "PUT", "GET")
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("answer %d: %q, want %q", i, got[i], want[i])
				}
			}
		})
	}
}

func TestI16_UnreadableRequestsEndTheirConnection(t *testing.T) {
	l := newLab(t, func(http.ResponseWriter, *http.Request) {})
	id := l.Approve("a", "ci")
	const head = " HTTP/1.1\r\nHost: " + host + "\r\n"
	for name, tc := range map[string]struct {
		raw    string
		status int
	}{
		"no HTTP":              {"220 mail.example.com ESMTP\r\n\r\n", 400},
		"HTTP/2 in the clear":  {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
		"HTTP/3.0":             {"GET / HTTP/3.0\r\nHost: " + host + "\r\n\r\n", 400},
		"two hosts":            {"GET /" + head + "Host: " + host + "\r\n\r\n", 400},
		"both lengths":         {"POST /" + head + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
		"unknown expectation":  {"GET /" + head + "Expect: a miracle\r\n\r\n", 417},
		"HEAD":                 {"HEAD /" + head + "Host: " + host + "\r\n\r\n", 400},
		"endless field":        {"GET /" + head + "X: " + strings.Repeat("x", 257<<10), 431},
		"a long field, at end": {"GET /" + head + "X: " + strings.Repeat("x", 257<<10) + "\r\n\r\n", 431},
		"many fields":          {"GET /" + head + strings.Repeat("X: y\r\n", 1001) + "\r\n", 400},
	} {
		t.Run(name, func(t *testing.T) {
			conn := l.dial(id, host)
			go func() { _, _ = io.WriteString(conn, tc.raw+"GET /next"+head+"\r\n") }()
			br := bufio.NewReader(conn)
			method, _, _ := strings.Cut(tc.raw, " ")
			resp, err := http.ReadResponse(br, &http.Request{Method: method})
			must(t, err)
			if resp.StatusCode != tc.status || !resp.Close || resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("X-Clawpatrol-Verdict") != "deny" {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || method != "HEAD" && !strings.Contains(string(body), `"bad_request"`) {
				t.Errorf("%q %v", body, err)
			}
			if rest, _ := io.ReadAll(br); len(rest) > 0 {
				t.Errorf("and then %q", rest)
			}
		})
	}
	for _, row := range l.Actions(id) {
		if row.Verdict == "allow" {
			t.Errorf("%s was allowed", row.Summary)
		}
	}
}

func TestBodyThatIsMalformedIsAnsweredSo(t *testing.T) {
	ended := make(chan error, 1)
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	id := l.Approve("a", "ci")
	conn := l.dial(id, host)
	_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: "+host+"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nno number\r\n")
	must(t, err)
	br := bufio.NewReader(conn)
	if status, bodies := answers(t, br, "POST"); status[0] != 400 || !strings.Contains(bodies[0], "malformed") {
		t.Errorf("%v %q", status, bodies)
	}
	if _, err := br.ReadByte(); err != io.EOF {
		t.Errorf("then %v", err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the upstream took it for whole")
		}
	case <-time.After(wait):
		t.Fatal("the upstream waits for more")
	}
}

// A request that comes while the one before it waits upstream is kept for later.
func TestRequestBehindOneThatWaits(t *testing.T) {
	asked, release := make(chan struct{}), make(chan struct{})
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			asked <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, r.URL.Path)
	})
	id := l.Approve("a", "ci")
	conn := l.dial(id, host)
	br := bufio.NewReader(conn)
	for range 3 {
		_, err := io.WriteString(conn, "GET /first HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		must(t, err)
		<-asked
		for _, b := range []byte("POST /second HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 0\r\n\r\n") {
			_, err := conn.Write([]byte{b})
			must(t, err)
		}
		release <- struct{}{}
		if _, got := answers(t, br, "GET", "POST"); got[0] != "/first" || got[1] != "/second" {
			t.Errorf("%q", got)
		}
	}
}

// Some programs send a line break behind the body of a POST that is none of it.
func TestLineBreaksAfterAPostAreNoRequest(t *testing.T) {
	l := newLab(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	id := l.Approve("a", "ci")
	for between, want := range map[string]int{"": 200, "\r\n": 200, "\r\n\r\n": 200, "\r\n\r\n\r\n": 400} {
		conn := l.dial(id, host)
		br := bufio.NewReader(conn)
		_, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 1\r\n\r\nx"+between+"GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n")
		must(t, err)
		for _, status := range []int{200, want} {
			resp, err := http.ReadResponse(br, nil)
			must(t, err)
			_, _ = io.Copy(io.Discard, resp.Body)
			if resp.StatusCode != status {
				t.Errorf("%q: %s, want %d", between, resp.Status, status)
			}
		}
		conn.Close()
	}
}
