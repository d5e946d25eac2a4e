package hostile

import (
	"strings"
	"testing"
)

// A policy file that does not compile changes nothing, and the log says where
// it is wrong.
func TestI18_BrokenPolicyChangesNothing(t *testing.T) {
	broken := strings.Replace(policyText, "endpoint = https.api\n", "endpoint = https.apy\n", 1)
	reloaded, err := gateway.ReplacePolicy(t.Context(), broken)
	if err != nil || reloaded {
		t.Fatalf("a broken policy: reloaded %v, %v", reloaded, err)
	}
	log := gateway.Log.String()
	if !strings.Contains(log, "gateway.hcl:") || !strings.Contains(log, "https.api") {
		t.Errorf("the log names neither file and line nor the fix:\n%s", tail(log, 1500))
	}
	upstream.Forget()
	if body, status := curl(t, ci, "https://api.example.com/still"); status != "200" {
		t.Errorf("under the old policy: status %s %s", status, body)
	}
	for _, s := range upstream.Seen() {
		if s.Header.Get("Authorization") != "Bearer "+apiToken {
			t.Error("the token was not injected")
		}
	}
	if reloaded, err := gateway.ReplacePolicy(t.Context(), policyText); err != nil || !reloaded {
		t.Errorf("restoring: %v, %v", reloaded, err)
	}
}
