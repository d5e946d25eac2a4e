package https_test

import (
	"net/http"
	"strings"
	"testing"
)

// The attack: fill the gateway's disk with its own log, one failing request
// after another.
func TestI16_FailingRequestsDoNotFloodTheLog(t *testing.T) {
	l := newLab(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	noisy, quiet := l.Approve("noisy", "ci"), l.Approve("quiet", "ci")
	agent := l.agent(noisy, false)
	const n = 300
	for range n {
		if resp, _ := do(t, agent, "GET", "https://"+host+"/", nil); resp.StatusCode != http.StatusBadGateway {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	if lines := strings.Count(l.said.String(), "upstream failed"); lines == 0 || lines > n/2 {
		t.Errorf("%d lines for %d failed requests", lines, n)
	}
	// Another's share is untouched.
	do(t, l.agent(quiet, false), "GET", "https://"+host+"/", nil)
	if !strings.Contains(l.said.String(), "registration="+string(quiet)) {
		t.Error("nothing about another registration's request")
	}
}
