package dashboard

import (
	"net/http"
	"net/url"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func (d *dashboard) handleActions() {
	d.router.handle("GET /actions", d.actionsPage)
	d.router.handle("GET /api/actions", d.listActions)
}

// actionRow is an action on a page: all text made safe to look at.
type actionRow struct {
	actionView
	At, Name string // Name of the registration
	Took     string
}

type actionsBody struct {
	Rows          []actionRow
	Registrations []choice
	Endpoints     []choice
	Verdicts      []choice
	Periods       []choice
	Older, Newest string // URLs; empty: none
	Filtered      bool
}

// choice is an option of a filter.
type choice struct {
	Value, Label string
	Selected     bool
}

func (d *dashboard) actionsPage(w http.ResponseWriter, r *http.Request) {
	p := page{Title: "Actions", Section: "actions"}
	q := r.URL.Query()
	names := make(map[string]string)
	body := d.filterChoices(q, names)
	f, problem := d.actionFilter(q)
	if problem == nil {
		var views []actionView
		var next string
		if views, next, problem = d.actions(r.Context(), f); problem == nil {
			for _, v := range views {
				body.Rows = append(body.Rows, newActionRow(v, names))
			}
			body.Older, body.Newest = pager(q, next)
		}
	}
	p.Body = body
	d.render(w, d.showFailure(&p, problem), "actions", p)
}

func newActionRow(v actionView, names map[string]string) actionRow {
	row := actionRow{actionView: v, At: utc(&v.Time), Name: names[v.Registration]}
	if row.Name == "" {
		row.Name = shown(v.Registration)
	}
	for _, s := range []*string{&row.Profile, &row.Endpoint, &row.Credential, &row.Protocol, &row.Summary, &row.Verdict, &row.Rule, &row.Reason, &row.Status} {
		*s = shown(*s)
	}
	if v.Status != "" {
		row.Took = (time.Duration(v.DurationMS) * time.Millisecond).String()
	}
	return row
}

// filterChoices fills the filter's lists, and names with what each registration
// is called.
func (d *dashboard) filterChoices(q url.Values, names map[string]string) actionsBody {
	body := actionsBody{Filtered: q.Get("registration")+q.Get("endpoint")+q.Get("verdict")+q.Get("since") != ""}
	add := func(to *[]choice, param, value, label string) {
		*to = append(*to, choice{value, label, q.Get(param) == value})
	}
	add(&body.Registrations, "registration", "", "all")
	for _, reg := range d.Registry.Snapshot().All() {
		names[string(reg.ID)] = shown(reg.Name)
		label := shown(reg.Name)
		if reg.State != registry.Approved {
			label += " (" + string(reg.State) + ")"
		}
		add(&body.Registrations, "registration", string(reg.ID), label)
	}
	add(&body.Endpoints, "endpoint", "", "all")
	for _, e := range d.Policy().Endpoints {
		add(&body.Endpoints, "endpoint", e.Ref(), e.Ref())
	}
	for _, v := range []string{"", "allow", "deny"} {
		label := v
		if v == "" {
			label = "all"
		}
		add(&body.Verdicts, "verdict", v, label)
	}
	for _, c := range [][2]string{{"", "ever"}, {"15m", "15 minutes"}, {"1h", "hour"}, {"24h", "day"}, {"168h", "week"}} {
		add(&body.Periods, "since", c[0], c[1])
	}
	return body
}

// pager returns the URLs of the next older page and of the newest one.
func pager(q url.Values, next string) (older, newest string) {
	link := func(cursor string) string {
		to := make(url.Values)
		for _, k := range []string{"registration", "endpoint", "verdict", "since", "limit"} {
			if v := q.Get(k); v != "" {
				to.Set(k, v)
			}
		}
		if cursor != "" {
			to.Set("cursor", cursor)
		}
		return "/actions?" + to.Encode()
	}
	if next != "" {
		older = link(next)
	}
	if q.Get("cursor") != "" {
		newest = link("")
	}
	return older, newest
}
