package dashboard

import (
	"testing"
	"time"
)

// gone is what Chromium and htmx say in the console of a gateway that does not
// answer.
const gone = `net::ERR_|console\.error: "(\[object Event\]|htmx:(afterRequest|sendError))`

// The session ends while a form is being filled in: nothing that was typed is
// lost, the page says what happened, and goes on.
func TestFault_SessionEndsUnderAForm(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	reg := s.approved("build-runner-2", "198.51.100.23", "coding")
	p := chromium.open(t, s.base, setting{})
	p.expect("status of 401|" + gone)
	p.visit("/login")
	p.logIn(stagePassword)
	p.visit("/registrations/" + string(reg.ID))
	p.sees("heading", "build-runner-2.*")
	p.listens()
	p.fill("Reason for blocking", "a long reason, thought about")
	other := p.another()
	other.visit("/account")
	other.click("button", "Log out everywhere")
	other.sees("heading", "Log in")

	p.tells("alert", "Your session has ended")
	p.click("button", "Block")
	p.keeps("Reason for blocking", "a long reason, thought about")
	p.tells("alert", "Your session has ended")
	if got, _ := s.db.Snapshot().ByID(reg.ID); got.State != "approved" {
		t.Errorf("it is %s", got.State)
	}
	p.sees("link", "Log in")
	other.visit("/login")
	other.logIn(stagePassword)
	p.keeps("Reason for blocking", "a long reason, thought about")
	p.click("button", "Block")
	p.tells("status", "[Bb]locked")
	p.says("a long reason, thought about")
	p.misses("alert", ".*")
}

// The same without scripts: the form comes back with the answer.
func TestFault_SessionEndsUnderAFormWithoutScripts(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	reg := s.approved("build-runner-2", "198.51.100.23", "coding")
	p := chromium.open(t, s.base, setting{width: 360, scripts: withoutScripts})
	p.expect("status of 401")
	p.visit("/login")
	p.logIn(stagePassword)
	p.visit("/registrations/" + string(reg.ID))
	p.fill("Reason for blocking", "a long reason, thought about")
	s.api("DELETE", "/api/sessions?which=others", nil, nil)
	p.click("button", "Block")
	p.sees("heading", "Not logged in")
	p.says("a long reason, thought about")
	p.enter(s.cookie)
	p.click("button", "Send again")
	p.sees("heading", "build-runner-2 blocked.*")
	p.says("a long reason, thought about")
	if got, _ := s.db.Snapshot().ByID(reg.ID); got.State != "blocked" {
		t.Errorf("it is %s", got.State)
	}
}

// The gateway restarts under an open page: it says so, keeps what was typed, and
// goes on by itself, with what happened meanwhile.
func TestFault_GatewayRestartsUnderAnOpenPage(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	reg := s.enrol("build-runner-2", "198.51.100.23")
	must(t, s.db.Approve(t.Context(), reg.ID, []string{"coding"}, reg.UserCode))
	p := s.open(t, setting{})
	p.expect(gone)
	list := s.open(t, setting{})
	list.expect(gone)
	list.visit("/registrations")
	list.listens()
	p.visit("/registrations/" + string(reg.ID))
	p.listens()
	p.fill("Reason for blocking", "a long reason, thought about")

	addr := s.ln.Addr().String()
	s.stop()
	p.click("button", "Block")
	p.tells("alert", "The gateway does not answer")
	p.keeps("Reason for blocking", "a long reason, thought about")
	s.enrol("arrived-meanwhile", "198.51.100.24")
	s.listen(addr)
	s.serve()
	p.misses("alert", ".*")
	p.keeps("Reason for blocking", "a long reason, thought about")
	list.sees("heading", "arrived-meanwhile")
	p.click("button", "Block")
	p.tells("status", "[Bb]locked")
	p.says("a long reason, thought about")
}

// The same with the gateway as it is built: its sessions outlive it.
func TestFault_BuiltGatewayRestartsUnderAnOpenPage(t *testing.T) {
	p := w.operator(t, setting{})
	p.expect(gone)
	p.visit("/secrets")
	p.fill("Name", "kept")
	must(t, w.gateway.Stop())
	p.fill("Value", "typed-before-the-restart")
	p.click("button", "Set")
	p.tells("alert", "The gateway does not answer")
	must(t, w.gateway.Start(t.Context()))
	p.keeps("Name", "kept")
	p.again(func() { p.click("button", "Set") }, "link", "Clear kept")
	p.click("link", "Clear kept")
	p.click("button", "Clear")
	p.misses("link", "Clear kept")
}

// again does what the page asks to try again, until it sees what comes of it: a
// browser sends no form twice by itself, and may have had an old connection.
func (p *tab) again(try func(), role, name string) {
	p.t.Helper()
	for range 5 {
		try()
		for range 40 {
			if p.has(role, name) {
				return
			}
			time.Sleep(25 * time.Millisecond)
		}
	}
	p.sees(role, name)
}

// keeps fails the test unless a field still holds what was typed.
func (p *tab) keeps(name, text string) {
	p.t.Helper()
	if n := p.sees("textbox", name); n.value != text {
		p.t.Errorf("%s holds %q, not %q", name, n.value, text)
	}
}
