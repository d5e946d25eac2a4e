package dashboard

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/clawpatrol/clawpatrol/registry"
)

// failure is why a request was not done: a status and a code for programs, a
// message and perhaps a hint for the operator. It never quotes a secret.
type failure struct {
	status  int
	code    string
	message string
	hint    string
}

func (f *failure) Error() string { return f.message }

var (
	internal     = &failure{http.StatusInternalServerError, "internal", "the gateway failed; its log says why", ""}
	notFound     = &failure{http.StatusNotFound, "not_found", "there is no such thing here", ""}
	unauthorized = &failure{http.StatusUnauthorized, "unauthorized", "an operator's credential is required", "log in, or send the root password as X-Clawpatrol-Secret"}
	codeRequired = &failure{http.StatusConflict, "user_code_required", "another registration has a name like this one, or the same source", "give user_code as the agent host shows it"}
	noProfiles   = &failure{http.StatusUnprocessableEntity, "no_profiles", "at least one profile is required", "to give a registration nothing, block or revoke it"}
	setupNeeded  = &failure{http.StatusForbidden, "setup_required", "no root password has been set yet", "open /setup, or POST /api/setup"}
)

func badRequest(message string) *failure {
	return &failure{http.StatusBadRequest, "bad_request", message, ""}
}

// slotFailure is a failure of the value of one of a credential's slots: a page
// shows it beside that slot's field.
type slotFailure struct {
	*failure
	slot string
}

func (f *slotFailure) Unwrap() error { return f.failure }

// failureOf is the one place that turns errors into statuses. An error it does
// not know is logged and shown as internal.
func (d *dashboard) failureOf(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return &failure{http.StatusNotFound, "not_found", "no such registration", ""}
	case errors.Is(err, registry.ErrPinChanged):
		return &failure{http.StatusConflict, "pin_changed", "the observed addresses have changed since they were shown", "look at them again before you approve"}
	case errors.Is(err, registry.ErrBlockedSince):
		return &failure{http.StatusConflict, "wrong_state", "the registration has been blocked since you opened the page", "look at why before you approve it again"}
	case errors.Is(err, registry.ErrCodeWrong): // also an ErrCodeRequired
		return &failure{http.StatusConflict, "wrong_user_code", "the code is not this registration's", "compare it with the one the agent host shows: this may be another host's registration"}
	case errors.Is(err, registry.ErrCodeRequired):
		return codeRequired
	case errors.Is(err, registry.ErrNoProfiles):
		return noProfiles
	case errors.Is(err, registry.ErrNoApproval):
		return &failure{http.StatusNotFound, "not_found", "there is no such approval or host key", ""}
	case errors.Is(err, registry.ErrInvalid):
		return &failure{http.StatusUnprocessableEntity, "invalid", "a name or value is out of bounds", ""}
	case errors.Is(err, registry.ErrState):
		return &failure{http.StatusConflict, "wrong_state", "not possible in the registration's present state", ""}
	}
	if e, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return &failure{http.StatusRequestEntityTooLarge, "body_too_large", fmt.Sprintf("the request body is larger than %d bytes", e.Limit), ""}
	}
	d.Log.Error("dashboard: request failed", "err", err)
	return internal
}

// fail answers err in the form of the path: JSON for the API, a page otherwise.
func (d *dashboard) fail(w http.ResponseWriter, r *http.Request, err error) {
	f := d.failureOf(err)
	if f.status == http.StatusTooManyRequests || f.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "30")
	}
	if isAPI(r.URL.Path) {
		writeFailure(w, f)
		return
	}
	p := page{Title: http.StatusText(f.status), Error: f.message, Hint: f.hint}
	if _, ok := d.sessionOf(r); ok {
		p.Section = "error" // none of the navigation's, which is there
	}
	d.render(w, f.status, "error", p)
}
