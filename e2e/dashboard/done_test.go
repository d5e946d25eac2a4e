package dashboard

import (
	"regexp"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// A person who has never seen it approves an agent, sets a credential, watches a
// request arrive, denies one, and finds it again in the log.
func TestDashboard_FromTheFirstLogInToADenialInTheLog(t *testing.T) {
	t.Parallel() // with those that have stages of their own; the world's others are over
	names := []string{"heron", "magpie", "osprey", "plover", "sandpiper", "turnstone", "wigeon", "yellowhammer"}
	for i, s := range variants {
		t.Run(s.String(), func(t *testing.T) {
			firstHour(t, s, w.lab.Agents[i], names[i])
		})
	}
}

func firstHour(t *testing.T, s setting, host *lab.Host, name string) {
	token := "REALtoken-of-" + name
	w.credentialMissing(t)
	p := chromium.open(t, w.base, s)

	// It asks who one is, and then where one wanted to go is.
	p.visit("/")
	p.waitAt("/login.*")
	p.logIn(w.gateway.Operator.Password)
	p.goTo("Registrations.*")
	p.sees("heading", "Registrations")
	p.listens()

	// An agent asks to be let in, while the page is open.
	agent, err := w.lab.StartJoin(t.Context(), host, w.gateway, "--name", name)
	must(t, err)
	defer w.leaves(t, agent)
	p.renew()
	card := p.in("article", name+".*")
	card.sees("heading", name)
	if text, err := p.text(); err != nil || !strings.Contains(text, agent.UserCode) {
		t.Errorf("the user code %s is not there (%v)", agent.UserCode, err)
	}
	card.click("button", "Approve.*")
	p.tells("status", "Approved")
	_, err = agent.Output.Wait(t.Context(), patience, `(?m)^ready`)
	must(t, err)

	// Its request is refused: the credential has no secret.
	if r := run(t, host, asks("/before")); !strings.Contains(r.stdout, "bearer.api") {
		t.Errorf("without a secret: %v", r)
	}
	p.goTo("Credentials.*")
	p.sees("heading", "Credentials")
	p.click("link", "Set bearer\\.api")
	p.fill("[Tt]oken|secret|New secret.*", token)
	p.click("button", "Set|Replace.*")
	p.tells("status", "Stored")

	// A request arrives while one looks at the log.
	p.goTo("Actions.*")
	p.sees("heading", "Actions")
	p.listens()
	before := p.loaded()
	if r := run(t, host, asks("/watched-by-"+name)); !strings.HasPrefix(r.stdout, "ok") {
		t.Fatalf("with the secret: %v", r)
	}
	if seen := w.api.Seen(); seen[len(seen)-1].Header.Get("Authorization") != "Bearer "+token {
		t.Errorf("the upstream saw %v", seen[len(seen)-1])
	}
	p.renew()
	p.says(regexp.QuoteMeta("/watched-by-" + name))
	if s.scripts == withScripts && p.loaded() != before {
		t.Error("the page was loaded again")
	}

	// One is held, and denied.
	p.goTo("Approvals.*")
	p.sees("heading", "Approvals")
	p.listens()
	ended := begin(t, host, logsIn)
	w.waitHeld(t)
	p.renew()
	held := p.in("article", ".*host key of "+regexp.QuoteMeta(buildHost)+".*")
	held.sees("link", name)
	held.fill("Reason.*", "not from "+name)
	held.click("button", "Deny .*")
	p.tells("status", "Denied")
	r := <-ended
	if r.code == 0 || !strings.Contains(r.stderr, "not from "+name) {
		t.Errorf("denied: %v", r)
	}

	// It is in the log, where one looks for it.
	p.goTo("Actions.*")
	p.sees("heading", "Actions")
	p.choose("Registration", name)
	p.choose("Verdict", "deny")
	p.click("button", "Show")
	p.waitAt("/actions\\?.*registration=" + agent.Registration + ".*")
	p.says("host key " + regexp.QuoteMeta(buildHost))
	p.says("not from " + name)
}

// leaves ends what an agent host has with the gateway.
func (w *world) leaves(t *testing.T, agent *lab.Joined) {
	must(t, agent.Stop())
	if err := w.gateway.Operator.Revoke(t.Context(), agent.Registration); err != nil && !strings.Contains(err.Error(), "409") {
		t.Error(err)
	}
	if r := run(t, agent.Host, w.lab.Bin+" leave"); r.code != 0 {
		t.Errorf("leaving: %v", r)
	}
}

// goTo follows the navigation.
func (p *tab) goTo(name string) {
	p.t.Helper()
	p.in("navigation", "Main").click("link", name)
}

// renew is what a person without scripts has to do to see what is new; with them,
// nothing.
func (p *tab) renew() {
	if p.scripts == withoutScripts {
		p.t.Helper()
		p.reload()
	}
}

// waitHeld waits until an approval is pending.
func (w *world) waitHeld(t *testing.T) {
	t.Helper()
	must(t, lab.Eventually(t.Context(), patience, func() error {
		var list struct{ Items []struct{ ID string } }
		err := w.gateway.Operator.Do(t.Context(), "GET", "/api/approvals?state=pending", nil, &list)
		if err == nil && len(list.Items) == 0 {
			err = errNone
		}
		return err
	}))
}
