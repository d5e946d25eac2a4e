package dashboard

import "net/http"

func (d *dashboard) listRegistrations(w http.ResponseWriter, _ *http.Request) {
	ro := d.roster()
	items := []registrationView{}
	for _, reg := range ro.snapshot.All() {
		items = append(items, ro.view(reg))
	}
	writeList(w, items, "")
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
	if err := d.setProfiles(r, req.Profiles); err != nil {
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
