package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/clawpatrol/clawpatrol/enrolment/invites"
)

func (d *dashboard) handleInvites() {
	d.router.handle("GET /invites", d.invitesPage)
	d.router.handle("POST /invites", d.makeInviteForm)
	d.router.handle("POST /invites/{id}/void", d.voidInviteForm)

	d.router.handle("GET /api/invites", d.listInvites)
	d.router.handle("POST /api/invites", d.makeInviteAPI)
	d.router.handle("DELETE /api/invites/{id}", d.voidInviteAPI)
}

// noInvites is the answer where a gateway was assembled without an Office.
var noInvites = &failure{http.StatusNotFound, "not_found", "this gateway makes no invites", ""}

// inviteAt is where an invite stands in lists.
func inviteAt(i invites.Invite) position { return position{i.CreatedAt.UnixMicro(), i.ID} }

func (d *dashboard) listInvites(w http.ResponseWriter, r *http.Request) {
	if d.Invites == nil {
		d.fail(w, r, noInvites)
		return
	}
	items, err := d.Invites.List(r.Context())
	var next string
	if err == nil {
		items, next, err = pageOf(items, inviteAt, true, r.URL.Query(), maxListed)
	}
	if err != nil {
		d.fail(w, r, err)
		return
	}
	writeList(w, items, next)
}

// makeInvite makes an invite, and is the only way to its token.
func (d *dashboard) makeInvite(r *http.Request, req invites.Request) (*invites.Issued, error) {
	if d.Invites == nil {
		return nil, noInvites
	}
	made, err := d.Invites.Make(context.WithoutCancel(r.Context()), "dashboard "+source(r).String(), req)
	if err != nil {
		return nil, inviteFailure(err, http.StatusUnprocessableEntity)
	}
	return made, nil
}

// makeInviteAPI answers with the token, as the page's form does: no GET ever does.
func (d *dashboard) makeInviteAPI(w http.ResponseWriter, r *http.Request) {
	if d.Invites == nil {
		d.fail(w, r, noInvites)
		return
	}
	var req invites.Request
	err := readJSON(r, &req)
	var made *invites.Issued
	if err == nil {
		made, err = d.makeInvite(r, req)
	}
	if err != nil {
		d.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusCreated, made)
}

// voidInvite ends an invite.
func (d *dashboard) voidInvite(r *http.Request) error {
	if d.Invites == nil {
		return noInvites
	}
	err := d.Invites.Void(context.WithoutCancel(r.Context()), "dashboard "+source(r).String(), r.PathValue("id"))
	if err != nil {
		return inviteFailure(err, http.StatusNotFound)
	}
	return nil
}

func (d *dashboard) voidInviteAPI(w http.ResponseWriter, r *http.Request) {
	if err := d.voidInvite(r); err != nil {
		d.fail(w, r, err)
		return
	}
	done(w)
}

// inviteFailure gives a refusal its status.
func inviteFailure(err error, status int) error {
	if why, ok := errors.AsType[*invites.Refusal](err); ok {
		return &failure{status, why.Code, why.Message, why.Advice}
	}
	return fmt.Errorf("inviting: %w", err)
}
