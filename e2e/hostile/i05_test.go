package hostile

import (
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The attack: speak with the other registration's tunnel address. Root on the
// agent host can give its interface any address; WireGuard's cryptokey routing
// drops what does not belong to the key.
func TestI05_AnotherRegistrationsTunnelAddressDoesNotWork(t *testing.T) {
	out, err := ops.Run(t.Context(), "sh", "-c", `ip -4 -o address show dev clawpatrol0 | sed -E 's/.* inet ([0-9.]+).*/\1/'`)
	if err != nil || out == "" {
		t.Fatalf("reading the tunnel address of ops: %q, %v", out, err)
	}
	victim := out[:len(out)-1]
	if err := ci.Script(t.Context(), "ip address add "+victim+"/32 dev clawpatrol0"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ci.Script(t.Context(), "ip address del "+victim+"/32 dev clawpatrol0"); err != nil {
			t.Error(err)
		}
	}()
	line := "curl -4sS --max-time 4 --interface " + lab.Quote(victim) + " -k https://ops.example.com/stolen"
	if out, err := ci.Shell(t.Context(), line); err == nil {
		t.Errorf("answered: %s", out)
	}
	for _, s := range upstream.Seen() {
		if s.URI == "/stolen" { // what others left behind asks too
			t.Errorf("upstream saw %s %s, X-Api-Key %q", s.Host, s.URI, s.Header.Get("X-Api-Key"))
		}
	}
	if _, status := curl(t, ci, "https://api.example.com/"); status != "200" {
		t.Errorf("its own address got status %s afterwards", status)
	}
}

// The attack: claim to be somebody else in what is sent inside the flow.
func TestI05_ClaimsInsideTheFlowChangeNothing(t *testing.T) {
	upstream.Forget()
	_, status := curl(t, ci, "-H", "X-Clawpatrol-Registration: "+ops.Registration, "-H", "X-Forwarded-For: 198.51.101.2",
		"-H", "Tailscale-User-Login: alice@example.com", "-u", ops.Registration+":x", "https://ops.example.com/claims")
	if status != "200" {
		t.Fatalf("status %s", status)
	}
	for _, s := range upstream.Seen() {
		if s.Header.Get("X-Api-Key") != "" {
			t.Error("ci got the key of ops injected")
		}
	}
}
