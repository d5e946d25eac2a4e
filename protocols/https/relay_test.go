package https_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestServerSentEventsFlowAtOnce(t *testing.T) {
	next := make(chan struct{})
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			w.(http.Flusher).Flush() // the first one: just the head
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
			fmt.Fprintf(w, "data: %d\n\n", i)
		}
		w.(http.Flusher).Flush()
		<-next
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		resp, err := l.agent(id, h2).Get("https://" + host + "/events")
		must(t, err) // the head came before any event
		defer resp.Body.Close()
		buf := make([]byte, 100)
		for i := range 3 {
			next <- struct{}{}
			n, err := io.ReadAtLeast(resp.Body, buf, len("data: 0\n\n"))
			must(t, err)
			if got := string(buf[:n]); got != fmt.Sprintf("data: %d\n\n", i) {
				t.Errorf("event %d: %q", i, got)
			}
		}
		next <- struct{}{}
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Error(err)
		}
	})
}

func TestBothDirectionsFlowAtOnce(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(bytes.ToUpper(buf[:n]))
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		pr, pw := io.Pipe()
		req, err := http.NewRequest("POST", "https://"+host+"/", pr)
		must(t, err)
		resp, err := l.agent(id, h2).Do(req)
		must(t, err)
		defer resp.Body.Close()
		br := bufio.NewReader(resp.Body)
		for _, line := range []string{"one\n", "two\n", "three\n"} {
			_, err := io.WriteString(pw, line)
			must(t, err)
			got, err := br.ReadString('\n')
			must(t, err)
			if got != strings.ToUpper(line) {
				t.Errorf("%q", got)
			}
		}
		must(t, pw.Close())
		if rest, err := io.ReadAll(br); err != nil || len(rest) != 0 {
			t.Errorf("%q, %v", rest, err)
		}
		if s := l.lastStatus(id); s != "200" {
			t.Errorf("logged as %q", s)
		}
	})
}

func TestTrailersBothWays(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		body, _ := io.ReadAll(r.Body)
		_, _ = w.Write(body)
		w.Header().Set("X-Sum", r.Trailer.Get("X-In")+"|"+r.Trailer.Get("Authorization"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "late")
		w.Header().Set(http.TrailerPrefix+"X-Clawpatrol-Verdict", "allow")
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		for _, size := range []int{0, 3, 100_000} {
			resp, body := do(t, l.agent(id, h2), "POST", "https://"+host+"/", io.MultiReader(strings.NewReader(strings.Repeat("x", size))), func(r *http.Request) {
				r.Trailer = http.Header{"X-In": {"in"}}
				if !h2 { // net/http refuses it from an HTTP/2 agent by itself
					r.Trailer.Set("Authorization", "mine")
				}
			})
			if len(body) != size {
				t.Errorf("%d bytes of body, want %d", len(body), size)
			}
			if got := resp.Trailer.Get("X-Sum"); got != "in|" {
				t.Errorf("size %d: trailer %q: %v", size, got, resp.Trailer)
			}
			if resp.Trailer.Get("X-Late") != "late" || resp.Trailer.Get("X-Clawpatrol-Verdict") != "" {
				t.Errorf("size %d: trailers %v", size, resp.Trailer)
			}
		}
	})
}

func TestInformationalResponsesAreRelayed(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.Header().Set("X-Token", r.Header.Get("Authorization"))
		w.WriteHeader(103)
		w.Header().Del("Link")
		w.Header().Del("X-Token")
		_, _ = io.Copy(w, r.Body)
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		var mu sync.Mutex
		var early []http.Header
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			mu.Lock()
			defer mu.Unlock()
			if code == 103 {
				early = append(early, http.Header(h))
			}
			return nil
		}})
		resp, body := do(t, l.agent(id, h2), "POST", "https://"+host+"/", strings.NewReader("hi"), func(r *http.Request) { *r = *r.WithContext(ctx) })
		if resp.StatusCode != 200 || body != "hi" || resp.Header.Get("Link") != "" {
			t.Errorf("%d %q %v", resp.StatusCode, body, resp.Header)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(early) != 1 || early[0].Get("Link") == "" || strings.Contains(fmt.Sprint(early), token) {
			t.Errorf("103s: %v", early)
		}
	})
}

// The body is not asked for before the upstream has asked for it.
func TestExpectContinue(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(413)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	id := l.Approve("a", "ci")
	conn := l.dial(id, host)
	br := bufio.NewReader(conn)
	_, err := io.WriteString(conn, "PUT /yes HTTP/1.1\r\nHost: api.example.com\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	must(t, err)
	resp, err := http.ReadResponse(br, nil)
	must(t, err)
	if resp.StatusCode != 100 {
		t.Fatalf("status %d", resp.StatusCode)
	}
	_, err = io.WriteString(conn, "body")
	must(t, err)
	resp, err = http.ReadResponse(br, nil)
	must(t, err)
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(text) != "body" {
		t.Errorf("%d %q", resp.StatusCode, text)
	}
	_, err = io.WriteString(conn, "PUT /no HTTP/1.1\r\nHost: api.example.com\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
	must(t, err)
	resp, err = http.ReadResponse(br, nil)
	must(t, err)
	if resp.StatusCode != 413 {
		t.Errorf("status %d, want 413 and no 100", resp.StatusCode)
	}
}

func TestBodilessResponses(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.Header().Set("Etag", `"x"`)
			w.WriteHeader(304)
		case "/empty":
			w.Header().Set("Content-Length", "0")
		case "/head":
			w.Header().Set("Content-Length", "12345")
		case "/404":
			http.Error(w, "no", 404)
		}
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		agent := l.agent(id, h2)
		for _, tc := range []struct {
			method, path string
			status       int
			length       int64
			body         string
		}{
			{"GET", "/204", 204, 0, ""}, {"GET", "/304", 304, 0, ""}, {"GET", "/empty", 200, 0, ""},
			{"HEAD", "/head", 200, 12345, ""}, {"GET", "/404", 404, 3, "no\n"}, {"DELETE", "/204", 204, 0, ""},
		} {
			resp, body := do(t, agent, tc.method, "https://"+host+tc.path, nil)
			length := resp.ContentLength
			if length < 0 {
				length = 0
			}
			if resp.StatusCode != tc.status || body != tc.body || length != tc.length {
				t.Errorf("%s %s: %d, length %d, %q", tc.method, tc.path, resp.StatusCode, resp.ContentLength, body)
			}
		}
	})
}

