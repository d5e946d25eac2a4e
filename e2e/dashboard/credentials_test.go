package dashboard

import (
	"regexp"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
	"github.com/clawpatrol/clawpatrol/registry"
)

// A key is looked at when it is set and never shown again; who has the same value
// sees the same fingerprint; what is in use is not cleared by mistake.
func TestCredentials_SetRotateClear(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	_, key, err := lab.SSHKey()
	must(t, err)
	reg := s.approved("build-runner-2", "198.51.100.23", "coding", "deploy")
	p := s.open(t, setting{})
	p.expect("status of 4")
	p.visit("/credentials")
	p.click("link", "Set ssh_key\\.deploy")
	p.fill("private_key", "-----BEGIN OPENSSH PRIVATE KEY-----\nnot a key at all\n-----END OPENSSH PRIVATE KEY-----\n")
	p.click("button", "Set")
	p.says("(?i)key")
	p.inspect("credential-refused")
	p.look(setting{})
	if n := p.sees("textbox", ".*private_key.*"); n.value != "" || n.properties["invalid"] != "true" {
		t.Errorf("refused: %+v", n)
	}
	p.fill(".*private_key.*", key)
	p.click("button", "Set")
	p.tells("status", "Stored")

	token := func(name, verb, value string) {
		t.Helper()
		p.visit("/credentials")
		p.click("link", verb+" "+regexp.QuoteMeta(name))
		p.fill("(New )?secret", value)
		p.click("button", verb)
		p.tells("status", "Stored")
	}
	token("bearer.github", "Set", "ghp_one")
	token("header.tickets", "Set", "ghp_one")
	if first, second := s.fingerprint("bearer.github"), s.fingerprint("header.tickets"); first != second || !regexp.MustCompile("^[0-9a-f]{8}$").MatchString(first) {
		t.Errorf("the same value has the fingerprints %q and %q", first, second)
	}
	first := s.fingerprint("bearer.github")
	p.says(first)
	token("bearer.github", "Replace", "ghp_two")
	if next := s.fingerprint("bearer.github"); next == first {
		t.Errorf("another value has the fingerprint %q too", next)
	}
	text, err := p.text()
	must(t, err)
	for _, secret := range []string{"ghp_one", "ghp_two", "not a key at all"} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is shown", secret)
		}
	}

	// It was used a moment ago.
	s.act(registry.Action{Registration: reg.ID, Profile: "coding", Endpoint: "https.github", Credential: "bearer.github", Protocol: "https", Summary: "GET /user", Verdict: "allow"},
		registry.ActionResult{Status: "200"})
	must(t, s.db.Sync(t.Context()))
	p.visit("/credentials")
	p.click("link", "Clear bearer\\.github")
	p.sees("heading", "Clear bearer\\.github.*")
	p.sees("link", "build-runner-2")
	p.inspect("credential-clear-in-use")
	p.look(setting{})
	p.fill("Type bearer.github to clear it", "bearer.git")
	p.click("button", "Clear")
	p.says("not its name")
	p.fill("Type bearer.github to clear it", "bearer.github")
	p.click("button", "Clear")
	p.tells("status", "[Cc]leared|[Rr]emoved")
	p.sees("link", "Set bearer\\.github")
	// What nobody has used wants no name.
	p.click("link", "Clear header\\.tickets")
	p.click("button", "Clear")
	p.tells("status", "[Cc]leared|[Rr]emoved")
	p.visit("/credentials?by=profile")
	p.sees("heading", "coding")
}

// fingerprint is what the API says of a credential's first slot.
func (s *stage) fingerprint(ref string) string {
	s.t.Helper()
	var list struct {
		Items []struct {
			Type, Name string
			Slots      []struct{ Fingerprint string }
		}
	}
	s.api("GET", "/api/credentials", nil, &list)
	for _, c := range list.Items {
		if c.Type+"."+c.Name == ref && len(c.Slots) > 0 {
			return c.Slots[0].Fingerprint
		}
	}
	s.t.Fatalf("no credential %s in %+v", ref, list)
	return ""
}

func TestSecrets_SetAndClear(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	p := s.open(t, setting{width: 360})
	p.visit("/secrets")
	p.inspect("secrets-none")
	p.look(setting{width: 360})
	p.fill("Name", "hook_key")
	p.fill("Value", "the-hook's-key")
	p.click("button", "Set")
	p.sees("link", "Clear hook_key")
	if text, err := p.text(); err != nil || strings.Contains(text, "the-hook's-key") {
		t.Errorf("it is shown (%v)", err)
	}
	p.click("link", "Clear hook_key")
	p.click("button", "Clear")
	p.misses("link", "Clear hook_key")
}
