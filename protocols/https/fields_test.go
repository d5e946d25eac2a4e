package https_test

import (
	"net/http"
	"testing"
)

// A blank of Unicode's at the end of a value belongs to it: only blanks and tabs
// may be taken off (RFC 9110 section 5.5).
func TestBlanksBeyondASCIIStayInValues(t *testing.T) {
	const value = "\u00a0a\u2003"
	l := newLab(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("X-Blank"); got != value {
			t.Errorf("upstream: %q", got)
		}
		w.Header().Set("X-Blank", value)
	})
	id := l.Approve("a", "ci")
	versions(t, func(t *testing.T, h2 bool) {
		resp, _ := do(t, l.agent(id, h2), "GET", "https://"+host+"/", nil, set("X-Blank", value))
		if got := resp.Header.Get("X-Blank"); got != value {
			t.Errorf("agent: %q", got)
		}
	})
}
