package dashboard

import (
	"context"
	"net/http"
	"time"
)

// actionsPace is the least time between two events of "actions": agents make rows
// all the time, and each event makes the page ask again.
const actionsPace = 2 * time.Second

func (d *dashboard) handleLive() {
	d.router.handle("GET /api/live", d.live)
}

// live tells an open page what has changed, by name: "registrations",
// "approvals", "actions", "policy". The page then asks for that part of itself
// again; nothing else is sent. What comes too soon is told later, never dropped.
func (d *dashboard) live(w http.ResponseWriter, r *http.Request) {
	seen := d.look()
	var paced time.Time // when "actions" may be sent again
	d.serveEvents(w, r, func(_ context.Context, e *events) error {
		now := d.look()
		at := time.Now()
		if now.actions != seen.actions && at.Before(paced) {
			now.actions = seen.actions
		} else if now.actions != seen.actions {
			paced = at.Add(actionsPace)
		}
		for _, c := range []struct {
			name    string
			changed bool
		}{
			{"registrations", now.registrations != seen.registrations},
			{"approvals", now.approvals != seen.approvals},
			{"actions", now.actions != seen.actions},
			{"policy", now.policy != seen.policy},
		} {
			if c.changed {
				if err := e.send(c.name, "", ""); err != nil {
					return err
				}
			}
		}
		seen = now
		return nil
	})
}

// versions is what live compares: where a field differs, its part has changed.
type versions struct {
	registrations, policy any // pointers
	approvals             uint64
	actions               int64
}

func (d *dashboard) look() versions {
	return versions{
		registrations: d.Registry.Snapshot(), policy: d.Policy(),
		approvals: d.Registry.ApprovalChanges(), actions: d.Registry.LastAction(),
	}
}
