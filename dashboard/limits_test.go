package dashboard_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

func loginBodyJSON(t testing.TB, pw string) string {
	t.Helper()
	b, err := json.Marshal(map[string]string{"password": pw})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (g *gateway) tryLogin(from, pw string) int {
	g.t.Helper()
	return g.send(request{method: "POST", path: "/api/login", body: loginBody(pw), from: from}).StatusCode
}

func TestI14_LoginAttemptsAreLimitedPerSource(t *testing.T) {
	g := newOperated(t)
	const wrong = "a wrong password"
	for i := range 10 {
		if s := g.tryLogin(fmt.Sprintf("2001:db8::%d", i), wrong); s != http.StatusUnauthorized { // one /64
			t.Fatalf("attempt %d: status %d", i, s)
		}
	}
	r := g.send(request{method: "POST", path: "/api/login", body: loginBody(password), from: "2001:db8::99"})
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	refused(t, r, http.StatusTooManyRequests, "too_many_attempts")
	// The form and the header share the limit.
	status(t, g.send(request{method: "POST", path: "/login", form: url.Values{"password": {password}}, from: "2001:db8::98"}), http.StatusTooManyRequests)
	refused(t, g.send(request{method: "GET", path: "/api/registrations", secret: password, from: "2001:db8::97"}), http.StatusTooManyRequests, "too_many_attempts")
	// A header that claims another source changes nothing.
	r = g.send(request{method: "POST", path: "/api/login", body: loginBody(password), from: "2001:db8::96", header: http.Header{"X-Forwarded-For": {"192.0.2.77"}}})
	refused(t, r, http.StatusTooManyRequests, "too_many_attempts")

	if s := g.tryLogin("192.0.2.9", password); s != http.StatusNoContent {
		t.Errorf("another source: status %d", s)
	}
	g.clock.pass(6 * time.Second)
	if s := g.tryLogin("2001:db8::1", wrong); s != http.StatusUnauthorized {
		t.Errorf("after a while: status %d", s)
	}
	if s := g.tryLogin("2001:db8::1", wrong); s != http.StatusTooManyRequests {
		t.Errorf("and then: status %d", s)
	}
}

// Guessing from many sources is limited as a whole, and does not lock out an
// operator who has logged in from theirs.
func TestI14_LoginAttemptsAreLimitedOverAll(t *testing.T) {
	g := newOperated(t)
	if s := g.tryLogin("192.0.2.1", password); s != http.StatusNoContent {
		t.Fatalf("status %d", s)
	}
	limited := 0
	for i := range 200 {
		switch s := g.tryLogin(fmt.Sprintf("198.51.100.%d", i), "a wrong password"); s {
		case http.StatusTooManyRequests:
			limited++
		case http.StatusUnauthorized:
		default:
			t.Fatalf("status %d", s)
		}
	}
	if limited != 140 {
		t.Errorf("%d of 200 guesses were refused untried, want 140", limited)
	}
	if s := g.tryLogin("203.0.113.5", password); s != http.StatusTooManyRequests {
		t.Errorf("a source not seen before: status %d", s)
	}
	for range 100 { // and its log-ins give the guessers nothing back
		if s := g.tryLogin("192.0.2.1", password); s != http.StatusNoContent {
			t.Fatalf("the operator's source: status %d", s)
		}
	}
	if s := g.tryLogin("203.0.113.5", "a wrong password"); s != http.StatusTooManyRequests {
		t.Errorf("after the operator's log-ins: status %d", s)
	}
}

// Ten wrong passwords must not cost ten cores: two are worked on, eight wait,
// and more are refused at once.
func TestI14_LoginWorkIsBounded(t *testing.T) {
	g := newOperated(t)
	release := dashboard.Hashing(g.handler)
	var wg sync.WaitGroup
	statuses := make(chan int, dashboard.MaxWaiting)
	for i := range dashboard.MaxWaiting {
		wg.Go(func() { statuses <- g.tryLogin(fmt.Sprintf("198.51.100.%d", i), password) })
	}
	deadline := time.Now().Add(10 * time.Second)
	for dashboard.Waiting(g.handler) < dashboard.MaxWaiting {
		if time.Now().After(deadline) {
			t.Fatalf("%d wait", dashboard.Waiting(g.handler))
		}
		time.Sleep(time.Millisecond)
	}
	refused(t, g.send(request{method: "POST", path: "/api/login", body: loginBody(password), from: "192.0.2.50"}), http.StatusServiceUnavailable, "busy")
	release()
	wg.Wait()
	close(statuses)
	for s := range statuses {
		if s != http.StatusNoContent {
			t.Errorf("one that waited: status %d", s)
		}
	}
	if n := dashboard.Waiting(g.handler); n != 0 {
		t.Errorf("%d places were not given back", n)
	}
	if s := g.tryLogin("192.0.2.50", password); s != http.StatusNoContent {
		t.Errorf("afterwards: status %d", s)
	}
}

// Before the gate anyone can have thousands of bodies under way at once: none may
// be large.
func TestI14_BodiesBeforeTheGateAreSmall(t *testing.T) {
	huge := strings.Repeat(" ", 5<<10) + "{}"
	refused(t, newGateway(t).send(request{method: "POST", path: "/api/setup", body: huge}), http.StatusRequestEntityTooLarge, "body_too_large")
	g := newOperated(t)
	refused(t, g.send(request{method: "POST", path: "/api/login", body: huge}), http.StatusRequestEntityTooLarge, "body_too_large")
	status(t, g.send(request{method: "POST", path: "/login", form: url.Values{"password": {password}, "x": {huge}}}), http.StatusBadRequest)
}
