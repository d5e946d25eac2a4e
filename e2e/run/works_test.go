package run

import (
	"strings"
	"testing"
)

// The first promise: a real curl, as an ordinary user, with a credential that it
// never held.
func TestRun_CurlGetsAnAnswerWithACredentialItNeverHeld(t *testing.T) {
	upstream.Forget()
	r := inside(t, `curl -sS -H "Authorization: Bearer $API_TOKEN" https://api.example.com/; echo "$API_TOKEN"`).ok(t)
	if !strings.HasPrefix(r.out, "ok HTTP/2.0") || !strings.Contains(r.out, "clawpatrol-api_token") {
		t.Fatalf("answer %q", r.out)
	}
	seen := upstream.Seen()
	if len(seen) != 1 || seen[0].Header.Get("Authorization") != "Bearer "+apiToken {
		t.Fatalf("upstream saw %+v", seen)
	}
}
