package dashboard

import (
	"encoding/json"
	"net/http"

	"github.com/clawpatrol/clawpatrol/registry"
)

func (d *dashboard) handleApprovals() {
	d.router.handle("GET /approvals", d.approvalsPage)
	d.router.handle("POST /approvals/{id}", d.decideForm)
	d.router.handle("POST /host-keys/forget", d.forgetHostKeyForm)

	d.router.handle("GET /api/approvals", d.listApprovals)
	d.router.handle("GET /api/approvals/{id}", d.getApproval)
	d.router.handle("POST /api/approvals/{id}", d.decideAPI)
	d.router.handle("GET /api/host-keys", d.listHostKeys)
	d.router.handle("DELETE /api/host-keys/{endpoint}/{host}/{port}", d.forgetHostKeyAPI)
}

var approvalsDone = doneMessages{
	"allowed":   "Allowed. Whoever waited goes on.",
	"denied":    "Denied. Whoever waited was refused.",
	"forgotten": "Forgotten. The next connection to that host asks again.",
}

const (
	// shownEnded is how many approvals the page shows that an operator decided, and
	// how many that ended otherwise: those an agent can make as it likes.
	shownEnded = 50

	// lookAgain is after how many seconds a page on which nothing waits looks
	// again. One with something on it stays: a reason may be being written.
	lookAgain = 5
)

// approvalRow is an approval on a page: all text made safe to look at.
type approvalRow struct {
	approvalView
	RegistrationName, Summary, Reason, Operator string
	Since                                       string // roughly
	HostKey                                     *hostKeyRow
	Raw                                         string // the detail of any other kind
}

// hostKeyRow is what operators compare before they accept a host key.
type hostKeyRow struct {
	Host, KeyType, Fingerprint string
	Port                       uint16
	Known                      []string
}

func (d *dashboard) approvalRow(h registry.Held) approvalRow {
	v := d.approvalView(h)
	row := approvalRow{
		approvalView:     v,
		RegistrationName: shown(v.RegistrationName), Summary: shown(v.Summary), Reason: shown(v.Reason), Operator: shown(v.Operator),
		Since: ago(d.Now(), &v.CreatedAt),
	}
	var detail registry.HostKeyDetail
	if h.Kind != registry.ApproveHostKey || json.Unmarshal(h.Detail, &detail) != nil {
		row.Raw = shown(string(h.Detail))
		return row
	}
	row.HostKey = &hostKeyRow{Host: shown(detail.Host), KeyType: shown(detail.KeyType), Fingerprint: shown(detail.Fingerprint), Port: detail.Port}
	for _, k := range detail.Known {
		row.HostKey.Known = append(row.HostKey.Known, shown(k))
	}
	return row
}

type approvalsBody struct {
	Waiting  []approvalRow // oldest first
	Ended    []approvalRow // newest first
	HostKeys []hostKeyView
}

func (d *dashboard) approvalsPage(w http.ResponseWriter, r *http.Request) {
	d.showApprovals(w, r, nil)
}

func (d *dashboard) showApprovals(w http.ResponseWriter, r *http.Request, problem error) {
	waiting, err := d.Registry.Approvals(r.Context(), registry.ApprovalPending)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	all, err := d.Registry.Approvals(r.Context(), "")
	if err != nil {
		d.fail(w, r, err)
		return
	}
	var body approvalsBody
	for i := range waiting {
		body.Waiting = append(body.Waiting, d.approvalRow(waiting[len(waiting)-1-i]))
	}
	decided, undecided := 0, 0
	for _, h := range all {
		n := &undecided
		switch h.State {
		case registry.ApprovalPending:
			continue
		case registry.ApprovalAllowed, registry.ApprovalDenied:
			n = &decided
		}
		if *n < shownEnded {
			*n++
			body.Ended = append(body.Ended, d.approvalRow(h))
		}
	}
	for _, k := range d.Registry.AcceptedHostKeys() {
		body.HostKeys = append(body.HostKeys, newHostKeyView(k))
	}
	p := page{Title: "Approvals", Section: "approvals", Done: approvalsDone.of(r), Body: body}
	if len(waiting) == 0 && problem == nil {
		p.Refresh, p.Seconds = "/approvals", lookAgain
	}
	d.render(w, d.showFailure(&p, problem), "approvals", p)
}

func (d *dashboard) decideForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.decide(r, r.PostForm.Get("decision"), r.PostForm.Get("reason"))
	}
	if err != nil {
		d.showApprovals(w, r, err)
		return
	}
	did := "allowed"
	if r.PostForm.Get("decision") == decideDeny {
		did = "denied"
	}
	seeOther(w, r, "/approvals?done="+did)
}

func (d *dashboard) forgetHostKeyForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.forgetHostKey(r, r.PostForm.Get("endpoint"), r.PostForm.Get("host"), r.PostForm.Get("port"))
	}
	if err != nil {
		d.showApprovals(w, r, err)
		return
	}
	seeOther(w, r, "/approvals?done=forgotten")
}
