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
