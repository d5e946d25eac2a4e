package dashboard

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

// maxCredentials bounds one answer's credentials, and is how many it has unless
// limit says otherwise.
const maxCredentials = 500

// listCredentials answers in the order of credentials; a cursor is the ref that
// the answer before it ended with.
func (d *dashboard) listCredentials(w http.ResponseWriter, r *http.Request) {
	items, err := d.credentials(r.Context())
	if err != nil {
		d.fail(w, r, err)
		return
	}
	q, limit := r.URL.Query(), maxCredentials
	if s := q.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 || limit > maxCredentials {
			d.fail(w, r, badRequest(fmt.Sprintf("limit is not a number from 1 to %d", maxCredentials)))
			return
		}
	}
	if s := q.Get("cursor"); s != "" {
		i := slices.IndexFunc(items, func(v credentialView) bool { return v.ref() == s })
		if i < 0 {
			d.fail(w, r, badRequest("cursor is not one that an earlier answer gave, or its credential is gone since"))
			return
		}
		items = items[i+1:]
	}
	next := ""
	if len(items) > limit {
		items = items[:limit]
		next = items[limit-1].ref()
	}
	writeList(w, items, next)
}

// credentialDetail is a credential with who would lose it.
type credentialDetail struct {
	credentialView
	Registrations []holderView `json:"registrations"`
	More          int          `json:"more_registrations"` // beyond those
}

func (d *dashboard) getCredential(w http.ResponseWriter, r *http.Request) {
	v, err := d.credential(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	holders, more := d.holders(v)
	writeJSON(w, http.StatusOK, credentialDetail{v, holders, more})
}

func (d *dashboard) setCredentialAPI(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Slots map[string]string `json:"slots"`
	}
	if err := readJSON(r, &req); err != nil {
		d.fail(w, r, err)
		return
	}
	if err := d.setCredential(r, req.Slots, anyStamp); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

func (d *dashboard) clearCredentialAPI(w http.ResponseWriter, r *http.Request) {
	if err := d.clearCredential(r, anyStamp); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

func (d *dashboard) listSecrets(w http.ResponseWriter, _ *http.Request) {
	writeList(w, d.secrets(), "") // the registry keeps 256 at most
}

func (d *dashboard) setSecretAPI(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Value string `json:"value"`
	}
	if err := readJSON(r, &req); err != nil {
		d.fail(w, r, err)
		return
	}
	if err := d.setSecret(r, r.PathValue("name"), req.Value, anyStamp); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

func (d *dashboard) clearSecretAPI(w http.ResponseWriter, r *http.Request) {
	if err := d.clearSecret(r, anyStamp); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}