func TestCutResponseIsCutForTheAgentToo(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "1000")
		}
		_, _ = io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		for _, path := range []string{"/length", "/chunked"} {
			resp, err := l.agent(id, h2).Get("https://" + host + path)
			must(t, err)
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil || string(body) != "some" {
				t.Errorf("%s: %q, %v", path, body, err)
			}
			if s := l.lastStatus(id); s != "200 aborted" {
				t.Errorf("%s: logged as %q", path, s)
			}
		}
	})
}

func TestAgentThatLeavesEndsTheRequestUpstream(t *testing.T) {
	gone := make(chan struct{}, 2)
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		gone <- struct{}{}
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "GET", "https://"+host+"/", nil)
		must(t, err)
		resp, err := l.agent(id, h2).Do(req)
		must(t, err)
		cancel()
		resp.Body.Close()
		select {
		case <-gone:
		case <-time.After(wait):
			t.Fatal("the upstream request goes on")
		}
		if s := l.lastStatus(id); !strings.Contains(s, "aborted") {
			t.Errorf("logged as %q", s)
		}
	})
}

func TestAgentThatLeavesBeforeTheAnswer(t *testing.T) {
	asked, gone := make(chan struct{}, 2), make(chan struct{}, 2)
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
		gone <- struct{}{}
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", "https://"+host+"/", nil)
		must(t, err)
		go func() { <-asked; cancel() }()
		if resp, err := l.agent(id, h2).Do(req); err == nil {
			t.Errorf("answered %s", resp.Status)
		}
		<-gone
		if s := l.lastStatus(id); s != "aborted" {
			t.Errorf("logged as %q", s)
		}
	})
}

func TestRevokedRegistrationIsCutOffMidStream(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	versions(t, func(t *testing.T, h2 bool) {
		id := l.Approve(t.Name(), "ci")
		agent := l.agent(id, h2)
		resp, err := agent.Get("https://" + host + "/")
		must(t, err)
		must(t, l.DB.Revoke(t.Context(), id))
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the stream ended as if it were whole")
		}
		resp.Body.Close()
	})
}

// An upstream that answers before the body has come does not let the rest of
// the body pass for a request.
func TestAbandonedBodyIsNeverARequest(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upload" {
			w.Header().Set("Connection", "close")
			w.Header().Set("Content-Length", "2")
			w.WriteHeader(413)
			_, _ = io.WriteString(w, "no")
		}
	})
	id := l.Approve("a", "ci")
	conn := l.dial(id, host)
	br := bufio.NewReader(conn)
	_, err := io.WriteString(conn, "POST /upload HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 100000\r\n\r\nsome")
	must(t, err)
	resp, err := http.ReadResponse(br, nil)
	must(t, err)
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 413 || string(body) != "no" {
		t.Errorf("%d %q %v", resp.StatusCode, body, err)
	}
	// An agent that waits is hung up on, and so is one that goes on.
	waiting := l.dial(id, host)
	_, err = io.WriteString(waiting, "POST /upload HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: 100000\r\n\r\nsome")
	must(t, err)
	if _, err := io.ReadAll(waiting); err != nil {
		t.Errorf("waiting: %v", err)
	}
	for err == nil { // more of "the body", until the gateway has hung up
		_, err = io.WriteString(conn, "GET /smuggled HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
		time.Sleep(10 * time.Millisecond)
	}
	if rest, _ := io.ReadAll(br); bytes.Contains(rest, []byte("HTTP/1.1")) {
		t.Errorf("answered: %q", rest)
	}
	for _, row := range l.Actions(id) {
		if strings.Contains(row.Summary, "smuggled") {
			t.Error("bytes of a body were taken for a request")
		}
	}
}

func TestLargeBodiesArriveWhole(t *testing.T) {
	const size = 32 << 20
	data := make([]byte, size)
	_, _ = rand.Read(data)
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if r.Method == "GET" {
			_, _ = w.Write(data)
			return
		}
		fmt.Fprintf(w, "%d %x %v", n, sum.Sum(nil), err)
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		_, body := do(t, l.agent(id, h2), "GET", "https://"+host+"/", nil)
		if sha256.Sum256([]byte(body)) != sha256.Sum256(data) {
			t.Error("the download differs")
		}
		want := fmt.Sprintf("%d %x <nil>", size, sha256.Sum256(data))
		for name, reader := range map[string]io.Reader{"length": bytes.NewReader(data), "chunked": io.MultiReader(bytes.NewReader(data))} {
			if _, body := do(t, l.agent(id, h2), "POST", "https://"+host+"/", reader); body != want {
				t.Errorf("%s: the upload differs: %s", name, body)
			}
		}
	})
}
