package dashboard

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
)

func (d *dashboard) handleCredentials() {
	d.router.handle("GET /credentials", d.credentialsPage)
	d.router.handle("GET /credentials/{type}/{name}", d.credentialPage)
	d.router.handle("POST /credentials/{type}/{name}", d.credentialForm)
	d.router.handle("GET /credentials/{type}/{name}/clear", d.clearCredentialPage)
	d.router.handle("POST /credentials/{type}/{name}/clear", d.clearCredentialForm)

	d.router.handle("GET /api/credentials", d.listCredentials)
	d.router.handle("GET /api/credentials/{type}/{name}", d.getCredential)
	d.router.handle("PUT /api/credentials/{type}/{name}", d.setCredentialAPI)
	d.router.handle("DELETE /api/credentials/{type}/{name}", d.clearCredentialAPI)

	d.handleSecrets()
}

var credentialsDone = doneMessages{
	"set":     "Stored. It is used from the next request on.",
	"cleared": "Cleared. Requests that need it are refused until it is set again.",
}

// Limits of the pages.
const (
	credentialsOfPage = 200 // rows of the list
	missingShown      = 10  // credentials that are named as missing above it
)

// credentialRow is a credential on a page: all text made safe to look at.
type credentialRow struct {
	credentialView
	Slots   []slotRow
	Ref     string
	Path    string // of its page
	Actions string // URL of its rows of the action log
	AnySet  bool
	SetAt   string // of the newest slot
	Last    *useRow
	Seen    stamp
}

// slotRow is a slot's field, and what was wrong with what was posted for it.
type slotRow struct {
	slotView
	Multiline bool
	Problem   string
}

// Damaged: something is stored, and does not open.
func (s slotRow) Damaged() bool { return s.Set && s.Fingerprint == "" }

// useRow is who used a credential last.
type useRow struct {
	Name string // the registration's; its ID where it is gone
	Path string // of its page; empty where it is gone
	At   string
	Ago  string
}

func newCredentialRow(v credentialView, now time.Time) credentialRow {
	row := credentialRow{
		credentialView: v,
		Seen:           v.stored,
		Ref:            shown(v.ref()),
		Path:           "/credentials/" + url.PathEscape(v.Type) + "/" + url.PathEscape(v.Name),
		Actions:        "/actions?" + url.Values{"credential": {v.ref()}}.Encode(),
	}
	for _, s := range v.Slots {
		row.Slots = append(row.Slots, slotRow{slotView: s, Multiline: slices.Contains(multiline, s.Name) || s.Name == "certificate"})
		row.AnySet = row.AnySet || s.Set
		row.SetAt = max(row.SetAt, utc(s.SetAt))
	}
	if u := v.LastUsed; u != nil {
		row.Last = &useRow{Name: shown(u.Name), At: at(u.Time), Ago: ago(now, &u.Time)}
		if u.Name == "" {
			row.Last.Name = shown(u.Registration)
		} else {
			row.Last.Path = "/registrations/" + url.PathEscape(u.Registration)
		}
	}
	return row
}

type credentialsBody struct {
	ByProfile      bool
	Groups         []credentialGroup
	Unused         []credentialRow
	Missing        []credentialRow // what no request can use until it is set
	MoreMissing    int
	Secrets        int    // named ones
	Previous, Next string // URLs; empty: none
}

// credentialGroup is what the list shows together: an endpoint's credentials, or
// a profile's.
type credentialGroup struct {
	Name, Note string
	Rows       []credentialRow
}

func (d *dashboard) credentialsPage(w http.ResponseWriter, r *http.Request) {
	views, err := d.credentials(r.Context())
	if err != nil {
		d.fail(w, r, err)
		return
	}
	q := r.URL.Query()
	body := credentialsBody{ByProfile: q.Get("by") == "profile", Secrets: len(d.Registry.Secrets())}
	var rows []credentialRow
	for _, v := range views {
		row := newCredentialRow(v, d.Now())
		switch {
		case v.Unused:
			body.Unused = append(body.Unused, row)
			continue
		case v.Complete:
		case len(body.Missing) < missingShown:
			body.Missing = append(body.Missing, row)
		default:
			body.MoreMissing++
		}
		rows = append(rows, row)
	}
	if body.ByProfile {
		body.Groups = byProfile(d.Policy(), rows)
	} else {
		body.Groups = byEndpoint(d.Policy(), rows)
	}
	body.turnTo(q.Get("page"))
	d.render(w, http.StatusOK, "credentials", page{Title: "Credentials", Section: "credentials", Done: credentialsDone.of(r), Body: body})
}

