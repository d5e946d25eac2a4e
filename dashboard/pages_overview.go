package dashboard

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

func (d *dashboard) handleOverview() {
	d.router.handle("GET /{$}", d.overviewPage)
	d.router.handle("GET /api/overview", d.overviewAPI)
}

// Limits of what the overview lists.
const (
	overviewTasks   = 8 // of each kind of what needs the operator
	overviewActions = 6
	overviewTop     = 8 // of registrations and of endpoints
)

// overviewView is what the API says of the last 24 hours and of what waits.
type overviewView struct {
	Waiting     waitingView   `json:"waiting"`
	Hours       []hourView    `json:"hours"` // oldest first, the present one last
	ByEndpoint  []countedView `json:"by_endpoint"`
	ByAgentHost []countedView `json:"by_registration"`
	Failures    []failureView `json:"failed_upstreams"` // of the last hour
	Complete    bool          `json:"complete"`         // false: the log is still being counted after a start
}

// waitingView counts what needs an operator.
type waitingView struct {
	Pending    int `json:"pending_registrations"`
	Approvals  int `json:"approvals"`
	Blocked    int `json:"blocked_registrations"`
	Incomplete int `json:"credentials_without_secret"`
	Failing    int `json:"failed_upstreams"`
}

type hourView struct {
	Start   time.Time `json:"start"`
	Allowed int       `json:"allowed"`
	Denied  int       `json:"denied"`
}

type countedView struct {
	Ref     string    `json:"ref"`
	Name    string    `json:"name,omitempty"` // of a registration
	Allowed int       `json:"allowed"`
	Denied  int       `json:"denied"`
	Last    time.Time `json:"last"`
}

type failureView struct {
	Endpoint string    `json:"endpoint"`
	Status   string    `json:"status"`
	Count    int       `json:"count"`
	Last     time.Time `json:"last"`
}

// overview gathers what the API and the page show. incomplete are the
// credentials that lack a secret although a profile holds them.
func (d *dashboard) overview(ctx context.Context) (v overviewView, incomplete []credentialView, err error) {
	credentials, err := d.credentials(ctx)
	if err != nil {
		return v, nil, err
	}
	for _, c := range credentials {
		if !c.Complete && !c.Unused && len(c.Profiles) > 0 {
			incomplete = append(incomplete, c)
		}
	}
	s := d.Registry.Stats(d.Now())
	v = overviewView{Complete: s.Ready, Hours: []hourView{}, ByEndpoint: []countedView{}, ByAgentHost: []countedView{}, Failures: []failureView{}}
	for _, h := range s.Hours {
		v.Hours = append(v.Hours, hourView{h.Start.UTC(), h.Allowed, h.Denied})
	}
	for _, c := range s.ByEndpoint {
		v.ByEndpoint = append(v.ByEndpoint, countedView{Ref: c.Ref, Allowed: c.Allowed, Denied: c.Denied, Last: c.Last.UTC()})
	}
	for _, c := range s.ByRegistration {
		counted := countedView{Ref: c.Ref, Allowed: c.Allowed, Denied: c.Denied, Last: c.Last.UTC()}
		if reg, ok := d.Registry.Snapshot().ByID(registry.ID(c.Ref)); ok {
			counted.Name = reg.Name
		}
		v.ByAgentHost = append(v.ByAgentHost, counted)
	}
	for _, f := range s.Failures {
		v.Failures = append(v.Failures, failureView{f.Ref, f.Status, f.Count, f.Last.UTC()})
	}
	v.Waiting = waitingView{d.count(registry.Pending), d.Registry.PendingApprovals(), d.count(registry.Blocked), len(incomplete), len(v.Failures)}
	return v, incomplete, nil
}

func (d *dashboard) overviewAPI(w http.ResponseWriter, r *http.Request) {
	v, _, err := d.overview(r.Context())
	if err != nil {
		d.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, v)
}

// task is one thing that needs the operator.
type task struct {
	Kind  string // what is the matter, in a word or two
	Bad   bool   // something is broken, instead of somebody waiting
	Text  string
	Where string // path
}

type overviewBody struct {
	Tasks    []task
	More     int // tasks that are not listed
	Actions  []actionRow
	Chart    chart
	Below    []string        // the chart
	Counted  [2]countedTable // by registration, by endpoint
	Complete bool
	Join     string // the command that enrols the first agent host; empty: there is one
}

// countedTable is "by registration" or "by endpoint".
type countedTable struct {
	ID, Title string
	Rows      []countedRow
}

type countedRow struct {
	Name, Where     string // Where is empty for what stands for several
	Allowed, Denied int
	Last            string // roughly
}

