package dashboard

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func (d *dashboard) handleActions() {
	d.router.handle("GET /actions", d.actionsPage)
	d.router.handle("GET /actions/{id}", d.actionPage)
	d.router.handle("GET /api/actions", d.listActions)
	d.router.handle("GET /api/actions/{id}", d.getAction)
	d.router.handle("GET /api/actions/stream", d.streamActions)
	downloads := make(chan struct{}, maxDownloads)
	d.router.handle("GET /api/actions.csv", d.downloadActions(csvActions, downloads))
	d.router.handle("GET /api/actions.jsonl", d.downloadActions(jsonlActions, downloads))
}

// actionRow is an action on a page: all text made safe to look at.
type actionRow struct {
	actionView
	At, Name string // Name of the registration
	Took     string
}

type actionsBody struct {
	Rows          []actionRow
	Older, Newest string    // URLs; empty: none
	Searched      time.Time // the page is short: it has looked back to then
	Filtered      bool

	Filter filterForm

	// The first page of what has no end renews itself, unless it is paused.
	Tail  bool
	Live  bool
	Self  string // its URL
	Other string // the same paused, or live again

	CSV, JSONL string // downloads
}

// filterForm is the form above the log, filled in with the filter in force.
type filterForm struct {
	Registrations, Endpoints, Verdicts, Credentials, Periods []choice

	Rule, Text  string
	From, Until string // for <input type="datetime-local">, in UTC
	More        bool   // one of the less common fields is in use
	MaxText     int
}

// choice is an option of a filter.
type choice struct {
	Value, Label string
	Selected     bool
}

func (d *dashboard) actionsPage(w http.ResponseWriter, r *http.Request) {
	p := page{Title: "Actions", Section: "actions", Live: true}
	q := r.URL.Query()
	if from := q.Get("from"); from != "" { // the form's field for a time of its own
		q.Set("since", from)
	}
	names := make(map[string]string)
	body := actionsBody{Filter: d.filterForm(q, names), Filtered: actionsURL("", q) != ""}
	f, problem := d.actionFilter(q)
	if problem == nil {
		var read actionPage
		if read, problem = d.actions(r.Context(), f); problem == nil {
			for _, v := range read.Views {
				body.Rows = append(body.Rows, newActionRow(v, names))
			}
			body.Searched = read.Searched
			body.Older, body.Newest = pageLinks("/actions", q, read.Next, actionParams...)
			body.tail(q)
		}
	}
	p.Body = body
	d.render(w, d.showFailure(&p, problem), "actions", p)
}

// tail fills in what the newest page needs to renew itself, and the downloads.
func (b *actionsBody) tail(q url.Values) {
	b.CSV, b.JSONL = actionsURL("/api/actions.csv", q), actionsURL("/api/actions.jsonl", q)
	if b.Tail = q.Get("cursor")+q.Get("until") == ""; !b.Tail {
		return
	}
	b.Live = q.Get("live") != "off"
	live := pageURL("/actions", q, "", actionParams...)
	paused := live + "?live=off"
	if strings.Contains(live, "?") {
		paused = live + "&live=off"
	}
	b.Self, b.Other = live, paused
	if !b.Live {
		b.Self, b.Other = paused, live
	}
}

