package dashboard

import (
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/clawpatrol/clawpatrol/enrolment/invites"
)

var invitesDone = doneMessages{
	"voided": "Voided. Nothing more can be enrolled with it.",
}

// inviteRow is an invite on a page: all text made safe to look at.
type inviteRow struct {
	invites.Invite
	StateText string
}

func newInviteRow(i invites.Invite) inviteRow {
	row := inviteRow{Invite: i, StateText: strings.ReplaceAll(i.State, "_", " ")}
	row.MadeBy = shown(i.MadeBy)
	row.Profiles = nil
	for _, p := range i.Profiles {
		row.Profiles = append(row.Profiles, shown(p))
	}
	return row
}

type invitesBody struct {
	Made    *invites.Issued // the one that the form asked for; nil on every other page
	Command string          // that joins with it

	// The form, as it was sent.
	Choices           []profileChoice
	TTL, Uses, Source string

	Rows        []inviteRow // newest first
	Here        string      // URL of this part of the list
	Next, First string      // URLs; empty: none
}

func (d *dashboard) invitesPage(w http.ResponseWriter, r *http.Request) {
	d.showInvites(w, r, invitesBody{TTL: "15m", Uses: "1"}, nil, nil)
}

// showInvites renders the page with what went wrong if it follows a form; chosen
// are the profiles ticked in it.
func (d *dashboard) showInvites(w http.ResponseWriter, r *http.Request, body invitesBody, chosen []string, problem error) {
	if d.Invites == nil {
		d.fail(w, r, noInvites)
		return
	}
	all, err := d.Invites.List(r.Context())
	if err != nil {
		d.fail(w, r, err)
		return
	}
	q := r.URL.Query()
	part, next, err := pageOf(all, inviteAt, true, q, rowsShown)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	for _, i := range part {
		body.Rows = append(body.Rows, newInviteRow(i))
	}
	body.Next, body.First = pageLinks("/invites", q, next)
	body.Here = pageURL("/invites", q, q.Get("cursor"))
	for _, p := range d.Policy().Profiles {
		c := profileChoice{Name: p.Name, Ticked: slices.Contains(chosen, p.Name)}
		for _, cr := range p.Credentials {
			c.Credentials = append(c.Credentials, cr.Ref())
		}
		body.Choices = append(body.Choices, c)
	}
	p := page{Title: "Invites", Section: "registrations", Live: true, Done: invitesDone.of(r), Body: body}
	d.render(w, d.showFailure(&p, problem), "invites", p)
}

func (d *dashboard) makeInviteForm(w http.ResponseWriter, r *http.Request) {
	if d.Invites == nil {
		d.fail(w, r, noInvites)
		return
	}
	if err := parseForm(r); err != nil {
		d.fail(w, r, err)
		return
	}
	f := r.PostForm
	again := invitesBody{TTL: f.Get("ttl"), Uses: f.Get("uses"), Source: f.Get("source")}
	req := invites.Request{TTL: strings.TrimSpace(again.TTL), Profiles: f["profile"], Source: strings.TrimSpace(again.Source)}
	var err error
	if uses := strings.TrimSpace(again.Uses); uses != "" {
		if req.Uses, err = strconv.Atoi(uses); err != nil || req.Uses < 1 {
			req.Uses = -1 // which Make refuses, as it does whatever else is out of bounds
		}
	}
	made, err := d.makeInvite(r, req)
	if err != nil {
		d.showInvites(w, r, again, f["profile"], err)
		return
	}
	// The answer to the form itself shows the token, where other forms answer 303:
	// a page to go on to would have to get the token from somewhere that keeps it.
	// Loading this answer anew makes browsers warn that the form is sent again.
	body := invitesBody{Made: made, Command: d.joinCommand(made.Token), TTL: "15m", Uses: "1"}
	d.showInvites(w, r, body, nil, nil)
}

// joinCommand is what an operator pastes on the agent host. The token goes through
// standard input: an argument would be in the list of processes for as long as
// join runs. It names the gateway as well as the token does, for who reads it.
func (d *dashboard) joinCommand(token string) string {
	gateway := d.Policy().Gateway
	command := "echo " + shellWord(token) + " | sudo clawpatrol join " + shellWord(gateway.PublicURL)
	if gateway.TLSCertFile == "" { // else the certificate is publicly trusted, and not of the CA
		command += " --ca-fingerprint " + shellWord(d.Invites.CAFingerprint)
	}
	return command + " --invite -"
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@=+-]+$`)

// shellWord quotes a word for a POSIX shell (POSIX.1-2017, XCU section 2.2.2).
func shellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (d *dashboard) voidInviteForm(w http.ResponseWriter, r *http.Request) {
	if err := d.voidInvite(r); err != nil {
		d.fail(w, r, err)
		return
	}
	seeOther(w, r, "/invites?done=voided")
}
