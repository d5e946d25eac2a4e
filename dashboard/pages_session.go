package dashboard

import (
	"context"
	"net/http"
)

func (d *dashboard) handleSession() {
	d.router.handle("GET /account", d.accountPage)
	d.router.handle("POST /logout", d.logoutForm)

	d.router.handle("POST /api/logout", d.logoutAPI)
}

type setupBody struct {
	CodeRequired bool
	Min, Max     int
}

func (d *dashboard) setupPage(w http.ResponseWriter, r *http.Request) { d.showSetup(w, r, nil) }

func (d *dashboard) showSetup(w http.ResponseWriter, r *http.Request, problem error) {
	_, required, err := d.Registry.SetupCodeHash(context.WithoutCancel(r.Context()))
	if err != nil {
		d.fail(w, r, err)
		return
	}
	p := page{Title: "Set the root password", Body: setupBody{required, minPassword, maxPassword}}
	d.render(w, d.showFailure(&p, problem), "setup", p)
}

func (d *dashboard) setupForm(w http.ResponseWriter, r *http.Request) {
	if err := parseForm(r); err != nil {
		d.showSetup(w, r, err)
		return
	}
	password := r.PostForm.Get("password")
	if password != r.PostForm.Get("repeat") {
		d.showSetup(w, r, &failure{http.StatusUnprocessableEntity, "mismatch", "the two passwords differ", ""})
		return
	}
	if err := d.setUp(w, r, password, r.PostForm.Get("code")); err != nil {
		d.showSetup(w, r, err)
		return
	}
	seeOther(w, r, "/registrations")
}

func (d *dashboard) loginPage(w http.ResponseWriter, r *http.Request) { d.showLogin(w, nil) }

func (d *dashboard) showLogin(w http.ResponseWriter, problem error) {
	p := page{Title: "Log in"}
	d.render(w, d.showFailure(&p, problem), "login", p)
}

func (d *dashboard) loginForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.logIn(w, r, r.PostForm.Get("password"))
	}
	if err != nil {
		d.showLogin(w, err)
		return
	}
	seeOther(w, r, "/registrations")
}

func (d *dashboard) logoutForm(w http.ResponseWriter, r *http.Request) {
	if err := d.logOut(w, r); err != nil {
		d.fail(w, r, err)
		return
	}
	seeOther(w, r, "/login")
}

// accountPage lists who is logged in.
func (d *dashboard) accountPage(w http.ResponseWriter, _ *http.Request) {
	d.render(w, http.StatusOK, "account", page{Title: "Account", Section: "account"})
}
