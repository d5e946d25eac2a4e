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

// secret finds what {name} in r's path names.
func (d *dashboard) secret(r *http.Request) (secretView, error) {
	views := d.secrets()
	i := slices.IndexFunc(views, func(v secretView) bool { return v.Name == r.PathValue("name") })
	if i < 0 {
		return secretView{}, &failure{http.StatusNotFound, "unknown_secret", "there is no such secret", ""}
	}
	return views[i], nil
}

// setSecret seals a named secret.
func (d *dashboard) setSecret(r *http.Request, name, value string) error {
	if !secretName.MatchString(name) {
		return &failure{http.StatusUnprocessableEntity, "bad_name", "a secret's name is a letter or underscore, then letters, digits and underscores, 64 at most", ""}
	}
	switch {
	case value == "":
		return &failure{http.StatusUnprocessableEntity, "bad_value", "the value is empty", ""}
	case len(value) > maxSecret:
		return &failure{http.StatusUnprocessableEntity, "bad_value", "the value is longer than 64 KiB", ""}
	}
	if err := d.Registry.SetSecret(context.WithoutCancel(r.Context()), name, secret.New([]byte(value))); err != nil {
		return fmt.Errorf("storing a secret: %w", err)
	}
	d.Log.Info("secret set", "secret", name, "operator", source(r))
	return nil
}

// clearSecret removes a named secret.
func (d *dashboard) clearSecret(r *http.Request) error {
	v, err := d.secret(r)
	if err != nil {
		return err
	}
	if err := d.Registry.ClearSecret(context.WithoutCancel(r.Context()), v.Name); err != nil {
		return fmt.Errorf("clearing a secret: %w", err)
	}
	d.Log.Info("secret cleared", "secret", v.Name, "operator", source(r))
	return nil
}
