package dashboard

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// secretName is what {{secret:NAME}} and CLAWPATROL_SECRET_NAME can spell.
var secretName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)

// secretView is what the API shows of a named secret: never its value.
type secretView struct {
	Name        string    `json:"name"`
	SetAt       time.Time `json:"set_at"`
	Fingerprint string    `json:"fingerprint"` // as a slot's; empty: what is stored does not open
}

func (d *dashboard) secrets() []secretView {
	views := []secretView{}
	for _, s := range d.Registry.Secrets() {
		views = append(views, secretView{s.Name, s.SetAt.UTC(), d.Registry.SecretFingerprint(s.Name)})
	}
	return views
}

func (d *dashboard) secretNamed(name string) (secretView, error) {
	views := d.secrets()
	i := slices.IndexFunc(views, func(v secretView) bool { return v.Name == name })
	if i < 0 {
		return secretView{}, &failure{http.StatusNotFound, "unknown_secret", "there is no such secret", ""}
	}
	return views[i], nil
}

// stored is the stamp of what is there.
func (v secretView) stored() stamp { return stampOf(v.version()) }

func (v secretView) version() uint64 {
	if v.SetAt.IsZero() {
		return 0
	}
	return uint64(v.SetAt.UnixMicro())
}

// setSecret seals a named secret. seen is what the operator looked at.
func (d *dashboard) setSecret(r *http.Request, name, value string, seen stamp) error {
	if !secretName.MatchString(name) {
		return &failure{http.StatusUnprocessableEntity, "bad_name", "a secret's name is a letter or underscore, then letters, digits and underscores, 64 at most", ""}
	}
	switch {
	case value == "":
		return &failure{http.StatusUnprocessableEntity, "bad_value", "the value is empty", ""}
	case len(value) > maxSecret:
		return &failure{http.StatusUnprocessableEntity, "bad_value", "the value is longer than 64 KiB", ""}
	}
	d.secretsMu.Lock()
	defer d.secretsMu.Unlock()
	now, _ := d.secretNamed(name)
	if !seen.still(now.version()) {
		return changedSince
	}
	if err := d.Registry.SetSecret(context.WithoutCancel(r.Context()), name, secret.New([]byte(value))); err != nil {
		return fmt.Errorf("storing a secret: %w", err)
	}
	d.Log.Info("secret set", "secret", name, "operator", source(r))
	return nil
}

// clearSecret removes a named secret.
func (d *dashboard) clearSecret(r *http.Request, seen stamp) error {
	d.secretsMu.Lock()
	defer d.secretsMu.Unlock()
	v, err := d.secretNamed(r.PathValue("name"))
	if err != nil {
		return err
	}
	if !seen.still(v.version()) {
		return changedSince
	}
	if err := d.Registry.ClearSecret(context.WithoutCancel(r.Context()), v.Name); err != nil {
		return fmt.Errorf("clearing a secret: %w", err)
	}
	d.Log.Info("secret cleared", "secret", v.Name, "operator", source(r))
	return nil
}
