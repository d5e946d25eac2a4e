package dashboard

import (
	"errors"
	"net/http"
)

func (d *dashboard) handleSecrets() {
	d.router.handle("GET /secrets", d.secretsPage)
	d.router.handle("POST /secrets", d.newSecretForm)
	d.router.handle("GET /secrets/{name}", d.secretPage)
	d.router.handle("POST /secrets/{name}", d.secretForm)
	d.router.handle("GET /secrets/{name}/clear", d.clearSecretPage)
	d.router.handle("POST /secrets/{name}/clear", d.clearSecretForm)

	d.router.handle("GET /api/secrets", d.listSecrets)
	d.router.handle("PUT /api/secrets/{name}", d.setSecretAPI)
	d.router.handle("DELETE /api/secrets/{name}", d.clearSecretAPI)
}

var secretsDone = doneMessages{
	"set":     "Stored.",
	"cleared": "Cleared.",
}

// secretBody is one named secret's page, and the one that clears it.
type secretBody struct {
	secretView
	Clear bool
	Seen  stamp
}

func (d *dashboard) secretsPage(w http.ResponseWriter, r *http.Request) {
	d.showSecrets(w, r, nil)
}

// showSecrets shows the list and an empty form, also after an error: what was
// typed as the name may be the value, in the wrong field.
func (d *dashboard) showSecrets(w http.ResponseWriter, r *http.Request, problem error) {
	p := page{Title: "Named secrets", Section: "credentials", Done: secretsDone.of(r), Body: d.secrets()}
	d.render(w, d.showFailure(&p, problem), "secrets", p)
}

// newSecretForm does not replace: somebody else's secret may have that name.
func (d *dashboard) newSecretForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.setSecret(r, r.PostForm.Get("name"), r.PostForm.Get("value"), stampOf(0))
	}
	if errors.Is(err, changedSince) {
		err = &failure{http.StatusConflict, "secret_exists", "there is a secret of this name", "replace it, or choose another name"}
	}
	if err != nil {
		d.showSecrets(w, r, err)
		return
	}
	seeOther(w, r, "/secrets?done=set")
}

func (d *dashboard) secretPage(w http.ResponseWriter, r *http.Request) {
	d.showSecret(w, r, false, nil)
}

func (d *dashboard) clearSecretPage(w http.ResponseWriter, r *http.Request) {
	d.showSecret(w, r, true, nil)
}

func (d *dashboard) showSecret(w http.ResponseWriter, r *http.Request, clear bool, problem error) {
	v, err := d.secretNamed(r.PathValue("name"))
	if err != nil {
		d.fail(w, r, err)
		return
	}
	p := page{Title: "Secret " + v.Name, Section: "credentials", Body: secretBody{v, clear, v.stored()}}
	d.render(w, d.showFailure(&p, problem), "secret", p)
}

func (d *dashboard) secretForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.setSecret(r, r.PathValue("name"), r.PostForm.Get("value"), stamp(r.PostForm.Get("seen")))
	}
	if err != nil {
		d.showSecret(w, r, false, err)
		return
	}
	seeOther(w, r, "/secrets?done=set")
}

func (d *dashboard) clearSecretForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.clearSecret(r, stamp(r.PostForm.Get("seen")))
	}
	if err != nil {
		d.showSecret(w, r, true, err)
		return
	}
	seeOther(w, r, "/secrets?done=cleared")
}
