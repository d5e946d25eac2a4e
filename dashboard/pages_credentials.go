package dashboard

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

func (d *dashboard) handleCredentials() {
	d.router.handle("GET /credentials", d.credentialsPage)
	d.router.handle("GET /credentials/{type}/{name}", d.credentialPage)
	d.router.handle("POST /credentials/{type}/{name}", d.credentialForm)
	d.router.handle("GET /credentials/{type}/{name}/clear", d.clearCredentialPage)
	d.router.handle("POST /credentials/{type}/{name}/clear", d.clearCredentialForm)

	d.router.handle("GET /api/credentials", d.listCredentials)
	d.router.handle("PUT /api/credentials/{type}/{name}", d.setCredentialAPI)
	d.router.handle("DELETE /api/credentials/{type}/{name}", d.clearCredentialAPI)
	d.router.handle("PUT /api/secrets/{name}", d.setSecretAPI)
}

var credentialsDone = doneMessages{
	"set":     "Stored. It is used from the next request on.",
	"cleared": "Cleared. Requests that need it are refused until it is set again.",
}

// credentialRow is a credential on a page: all text made safe to look at.
type credentialRow struct {
	credentialView
	Slots  []slotRow
	Ref    string
	Path   string // of its page
	AnySet bool
	SetAt  string // of the newest slot
}

// slotRow is a slot's field, and what was wrong with what was posted for it.
type slotRow struct {
	slotView
	Multiline bool
	Problem   string
}

func newCredentialRow(v credentialView) credentialRow {
	row := credentialRow{
		credentialView: v,
		Ref:            shown(v.Type + "." + v.Name),
		Path:           "/credentials/" + url.PathEscape(v.Type) + "/" + url.PathEscape(v.Name),
	}
	for _, s := range v.Slots {
		row.Slots = append(row.Slots, slotRow{slotView: s, Multiline: slices.Contains(multiline, s.Name) || s.Name == "certificate"})
		row.AnySet = row.AnySet || s.Set
		row.SetAt = max(row.SetAt, utc(s.SetAt))
	}
	return row
}

type credentialsBody struct{ Used, Unused []credentialRow }

func (d *dashboard) credentialsPage(w http.ResponseWriter, r *http.Request) {
	views, err := d.credentials(r.Context())
	if err != nil {
		d.fail(w, r, err)
		return
	}
	var body credentialsBody
	for _, v := range views {
		if v.Unused {
			body.Unused = append(body.Unused, newCredentialRow(v))
		} else {
			body.Used = append(body.Used, newCredentialRow(v))
		}
	}
	d.render(w, http.StatusOK, "credentials", page{Title: "Credentials", Section: "credentials", Done: credentialsDone.of(r), Body: body})
}

func (d *dashboard) credentialPage(w http.ResponseWriter, r *http.Request) {
	d.showCredential(w, r, "credential", nil)
}

func (d *dashboard) clearCredentialPage(w http.ResponseWriter, r *http.Request) {
	d.showCredential(w, r, "clear", nil)
}

func (d *dashboard) showCredential(w http.ResponseWriter, r *http.Request, name string, problem error) {
	views, err := d.credentials(r.Context())
	if err != nil {
		d.fail(w, r, err)
		return
	}
	i := slices.IndexFunc(views, func(v credentialView) bool { return v.Type == r.PathValue("type") && v.Name == r.PathValue("name") })
	if i < 0 {
		d.fail(w, r, notFound)
		return
	}
	row := newCredentialRow(views[i])
	if wrong, ok := errors.AsType[*slotFailure](problem); ok {
		for i := range row.Slots {
			if row.Slots[i].Name == wrong.slot {
				row.Slots[i].Problem = wrong.message
			}
		}
	}
	p := page{Title: "Credential " + row.Ref, Section: "credentials", Body: row}
	d.render(w, d.showFailure(&p, problem), name, p)
}

// credentialForm stores the slots that were filled in; an empty field keeps what
// is stored, since a page cannot show it to be sent back.
func (d *dashboard) credentialForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		values := make(map[string]string)
		for field, v := range r.PostForm {
			if slot, ok := strings.CutPrefix(field, "slot."); ok && v[0] != "" {
				values[slot] = v[0]
			}
		}
		err = d.setCredential(r, values)
	}
	if err != nil {
		d.showCredential(w, r, "credential", err)
		return
	}
	seeOther(w, r, "/credentials?done=set")
}

func (d *dashboard) clearCredentialForm(w http.ResponseWriter, r *http.Request) {
	if err := d.clearCredential(r); err != nil {
		d.showCredential(w, r, "clear", err)
		return
	}
	seeOther(w, r, "/credentials?done=cleared")
}
