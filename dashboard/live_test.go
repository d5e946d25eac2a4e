package dashboard_test

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/registry"
)

// eventNames reads the names of a stream's events until it ends.
func eventNames(t *testing.T, g *gateway, path, cookie string) <-chan string {
	t.Helper()
	server := httptest.NewUnstartedServer(g.handler)
	server.Start()
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "127.0.0.1:8080"
	r.AddCookie(&http.Cookie{Name: "cp_dash", Value: cookie})
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: %s, %s", path, answer.Status, answer.Header.Get("Content-Type"))
	}
	names := make(chan string, 64)
	go func() {
		defer close(names)
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				names <- name
			}
		}
	}()
	return names
}

// next is the next event; empty: the stream has ended.
func next(t *testing.T, names <-chan string) string {
	t.Helper()
	select {
	case name := <-names:
		return name
	case <-time.After(10 * time.Second):
		t.Fatal("no event in 10 s")
		return ""
	}
}

func TestLive_TellsOpenPagesWhatHasChanged(t *testing.T) {
	g := newOperated(t)
	names := eventNames(t, g, "/api/live", g.logIn())
	g.enrol("new-host", "198.51.100.201")
	if got := next(t, names); got != "registrations" {
		t.Errorf("after an enrolment: %q", got)
	}
	if _, err := g.db.Append(t.Context(), registry.Action{Verdict: "allow", Summary: "GET /"}); err != nil {
		t.Fatal(err)
	}
	if got := next(t, names); got != "actions" {
		t.Errorf("after an action: %q", got)
	}
}

// A page that missed the last of several actions would show an old log until the
// next one.
func TestLive_TheLastOfManyActionsIsTold(t *testing.T) {
	g := newOperated(t)
	names := eventNames(t, g, "/api/live", g.logIn())
	g.act(registry.Action{Summary: "GET /first"})
	if got := next(t, names); got != "actions" {
		t.Fatalf("after an action: %q", got)
	}
	g.act(registry.Action{Summary: "GET /last"}) // at once: it is told later
	if got := next(t, names); got != "actions" {
		t.Errorf("after the last action: %q", got)
	}
}

// Server-sent events end with the session.
func TestI14_StreamsEndWithTheSession(t *testing.T) {
	g := newOperated(t)
	cookie := g.logIn()
	names := eventNames(t, g, "/api/live", cookie)
	status(t, g.send(request{method: "POST", path: "/api/logout", cookie: cookie}), http.StatusNoContent)
	if got := next(t, names); got != "ended" {
		t.Errorf("after the session ended: %q", got)
	}
	if got := next(t, names); got != "" {
		t.Errorf("after ended: %q", got)
	}
}

// A stream is asked for by a session that ends before it begins: nothing else that
// came with the request keeps it open.
func TestI14_AStreamNeedsTheCredentialThatItCameWith(t *testing.T) {
	g := newOperated(t)
	cookie := g.logIn()
	var alive bool
	var err error
	dashboard.AddRoute(g.handler, "GET /api/late", func(w http.ResponseWriter, r *http.Request) {
		if err := g.db.EndSessions(t.Context()); err != nil {
			t.Error(err)
		}
		alive, err = dashboard.StillLoggedIn(g.handler, r)
		w.WriteHeader(http.StatusNoContent)
	})
	for _, header := range []http.Header{nil, {"X-Clawpatrol-Secret": {"not the password"}}} {
		g.send(request{method: "GET", path: "/api/late", cookie: cookie, header: header})
		if alive || err == nil {
			t.Errorf("with %v: alive %v, %v", header, alive, err)
		}
		cookie = g.logIn()
	}
}

func TestI16_HeadOfAStreamEnds(t *testing.T) {
	g := newOperated(t)
	server := httptest.NewServer(g.handler)
	t.Cleanup(server.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, server.URL+"/api/live", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = listen
	r.Header.Set("X-Clawpatrol-Secret", password)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	for deadline := time.Now().Add(10 * time.Second); dashboard.Streams(g.handler) != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it has a stream's place still")
		}
	}
}
