package https_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"
)

// h2Only keeps an upstream from settling on HTTP/1.1.
func h2Only(s *httptest.Server) {
	s.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c := s.TLS.Clone()
		c.GetConfigForClient = nil
		c.NextProtos = []string{"neither"}
		for _, p := range hello.SupportedProtos {
			if p == "h2" {
				c.NextProtos = []string{"h2"}
			}
		}
		return c, nil
	}
}

// An agent that waits for its answer before it goes on with the body gets it
// whole, and the end of it, over HTTP/2 upstream too.
func TestEarlyResponseEndsWhileTheAgentWaits(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 1))
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		_, _ = io.WriteString(w, "too much")
	})
	h2Only(l.upstream)
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		body, more := io.Pipe()
		defer more.Close()
		go func() { _, _ = more.Write([]byte("some")) }() // and no more
		resp, err := l.agent(id, h2).Post("https://"+host+"/", "", body)
		must(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 413 || string(text) != "too much" {
			t.Errorf("%d %q %v", resp.StatusCode, text, err)
		}
		if s := l.lastStatus(id); s != "413" {
			t.Errorf("logged as %q", s)
		}
	})
}

// A stream that the upstream resets before it has answered is a 502 at once, not
// when the agent next sends something.
func TestUploadOverHTTP2ThatTheUpstreamResetsIsAnswered(t *testing.T) {
	l := newLab(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = r.Body.Read(make([]byte, 1))
		panic(http.ErrAbortHandler)
	})
	h2Only(l.upstream)
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		body, more := io.Pipe()
		defer more.Close()
		go func() { _, _ = more.Write([]byte("some")) }() // and no more
		resp, err := l.agent(id, h2).Post("https://"+host+"/", "", body)
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != 502 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
}

func TestExpectOfAnHTTP2AgentIsForwarded(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && r.Header.Get("Expect") != "100-continue" { // net/http hides it over HTTP/2
			t.Errorf("Expect: %q", r.Header.Get("Expect"))
		}
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	id := l.Approve("a", "ci")
	for _, upstream := range []string{"h1", "h2"} {
		if upstream == "h1" {
			l.upstream.TLS.NextProtos = []string{"http/1.1"}
		}
		for path, want := range map[string]int{"/yes": 200, "/no": 417} {
			var asked bool
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(int, textproto.MIMEHeader) error { asked = true; return nil },
			})
			resp, body := do(t, l.agent(id, true), "PUT", "https://"+host+path, strings.NewReader("body"), set("Expect", "100-continue"),
				func(r *http.Request) { *r = *r.WithContext(ctx) })
			if resp.StatusCode != want || asked != (want == 200) || want == 200 && body != "body" {
				t.Errorf("%s, upstream %s: %d %q, asked for the body: %v", path, upstream, resp.StatusCode, body, asked)
			}
		}
		if upstream == "h1" {
			l.upstream.TLS.NextProtos = []string{"h2", "http/1.1"}
			id = l.Approve("b", "ci") // connections of its own
		}
	}
}

// The head of a response does not wait for its body, however short that is to be.
func TestHeadOfASmallBodyIsNotHeldBack(t *testing.T) {
	release := make(chan struct{})
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "2")
		w.(http.Flusher).Flush()
		<-release
		_, _ = io.WriteString(w, "ok")
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		resp, err := l.agent(id, h2).Get("https://" + host + "/")
		must(t, err) // the head is here
		defer resp.Body.Close()
		select {
		case release <- struct{}{}:
		case <-time.After(wait):
			t.Fatal("the upstream is not waiting")
		}
		if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "ok" {
			t.Errorf("%q %v", text, err)
		}
	})
}

// Trailers that no Trailer field announced reach an HTTP/1.1 agent also where
// there is no body before them, as in a gRPC response that is an error.
func TestUnannouncedTrailerOfAnEmptyBody(t *testing.T) {
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		w.Header().Set(http.TrailerPrefix+"X-Late", "late")
	})
	h2Only(l.upstream)
	id := l.Approve("a", "ci")
	conn := l.dial(id, host)
	_, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	must(t, err)
	if body, err := io.ReadAll(resp.Body); err != nil || len(body) != 0 {
		t.Errorf("%q %v", body, err)
	}
	if resp.Trailer.Get("X-Late") != "late" {
		t.Errorf("trailer %v", resp.Trailer)
	}
}
