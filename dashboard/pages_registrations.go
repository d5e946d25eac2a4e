package dashboard

import (
	"errors"
	"net/http"
	"net/netip"
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
	// Where a form was refused, its answer stands at the form's URL: loading that
	// anew leads to the page.
	for _, form := range []string{"approve", "profiles", "block"} {
		d.router.handle("GET /registrations/{id}/"+form, d.toRegistration)
	}

	d.router.handle("GET /api/registrations", d.listRegistrations)
	d.router.handle("GET /api/registrations/{id}", d.getRegistration)
	d.router.handle("GET /api/registrations/{id}/flows", d.listFlows)
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
func elsewhere(reg *registry.Registration) bool {
	return slices.ContainsFunc(reg.Seen.Addrs(), func(a netip.Addr) bool { return !reg.Pin.Has(a) })
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

// Limits of the page of registrations: entries of each part.
const (
	rowsShown  = 50  // of a table, unless its URL has a limit
	cardsShown = 100 // of what waits (the registry has no more) and of what is blocked
)

type registrationsBody struct {
	// Front: not a later page, or the registrations in one state only, which are
	// the table alone.
	Front   bool
	Blocked []registrationRow // seen outside their pin first, and then blocked last first
	Hidden  int               // more that are blocked
	Waiting []approveCard     // pending, oldest first: a new one moves no other
	Removed removedBody
	Invites bool // this gateway makes some

	Title       string // of the table
	Rows        []registrationRow
	Here        string // URL of this page
	Next, First string // URLs; empty: none

	Revoked []registrationRow // the newest
	Buried  int               // all that are revoked
}

// approveCard is a registration with the form that approves it.
type approveCard struct {
	registrationRow
	Choices  []profileChoice
	Repin    *repinChoice // nil: the pin can only be kept
	Invited  []string     // profiles that its invite approves it with, once its tunnel is up
	FromList bool         // the form is one of several on a page
	Blocks   int          // how often it was blocked: a form from before the last time approves nothing
}

func (d *dashboard) approveCard(ro roster, reg *registry.Registration, chosen []string) approveCard {
	c := approveCard{registrationRow: ro.row(reg, d.Now()), Choices: d.profileChoices(reg, chosen), Repin: ro.repinChoice(reg), Blocks: reg.Blocks}
	for _, p := range reg.Invited {
		c.Invited = append(c.Invited, shown(p))
	}
	return c
}

func (d *dashboard) registrationsPage(w http.ResponseWriter, r *http.Request) {
	ro, q := d.roster(), r.URL.Query()
	p := page{Title: "Registrations", Section: "registrations", Done: registrationsDone.of(r), Live: true}
	state := q.Get("state")
	body := registrationsBody{Front: state == "" && q.Get("cursor") == "", Invites: d.Invites != nil, Title: "Approved"}
	if state == "" {
		state = string(registry.Approved)
	} else if slices.Contains(registrationStates, registry.State(state)) {
		body.Title = strings.ToUpper(state[:1]) + state[1:]
	}
	rows := func(regs []*registry.Registration) (list []registrationRow) {
		for _, reg := range regs {
			list = append(list, ro.row(reg, d.Now()))
		}
		return list
	}
	regs, problem := ro.inState(state)
	slices.Reverse(regs)
	if problem == nil {
		var next string
		regs, next, problem = pageOf(regs, positionOf, true, q, rowsShown)
		body.Rows = rows(regs)
		body.Next, body.First = pageLinks("/registrations", q, next, "state")
		body.Here = pageURL("/registrations", q, q.Get("cursor"), "state")
	}
	if body.Front && problem == nil {
		d.fillFront(&body, ro, rows)
	}
	p.Body = body
	d.render(w, d.showFailure(&p, problem), "registrations", p)
}

// fillFront adds what stands on the first page only.
func (d *dashboard) fillFront(body *registrationsBody, ro roster, rows func([]*registry.Registration) []registrationRow) {
	var blocked, revoked []*registry.Registration
	for _, reg := range ro.snapshot.All() {
		switch reg.State {
		case registry.Blocked:
			blocked = append(blocked, reg)
		case registry.Pending:
			if len(body.Waiting) < cardsShown {
				card := d.approveCard(ro, reg, nil)
				card.FromList = true
				body.Waiting = append(body.Waiting, card)
			}
		case registry.Revoked:
			revoked = append(revoked, reg)
		}
	}
	slices.SortStableFunc(blocked, func(a, b *registry.Registration) int {
		switch first, second := elsewhere(a), elsewhere(b); {
		case first && !second:
			return -1
		case second && !first:
			return 1
		}
		return b.BlockedAt.Compare(a.BlockedAt)
	})
	body.Hidden = max(0, len(blocked)-cardsShown)
	body.Blocked = rows(blocked[:len(blocked)-body.Hidden])
	slices.SortStableFunc(revoked, func(a, b *registry.Registration) int { return b.RevokedAt.Compare(a.RevokedAt) })
	body.Buried = len(revoked)
	body.Revoked = rows(revoked[:min(len(revoked), rowsShown)])
	body.Removed = d.removed()
}

type registrationBody struct {
	approveCard
	Still     bool // it follows a form that failed: what was ticked must stay
	Both      bool // messages come from inside the pin and from outside it
	Held      []heldProfile
	NoSecrets bool // which secrets are set could not be read

	Flows     []flowRow
	FlowsTold bool // false: nobody tells them
	FlowsFull bool // there may be more
	Actions   []lastAction
	NoActions bool // the log could not be read
}

func (d *dashboard) registrationPage(w http.ResponseWriter, r *http.Request) {
	d.showRegistration(w, r, "registration", nil)
}

func (d *dashboard) toRegistration(w http.ResponseWriter, r *http.Request) {
	reg, err := d.registration(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	seeOther(w, r, "/registrations/"+string(reg.ID))
}

func (d *dashboard) revokePage(w http.ResponseWriter, r *http.Request) {
	d.showRegistration(w, r, "revoke", nil)
}

// showRegistration renders a page about one registration, with what went wrong
// if it follows a form. What was ticked in the form stays ticked.
func (d *dashboard) showRegistration(w http.ResponseWriter, r *http.Request, name string, problem error) {
	reg, err := d.registration(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	body := registrationBody{approveCard: d.approveCard(d.roster(), reg, r.PostForm["profile"]), Both: inAndOut(reg), Still: problem != nil}
	if errors.Is(problem, registry.ErrCodeRequired) { // which may just have come to be, or gone
		body.CodeRequired, body.Code = true, ""
	}
	if name == "registration" {
		d.fillDoing(r.Context(), &body, reg)
	}
	p := page{
		Title:   "Registration " + body.Name,
		Section: "registrations",
		Done:    registrationsDone.of(r),
		Live:    name == "registration",
		Body:    body,
	}
	d.render(w, d.showFailure(&p, problem), name, p)
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
		err = d.setProfiles(r, r.PostForm["profile"], r.PostForm["had"])
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
	err := parseForm(r)
	if err == nil {
		err = d.confirmed(r)
	}
	if err == nil {
		err = d.revoke(r)
	}
	d.afterForm(w, r, "revoked", err)
}

// confirmed checks that the operator has typed the registration's name as pages
// show it: what cannot be undone takes more than a click on the wrong page.
func (d *dashboard) confirmed(r *http.Request) error {
	reg, err := d.registration(r)
	if err != nil {
		return err
	}
	words := func(s string) string { return strings.Join(strings.Fields(s), " ") } // a browser shows one space for several
	if name := shown(reg.Name); words(r.PostForm.Get("confirm")) != words(name) {
		return &failure{http.StatusUnprocessableEntity, "not_confirmed", "what was typed is not the registration's name", "type " + name + " to confirm"}
	}
	return nil
}
