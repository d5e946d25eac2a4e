package dashboard

import (
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// On a phone: what is held arrives while one looks, and each ends as it ends.
func TestApprovals_AllowDenyExpireWithdraw(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	etl := s.approved("nightly-reports", "203.0.113.60", "reports")
	p := s.open(t, setting{width: 360})
	p.visit("/approvals")
	p.sees("heading", "Approvals")
	p.listens()
	card := p.in("article", ".*UPDATE orders.*")

	w := s.hold(s.update(etl))
	card.sees("link", "nightly-reports")
	card.sees("StaticText", "writes-to-orders")
	card.sees("StaticText", ".*looked at by a person.*")
	// Another arrives while a reason is being typed, and takes nothing away.
	card.fill("Reason.*", "for the refund of order 17")
	key := s.hold(s.hostKey(etl, "build.example.com"))
	p.sees("article", ".*host key of build.example.com.*")
	if n := card.sees("textbox", "Reason.*"); n.value != "for the refund of order 17" {
		t.Errorf("the reason is now %q", n.value)
	}
	card.click("button", "Allow .*")
	if got := w.ended(t); got != "allowed: for the refund of order 17" && got != "allowed" {
		t.Errorf("allowed: %s", got)
	}
	p.tells("status", "Allowed")

	card = p.in("article", ".*host key of build.example.com.*")
	card.fill("Reason.*", "nobody told us")
	card.click("button", "Deny .*")
	if got := key.ended(t); got != "denied: nobody told us" {
		t.Errorf("denied: %s", got)
	}
	w = s.hold(s.update(etl))
	w.leave()
	w.ended(t)
	soon := s.update(etl)
	soon.Timeout = 100 * time.Millisecond
	w = s.hold(soon)
	w.ended(t)
	p.visit("/approvals")
	for _, outcome := range []string{"allowed", "denied", "expired", "withdrawn"} {
		p.sees("StaticText", outcome)
	}
	p.says("nobody told us")
	p.inspect("approvals-decided")
}

// Two operators decide at once: one wins, and the other is told who did what.
func TestApprovals_TwoOperatorsAtOnce(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	etl := s.approved("nightly-reports", "203.0.113.60", "reports")
	w := s.hold(s.update(etl))
	quick := s.open(t, setting{})
	// The other has no scripts, so that his page is an old one.
	slow := s.open(t, setting{scripts: withoutScripts})
	slow.expect("status of 409")
	for _, p := range []*tab{quick, slow} {
		p.visit("/approvals")
		p.sees("article", ".*UPDATE orders.*")
	}
	quick.in("article", ".*UPDATE orders.*").fill("Reason.*", "not tonight")
	quick.in("article", ".*UPDATE orders.*").click("button", "Deny .*")
	if got := w.ended(t); got != "denied: not tonight" {
		t.Errorf("denied: %s", got)
	}
	slow.in("article", ".*UPDATE orders.*").click("button", "Allow .*")
	slow.tells("alert", "(?i)denied|decided|already")
	slow.says("not tonight")
	list, err := s.db.Approvals(t.Context(), registry.ApprovalDenied)
	if err != nil || len(list) != 1 {
		t.Errorf("%v %v", list, err)
	}
}

// What a rule holds is allowed so many times, without asking, until it is taken
// back.
func TestApprovals_Grants(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	etl := s.approved("nightly-reports", "203.0.113.60", "reports")
	p := s.open(t, setting{})
	w := s.hold(s.update(etl))
	p.visit("/approvals")
	card := p.in("article", ".*UPDATE orders.*")
	card.click("DisclosureTriangle", "Allow more than this once")
	card.choose("For", "1 hour")
	card.focus("spinbutton", "At most so many times.*")
	must(t, p.write("3"))
	card.click("button", "Allow, and what follows.*")
	if got := w.ended(t); got != "allowed" {
		t.Errorf("allowed: %s", got)
	}
	d, err := s.db.Hold(t.Context(), s.update(etl)) // nobody is asked
	if err != nil || !d.Allowed() {
		t.Errorf("granted: %+v %v", d, err)
	}
	p.visit("/approvals")
	p.sees("cell", ".*2.*")
	p.inspect("approvals-granted")
	p.look(setting{})
	p.click("button", "Take back.*writes-to-orders.*")
	p.misses("button", "Take back.*")
	p.listens()
	w = s.hold(s.update(etl))
	p.in("article", ".*UPDATE orders.*").click("button", "Deny .*")
	if got := w.ended(t); got != "denied" {
		t.Errorf("after it was taken back: %s", got)
	}
}
