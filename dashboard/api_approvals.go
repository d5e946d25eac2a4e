package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"

	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	defaultApprovals = 256 // as many as can be pending
	maxApprovals     = 499 // of one answer
)

// approvalStates are what ?state= may ask for; without it, all.
var approvalStates = []registry.ApprovalState{
	"", registry.ApprovalPending, registry.ApprovalAllowed, registry.ApprovalDenied, registry.ApprovalExpired, registry.ApprovalWithdrawn,
}

func (d *dashboard) listApprovals(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	state := registry.ApprovalState(q.Get("state"))
	if !slices.Contains(approvalStates, state) {
		d.fail(w, r, badRequest("there is no such state of approvals"))
		return
	}
	f := registry.ApprovalFilter{Limit: defaultApprovals}
	if state != "" {
		f.States = []registry.ApprovalState{state}
	}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxApprovals {
			d.fail(w, r, badRequest(fmt.Sprintf("limit is not a number from 1 to %d", maxApprovals)))
			return
		}
		f.Limit = n
	}
	held, next, err := d.approvalsPageOf(r.Context(), f, q.Get("cursor"))
	if err != nil {
		d.fail(w, r, err)
		return
	}
	items := []approvalView{}
	for _, h := range held {
		items = append(items, d.approvalView(h))
	}
	writeList(w, items, next)
}

// approvalsPageOf reads one page and the next one's cursor, empty at the end.
func (d *dashboard) approvalsPageOf(ctx context.Context, f registry.ApprovalFilter, cursor string) ([]registry.Held, string, error) {
	if cursor != "" {
		n, err := strconv.ParseInt(cursor, 10, 64)
		if err != nil || n < 1 {
			return nil, "", badRequest("the cursor is not one that an earlier page gave")
		}
		f.Before = n
	}
	limit := f.Limit
	f.Limit++
	held, err := d.Registry.FindApprovals(ctx, f)
	if err != nil {
		return nil, "", fmt.Errorf("reading approvals: %w", err)
	}
	if len(held) <= limit {
		return held, "", nil
	}
	return held[:limit], strconv.FormatInt(held[limit-1].Seq, 10), nil
}

func (d *dashboard) getApproval(w http.ResponseWriter, r *http.Request) {
	held, grant, err := d.approval(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	v := d.approvalView(held)
	if grant != nil {
		g := d.grantView(*grant)
		v.Grant = &g
	}
	writeJSON(w, http.StatusOK, v)
}

// approval finds what {id} in r's path names, and the grant that it was answered
// with; nil: none.
func (d *dashboard) approval(r *http.Request) (registry.Held, *registry.Grant, error) {
	id := registry.ApprovalID(r.PathValue("id"))
	held, err := d.Registry.Approval(r.Context(), id)
	if err != nil || held.State != registry.ApprovalAllowed || held.Rule == "" {
		return held, nil, err
	}
	grant, err := d.Registry.GrantOf(r.Context(), id)
	if errors.Is(err, registry.ErrNoGrant) {
		return held, nil, nil
	}
	return held, &grant, err
}

func (d *dashboard) decideAPI(w http.ResponseWriter, r *http.Request) {
	var v decision
	if err := readJSON(r, &v); err != nil {
		d.fail(w, r, err)
		return
	}
	if err := d.decide(r, v); err != nil {
		d.fail(w, r, err)
		return
	}
	d.getApproval(w, r)
}

func (d *dashboard) listHostKeys(w http.ResponseWriter, _ *http.Request) {
	items := []hostKeyView{}
	for _, k := range d.Registry.AcceptedHostKeys() {
		items = append(items, newHostKeyView(k))
	}
	writeList(w, items, "")
}

func (d *dashboard) forgetHostKeyAPI(w http.ResponseWriter, r *http.Request) {
	if err := d.forgetHostKey(r, r.PathValue("endpoint"), r.PathValue("host"), r.PathValue("port")); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}
