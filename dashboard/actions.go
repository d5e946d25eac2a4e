package dashboard

import (
	"context"
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

// actionFilter reads the query of the API and the page alike.
func (d *dashboard) actionFilter(q url.Values) (registry.ActionFilter, error) {
	bad := func(name, want string) (registry.ActionFilter, error) {
		return registry.ActionFilter{}, badRequest(fmt.Sprintf("%s is not %s", name, want))
	}
	f := registry.ActionFilter{
		Registration: registry.ID(q.Get("registration")),
		Endpoint:     q.Get("endpoint"),
		Verdict:      q.Get("verdict"),
		Limit:        defaultActions,
	}
	if f.Verdict != "" && !slices.Contains([]string{"allow", "deny", "approve"}, f.Verdict) {
		return bad("verdict", "allow, deny or approve")
	}
	if s := q.Get("since"); s != "" {
		since, err := time.Parse(time.RFC3339, s)
		if ago, derr := time.ParseDuration(s); derr == nil && ago > 0 {
			since, err = d.Now().Add(-ago), nil
		}
		if err != nil {
			return bad("since", "an RFC 3339 time or a duration such as 24h")
		}
		f.Since = since
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

// flushWait bounds how long a reader waits for rows that are queued already.
const flushWait = 2 * time.Second

// actions reads one page and the next one's cursor, empty at the end. It shows
// what was logged before it was called, if the log keeps up.
func (d *dashboard) actions(ctx context.Context, f registry.ActionFilter) (views []actionView, next string, err error) {
	flush, cancel := context.WithTimeout(ctx, flushWait)
	defer cancel()
	if err := d.Registry.Sync(flush); err != nil {
		d.Log.Warn("dashboard: showing the action log without its newest rows", "err", err)
	}
	rows, err := d.Registry.Actions(ctx, f)
	if err != nil {
		return nil, "", fmt.Errorf("reading the action log: %w", err)
	}
	for _, row := range rows {
		views = append(views, newActionView(row))
	}
	if len(rows) == f.Limit && rows[len(rows)-1].ID > 1 {
		next = strconv.FormatInt(rows[len(rows)-1].ID, 10)
	}
	return views, next, nil
}

func (d *dashboard) listActions(w http.ResponseWriter, r *http.Request) {
	f, err := d.actionFilter(r.URL.Query())
	if err != nil {
		d.fail(w, r, err)
		return
	}
	views, next, err := d.actions(r.Context(), f)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	writeList(w, views, next)
}