// overviewPage says what needs the operator, what is happening and what happened.
func (d *dashboard) overviewPage(w http.ResponseWriter, r *http.Request) {
	v, incomplete, err := d.overview(r.Context())
	if err != nil {
		d.fail(w, r, err)
		return
	}
	body := overviewBody{Complete: v.Complete}
	body.Chart, body.Below = hourBars(v.Hours)
	if body.Tasks, body.More, err = d.tasks(r.Context(), v, incomplete); err != nil {
		d.fail(w, r, err)
		return
	}
	recent, err := d.actions(r.Context(), registry.ActionFilter{Limit: overviewActions})
	if err != nil {
		d.fail(w, r, err)
		return
	}
	names := make(map[string]string)
	for _, reg := range d.Registry.Snapshot().All() {
		names[string(reg.ID)] = shown(reg.Name)
	}
	for _, a := range recent.Views {
		body.Actions = append(body.Actions, newActionRow(a, names))
	}
	body.Counted = [2]countedTable{{ID: "hosts", Title: "By registration"}, {ID: "served", Title: "By endpoint"}}
	for _, c := range first(v.ByAgentHost, overviewTop) {
		body.Counted[0].Rows = append(body.Counted[0].Rows, d.countedRow(c, "registration"))
	}
	for _, c := range first(v.ByEndpoint, overviewTop) {
		body.Counted[1].Rows = append(body.Counted[1].Rows, d.countedRow(c, "endpoint"))
	}
	if len(d.Registry.Snapshot().All()) == 0 {
		body.Join = d.firstJoin()
	}
	d.render(w, http.StatusOK, "overview", page{Title: "Overview", Section: "overview", Live: true, Body: body})
}

func (d *dashboard) countedRow(c countedView, parameter string) countedRow {
	row := countedRow{Name: shown(c.Name), Allowed: c.Allowed, Denied: c.Denied, Last: ago(d.Now(), &c.Last)}
	if row.Name == "" {
		row.Name = shown(c.Ref)
	}
	if c.Ref != registry.OtherRefs {
		row.Where = actionsOf(parameter, c.Ref)
	}
	return row
}

// firstJoin is what to run on an agent host, as the gateway says at its start.
func (d *dashboard) firstJoin() string {
	gateway := d.Policy().Gateway
	if gateway.Enrolment != policy.EnrolmentOpen {
		return ""
	}
	command := "sudo clawpatrol join " + shellWord(gateway.PublicURL)
	if gateway.TLSCertFile == "" {
		command += " --ca-fingerprint " + shellWord(d.System().CAFingerprint)
	}
	return command
}

// hourBars are the bars of the last 24 hours, and the hours to write below every
// sixth of them.
func hourBars(hours []hourView) (chart, []string) {
	var counts []count
	var below []string
	for i, h := range hours {
		counts = append(counts, count{allowed: h.Allowed, denied: h.Denied, when: h.Start.Format("15:04 UTC")})
		if i%6 == 0 {
			below = append(below, h.Start.Format("15:04"))
		}
	}
	return newChart(counts), below
}

// tasks lists what needs the operator, what is broken first.
func (d *dashboard) tasks(ctx context.Context, v overviewView, incomplete []credentialView) (list []task, more int, err error) {
	add := func(n int, of func(i int) task) {
		for i := range min(n, overviewTasks) {
			list = append(list, of(i))
		}
		more += max(0, n-overviewTasks)
	}
	in := func(state registry.State) []*registry.Registration {
		return slices.DeleteFunc(d.Registry.Snapshot().All(), func(r *registry.Registration) bool { return r.State != state })
	}
	held, err := d.Registry.Approvals(ctx, registry.ApprovalPending)
	if err != nil {
		return nil, 0, fmt.Errorf("listing approvals: %w", err)
	}
	blocked, pending := in(registry.Blocked), in(registry.Pending)
	if h := d.Registry.LogHealth(); h.Err != nil {
		list = append(list, task{"action log", true, "cannot be written, and so every action is denied", "/system"})
	}
	add(len(blocked), func(i int) task {
		return task{"blocked", true, shown(blocked[i].Name) + ": " + shown(blocked[i].BlockedReason), "/registrations/" + string(blocked[i].ID)}
	})
	add(len(held), func(i int) task {
		return task{"approval", false, shown(held[i].Summary), "/approvals"}
	})
	add(len(pending), func(i int) task {
		return task{"registration", false, shown(pending[i].Name) + " wants to join", "/registrations/" + string(pending[i].ID)}
	})
	add(len(v.Failures), func(i int) task {
		f := v.Failures[i]
		return task{"upstream", true, fmt.Sprintf("%s: %s, %s in the last hour", shown(f.Endpoint), shown(f.Status), plural(f.Count, "time")), actionsOf("endpoint", f.Endpoint)}
	})
	add(len(incomplete), func(i int) task {
		c := incomplete[i]
		return task{"credential", false, c.Type + "." + c.Name + " has no secret yet", "/credentials/" + c.Type + "/" + c.Name}
	})
	return list, more, nil
}

// actionsOf is the action log, filtered.
func actionsOf(parameter, value string) string {
	return "/actions?" + url.Values{parameter: {value}}.Encode()
}

func first[T any](of []T, n int) []T { return of[:min(n, len(of))] }
