package dashboard_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/registry"
)

// aSystem is a gateway that says something about itself.
func aSystem(t *testing.T) *gateway {
	t.Helper()
	g := newOperated(t)
	g.cfg.System = func() dashboard.System {
		return dashboard.System{
			Version: "1.2.3", Go: "go1.26", Started: g.clock.Now().Add(-3 * time.Hour),
			Listeners:     []dashboard.Listener{{Name: "gateway.listen", Address: "198.51.100.1:8443", TLS: true}},
			WireGuard:     dashboard.WireGuard{PublicKey: "a public key", Port: 51820},
			CAFingerprint: "sha256:0102", CAExpires: g.clock.Now().Add(72 * time.Hour), CAPEM: []byte("-----BEGIN CERTIFICATE-----\n"),
			StateDir: "/var/lib/clawpatrol", Database: 5 << 20, DiskFree: 1 << 30, DiskTotal: 100 << 30,
		}
	}
	h, err := dashboard.New(g.cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.handler = h
	return g
}

func TestSystem_ThePageSaysHowTheGatewayIs(t *testing.T) {
	g := aSystem(t)
	g.enrol("a-host", "198.51.100.7")
	page := g.page("/system")
	for _, want := range []string{"1.2.3", "3 hours ago", "198.51.100.1:8443", "51820", "sha256:0102", "for 3 days", "5.0 MiB",
		"1.0 GiB free of 100.0 GiB", "The disk is almost full", "1 pending", "/system/ca.pem"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	answer := g.send(request{method: "GET", path: "/system/ca.pem", secret: password})
	if body := status(t, answer, http.StatusOK); !strings.HasPrefix(body, "-----BEGIN CERTIFICATE-----") {
		t.Errorf("the CA's certificate: %q", body)
	}
	if got := answer.Header.Get("Content-Disposition"); !strings.Contains(got, "attachment") {
		t.Errorf("Content-Disposition %q", got)
	}
}

func TestMetrics_AreThoseOfTheMoment(t *testing.T) {
	g := aSystem(t)
	g.enrol("a-host", "198.51.100.7")
	if _, err := g.db.Append(t.Context(), registry.Action{Verdict: "allow", Summary: "GET /"}); err != nil {
		t.Fatal(err)
	}
	if err := g.db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	body := status(t, g.send(request{method: "GET", path: "/metrics", secret: password}), http.StatusOK)
	for _, want := range []string{`clawpatrol_build_info{version="1.2.3"} 1`, `clawpatrol_registrations{state="pending"} 1`, "clawpatrol_action_log_rows_total 1",
		"clawpatrol_action_log_failing 0", "clawpatrol_approvals_waiting 0", "clawpatrol_database_bytes 5.24288e+06", "go_goroutines", "process_open_fds"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in:\n%s", want, body)
		}
	}
	if strings.Contains(body, "a-host") {
		t.Error("a metric has a name that an agent chose")
	}
}

// Metrics need the credential like all else.
func TestI13_MetricsAreGated(t *testing.T) {
	refused(t, newOperated(t).send(request{method: "GET", path: "/metrics"}), http.StatusUnauthorized, "unauthorized")
}
