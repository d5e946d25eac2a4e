package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/clawpatrol/clawpatrol/registry"
)

// approval is what an operator sends to approve a registration.
type approval struct {
	Profiles []string `json:"profiles"`
	UserCode string   `json:"user_code"`
	Pin      *pinView `json:"pin"`   // as it was shown; nil: whatever it is
	Repin    *pinView `json:"repin"` // nil: the pin is kept

	blocks *int // as a page showed it; nil: whatever it is
}

// approve moves a pending or blocked registration to approved.
func (d *dashboard) approve(r *http.Request, a approval) error {
	reg, err := d.registration(r)
	if err != nil {
		return err
	}
	switch {
	case reg.State == registry.Revoked:
		return &failure{http.StatusConflict, "revoked", "a revoked registration never returns", "join again on the agent host"}
	case reg.State == registry.Pending && a.Repin != nil:
		return &failure{http.StatusConflict, "wrong_state", "only a blocked registration can be given another pin", "approve without repin"}
	}
	decided := registry.Approval{UserCode: strings.TrimSpace(a.UserCode), Blocks: a.blocks}
	if decided.Profiles, err = d.knownProfiles(a.Profiles); err != nil {
		return err
	}
	if decided.Shown, err = optionalPin(a.Pin); err != nil {
		return err
	}
	if decided.Repin, err = optionalPin(a.Repin); err != nil {
		return err
	}
	err = d.Registry.ApproveAs(context.WithoutCancel(r.Context()), reg.ID, decided)
	switch {
	case errors.Is(err, registry.ErrState):
		return d.whyNotApproved(reg.ID)
	case errors.Is(err, registry.ErrPinChanged) && decided.Repin != nil && (decided.Shown == nil || *decided.Shown == reg.Pin):
		return &failure{http.StatusConflict, "repin_not_seen", "the registration has not proven itself from exactly these addresses since it was blocked, or has from others since", "look again at where it was seen"}
	case err != nil:
		return fmt.Errorf("approving a registration: %w", err)
	}
	pin := reg.Pin
	if decided.Repin != nil {
		pin = *decided.Repin
	}
	d.Log.Info("registration approved", "registration", reg.ID, "profiles", decided.Profiles, "was", reg.State, "pin", pin.Addrs(), "repinned", decided.Repin != nil, "operator", source(r))
	return nil
}

func optionalPin(v *pinView) (*registry.Pin, error) {
	if v == nil {
		return nil, nil
	}
	p, err := v.pin()
	return &p, err
}

// whyNotApproved explains an ErrState of ApproveAs from the present snapshot.
func (d *dashboard) whyNotApproved(id registry.ID) *failure {
	if now, ok := d.Registry.Snapshot().ByID(id); ok && now.State == registry.Approved {
		return &failure{http.StatusConflict, "already_approved", "the registration is approved already", "change its profiles instead"}
	}
	return &failure{http.StatusConflict, "revoked", "the registration has been revoked or has expired", "join again on the agent host"}
}

func (d *dashboard) approveAPI(w http.ResponseWriter, r *http.Request) {
	var a approval
	if err := readJSON(r, &a); err != nil {
		d.fail(w, r, err)
		return
	}
	if err := d.approve(r, a); err != nil {
		d.fail(w, r, err)
		return
	}
	d.getRegistration(w, r)
}

func (d *dashboard) approveForm(w http.ResponseWriter, r *http.Request) {
	err := parseForm(r)
	if err == nil {
		err = d.approve(r, approvalForm(r))
	}
	if err == nil && r.PostForm.Get("from") == "list" { // where the next one may wait
		seeOther(w, r, "/registrations?done=approved")
		return
	}
	d.afterForm(w, r, "approved", err)
}

// approvalForm reads the form of a registration's page. It names what the page
// showed: the pin, and where the registration was seen since it was blocked.
// Without a choice the pin is kept.
func approvalForm(r *http.Request) approval {
	pin := func(name string) *pinView {
		return &pinView{r.PostForm.Get(name + "4"), r.PostForm.Get(name + "6"), r.PostForm.Get(name + "_udp4"), r.PostForm.Get(name + "_udp6")}
	}
	a := approval{Profiles: r.PostForm["profile"], UserCode: r.PostForm.Get("user_code")}
	if r.PostForm.Has("pin4") || r.PostForm.Has("pin6") {
		a.Pin = pin("pin")
	}
	if n, err := strconv.Atoi(r.PostForm.Get("blocks")); err == nil {
		a.blocks = &n
	}
	if r.PostForm.Get("addresses") == "seen" {
		a.Repin = pin("seen")
	}
	return a
}
