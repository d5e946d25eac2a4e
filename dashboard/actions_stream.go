package dashboard

import (
	"context"
	"net/http"
	"strconv"
)

// Limits of the live stream of actions: so many pages of the log are sent at
// each look, and what comes faster arrives later.
const (
	streamPages = 4
	streamRows  = 500 // of each page
)

// streamActions sends each row that matches as one event, oldest first, beginning
// with those that are logged from now on; with Last-Event-ID, from there.
func (d *dashboard) streamActions(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	for _, name := range []string{"until", "limit", "cursor"} {
		if q.Get(name) != "" {
			d.fail(w, r, badRequest(name+" is not for a stream"))
			return
		}
	}
	f, err := d.actionFilter(q)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	f.Limit, f.After = streamRows, d.Registry.LastAction()
	switch last, err := strconv.ParseInt(r.Header.Get("Last-Event-ID"), 10, 64); {
	case err == nil && last >= 0:
		f.After = min(last, f.After)
	case r.Header.Get("Last-Event-ID") != "":
		d.fail(w, r, badRequest("Last-Event-ID is not the ID of an event of this stream"))
		return
	case !f.Since.IsZero():
		if f.After, err = d.Registry.AfterTime(r.Context(), f.Since); err != nil {
			d.fail(w, r, err)
			return
		}
	}
	if r.Method == http.MethodHead { // which would never end
		w.Header().Set("Content-Type", "text/event-stream")
		return
	}
	told := f.After
	d.serveEvents(w, r, func(ctx context.Context, e *events) error {
		for range streamPages {
			rows, through, err := d.Registry.ActionsAfter(ctx, f)
			if err != nil {
				if ctx.Err() == nil {
					d.Log.Error("dashboard: following the action log failed", "err", err)
				}
				return err
			}
			for _, row := range rows {
				told = row.ID
				if err := e.send("action", strconv.FormatInt(row.ID, 10), newActionView(row).json()); err != nil {
					return err
				}
			}
			if through == f.After {
				break
			}
			f.After = through
		}
		// Many rows did not match: an ID alone is no event, but who comes back need
		// not begin where the last event was (HTML Living Standard, section 9.2.6).
		if f.After-told > streamRows {
			told = f.After
			return e.write("id: " + strconv.FormatInt(told, 10) + "\n\n")
		}
		return nil
	})
}
