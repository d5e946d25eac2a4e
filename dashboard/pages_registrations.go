package dashboard

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func (d *dashboard) handleRegistrations() {
	d.router.handle("GET /registrations", d.registrationsPage)
	d.router.handle("GET /registrations/{id}", d.registrationPage)
	d.router.handle("POST /registrations/{id}/approve", d.approveForm)
	d.router.handle("POST /registrations/{id}/profiles", d.profilesForm)
	d.router.handle("POST /registrations/{id}/block", d.blockForm)
	d.router.handle("GET /registrations/{id}/revoke", d.revokePage)
	d.router.handle("POST /registrations/{id}/revoke", d.revokeForm)
	d.router.handle("POST /removals/seen", d.seenRemovalsForm)

	d.router.handle("GET /api/registrations", d.listRegistrations)
	d.router.handle("GET /api/registrations/{id}", d.getRegistration)
	d.router.handle("POST /api/registrations/{id}/approve", d.approveAPI)
	d.router.handle("PUT /api/registrations/{id}/profiles", d.profilesAPI)
	d.router.handle("POST /api/registrations/{id}/block", d.blockAPI)
	d.router.handle("DELETE /api/registrations/{id}", d.revokeAPI)
	d.router.handle("GET /api/removals", d.listRemovals)
	d.router.handle("DELETE /api/removals", d.seenRemovalsAPI)
}

var registrationsDone = doneMessages{
	"approved": "Approved. Traffic of this registration may now flow.",
	"profiles": "Profiles changed. Flows that they no longer cover are closed.",
	"blocked":  "Blocked. Nothing of this registration is forwarded.",
	"revoked":  "Revoked for good.",
	"seen":     "Removed registrations that you have seen are no longer listed.",
}

// registrationRow is a registration on a page: all text made safe to look at.
type registrationRow struct {
	registrationView
	Name, BlockedReason string
	Pinned, SeenAt      []addressRow
	Shook, BlockedAgo   string // roughly when the last handshake was, and the block
	// Code is empty where look-alikes wait: it must come from the agent host, not
	// from the row the operator may be mistaken about.
	Code string
}

// addressRow is one address of a pin, or one that a registration was seen at.
type addressRow struct {
	Addr      string
	Datagrams bool // of WireGuard's messages only
	New       bool // outside the pin
}

func addressRows(of, pin registry.Pin) []addressRow {
	var rows []addressRow
	for _, a := range of.Addrs() {
		over := a == of.IPv4 || a == of.IPv6
		rows = append(rows, addressRow{a.String(), !over, !pin.Has(a)})
	}
	return rows
}

// elsewhere reports whether a blocked registration was seen outside its pin.
func (r registrationRow) elsewhere() bool {
	return slices.ContainsFunc(r.SeenAt, func(a addressRow) bool { return a.New })
}

func (ro roster) row(reg *registry.Registration, now time.Time) registrationRow {
	v := ro.view(reg)
	row := registrationRow{
		registrationView: v,
		Name:             shown(v.Name), BlockedReason: shown(v.BlockedReason),
		Pinned: addressRows(reg.Pin, reg.Pin), SeenAt: addressRows(reg.Seen, reg.Pin),
		Shook: ago(now, v.LastHandshake), BlockedAgo: ago(now, v.BlockedAt),
	}
	if reg.State == registry.Pending && !v.CodeRequired {
		row.Code = v.UserCode
	}
	row.Profiles = nil
	for _, p := range v.Profiles {
		row.Profiles = append(row.Profiles, shown(p))
	}
	return row
}

type registrationsBody struct {
	Blocked []registrationRow // seen outside their pin first, and then blocked last first
	Waiting []registrationRow // pending, oldest first
	Others  []registrationRow // newest first, revoked last
	Removed removedBody
}

