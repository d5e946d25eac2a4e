package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/clawpatrol/clawpatrol/enrolment/invites"
)

func (d *dashboard) handleInvites() {
	d.router.handle("GET /api/invites", d.listInvites)
	d.router.handle("POST /api/invites", d.makeInviteAPI)
	d.router.handle("DELETE /api/invites/{id}", d.voidInviteAPI)
}

var invitesDone = doneMessages{}

// noInvites is the answer where a gateway was assembled without an Office.
var noInvites = &failure{http.StatusNotFound, "not_found", "this gateway makes no invites", ""}

func (d *dashboard) listInvites(w http.ResponseWriter, r *http.Request) {
	if d.Invites == nil {
		d.fail(w, r, noInvites)
		return
	}
	items, err := d.Invites.List(r.Context())
	if err != nil {
		d.fail(w, r, err)
		return
	}
	writeList(w, items, "")
}

// makeInviteAPI answers with the token: no other route ever does.
func (d *dashboard) makeInviteAPI(w http.ResponseWriter, r *http.Request) {
	if d.Invites == nil {
		d.fail(w, r, noInvites)
		return
	}
	var req invites.Request
	if err := readJSON(r, &req); err != nil {
		d.fail(w, r, err)
		return
	}
	made, err := d.Invites.Make(context.WithoutCancel(r.Context()), "dashboard "+source(r).String(), req)
	if err != nil {
		d.fail(w, r, inviteFailure(err, http.StatusUnprocessableEntity))
		return
	}
	writeJSON(w, http.StatusCreated, made)
}

func (d *dashboard) voidInviteAPI(w http.ResponseWriter, r *http.Request) {
	if d.Invites == nil {
		d.fail(w, r, noInvites)
		return
	}
	err := d.Invites.Void(context.WithoutCancel(r.Context()), "dashboard "+source(r).String(), r.PathValue("id"))
	if err != nil {
		d.fail(w, r, inviteFailure(err, http.StatusNotFound))
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
