package dashboard

import (
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/clawpatrol/clawpatrol/policy"
)

// maxDrafts bounds the drafts that are being checked: one is, the others wait
// for it. A draft of 1 MiB takes a processor a few seconds at worst.
const maxDrafts = 2

var tooManyDrafts = &failure{http.StatusServiceUnavailable, "busy", "other drafts are being checked", "try again in a moment"}

// drafts takes turns at checking drafts. Its zero value is ready.
type drafts struct {
	inside atomic.Int32 // that are checked or wait
	turn   sync.Mutex
}

// enter waits for the caller's turn, which lasts until leave is called. The
// error is tooManyDrafts.
func (d *drafts) enter() (leave func(), err error) {
	if d.inside.Add(1) > maxDrafts {
		d.inside.Add(-1)
		return nil, tooManyDrafts
	}
	d.turn.Lock()
	return func() {
		d.turn.Unlock()
		d.inside.Add(-1)
	}, nil
}

// checkDraft compiles source as if it stood in the file of the policy in force.
// Nothing is stored, no file is read and no name looked up. then, which may be nil,
// is called while the turn lasts: with what else costs as much.
func (d *dashboard) checkDraft(source string, then func(validationView)) (validationView, error) {
	leave, err := d.drafts.enter()
	if err != nil {
		return validationView{}, err
	}
	defer leave()
	now := d.Policy()
	next, diags := policy.CompileDraft(now, []byte(source))
	v := validationView{Valid: next != nil, Diagnostics: diagnosticViews(diags)}
	if next != nil {
		v.Changes = d.changes(now, next)
	}
	if then != nil {
		then(v)
	}
	return v, nil
}
