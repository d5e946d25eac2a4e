package dashboard

import (
	"net/http"
	"slices"

	"github.com/clawpatrol/clawpatrol/registry"
)

// approvalStates are what ?state= may ask for; without it, all.
var approvalStates = []registry.ApprovalState{
	"", registry.ApprovalPending, registry.ApprovalAllowed, registry.ApprovalDenied, registry.ApprovalExpired, registry.ApprovalWithdrawn,
}

func (d *dashboard) listApprovals(w http.ResponseWriter, r *http.Request) {
	state := registry.ApprovalState(r.URL.Query().Get("state"))
	if !slices.Contains(approvalStates, state) {
		d.fail(w, r, badRequest("there is no such state of approvals"))
		return
	}
	held, err := d.Registry.Approvals(r.Context(), state)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	items := []approvalView{}
	for _, h := range held {
		items = append(items, d.approvalView(h))
	}
	writeList(w, items, "")
}

func (d *dashboard) getApproval(w http.ResponseWriter, r *http.Request) {
	held, err := d.Registry.Approval(r.Context(), registry.ApprovalID(r.PathValue("id")))
	if err != nil {
		d.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, d.approvalView(held))
}

func (d *dashboard) decideAPI(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Decision string `json:"decision"`
		Reason   string `json:"reason"`
	}
	if err := readJSON(r, &req); err != nil {
		d.fail(w, r, err)
		return
	}
	if err := d.decide(r, req.Decision, req.Reason); err != nil {
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
