package dashboard

import "net/http"

func (d *dashboard) setupAPI(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Password string `json:"password"`
		Code     string `json:"code"` // after --reset-dashboard-password
	}
	if err := readJSON(r, &req); err != nil {
		d.fail(w, r, err)
		return
	}
	if err := d.setUp(w, r, req.Password, req.Code); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

func (d *dashboard) loginAPI(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Password string `json:"password"`
	}
	if err := readJSON(r, &req); err != nil {
		d.fail(w, r, err)
		return
	}
	if err := d.logIn(w, r, req.Password); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

func (d *dashboard) logoutAPI(w http.ResponseWriter, r *http.Request) {
	if err := d.logOut(w, r); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

func (d *dashboard) listSessions(w http.ResponseWriter, r *http.Request) {
	writeList(w, d.sessionViews(r), "") // there are 64 at most
}

func (d *dashboard) getSession(w http.ResponseWriter, r *http.Request) {
	for _, s := range d.sessionViews(r) {
		if s.ID == r.PathValue("id") {
			writeJSON(w, http.StatusOK, s)
			return
		}
	}
	d.fail(w, r, noSession)
}

func (d *dashboard) endSessionAPI(w http.ResponseWriter, r *http.Request) {
	if err := d.endSession(r, r.PathValue("id")); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

func (d *dashboard) logOutEverywhereAPI(w http.ResponseWriter, r *http.Request) {
	others := false
	switch q := r.URL.Query().Get("which"); q {
	case "", "all":
	case "others":
		others = true
	default:
		d.fail(w, r, badRequest(`which is neither "all" nor "others"`))
		return
	}
	if err := d.logOutEverywhere(w, r, others); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

func (d *dashboard) passwordAPI(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Old string `json:"old"`
		New string `json:"new"`
	}
	if err := readJSON(r, &req); err != nil {
		d.fail(w, r, err)
		return
	}
	if err := d.changePassword(w, r, req.Old, req.New); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}