// actionsURL is where the rows of q's filter are, without limit and cursor.
func actionsURL(path string, q url.Values) string {
	to := make(url.Values)
	for _, k := range actionParams {
		if v := q.Get(k); v != "" {
			to.Set(k, v)
		}
	}
	if len(to) == 0 {
		return path
	}
	return path + "?" + to.Encode()
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

// filterForm fills the filter's lists, and names with what each registration is
// called.
func (d *dashboard) filterForm(q url.Values, names map[string]string) filterForm {
	form := filterForm{Rule: q.Get("rule"), Text: q.Get("text"), MaxText: maxActionText}
	add := func(to *[]choice, param, value, label string) {
		*to = append(*to, choice{value, label, q.Get(param) == value})
	}
	add(&form.Registrations, "registration", "", "all")
	for _, reg := range d.Registry.Snapshot().All() {
		names[string(reg.ID)] = shown(reg.Name)
		label := shown(reg.Name)
		if reg.State != registry.Approved {
			label += " (" + string(reg.State) + ")"
		}
		add(&form.Registrations, "registration", string(reg.ID), label)
	}
	add(&form.Endpoints, "endpoint", "", "all")
	for _, e := range d.Policy().Endpoints {
		add(&form.Endpoints, "endpoint", e.Ref(), e.Ref())
	}
	add(&form.Credentials, "credential", "", "all")
	for _, c := range d.Policy().Credentials {
		add(&form.Credentials, "credential", c.Ref(), c.Ref())
	}
	add(&form.Verdicts, "verdict", "", "all")
	for _, v := range []string{"allow", "deny"} {
		add(&form.Verdicts, "verdict", v, v)
	}
	for _, c := range [][2]string{{"", "ever"}, {"15m", "15 minutes"}, {"1h", "hour"}, {"24h", "day"}, {"168h", "week"}} {
		add(&form.Periods, "since", c[0], c[1])
	}
	// What is filtered by is always one of the choices, also what the policy and
	// the registry do not have any more.
	for param, choices := range map[string]*[]choice{
		"registration": &form.Registrations, "endpoint": &form.Endpoints, "verdict": &form.Verdicts, "credential": &form.Credentials,
	} {
		if v := q.Get(param); !selected(*choices) {
			add(choices, param, v, shown(v))
		}
	}
	if !selected(form.Periods) {
		form.Periods[0].Selected = true
		form.From = d.localTime(q.Get("since"))
	}
	form.Until = d.localTime(q.Get("until"))
	form.More = form.Rule+form.From+form.Until+q.Get("credential") != ""
	return form
}

func selected(choices []choice) bool {
	for _, c := range choices {
		if c.Selected {
			return true
		}
	}
	return false
}

// localTime is an instant as <input type="datetime-local"> takes it.
func (d *dashboard) localTime(s string) string {
	t, ok := d.instant(s)
	if !ok {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05")
}

// actionBody is one action with the ways to what belongs to it. Links are empty
// where there is nothing to lead to.
type actionBody struct {
	Row actionRow

	Registration, CredentialPage                           string
	OfRegistration, OfEndpoint, OfRule, OfCredential, Near string // the filtered log
}

// nearby is how far around an action the log is shown.
const nearby = 30 * time.Second

func (d *dashboard) actionPage(w http.ResponseWriter, r *http.Request) {
	v, err := d.action(r.Context(), r.PathValue("id"))
	if err != nil {
		d.fail(w, r, err)
		return
	}
	names := make(map[string]string)
	body := actionBody{}
	if reg, ok := d.Registry.Snapshot().ByID(registry.ID(v.Registration)); ok {
		names[v.Registration] = shown(reg.Name)
		body.Registration = "/registrations/" + url.PathEscape(v.Registration)
	}
	for _, c := range d.Policy().Credentials {
		if c.Ref() == v.Credential {
			body.CredentialPage = "/credentials/" + url.PathEscape(c.Type) + "/" + url.PathEscape(c.Name)
		}
	}
	for param, link := range map[string]struct {
		value string
		to    *string
	}{
		"registration": {v.Registration, &body.OfRegistration}, "endpoint": {v.Endpoint, &body.OfEndpoint},
		"rule": {v.Rule, &body.OfRule}, "credential": {v.Credential, &body.OfCredential},
	} {
		if link.value != "" {
			*link.to = actionsURL("/actions", url.Values{param: {link.value}})
		}
	}
	near := url.Values{"since": {v.Time.Add(-nearby).Format(time.RFC3339)}, "until": {v.Time.Add(nearby).Format(time.RFC3339)}}
	if v.Registration != "" {
		near.Set("registration", v.Registration)
	}
	body.Near = actionsURL("/actions", near)
	body.Row = newActionRow(v, names)
	d.render(w, http.StatusOK, "action", page{Title: "Action " + r.PathValue("id"), Section: "actions", Live: true, Body: body})
}
