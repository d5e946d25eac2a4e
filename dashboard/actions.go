package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// Limits of one page of the action log.
const (
	defaultActions = 100
	maxActions     = 500
)

// actionView is what the API shows of an action. While it runs, status is empty
// and the figures are zero.
type actionView struct {
	ID           int64     `json:"id"`
	Time         time.Time `json:"time"`
	Registration string    `json:"registration"`
	Profile      string    `json:"profile"`
	Endpoint     string    `json:"endpoint"`
	Credential   string    `json:"credential"`
	Protocol     string    `json:"protocol"`
	Summary      string    `json:"summary"`
	Verdict      string    `json:"verdict"`
	Rule         string    `json:"rule"`
	Reason       string    `json:"reason"`
	Status       string    `json:"status"`
	BytesIn      int64     `json:"bytes_in"`
	BytesOut     int64     `json:"bytes_out"`
	DurationMS   int64     `json:"duration_ms"`
}

func newActionView(a registry.LoggedAction) actionView {
	v := actionView{
		ID:           a.ID,
		Time:         a.Time.UTC(),
		Registration: string(a.Registration),
		Profile:      a.Profile,
		Endpoint:     a.Endpoint,
		Credential:   a.Credential,
		Protocol:     a.Protocol,
		Summary:      a.Summary,
		Verdict:      a.Verdict,
		Rule:         a.Rule,
		Reason:       a.Reason,
	}
	if a.Result != nil {
		v.Status, v.BytesIn, v.BytesOut = a.Result.Status, a.Result.BytesIn, a.Result.BytesOut
		v.DurationMS = a.Result.Duration.Milliseconds()
	}
	return v
}

// actionParams are the parameters that say which rows; limit and cursor say which
// of their pages.
var actionParams = []string{"registration", "endpoint", "verdict", "rule", "credential", "text", "since", "until"}

// maxActionText is registry.ActionFilter's.
const maxActionText = 64

// actionFilter reads the query of the API and the page alike.
func (d *dashboard) actionFilter(q url.Values) (f registry.ActionFilter, err error) {
	bad := func(name, want string) (registry.ActionFilter, error) {
		return registry.ActionFilter{}, badRequest(fmt.Sprintf("%s is not %s", name, want))
	}
	f = registry.ActionFilter{
		Registration: registry.ID(q.Get("registration")),
		Endpoint:     q.Get("endpoint"),
		Verdict:      q.Get("verdict"),
		Rule:         q.Get("rule"),
		Credential:   q.Get("credential"),
		Text:         q.Get("text"),
		Limit:        defaultActions,
	}
	if f.Verdict != "" && !slices.Contains([]string{"allow", "deny", "approve"}, f.Verdict) {
		return bad("verdict", "allow, deny or approve")
	}
	if len(f.Text) > maxActionText {
		return bad("text", fmt.Sprintf("at most %d bytes long", maxActionText))
	}
	for name, to := range map[string]*time.Time{"since": &f.Since, "until": &f.Until} {
		if s := q.Get(name); s != "" {
			var ok bool
			if *to, ok = d.instant(s); !ok {
				return bad(name, "an RFC 3339 time or a duration such as 24h")
			}
		}
	}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxActions {
			return bad("limit", fmt.Sprintf("a number from 1 to %d", maxActions))
		}
		f.Limit = n
	}
	if s := q.Get("cursor"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return bad("cursor", "one that an earlier page gave")
		}
		f.Before = n
	}
	return f, nil
}

// instant reads a time, or how long ago it was. Without a zone, as a form's field
// has it, it is UTC.
func (d *dashboard) instant(s string) (time.Time, bool) {
	if ago, err := time.ParseDuration(s); err == nil && ago > 0 {
		return d.Now().Add(-ago), true
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// flushWait bounds how long a reader waits for rows that are queued already.
const flushWait = 2 * time.Second

// flushActions waits a moment for what has been logged up to now, so that it is
// shown, if the log keeps up.
func (d *dashboard) flushActions(ctx context.Context) {
	flush, cancel := context.WithTimeout(ctx, flushWait)
	defer cancel()
	if err := d.Registry.Sync(flush); err != nil {
		d.Log.Warn("dashboard: showing the action log without its newest rows", "err", err)
	}
}

// actionPage is one page of the log. Next is the cursor of the following one,
// empty at the end; Searched is set where this one is short though rows may
// follow: it has looked back to then.
type actionPage struct {
	Views    []actionView
	Next     string
	Searched time.Time
}

func (d *dashboard) actions(ctx context.Context, f registry.ActionFilter) (actionPage, error) {
	d.flushActions(ctx)
	read, err := d.Registry.ActionPage(ctx, f)
	if err != nil {
		return actionPage{}, fmt.Errorf("reading the action log: %w", err)
	}
	page := actionPage{Views: actionViews(read.Actions), Searched: read.Searched}
	if read.Next != 0 {
		page.Next = strconv.FormatInt(read.Next, 10)
	}
	return page, nil
}

func actionViews(rows []registry.LoggedAction) []actionView {
	views := make([]actionView, 0, len(rows))
	for _, row := range rows {
		views = append(views, newActionView(row))
	}
	return views
}

// actionListView is the shape of every list, with how far it has looked where it
// is short though rows may follow.
type actionListView struct {
	Items    []actionView `json:"items"`
	Next     string       `json:"next,omitempty"`
	Searched *time.Time   `json:"searched_back_to,omitempty"`
}

func (d *dashboard) listActions(w http.ResponseWriter, r *http.Request) {
	f, err := d.actionFilter(r.URL.Query())
	if err != nil {
		d.fail(w, r, err)
		return
	}
	page, err := d.actions(r.Context(), f)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	answer := actionListView{Items: page.Views, Next: page.Next}
	if !page.Searched.IsZero() {
		answer.Searched = &page.Searched
	}
	writeJSON(w, http.StatusOK, answer)
}

func (d *dashboard) getAction(w http.ResponseWriter, r *http.Request) {
	view, err := d.action(r.Context(), r.PathValue("id"))
	if err != nil {
		d.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, view)
}

// action reads one row by its ID.
func (d *dashboard) action(ctx context.Context, id string) (actionView, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil || n < 1 {
		return actionView{}, notFound
	}
	d.flushActions(ctx)
	row, err := d.Registry.Action(ctx, n)
	switch {
	case errors.Is(err, registry.ErrNoAction) && n <= d.Registry.LastAction():
		return actionView{}, &failure{http.StatusNotFound, "not_found", "this action is no longer in the log", "old rows are removed: action_log in gateway.hcl says after how long"}
	case errors.Is(err, registry.ErrNoAction):
		return actionView{}, &failure{http.StatusNotFound, "not_found", "there is no action with this number", ""}
	case err != nil:
		return actionView{}, err
	}
	return newActionView(row), nil
}
