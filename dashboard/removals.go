package dashboard

import (
	"context"
	"net/http"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// removalView is a registration that the gateway removed by itself.
type removalView struct {
	ID            string     `json:"id"`
	Name          string     `json:"name"`
	Source        string     `json:"source"` // the address that start came from
	CreatedAt     time.Time  `json:"created_at"`
	RemovedAt     time.Time  `json:"removed_at"`
	BlockedReason string     `json:"blocked_reason"` // empty: it was pending
	BlockedAt     *time.Time `json:"blocked_at"`
}

func newRemovalView(r registry.Removal) removalView {
	return removalView{string(r.ID), r.Name, addrText(r.Source), r.CreatedAt.UTC(), r.RemovedAt.UTC(), r.BlockedReason, optionalTime(r.BlockedAt)}
}

func (d *dashboard) listRemovals(w http.ResponseWriter, _ *http.Request) {
	items := []removalView{}
	for _, r := range d.Registry.Removals() {
		items = append(items, newRemovalView(r))
	}
	writeList(w, items, "")
}

// seenRemovals forgets what was removed up to a time: what the operator was shown.
func (d *dashboard) seenRemovals(r *http.Request, until string) error {
	upTo, err := time.Parse(time.RFC3339Nano, until)
	if err != nil {
		return badRequest("until is not the removed_at of the newest removal that was shown")
	}
	if err := d.Registry.SeenRemovals(context.WithoutCancel(r.Context()), upTo); err != nil {
		return err
	}
	d.Log.Info("removals seen", "until", upTo, "operator", source(r))
	return nil
}

func (d *dashboard) seenRemovalsAPI(w http.ResponseWriter, r *http.Request) {
	if err := d.seenRemovals(r, r.URL.Query().Get("until")); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

func (d *dashboard) seenRemovalsForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.seenRemovals(r, r.PostForm.Get("until"))
	}
	if err != nil {
		d.fail(w, r, err)
		return
	}
	seeOther(w, r, "/registrations?done=seen")
}

// removedBody is a page's list of removals; Until is for the form that says that
// they were seen.
type removedBody struct {
	Blocked, Expired []removalView
	Until            string
}

func (d *dashboard) removed() removedBody {
	var body removedBody
	for i, r := range d.Registry.Removals() {
		v := newRemovalView(r)
		if i == 0 {
			body.Until = v.RemovedAt.Format(time.RFC3339Nano)
		}
		v.Name, v.BlockedReason = shown(v.Name), shown(v.BlockedReason)
		if v.BlockedReason != "" {
			body.Blocked = append(body.Blocked, v)
		} else {
			body.Expired = append(body.Expired, v)
		}
	}
	return body
}