func byEndpoint(p *policy.Policy, rows []credentialRow) []credentialGroup {
	var groups []credentialGroup
	for _, e := range p.Endpoints {
		g := credentialGroup{Name: shown(e.Ref()), Note: "Sent to " + shown(strings.Join(hostList(e.Hosts), ", "))}
		for _, row := range rows {
			if row.Endpoint == e.Ref() {
				g.Rows = append(g.Rows, row)
			}
		}
		groups = append(groups, g)
	}
	return groups
}

// byProfile lists a credential with each profile that has it.
func byProfile(p *policy.Policy, rows []credentialRow) []credentialGroup {
	var groups []credentialGroup
	for _, pr := range p.Profiles {
		g := credentialGroup{Name: shown(pr.Name)}
		for _, row := range rows {
			if slices.Contains(row.Profiles, pr.Name) {
				g.Rows = append(g.Rows, row)
			}
		}
		groups = append(groups, g)
	}
	none := credentialGroup{Name: "In no profile", Note: "No registration can use these"}
	for _, row := range rows {
		if len(row.Profiles) == 0 {
			none.Rows = append(none.Rows, row)
		}
	}
	return append(groups, none)
}

// turnTo leaves of the groups' rows those of one page, and groups that have any.
func (b *credentialsBody) turnTo(text string) {
	total := 0
	for _, g := range b.Groups {
		total += len(g.Rows)
	}
	n, _ := strconv.Atoi(text) // what is no number is the first page
	n = max(0, min(n, (total-1)/credentialsOfPage))
	from, end := n*credentialsOfPage, (n+1)*credentialsOfPage
	var groups []credentialGroup
	i := 0 // rows before this group
	for _, g := range b.Groups {
		first, last := max(from-i, 0), min(end-i, len(g.Rows))
		i += len(g.Rows)
		if first < last {
			g.Rows = g.Rows[first:last]
			groups = append(groups, g)
		}
	}
	b.Groups = groups
	link := func(n int) string {
		q := url.Values{"page": {strconv.Itoa(n)}}
		if b.ByProfile {
			q.Set("by", "profile")
		}
		return "/credentials?" + q.Encode()
	}
	if n > 0 {
		b.Previous = link(n - 1)
	}
	if end < total {
		b.Next = link(n + 1)
	}
}

// credentialBody is one credential's page, and the one that clears it.
type credentialBody struct {
	credentialRow
	Holders []holderRow
	More    int  // beyond those
	Confirm bool // clearing it wants its name typed
	Wrong   bool // what was typed was not
}

// holderRow is a registration that would lose the credential.
type holderRow struct {
	holderView
	Path, Ago string
}

func (d *dashboard) credentialPage(w http.ResponseWriter, r *http.Request) {
	d.showCredential(w, r, "credential", nil)
}

func (d *dashboard) clearCredentialPage(w http.ResponseWriter, r *http.Request) {
	d.showCredential(w, r, "clear", nil)
}

func (d *dashboard) showCredential(w http.ResponseWriter, r *http.Request, name string, problem error) {
	v, err := d.credential(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	now := d.Now()
	body := credentialBody{credentialRow: newCredentialRow(v, now), Confirm: d.usedLately(v), Wrong: errors.Is(problem, notConfirmed)}
	var holders []holderView
	holders, body.More = d.holders(v)
	for _, h := range holders {
		row := holderRow{holderView: h, Path: "/registrations/" + url.PathEscape(h.Registration), Ago: ago(now, h.LastUsed)}
		row.Name = shown(h.Name)
		body.Holders = append(body.Holders, row)
	}
	if wrong, ok := errors.AsType[*slotFailure](problem); ok {
		for i := range body.Slots {
			if body.Slots[i].Name == wrong.slot {
				body.Slots[i].Problem = wrong.message
			}
		}
	}
	p := page{Title: "Credential " + body.Ref, Section: "credentials", Body: body}
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
		err = d.setCredential(r, values, stamp(r.PostForm.Get("seen")))
	}
	if err != nil {
		d.showCredential(w, r, "credential", err)
		return
	}
	seeOther(w, r, "/credentials?done=set")
}

// clearCredentialForm wants the name of a credential typed that somebody has used
// lately: what is cleared has to be found again, and agents stop meanwhile.
func (d *dashboard) clearCredentialForm(w http.ResponseWriter, r *http.Request) {
	v, err := d.credential(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	if err = parseForm(r); err == nil && d.usedLately(v) && strings.TrimSpace(r.PostForm.Get("confirm")) != v.ref() {
		err = notConfirmed
	}
	if err == nil {
		err = d.clearCredential(r, stamp(r.PostForm.Get("seen")))
	}
	if err != nil {
		d.showCredential(w, r, "clear", err)
		return
	}
	seeOther(w, r, "/credentials?done=cleared")
}
