package hostile

import (
	"strings"
	"testing"
)

// The attack: make the gateway send the token to a host of the attacker's
// choice, by disagreeing claims about where the request goes.
func TestI04_DisagreeingClaimsAreMisdirected(t *testing.T) {
	upstream.Forget()
	for _, c := range []struct {
		name string
		args []string
	}{
		{"Host header of another endpoint", []string{"--http1.1", "-H", "Host: web.example.org", "https://api.example.com/i04"}},
		{"authority of another endpoint", []string{"--http2", "-H", "Host: web.example.org", "https://api.example.com/i04"}},
		{"another port in Host", []string{"--http1.1", "-H", "Host: api.example.com:8443", "https://api.example.com/i04"}},
		{"absolute-form of another host", []string{"--http1.1", "--request-target", "https://web.example.org/i04", "https://api.example.com/i04"}},
		{"user info in the host", []string{"--http1.1", "-H", "Host: api.example.com@web.example.org", "https://api.example.com/i04"}},
	} {
		body, status, err := tryCurl(t.Context(), ci, c.args...)
		if err != nil || status != "421" && status != "400" {
			t.Errorf("%s: status %s, %v: %s", c.name, status, err, body)
		}
	}
	for _, s := range upstream.Seen() {
		t.Errorf("the upstream saw %s %s for %s", s.Method, s.URI, s.Host)
	}
}

// The agent chooses where its packets go; the credential goes where the policy
// says all the same.
func TestI04_TheAgentsDestinationAddressIsOnlyAClaim(t *testing.T) {
	upstream.Forget()
	// 192.0.2.13 is web.example.org's address.
	_, status := curl(t, ci, "--resolve", "api.example.com:443:192.0.2.13", "https://api.example.com/claimed")
	if status != "200" {
		t.Fatalf("status %s", status)
	}
	for _, s := range upstream.Seen() {
		if s.Host != "api.example.com" || s.Header.Get("Authorization") != "Bearer "+apiToken {
			t.Errorf("upstream saw %s with Authorization %q", s.Host, s.Header.Get("Authorization"))
		}
	}
	if len(upstream.Seen()) != 1 {
		t.Errorf("the upstream saw %d requests", len(upstream.Seen()))
	}
}

func TestI04_AnUpstreamThatCannotProveItselfGetsNothing(t *testing.T) {
	upstream.Forget()
	body, status := curl(t, ci, "https://impostor.example.com/")
	if status != "502" || !strings.Contains(body, "certificate") {
		t.Errorf("status %s, body %s", status, body)
	}
	if n := len(upstream.Seen()); n != 0 {
		t.Errorf("the impostor saw %d requests", n)
	}
}

func TestI04_ConnectAndTraceAreRefused(t *testing.T) {
	upstream.Forget()
	for _, method := range []string{"TRACE", "CONNECT"} {
		body, status, err := tryCurl(t.Context(), ci, "--http1.1", "-X", method, "https://api.example.com/")
		if err == nil && !strings.HasPrefix(status, "4") {
			t.Errorf("%s: status %s: %s", method, status, body)
		}
	}
	if n := len(upstream.Seen()); n != 0 {
		t.Errorf("the upstream saw %d requests", n)
	}
}
