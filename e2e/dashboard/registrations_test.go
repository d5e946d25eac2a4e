package dashboard

import (
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// An agent host is blocked, comes back, and is revoked for good, which wants its
// name.
func TestRegistrations_BlockReapproveRevoke(t *testing.T) {
	host := w.lab.Agents[len(variants)]
	agent, err := w.lab.StartJoin(t.Context(), host, w.gateway, "--name", "dunlin")
	must(t, err)
	defer w.leaves(t, agent)
	p := w.operator(t, setting{})
	p.expect("status of 4")
	p.goTo("Registrations.*")
	p.in("article", "dunlin").tick("checkbox", "readers.*")
	p.in("article", "dunlin").click("button", "Approve dunlin")
	p.tells("status", "Approved")
	_, err = agent.Output.Wait(t.Context(), patience, `(?m)^ready`)
	must(t, err)
	p.click("link", "dunlin")
	p.sees("heading", "dunlin approved.*")
	p.inspect("registration-approved")
	p.look(setting{})

	p.fill("Reason for blocking", "it does what it should not")
	p.click("button", "Block")
	p.tells("status", "[Bb]locked")
	p.sees("heading", "dunlin blocked.*")
	p.says("it does what it should not")
	if r := run(t, host, asks("/blocked")); r.code == 0 {
		t.Errorf("while blocked: %v", r)
	}
	p.goTo("Overview")
	p.click("link", ".*dunlin.*")
	p.waitAt("/registrations.*")
	p.visit("/registrations/" + agent.Registration)
	if p.has("radio", "Keep the pin.*") {
		p.tick("radio", "Keep the pin.*")
	}
	p.click("button", "Approve again")
	p.tells("status", "Approved")
	must(t, lab.Eventually(t.Context(), patience, func() error {
		r := run(t, host, asks("/again"))
		if r.code != 0 {
			return &failed{r}
		}
		return nil
	}))

	p.visit("/registrations/" + agent.Registration)
	p.click("link", "Revoke…")
	p.sees("heading", "Revoke dunlin.*")
	p.inspect("registration-revoke")
	p.look(setting{})
	p.fill("To confirm, type its name.*", "dunlim")
	p.click("button", "Revoke for good")
	p.tells("alert", "name")
	if reg, err := w.gateway.Operator.Registration(t.Context(), agent.Registration); err != nil || reg.State != "approved" {
		t.Errorf("a wrong name: %+v %v", reg, err)
	}
	p.fill("To confirm, type its name.*", "dunlin")
	p.click("button", "Revoke for good")
	p.tells("status", "[Rr]evoked")
	if reg, err := w.gateway.Operator.Registration(t.Context(), agent.Registration); err != nil || reg.State != "revoked" {
		t.Errorf("revoked: %+v %v", reg, err)
	}
}

type failed struct{ ran }

func (f *failed) Error() string { return f.String() }

// A name like another's has to be approved with the code that the agent host
// shows, in the page as well (I10).
func TestI10_LookAlikesNeedTheCodeInThePage(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	s.enrol("build-1", "198.51.100.7")
	second := s.enrol("bui1d-1", "198.51.100.8")
	p := s.open(t, setting{width: 360})
	p.expect("status of 4")
	p.visit("/registrations")
	card := p.in("article", "bui1d-1")
	card.click("button", "Approve bui1d-1")
	card.fill("User code.*", "AAAA-AAAA")
	card.click("button", "Approve bui1d-1")
	p.tells("alert", "code")
	if reg, _ := s.db.Snapshot().ByID(second.ID); reg.State != "pending" {
		t.Errorf("it is %s", reg.State)
	}
	p.fill("User code.*", second.UserCode)
	p.click("button", "Approve.*")
	p.tells("status", "Approved")
}

// An invite is shown once, and copied whole.
func TestInvites_ShownOnceAndCopied(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	p := s.open(t, setting{})
	p.visit("/registrations")
	p.click("link", "Invites")
	p.sees("heading", "Invites")
	p.tick("checkbox", "coding.*")
	p.fill("Good for", "15m")
	p.fill("Agent hosts that can join with it", "2")
	p.click("button", "Make an invite")
	p.sees("heading", "The invite, shown this once")
	p.inspect("invite-made")
	p.look(setting{})
	p.click("button", "Copy the command")
	p.sees("button", "Copied")
	p.focus("textbox", "From this address or range only")
	must(t, do(p, input.DispatchKeyEvent, input.DispatchKeyEventParams{
		Type: input.DispatchKeyEventTypeRawKeyDown, Key: "v", Code: "KeyV", WindowsVirtualKeyCode: 86, Modifiers: 2, Commands: []string{"paste"},
	}))
	var command string
	p.eventually(func() error {
		n, err := p.one("textbox", "From this address or range only")
		if command = n.value; err == nil && command == "" {
			err = errNone
		}
		return err
	})
	token := regexp.MustCompile(`cpi1_[\w-]{40,}`).FindString(command)
	if token == "" || !strings.Contains(command, "clawpatrol join https://gw.example.com:8443 --ca-fingerprint sha256:") {
		t.Errorf("copied: %q", command)
	}
	p.visit("/invites")
	p.sees("heading", "Invites")
	if text, err := p.text(); err != nil || strings.Contains(text, token) {
		t.Errorf("it is shown again (%v)", err)
	}
	p.click("button", "Void invite .*")
	p.tells("status", "[Vv]oid")
	p.misses("button", "Void invite .*")
}
