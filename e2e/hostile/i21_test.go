package hostile

import (
	"strings"
	"testing"
)

// A request that should have carried a credential never goes out without it.
func TestI21_MissingSecretIsAnErrorNotAnUninjectedRequest(t *testing.T) {
	upstream.Forget()
	for _, version := range []string{"--http1.1", "--http2"} {
		body, status := curl(t, ci, version, "-H", "Authorization: Bearer guess", "https://unset.example.com/")
		if status != "502" || !strings.Contains(body, "never_stored") {
			t.Errorf("%s: status %s, body %s; want 502 naming the credential", version, status, body)
		}
	}
	if n := len(upstream.Seen()); n != 0 {
		t.Errorf("the upstream saw %d requests", n)
	}
}
