package dashboard_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// A page of log for every request that anyone can send would fill the gateway's
// disk, and then the action log refuses every agent.
func TestLog_RefusedAttemptsCostNoLines(t *testing.T) {
	g := newOperated(t)
	for range 500 {
		g.tryLogin("198.51.100.1", "a wrong password")
		g.send(request{method: "GET", path: "/api/registrations", secret: "a wrong password", from: "198.51.100.1"})
	}
	if n := strings.Count(g.log.String(), "\n"); n != 10 {
		t.Errorf("%d lines for 10 attempts that were let through and 990 that were not", n)
	}
}

// So would a line for everybody who hangs up early.
func TestLog_HangingUpCostsNoLines(t *testing.T) {
	for name, g := range map[string]*gateway{"fresh": newGateway(t), "operated": newOperated(t)} {
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		for _, target := range []string{"GET /", "GET /setup", "GET /login", "GET /api/registrations", "POST /api/login", "POST /api/setup"} {
			method, path, _ := strings.Cut(target, " ")
			r := httptest.NewRequestWithContext(gone, method, path, strings.NewReader(loginBody("x")))
			r.Host = listen
			r.RemoteAddr = "198.51.100.1:4000"
			r.Header.Set("X-Clawpatrol-Secret", "x")
			w := httptest.NewRecorder()
			g.handler.ServeHTTP(w, r)
			if w.Code == http.StatusInternalServerError {
				t.Errorf("%s, %s: status %d", name, target, w.Code)
			}
		}
		if strings.Contains(g.log.String(), "ERROR") {
			t.Errorf("%s: logged\n%s", name, g.log)
		}
	}
}
