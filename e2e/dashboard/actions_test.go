package dashboard

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
)

// The log: what is looked for is found and has a page of its own, what comes is
// seen, and all of it can be taken away as a file.
func TestActions_FilterTailPermalinkDownload(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	ana := s.approved("ana-laptop", "198.51.100.7", "coding")
	bot := s.approved("support-bot", "203.0.113.61", "coding")
	act := func(reg *registry.Registration, verdict, summary string) {
		t.Helper()
		a := registry.Action{Registration: reg.ID, Profile: "coding", Endpoint: "https.github", Credential: "bearer.github", Protocol: "https", Summary: summary, Verdict: verdict}
		if verdict == "deny" {
			a.Reason = "the rule says no"
		}
		s.act(a, registry.ActionResult{Status: "200"})
	}
	for i := range 150 {
		act(ana, "allow", fmt.Sprintf("GET /row/%03d", i))
	}
	act(bot, "deny", "POST /needle")
	must(t, s.db.Sync(t.Context()))

	p := s.open(t, setting{})
	p.visit("/actions")
	p.listens()
	before := p.loaded()
	act(ana, "allow", "=HYPERLINK(live)")
	p.says("HYPERLINK")
	if p.loaded() != before {
		t.Error("the page was loaded again")
	}
	p.click("link", "Pause")
	p.says("Nothing moves while you read")
	act(ana, "allow", "GET /unseen")
	must(t, s.db.Sync(t.Context()))
	p.click("link", "Go on")
	p.says("/unseen")

	p.choose("Registration", "support-bot")
	p.choose("Verdict", "deny|denied")
	p.fill("Text", "NEEDLE")
	p.click("button", "Show")
	p.waitAt("/actions\\?.*text=NEEDLE.*")
	p.says("POST /needle")
	if text, err := p.text(); err != nil || strings.Contains(text, "GET /row/") {
		t.Errorf("the filter lets others through (%v)", err)
	}
	p.in("table", ".*").click("link", ".* UTC")
	p.sees("heading", "Action \\d+ deny")
	p.says("the rule says no")
	p.click("link", "All of this registration")
	p.says("POST /needle")

	p.visit("/actions")
	p.click("link", "Older")
	p.says("GET /row/001")
	p.visit("/actions?text=no-such-thing")
	p.says("None that match")

	for path, want := range map[string]string{"/api/actions.csv": "text/csv", "/api/actions.jsonl": "application/"} {
		resp, body := s.get(path)
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), want) ||
			!strings.HasPrefix(resp.Header.Get("Content-Disposition"), "attachment") || strings.Count(string(body), "\n") < 153 {
			t.Errorf("%s: %s %v, %d lines", path, resp.Status, resp.Header, strings.Count(string(body), "\n"))
		}
		if strings.Contains(string(body), ",=HYPER") || !strings.Contains(string(body), "=HYPERLINK(live)") {
			t.Errorf("%s: a formula is one", path)
		}
	}
	p.visit("/actions?verdict=deny")
	for _, name := range []string{"CSV", "JSON Lines"} {
		p.sees("link", name)
	}
}

func TestPolicy_InForceAndADraft(t *testing.T) {
	p := w.operator(t, setting{})
	p.goTo("Policy")
	p.sees("heading", "Policy")
	p.says("endpoint")
	p.sees("link", ".*bearer\\.api.*")
	p.inspect("policy-in-force")
	p.look(setting{})
	p.click("link", "Check a draft")
	p.fill("The draft", "endpoint \"https\" \"api\" {\n  hots = [\"api.example.com\"]\n}\n")
	p.expect("status of 4")
	p.click("button", "Check")
	p.sees("heading", "The draft does not compile")
	p.says("line 2|hots")
	p.inspect("policy-draft-wrong")
	p.look(setting{})
	p.fill("The draft", w.lab.GatewayBlock(w.ln.Addr().String())+worldPolicy+"\nprofile \"more\" { credentials = [bearer.api] }\n")
	p.click("button", "Check")
	p.sees("heading", "The draft compiles")
	p.says("more")
	p.inspect("policy-draft")
	p.goTo("Policy")
	p.sees("heading", "Policy")
	p.misses("link", "more") // it changed nothing
}

func TestSystem_SaysWhatItIs(t *testing.T) {
	p := w.operator(t, setting{width: 360})
	p.goTo("System")
	p.sees("heading", "System")
	p.says(w.gateway.CAFingerprint)
	p.inspect("system-of-the-gateway")
	p.look(setting{width: 360})
	if text, err := w.gateway.Operator.Text(t.Context(), "/system/ca.pem"); err != nil || !strings.HasPrefix(text, "-----BEGIN CERTIFICATE") {
		t.Errorf("the CA: %q %v", text, err)
	}
	if text, err := w.gateway.Operator.Text(t.Context(), "/metrics"); err != nil || !strings.Contains(text, "# TYPE ") {
		t.Errorf("metrics: %q %v", text, err)
	}
}
