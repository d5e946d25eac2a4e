package dashboard

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/clawpatrol/clawpatrol/registry"
)

func (d *dashboard) handleApprovals() {
	d.router.handle("GET /approvals", d.approvalsPage)
	d.router.handle("GET /approvals/{id}", d.approvalPage)
	d.router.handle("POST /approvals/{id}", d.decideForm)
	d.router.handle("POST /grants/{id}/end", d.endGrantForm)
	d.router.handle("POST /host-keys/forget", d.forgetHostKeyForm)

	d.router.handle("GET /api/approvals", d.listApprovals)
	d.router.handle("GET /api/approvals/{id}", d.getApproval)
	d.router.handle("POST /api/approvals/{id}", d.decideAPI)
	d.router.handle("GET /api/grants", d.listGrants)
	d.router.handle("DELETE /api/grants/{id}", d.endGrantAPI)
	d.router.handle("GET /api/host-keys", d.listHostKeys)
	d.router.handle("DELETE /api/host-keys/{endpoint}/{host}/{port}", d.forgetHostKeyAPI)
}

var approvalsDone = doneMessages{
	"forgotten":  "Forgotten. The next connection to that host asks again.",
	"taken-back": "Taken back. What the rule holds next asks again.",
}

// approvalDone is what a card says once an operator has answered.
var approvalDone = doneMessages{
	"allowed": "Allowed. Whoever waited goes on.",
	"granted": "Allowed, and what follows. Whoever waited goes on.",
	"denied":  "Denied. Whoever waited was refused.",
}

const (
	// shownWaiting is how many approvals can be decided on the page at a time, the
	// oldest first: one registration has 16 at most.
	shownWaiting = 64

	// shownEnded is how many approvals a page shows that an operator decided, and
	// how many that ended otherwise: those an agent can make as it likes.
	shownEnded = 25

	// lookAgain is after how many seconds a page without scripts on which nothing
	// waits looks again. One with something on it stays: a reason may be being
	// written.
	lookAgain = 5
)

// endedRow is an approval in a table.
type endedRow struct {
	approvalView
	Name, Summary, Outcome string
}

// endedTable is one page of what has ended.
type endedTable struct {
	ID, Title, Empty string
	Rows             []endedRow
	First            bool   // it is the newest page
	Older            string // URL; empty: none
}

type approvalsBody struct {
	Waiting  []approvalCard // oldest first
	More     int            // that wait behind them
	Grants   []grantRow
	HostKeys []hostKeyView
	Ended    []endedTable
	Newest   bool // each table shows its first page
	Webhook  *webhookRow
}

func (d *dashboard) approvalsPage(w http.ResponseWriter, r *http.Request) {
	d.showApprovals(w, r, nil)
}

func (d *dashboard) showApprovals(w http.ResponseWriter, r *http.Request, problem error) {
	waiting, err := d.Registry.FindApprovals(r.Context(), registry.ApprovalFilter{
		States: []registry.ApprovalState{registry.ApprovalPending}, OldestFirst: true, Limit: shownWaiting,
	})
	if err != nil {
		d.fail(w, r, err)
		return
	}
	body := approvalsBody{Newest: true, Webhook: d.webhookRow()}
	for _, h := range waiting {
		body.Waiting = append(body.Waiting, d.approvalCard(h))
	}
	if len(waiting) == shownWaiting {
		body.More = max(0, d.Registry.PendingApprovals()-shownWaiting)
	}
	for _, g := range d.Registry.Grants() {
		body.Grants = append(body.Grants, d.grantRow(g))
	}
	for _, k := range d.Registry.AcceptedHostKeys() {
		body.HostKeys = append(body.HostKeys, newHostKeyView(k))
	}
	for _, of := range []struct {
		cursor, title, empty string
		states               []registry.ApprovalState
	}{
		{"decided", "Decided", "Nothing yet.", []registry.ApprovalState{registry.ApprovalAllowed, registry.ApprovalDenied}},
		{"over", "Over without a decision", "Nothing.", []registry.ApprovalState{registry.ApprovalExpired, registry.ApprovalWithdrawn}},
	} {
		at := r.URL.Query().Get(of.cursor)
		held, next, err := d.approvalsPageOf(r.Context(), registry.ApprovalFilter{States: of.states, Limit: shownEnded}, at)
		if err != nil {
			d.fail(w, r, err)
			return
		}
		t := endedTable{ID: of.cursor, Title: of.title, Empty: of.empty, First: at == ""}
		for _, h := range held {
			v := d.approvalView(h)
			row := endedRow{v, shown(v.RegistrationName), shown(v.Summary), outcome(h)}
			if row.Name == "" {
				row.Name = v.Registration
			}
			t.Rows = append(t.Rows, row)
		}
		if next != "" {
			t.Older = "/approvals?" + url.Values{of.cursor: {next}}.Encode() + "#" + of.cursor
		}
		body.Newest = body.Newest && t.First
		body.Ended = append(body.Ended, t)
	}
	p := page{Title: "Approvals", Section: "approvals", Done: approvalsDone.of(r), Body: body, Live: true}
	if len(waiting) == 0 && problem == nil {
		p.Refresh, p.Seconds = "/approvals", lookAgain
	}
	d.render(w, d.showFailure(&p, problem), "approvals", p)
}

// approvalBody is the page of one approval.
type approvalBody struct {
	approvalCard
	Others int // that wait
}

func (d *dashboard) approvalPage(w http.ResponseWriter, r *http.Request) {
	d.showApproval(w, r, "", nil)
}

// showApproval shows one approval. Where what an operator sent failed, it says so
// in the card, and has the reason that was typed.
func (d *dashboard) showApproval(w http.ResponseWriter, r *http.Request, typed string, problem error) {
	held, grant, err := d.approval(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	body := approvalBody{approvalCard: d.approvalCard(held), Others: d.Registry.PendingApprovals()}
	if grant != nil {
		row := d.grantRow(*grant)
		body.Grant = &row
	}
	status := http.StatusOK
	switch {
	case problem != nil:
		f := d.failureOf(problem)
		status, body.Typed = f.status, typed
		body.Problem, body.Hint = sentence(f.message), sentence(f.hint)
	case body.Pending:
		body.Others--
	default:
		body.Done = approvalDone.of(r)
	}
	d.render(w, status, "approval", page{Title: "Approval", Section: "approvals", Body: body, Live: true})
}

// sentence is a clause as a sentence of its own; empty for none.
func sentence(clause string) string {
	if clause == "" {
		return ""
	}
	return strings.ToUpper(clause[:1]) + clause[1:] + "."
}

// The decision that a form sends for an allow with a grant.
const decideGrant = "grant"

func (d *dashboard) decideForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	v := decision{Decision: r.PostForm.Get("decision"), Reason: r.PostForm.Get("reason")}
	did := map[string]string{decideAllow: "allowed", decideDeny: "denied", decideGrant: "granted"}[v.Decision]
	if err == nil && v.Decision == decideGrant {
		v.Decision, v.For = decideAllow, r.PostForm.Get("for")
		if uses := r.PostForm.Get("uses"); uses != "" {
			if v.Uses, err = strconv.Atoi(uses); err != nil || v.Uses == 0 {
				v.Uses, err = -1, nil // and is refused
			}
		}
		if v.For == "" && v.Uses == 0 {
			v.Uses = -1
		}
	}
	if err == nil {
		err = d.decide(r, v)
	}
	if err != nil {
		d.showApproval(w, r, v.Reason, err)
		return
	}
	seeOther(w, r, "/approvals/"+url.PathEscape(r.PathValue("id"))+"?done="+did)
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
