package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

var (
	noSession       = &failure{http.StatusNotFound, "not_found", "there is no such session, or it has ended", ""}
	wrongOld        = &failure{http.StatusForbidden, "wrong_password", "the present password is wrong", ""}
	changedMeantime = &failure{http.StatusConflict, "wrong_state", "the root password has been changed meanwhile", "somebody else did: log in with the new one"}
)

// sessionView is what the API and the pages say of a session.
type sessionView struct {
	ID        string     `json:"id"`
	CreatedAt *time.Time `json:"created_at"` // null: not known, it is older than this
	ExpiresAt time.Time  `json:"expires_at"`
	Source    string     `json:"source"`
	Browser   string     `json:"browser"` // its own claim, shortened
	Current   bool       `json:"current"` // the one that asks
}

// sessionViews are the sessions there are, newest first.
func (d *dashboard) sessionViews(r *http.Request) []sessionView {
	var own string
	if hash, ok := d.sessionOf(r); ok {
		s, _ := d.Registry.Session(hash)
		own = s.ID
	}
	var views []sessionView
	for _, s := range d.Registry.Sessions() {
		v := sessionView{ID: s.ID, ExpiresAt: s.Expires, Browser: browserName(s.Browser), Current: s.ID == own}
		if !s.Created.IsZero() {
			v.CreatedAt = &s.Created
		}
		if s.Source != (netip.Addr{}) {
			v.Source = s.Source.String()
		}
		views = append(views, v)
	}
	return views
}

// endSession ends the session of this ID. Ended, its streams end too.
func (d *dashboard) endSession(r *http.Request, id string) error {
	err := d.Registry.EndSessionByID(r.Context(), id)
	if errors.Is(err, registry.ErrNotFound) {
		return noSession
	}
	if err != nil {
		return err
	}
	d.Log.Info("dashboard: session ended", "session", id, "source", source(r))
	return nil
}

// logOutEverywhere ends every session, but with others the one that r came with.
func (d *dashboard) logOutEverywhere(w http.ResponseWriter, r *http.Request, others bool) error {
	var keep [][32]byte
	if hash, ok := d.sessionOf(r); ok && others {
		keep = append(keep, hash)
	}
	if err := d.Registry.EndSessions(r.Context(), keep...); err != nil {
		return err
	}
	if !others {
		http.SetCookie(w, d.cookie("", -1))
	}
	d.Log.Info("dashboard: logged out everywhere", "but_here", others, "source", source(r))
	return nil
}

// changePassword replaces the root password by who knows the old one, within the
// limits of a log-in. All sessions end; r's own, if it came with one, goes on as
// a new one.
func (d *dashboard) changePassword(w http.ResponseWriter, r *http.Request, old, password string) error {
	if err := checkNew(password); err != nil {
		return err
	}
	who := d.caller(r)
	was, err := d.passwords.check(r.Context(), who, old, false)
	if err != nil {
		if errors.Is(err, wrongPassword) {
			d.Log.Warn("dashboard: wrong password while changing it", "source", who.addr)
			return wrongOld
		}
		return err
	}
	hash, err := d.passwords.hash(r.Context(), password)
	if err != nil {
		return err
	}
	var token string
	var tokenHash [32]byte
	var s registry.Session
	if _, ok := d.sessionOf(r); ok {
		token, tokenHash, s = d.newSession(r)
	}
	// Not cut off with the connection: it would be changed and nobody told.
	err = d.Registry.ChangeRootPassword(context.WithoutCancel(r.Context()), was, hash, tokenHash, s)
	if errors.Is(err, registry.ErrState) {
		return changedMeantime
	}
	if err != nil {
		return err
	}
	if token != "" {
		http.SetCookie(w, d.cookie(token, int(sessionLife.Seconds())))
		d.remember(w, r, who.known)
	}
	d.Log.Info("dashboard: root password changed", "source", who.addr)
	return nil
}

// checkNew is CheckPassword with the answer to a request.
func checkNew(password string) error {
	if err := CheckPassword(password); err != nil {
		return &failure{http.StatusUnprocessableEntity, "bad_password", err.Error(), fmt.Sprintf("%d to %d bytes", minPassword, maxPassword)}
	}
	return nil
}

// newPassword reads a new password from a form that asks for it twice. One that
// is guessable is told of, once: "anyway" takes it.
func newPassword(r *http.Request) (string, error) {
	password := r.PostForm.Get("password")
	if password != r.PostForm.Get("repeat") {
		return "", &failure{http.StatusUnprocessableEntity, "mismatch", "the two passwords differ", ""}
	}
	if err := checkNew(password); err != nil {
		return "", err
	}
	if said := GuessablePassword(password); said != "" && r.PostForm.Get("anyway") == "" {
		return "", &failure{http.StatusUnprocessableEntity, weakPassword, said, "nothing has been set: type another, or this one again and tick the box"}
	}
	return password, nil
}

// weakPassword is the code of newPassword's warning.
const weakPassword = "weak_password"
