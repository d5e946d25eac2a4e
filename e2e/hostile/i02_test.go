package hostile

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// The attack: read a secret off the gateway's command line, its pages, its API
// or its log, after it was used. (The files are searched at the end of TestMain.)
func TestI02_NoSecretInArgvLogOrAPI(t *testing.T) {
	if body, status := curl(t, ci, "https://api.example.com/used"); status != "200" {
		t.Fatalf("the control request got %s %q", status, body)
	}
	argv, err := os.ReadFile("/proc/" + strconv.Itoa(gateway.PID()) + "/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{"argv": string(argv), "log": gateway.Log.String()}
	for _, path := range []string{
		"/api/registrations", "/api/registrations/" + ci.Registration, "/api/endpoints", "/api/profiles",
		"/api/credentials", "/api/actions", "/registrations", "/credentials", "/actions",
	} {
		body, err := gateway.Operator.Text(t.Context(), path)
		if err != nil {
			t.Error(err)
		}
		found[path] = body
	}
	for where, content := range found {
		for _, s := range []string{apiToken, opsKey} {
			if strings.Contains(content, s) {
				t.Errorf("a secret is shown in %s", where)
			}
		}
	}
	if !strings.Contains(found["/api/credentials"], "api_token") {
		t.Errorf("GET /api/credentials does not list api_token: %s", found["/api/credentials"])
	}
}