func (d *dashboard) registrationsPage(w http.ResponseWriter, r *http.Request) {
	ro, now := d.roster(), d.Now()
	body := registrationsBody{Removed: d.removed()}
	for _, reg := range ro.snapshot.All() {
		row := ro.row(reg, now)
		switch reg.State {
		case registry.Blocked:
			body.Blocked = append(body.Blocked, row)
		case registry.Pending:
			body.Waiting = append(body.Waiting, row)
		default:
			body.Others = append(body.Others, row)
		}
	}
	slices.SortStableFunc(body.Blocked, func(a, b registrationRow) int {
		switch first, second := a.elsewhere(), b.elsewhere(); {
		case first && !second:
			return -1
		case second && !first:
			return 1
		}
		return timeOf(b.BlockedAt).Compare(timeOf(a.BlockedAt))
	})
	slices.Reverse(body.Others)
	slices.SortStableFunc(body.Others, func(a, b registrationRow) int { return stateOrder(a.State) - stateOrder(b.State) })
	d.render(w, http.StatusOK, "registrations", page{Title: "Registrations", Section: "registrations", Done: registrationsDone.of(r), Body: body})
}

// stateOrder puts what is over last.
func stateOrder(state string) int {
	return slices.Index([]string{string(registry.Approved), string(registry.Revoked)}, state)
}

type registrationBody struct {
	registrationRow
	Choices []profileChoice
	Repin   *repinChoice // nil: the pin can only be kept
	Both    bool         // messages come from inside the pin and from outside it
}

// profileChoice is a profile's checkbox.
type profileChoice struct {
	Name        string
	Credentials string
	Ticked      bool
	Missing     bool // assigned, but the policy in force does not have it
}

func (d *dashboard) registrationPage(w http.ResponseWriter, r *http.Request) {
	d.showRegistration(w, r, "registration", nil)
}

func (d *dashboard) revokePage(w http.ResponseWriter, r *http.Request) {
	d.showRegistration(w, r, "revoke", nil)
}

// showRegistration renders a page about one registration, with what went wrong
// if it follows a form.
func (d *dashboard) showRegistration(w http.ResponseWriter, r *http.Request, name string, problem error) {
	reg, err := d.registration(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	ro := d.roster()
	row := ro.row(reg, d.Now())
	if errors.Is(problem, registry.ErrCodeRequired) { // which may just have come to be, or gone
		row.CodeRequired, row.Code = true, ""
	}
	p := page{
		Title:   "Registration " + row.Name,
		Section: "registrations",
		Done:    registrationsDone.of(r),
		Body:    registrationBody{row, d.profileChoices(reg), ro.repinChoice(reg), inAndOut(reg)},
	}
	d.render(w, d.showFailure(&p, problem), name, p)
}

// profileChoices lists the policy's profiles. A registration that has none yet
// gets the defaults ticked; the operator still has to approve.
func (d *dashboard) profileChoices(reg *registry.Registration) []profileChoice {
	var out []profileChoice
	known := make(map[string]bool)
	for _, p := range d.Policy().Profiles {
		c := profileChoice{Name: p.Name, Ticked: slices.Contains(reg.Profiles, p.Name)}
		if len(reg.Profiles) == 0 {
			c.Ticked = p.Default
		}
		var refs []string
		for _, cr := range p.Credentials {
			refs = append(refs, cr.Ref())
		}
		c.Credentials = strings.Join(refs, ", ")
		known[p.Name] = true
		out = append(out, c)
	}
	for _, name := range reg.Profiles {
		if !known[name] {
			out = append(out, profileChoice{Name: shown(name), Missing: true})
		}
	}
	return out
}

// count returns how many registrations are in a state.
func (d *dashboard) count(state registry.State) int {
	n := 0
	for _, reg := range d.Registry.Snapshot().All() {
		if reg.State == state {
			n++
		}
	}
	return n
}

// afterForm answers a form about a registration: back to its page, with what
// was done, or the page again with what went wrong.
func (d *dashboard) afterForm(w http.ResponseWriter, r *http.Request, did string, err error) {
	if err != nil {
		name := "registration"
		if did == "revoked" {
			name = "revoke"
		}
		d.showRegistration(w, r, name, err)
		return
	}
	seeOther(w, r, "/registrations/"+r.PathValue("id")+"?done="+did)
}

func (d *dashboard) profilesForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.setProfiles(r, r.PostForm["profile"])
	}
	d.afterForm(w, r, "profiles", err)
}

func (d *dashboard) blockForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.block(r, r.PostForm.Get("reason"))
	}
	d.afterForm(w, r, "blocked", err)
}

func (d *dashboard) revokeForm(w http.ResponseWriter, r *http.Request) {
	d.afterForm(w, r, "revoked", d.revoke(r))
}
