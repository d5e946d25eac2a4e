package dashboard

import (
	"context"
	"errors"
	"net/http"
)

func (d *dashboard) handleSession() {
	d.router.handle("GET /account", d.accountPage)
	d.router.handle("POST /account/password", d.passwordForm)
	d.router.handle("POST /account/sessions/{id}/end", d.endSessionForm)
	d.router.handle("POST /account/log-out", d.logOutEverywhereForm)
	d.router.handle("POST /logout", d.logoutForm)

	d.router.handle("GET /api/sessions", d.listSessions)
	d.router.handle("GET /api/sessions/{id}", d.getSession)
	d.router.handle("DELETE /api/sessions/{id}", d.endSessionAPI)
	d.router.handle("DELETE /api/sessions", d.logOutEverywhereAPI)
	d.router.handle("PUT /api/password", d.passwordAPI)
	d.router.handle("POST /api/logout", d.logoutAPI)
}

type setupBody struct {
	CodeRequired bool
	Min, Max     int
	Weak         bool // the one just sent is, which the operator may want all the same
}

func (d *dashboard) setupPage(w http.ResponseWriter, r *http.Request) { d.showSetup(w, r, nil) }

func (d *dashboard) showSetup(w http.ResponseWriter, r *http.Request, problem error) {
	_, required, err := d.Registry.SetupCodeHash(context.WithoutCancel(r.Context()))
	if err != nil {
		d.fail(w, r, err)
		return
	}
	p := page{Title: "Set the root password", Body: setupBody{required, minPassword, maxPassword, isWeak(problem)}}
	d.render(w, d.showFailure(&p, problem), "setup", p)
}

func (d *dashboard) setupForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	var password string
	if err == nil {
		password, err = newPassword(r)
	}
	if err == nil {
		err = d.setUp(w, r, password, r.PostForm.Get("code"))
	}
	if err != nil {
		d.showSetup(w, r, err)
		return
	}
	seeOther(w, r, "/")
}

// isWeak reports whether err is newPassword's warning.
func isWeak(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && f.code == weakPassword
}

type loginBody struct {
	Next string // where to go on then
}

func (d *dashboard) loginPage(w http.ResponseWriter, r *http.Request) {
	d.showLogin(w, ownPage(r.URL.Query().Get("next")), nil)
}

func (d *dashboard) showLogin(w http.ResponseWriter, next string, problem error) {
	p := page{Title: "Log in", Body: loginBody{next}}
	d.render(w, d.showFailure(&p, problem), "login", p)
}

func (d *dashboard) loginForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.logIn(w, r, r.PostForm.Get("password"))
	}
	next := ownPage(r.PostForm.Get("next"))
	if err != nil {
		d.showLogin(w, next, err)
		return
	}
	if next == "" {
		next = "/"
	}
	seeOther(w, r, next)
}

func (d *dashboard) logoutForm(w http.ResponseWriter, r *http.Request) {
	if err := d.logOut(w, r); err != nil {
		d.fail(w, r, err)
		return
	}
	seeOther(w, r, "/login")
}

var accountDone = doneMessages{
	"ended":          "Ended. Whoever had that session has to log in again.",
	"others":         "All other sessions have ended.",
	"changed":        "The root password has been changed. All other sessions have ended.",
	"changed-anyway": "The root password has been changed, to a guessable one. All other sessions have ended.",
}

type accountBody struct {
	Sessions []sessionView
	Min, Max int
	Weak     bool // as in setupBody
}

// accountPage lists who is logged in, and changes the password.
func (d *dashboard) accountPage(w http.ResponseWriter, r *http.Request) { d.showAccount(w, r, nil) }

func (d *dashboard) showAccount(w http.ResponseWriter, r *http.Request, problem error) {
	p := page{Title: "Account", Section: "account", Live: true, Done: accountDone.of(r),
		Body: accountBody{d.sessionViews(r), minPassword, maxPassword, isWeak(problem)}}
	d.render(w, d.showFailure(&p, problem), "account", p)
}

func (d *dashboard) endSessionForm(w http.ResponseWriter, r *http.Request) {
	if err := d.endSession(r, r.PathValue("id")); err != nil {
		d.showAccount(w, r, err)
		return
	}
	seeOther(w, r, "/account?done=ended") // which its own leads on to the log-in
}

func (d *dashboard) logOutEverywhereForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	others := r.PostForm.Get("which") == "others"
	if err == nil && !others && r.PostForm.Get("which") != "all" {
		err = badRequest("which sessions is not said")
	}
	if err == nil {
		err = d.logOutEverywhere(w, r, others)
	}
	switch {
	case err != nil:
		d.showAccount(w, r, err)
	case others:
		seeOther(w, r, "/account?done=others")
	default:
		seeOther(w, r, "/login")
	}
}

func (d *dashboard) passwordForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	var password string
	if err == nil {
		password, err = newPassword(r)
	}
	if err == nil {
		err = d.changePassword(w, r, r.PostForm.Get("old"), password)
	}
	if err != nil {
		d.showAccount(w, r, err)
		return
	}
	did := "changed"
	if strengthOf(password).weak() {
		did = "changed-anyway"
	}
	seeOther(w, r, "/account?done="+did)
}
