package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// grantView is what an operator allowed beyond the one action that asked.
type grantView struct {
	ID               string     `json:"id"`
	Approval         string     `json:"approval"` // the one that was answered so
	Registration     string     `json:"registration"`
	RegistrationName string     `json:"registration_name"` // empty: it is gone
	Endpoint         string     `json:"endpoint"`
	Rule             string     `json:"rule"`
	Operator         string     `json:"operator"`
	Reason           string     `json:"reason"`
	CreatedAt        time.Time  `json:"created_at"`
	ExpiresAt        time.Time  `json:"expires_at"`
	Uses             int        `json:"uses"` // 0: any number
	Used             int        `json:"used"`
	EndedAt          *time.Time `json:"ended_at"` // taken back, or the registration was blocked or revoked; null: neither
}

func (d *dashboard) grantView(g registry.Grant) grantView {
	v := grantView{
		ID: string(g.ID), Approval: string(g.Approval), Registration: string(g.Registration), Endpoint: g.Endpoint, Rule: g.Rule,
		Operator: g.Operator, Reason: g.Reason, CreatedAt: g.CreatedAt.UTC(), ExpiresAt: g.ExpiresAt.UTC(),
		Uses: g.Uses, Used: g.Used, EndedAt: optionalTime(g.EndedAt),
	}
	if reg, ok := d.Registry.Snapshot().ByID(g.Registration); ok {
		v.RegistrationName = reg.Name
	}
	return v
}

// endGrant takes back what {id} in r's path names.
func (d *dashboard) endGrant(r *http.Request) error {
	id := registry.GrantID(r.PathValue("id"))
	err := d.Registry.EndGrant(context.WithoutCancel(r.Context()), id)
	if errors.Is(err, registry.ErrNoGrant) {
		return &failure{http.StatusNotFound, "not_found", "no such grant is in force", "it was used up, has expired, or was taken back"}
	}
	if err != nil {
		return fmt.Errorf("taking back a grant: %w", err)
	}
	d.Log.Info("grant taken back", "grant", id, "operator", source(r))
	return nil
}

func (d *dashboard) listGrants(w http.ResponseWriter, _ *http.Request) {
	items := []grantView{}
	for _, g := range d.Registry.Grants() {
		items = append(items, d.grantView(g))
	}
	writeList(w, items, "")
}

func (d *dashboard) endGrantAPI(w http.ResponseWriter, r *http.Request) {
	if err := d.endGrant(r); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

// grantRow is a grant on a page: all text made safe to look at.
type grantRow struct {
	ID, Approval, Registration, Name, Endpoint, Rule string
	Operator, Reason                                 string
	Left                                             string // how often still
	ExpiresAt                                        time.Time
	InForce                                          bool
}

func (d *dashboard) grantRow(g registry.Grant) grantRow {
	v := d.grantView(g)
	row := grantRow{
		ID: v.ID, Approval: v.Approval, Registration: v.Registration, Name: shown(v.RegistrationName), Endpoint: shown(v.Endpoint), Rule: shown(v.Rule),
		Operator: shown(v.Operator), Reason: shown(v.Reason), ExpiresAt: v.ExpiresAt,
		Left:    "any number, used " + plural(v.Used, "time"),
		InForce: v.EndedAt == nil && d.Now().Before(g.ExpiresAt) && (v.Uses == 0 || v.Used < v.Uses),
	}
	if row.Name == "" {
		row.Name = v.Registration
	}
	if v.Uses > 0 {
		row.Left = fmt.Sprintf("%d of %d", v.Uses-v.Used, v.Uses)
	}
	return row
}

func (d *dashboard) endGrantForm(w http.ResponseWriter, r *http.Request) {
	if err := d.endGrant(r); err != nil {
		d.showApprovals(w, r, err)
		return
	}
	seeOther(w, r, "/approvals?done=taken-back")
}
