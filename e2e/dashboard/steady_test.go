package dashboard

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
)

// An agent that asks and goes away again must not move another card's buttons
// under the operator's thumb: a tap on its way down would decide the wrong one.
func TestApprovals_ButtonsStayWhereTheyAreWhileAgentsComeAndGo(t *testing.T) {
	s := newStage(t, dayPolicy)
	reg := s.approved("ana-laptop", "198.51.100.7", "coding")
	held := func(what string) (waiter, registry.ApprovalID) {
		w := s.hold(registry.HeldRequest{Registration: reg.ID, Endpoint: "https.github", Kind: "action", Rule: "no-deletion", Summary: what})
		return w, s.pending()
	}
	first, firstID := held("the first")
	_, second := held("the second")
	third, thirdID := held("the third")
	p := s.open(t, setting{width: 1440})
	p.visit("/approvals")
	where := func() (top float64) {
		raw, err := p.evaluate(fmt.Sprintf(`document.getElementById("allow-%s").getBoundingClientRect().top`, second))
		must(t, err)
		must(t, json.Unmarshal(raw, &top))
		return top
	}
	is := func(what string) {
		t.Helper()
		p.eventually(func() error {
			if raw, err := p.evaluate("Boolean(" + what + ")"); err != nil || string(raw) != "true" {
				return errors.Join(err, fmt.Errorf("not yet: %s", what))
			}
			return nil
		})
	}
	is(fmt.Sprintf(`document.getElementById("allow-%s")`, second))
	before := where()
	first.leave()
	is(fmt.Sprintf(`document.querySelector("#a-%s[data-over]")`, firstID))
	if now := where(); now != before {
		t.Errorf("when the card above was over, the button went from %v to %v", before, now)
	}
	_, fourth := held("the fourth")
	is(fmt.Sprintf(`document.getElementById("a-%s")`, fourth))
	t.Log("the fourth is there")
	if now := where(); now != before {
		t.Errorf("with the change after that, the button went from %v to %v", before, now)
	}
	// What is over below what is in sight goes.
	third.leave()
	is(fmt.Sprintf(`document.querySelector("#a-%s[data-over]")`, thirdID))
	held("the fifth")
	is(fmt.Sprintf(`!document.getElementById("a-%s")`, thirdID))
}
