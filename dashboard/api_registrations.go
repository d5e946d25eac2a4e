package dashboard

import (
	"net/http"

	"github.com/clawpatrol/clawpatrol/registry"
)

func (d *dashboard) listRegistrations(w http.ResponseWriter, r *http.Request) {
	ro, q := d.roster(), r.URL.Query()
	regs, err := ro.inState(q.Get("state"))
	var next string
	if err == nil {
		regs, next, err = pageOf(regs, positionOf, false, q, maxListed)
	}
	if err != nil {
		d.fail(w, r, err)
		return
	}
	items := []registrationView{}
	for _, reg := range regs {
		items = append(items, ro.view(reg))
	}
	writeList(w, items, next)
}

// positionOf is where a registration stands in lists.
func positionOf(reg *registry.Registration) position {
	return position{reg.CreatedAt.UnixMicro(), string(reg.ID)}
}

func (d *dashboard) getRegistration(w http.ResponseWriter, r *http.Request) {
	reg, err := d.registration(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, d.roster().view(reg))
}

func (d *dashboard) profilesAPI(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Profiles []string `json:"profiles"`
	}
	if err := readJSON(r, &req); err != nil {
		d.fail(w, r, err)
		return
	}
	if err := d.setProfiles(r, req.Profiles, nil); err != nil {
		d.fail(w, r, err)
		return
	}
	d.getRegistration(w, r)
}

func (d *dashboard) blockAPI(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Reason string `json:"reason"`
	}
	if err := readJSON(r, &req); err != nil {
		d.fail(w, r, err)
		return
	}
	if err := d.block(r, req.Reason); err != nil {
		d.fail(w, r, err)
		return
	}
	d.getRegistration(w, r)
}

func (d *dashboard) revokeAPI(w http.ResponseWriter, r *http.Request) {
	if err := d.revoke(r); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}
