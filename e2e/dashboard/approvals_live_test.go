package dashboard

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func deletion(reg *registry.Registration, path string) registry.HeldRequest {
	return registry.HeldRequest{
		Registration: reg.ID, Endpoint: "https.github", Kind: registry.ApproveAction, Rule: "no-repo-deletion", Summary: "DELETE api.github.com" + path,
		Detail: registry.ActionDetail{RuleReason: "deleting needs a human", HTTP: &registry.HTTPDetail{Method: "DELETE", Host: "api.github.com", Path: path}},
	}
}

// typed is what stands in the reason of an approval's card.
func (p *tab) typed(id string) string {
	p.t.Helper()
	b, err := p.evaluate(fmt.Sprintf("document.getElementById('reason-%s').value", id))
	must(p.t, err)
	return strings.Trim(string(b), `"`)
}

// use is click by keyboard: what is below the fold is found by it too.
func (p *tab) use(role, name string) {
	p.t.Helper()
	p.focus(role, name)
	must(p.t, p.press(enter))
}

// hearsOfApprovals waits until the page hears of approvals: what comes between its own
// coming and that of its stream it learns of with the next event only.
func (p *tab) hearsOfApprovals(s *stage, reg *registry.Registration) {
	p.t.Helper()
	p.eventually(func() error {
		h := s.hold(deletion(reg, "/heard"))
		defer func() { h.leave(); <-h.outcome }()
		for range 50 {
			if p.has("article", "DELETE api.github.com/heard") {
				return nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		return errors.New("it does not hear of approvals")
	})
}

// While an operator types in one card, others come, are decided and go away: what
// is typed stays, no card moves, and of two operators the second is told.
func TestApprovals_LiveWhileAReasonIsTyped(t *testing.T) {
	for _, set := range []setting{{width: 360}, {width: 1440, dark: true}} {
		t.Run(set.String(), func(t *testing.T) {
			s := newStage(t, dayPolicy)
			reg := s.approved("build-01", "198.51.100.7", "ci")
			p := s.open(t, set)
			p.visit("/approvals")
			p.says("Nothing. What needs an operator")
			p.hearsOfApprovals(s, reg)
			first := s.hold(deletion(reg, "/first"))
			p.sees("article", "DELETE api.github.com/first")
			p.misses("paragraph", "Nothing.")
			firstID := string(s.pending())
			p.in("article", "DELETE api.github.com/first").fill("Reason, for the agent \\(optional\\)", "being written")
			second := s.hold(deletion(reg, "/second"))
			p.sees("article", "DELETE api.github.com/second")
			if got := p.typed(firstID); got != "being written" {
				t.Errorf("typed is %q", got)
			}
			if bad, err := p.misfits(); err != nil || len(bad) > 0 {
				t.Errorf("%v %v", bad, err)
			}

			// The second is decided in its place; the first keeps what is typed.
			p.use("button", "Allow DELETE api.github.com/second")
			p.says("Allowed. Whoever waited goes on.")
			<-second.outcome
			if got := p.typed(firstID); got != "being written" {
				t.Errorf("typed is %q after the other was decided", got)
			}
			p.waitAt("/approvals")

			// Somebody else answers the first: its card says so, and the reason stays.
			must(t, s.db.Decide(t.Context(), registry.ApprovalID(firstID), false, "not today", "dashboard 198.51.100.9"))
			<-first.outcome
			p.says("It does not wait any more.")
			if got := p.typed(firstID); got != "being written" {
				t.Errorf("typed is %q after somebody else answered", got)
			}
			p.in("article", "DELETE api.github.com/first").focus("link", "What has become of it") // others that are over stay in sight
			must(t, p.press(enter))
			p.says(`it was denied by dashboard 198\.51\.100\.9 at .*: not today`)

			// Of an old page the answer says what became of it, in the card.
			third := s.hold(deletion(reg, "/third"))
			thirdID := s.pending()
			p.visit("/approvals/" + string(thirdID))
			p.fill("Reason, for the agent \\(optional\\)", "mine")
			must(t, s.db.DecideFor(t.Context(), thirdID, "faster", "dashboard 198.51.100.9", registry.GrantTerms{For: 15 * time.Minute, Uses: 3}))
			<-third.outcome
			p.expect("status of 409")
			p.use("button", "Deny DELETE api.github.com/third")
			p.says(`It was allowed by dashboard 198\.51\.100\.9 at .*: faster`)
			p.says("Your answer changed nothing.")
			p.says("3 of 3")
			p.visit("/approvals")
			p.says("3 of 3")
			p.use("button", "Take back what no-repo-deletion holds of build-01")
			p.says("Taken back. What the rule holds next asks again.")
			if len(s.db.Grants()) != 0 {
				t.Error("it is in force")
			}
			p.hearsOfApprovals(s, reg)
			fourth := s.hold(deletion(reg, "/fourth"))
			p.sees("article", "DELETE api.github.com/fourth")
			p.inspect("approvals-card-" + strings.ReplaceAll(set.String(), " ", "-"))
			fourth.leave()
			<-fourth.outcome
			p.says("It does not wait any more.")
		})
	}
}
