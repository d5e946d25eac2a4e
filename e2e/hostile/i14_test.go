package hostile

import (
	"net/http"
	"testing"
)

// The attack: a page of the attacker's in the operator's browser, on a name
// that resolves to the loopback address, or posting across sites.
func TestI14_ForeignHostsAndCrossSitePostsAreRefused(t *testing.T) {
	op := gateway.Operator
	for _, c := range []struct {
		name   string
		header http.Header
		host   string
		want   int
	}{
		{"DNS rebinding", nil, "attacker.example.org:8080", http.StatusMisdirectedRequest},
		{"another port", nil, "127.0.0.1:80", http.StatusMisdirectedRequest},
		{"cross-site", http.Header{"Sec-Fetch-Site": {"cross-site"}}, "", http.StatusForbidden},
		{"foreign origin", http.Header{"Origin": {"https://attacker.example.org"}}, "", http.StatusForbidden},
	} {
		status, err := op.Forged(t.Context(), "POST", "/api/registrations/"+ci.Registration+"/block", c.host, c.header)
		if err != nil {
			t.Fatal(err)
		}
		if status != c.want {
			t.Errorf("%s: status %d, want %d", c.name, status, c.want)
		}
	}
	if r, err := op.Registration(t.Context(), ci.Registration); err != nil || r.State != "approved" {
		t.Errorf("ci is %+v, %v", r, err)
	}
}

// The attack: try passwords. The limit is per source; the operator behind the
// same source waits too, which the gateway's documentation says.
func TestI14_PasswordGuessingIsLimited(t *testing.T) {
	limited := 0
	for range 40 {
		status, err := gateway.Operator.Login(t.Context(), "not the password")
		if err != nil {
			t.Fatal(err)
		}
		switch status {
		case http.StatusTooManyRequests:
			limited++
		case http.StatusUnauthorized:
		default:
			t.Fatalf("status %d", status)
		}
	}
	if limited < 20 {
		t.Errorf("of 40 guesses only %d were limited", limited)
	}
}
