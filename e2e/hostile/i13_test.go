package hostile

import (
	"net/http"
	"strings"
	"testing"
)

// The attack: call the management API without a credential, from where it
// listens and through the tunnel.
func TestI13_ManagementIsGated(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, r := range []struct{ method, path string }{
		{"GET", "/"}, {"GET", "/registrations"}, {"GET", "/credentials"}, {"GET", "/actions"}, {"GET", "/does-not-exist"},
		{"GET", "/api/registrations"}, {"GET", "/api/credentials"}, {"GET", "/api/actions"}, {"GET", "/api/policy"},
		{"POST", "/api/registrations/" + ci.Registration + "/approve"}, {"POST", "/api/registrations/" + ci.Registration + "/block"},
		{"DELETE", "/api/registrations/" + ci.Registration}, {"PUT", "/api/credentials/bearer/api_token"}, {"PUT", "/api/secrets/X"},
		{"GET", "/api/does-not-exist"}, {"GET", "/metrics"}, {"GET", "/debug/pprof/"}, {"GET", "/debug/vars"},
	} {
		for _, password := range []string{"", "wrong password entirely"} {
			status, location, err := gateway.Operator.Anonymous(ctx, r.method, r.path, password)
			if err != nil {
				t.Fatal(err)
			}
			refused := status == http.StatusUnauthorized || status == http.StatusTooManyRequests ||
				status == http.StatusSeeOther && strings.HasPrefix(location, "/login")
			if !refused {
				t.Errorf("%s %s with password %q: %d to %q", r.method, r.path, password, status, location)
			}
		}
	}
	r, err := gateway.Operator.Registration(ctx, ci.Registration)
	if err != nil || r.State != "approved" {
		t.Errorf("after all that ci is %+v, %v", r, err)
	}
}

func TestI13_NoManagementThroughTheTunnel(t *testing.T) {
	for _, target := range []string{
		"http://10.55.0.1:8080", "http://203.0.113.2:8080", "http://127.0.0.1:8080", "https://203.0.113.2:8443", "https://10.55.0.1:8443",
		"http://192.0.2.77:8080", "http://[2001:db8:200::2]:8080", "https://10.55.0.1", "http://10.55.0.1",
	} {
		body, err := ci.Run(t.Context(), "curl", "-sSk", "--max-time", "4", target+"/api/registrations", "-H", "X-Clawpatrol-Secret: "+gateway.Operator.Password)
		if err == nil {
			t.Errorf("%s answered: %s", target, body)
		}
	}
}
