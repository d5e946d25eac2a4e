package dashboard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// maxSecret bounds one secret value in bytes.
const maxSecret = 64 << 10

// multiline are the slots whose values have lines; every other value travels in
// one line of a protocol, where a line break would begin another.
var multiline = []string{"private_key", "client_certificate", "client_key"}

// credentialView is what the API shows of a credential: never a value.
type credentialView struct {
	Type     string     `json:"type"`
	Name     string     `json:"name"`
	Endpoint string     `json:"endpoint"` // ref; empty where the policy has no such credential
	Hosts    []string   `json:"hosts"`    // host:port, where its secret goes
	Slots    []slotView `json:"slots"`
	Profiles []string   `json:"profiles"` // that hold it
	Env      string     `json:"env,omitempty"`
	User     string     `json:"user,omitempty"`  // who it is at an endpoint of type "ssh" or "postgres"
	Users    []string   `json:"users,omitempty"` // or whom the agent may choose to be
	// Of type "postgres" only: what agents may connect to, the first unless they
	// say; "refuse" or "map" for those that ask for something else; and whether
	// statements that write are refused.
	Databases []string `json:"databases,omitempty"`
	Mismatch  string   `json:"mismatch,omitempty"`
	ReadOnly  bool     `json:"read_only,omitempty"`
	Together  bool     `json:"set_together"` // setting any slot replaces all
	Complete  bool     `json:"complete"`     // what is set suffices to be used
	// Unused: stored, but the policy in force does not have it.
	Unused   bool     `json:"unused"`
	LastUsed *useView `json:"last_used"` // null: never, or longer ago than is remembered

	stored stamp
}

func (v credentialView) ref() string { return v.Type + "." + v.Name }

type slotView struct {
	Name     string     `json:"name"`
	Optional bool       `json:"optional"`
	Set      bool       `json:"set"`
	SetAt    *time.Time `json:"set_at"` // null: not set
	// Fingerprint is the registry's: two slots that hold the same have the same.
	// Empty though the slot is set: what is stored does not open.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// credentials joins the policy with what is stored: the policy's in file order,
// then what is stored for none of them.
func (d *dashboard) credentials(ctx context.Context) ([]credentialView, error) {
	stored, err := d.Registry.Credentials(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing credentials: %w", err)
	}
	byRef := make(map[string]registry.CredentialStatus, len(stored))
	for _, s := range stored {
		byRef[s.Ref] = s
	}
	p, used, snapshot := d.Policy(), d.uses(), d.Registry.Snapshot()
	var views []credentialView
	for _, c := range p.Credentials {
		v := credentialView{Type: c.Type, Name: c.Name, Env: c.Env, User: c.User, Users: c.Users, Databases: c.Databases, ReadOnly: c.ReadOnly, Together: c.SetTogether(),
			Hosts: []string{}, Profiles: []string{}, Slots: d.slotViews(c.Ref(), c.Slots(), byRef[c.Ref()].Slots), LastUsed: used.last(c.Ref(), snapshot), stored: stampOf(byRef[c.Ref()].Version)}
		v.Complete = c.Complete(func(slot string) bool { return d.Registry.Fingerprint(c.Ref(), slot) != "" })
		switch {
		case c.MapMismatch:
			v.Mismatch = "map"
		case c.Databases != nil:
			v.Mismatch = "refuse"
		}
		if c.Endpoint != nil {
			v.Endpoint, v.Hosts = c.Endpoint.Ref(), hostList(c.Endpoint.Hosts)
		}
		for _, pr := range p.Profiles {
			if slices.Contains(pr.Credentials, c) {
				v.Profiles = append(v.Profiles, pr.Name)
			}
		}
		views = append(views, v)
		delete(byRef, c.Ref())
	}
	for _, s := range stored {
		if _, left := byRef[s.Ref]; !left || len(s.Slots) == 0 {
			continue
		}
		typ, name, _ := strings.Cut(s.Ref, ".")
		views = append(views, credentialView{Type: typ, Name: name, Hosts: []string{}, Profiles: []string{}, Unused: true,
			Slots: d.slotViews(s.Ref, nil, s.Slots), LastUsed: used.last(s.Ref, snapshot), stored: stampOf(s.Version)})
	}
	return views, nil
}

// slotViews lists the slots a type needs, then others that hold something.
func (d *dashboard) slotViews(ref string, needed []policy.Slot, stored map[string]time.Time) []slotView {
	views := []slotView{}
	add := func(name string, optional bool) {
		at := stored[name]
		views = append(views, slotView{name, optional, !at.IsZero(), optionalTime(at), d.Registry.Fingerprint(ref, name)})
	}
	for _, s := range needed {
		add(s.Name, s.Optional)
	}
	for _, name := range slices.Sorted(maps.Keys(stored)) {
		if !slices.ContainsFunc(needed, func(s policy.Slot) bool { return s.Name == name }) {
			add(name, true)
		}
	}
	return views
}

// credential finds what {type} and {name} in r's path name, in the policy or
// stored. It knows of every use before it was called, if the log keeps up.
func (d *dashboard) credential(r *http.Request) (credentialView, error) {
	flush, cancel := context.WithTimeout(r.Context(), flushWait)
	defer cancel()
	if err := d.Registry.Sync(flush); err != nil {
		d.Log.Warn("dashboard: looking at a credential without the log's newest rows", "err", err)
	}
	views, err := d.credentials(r.Context())
	if err != nil {
		return credentialView{}, err
	}
	i := slices.IndexFunc(views, func(v credentialView) bool { return v.Type == r.PathValue("type") && v.Name == r.PathValue("name") })
	if i < 0 {
		return credentialView{}, &failure{http.StatusNotFound, "unknown_credential", "there is no such credential", ""}
	}
	return views[i], nil
}

func (d *dashboard) policyCredential(r *http.Request) (*policy.Credential, error) {
	typ, name := r.PathValue("type"), r.PathValue("name")
	for _, c := range d.Policy().Credentials {
		if c.Type == typ && c.Name == name {
			return c, nil
		}
	}
	return nil, &failure{http.StatusNotFound, "unknown_credential", "the policy has no such credential", "declare it in gateway.hcl first"}
}

// setCredential seals slot values. Slots that are not named keep theirs, unless
// the type's slots are set together. seen is what the operator looked at.
func (d *dashboard) setCredential(r *http.Request, values map[string]string, seen stamp) error {
	c, err := d.policyCredential(r)
	if err != nil {
		return err
	}
	if len(values) == 0 {
		return &failure{http.StatusUnprocessableEntity, "no_slots", "no slot is given", slotHint(c)}
	}
	slots := make(map[string]secret.Secret, len(values))
	for name, value := range values {
		if !slices.ContainsFunc(c.Slots(), func(s policy.Slot) bool { return s.Name == name }) {
			return &failure{http.StatusUnprocessableEntity, "unknown_slot", fmt.Sprintf("a %s credential has no slot %q", c.Type, shown(name)), slotHint(c)}
		}
		value, err := secretValue(name, value)
		if err != nil {
			return err
		}
		slots[name] = secret.New([]byte(value))
	}
	err = c.CheckSecrets(slots)
	if wrong, ok := errors.AsType[*policy.SlotError](err); ok {
		return &slotFailure{&failure{http.StatusUnprocessableEntity, "bad_value", wrong.Error(), ""}, wrong.Slot}
	} else if err != nil {
		return fmt.Errorf("checking a credential: %w", err)
	}
	d.secretsMu.Lock()
	defer d.secretsMu.Unlock()
	if !seen.still(d.Registry.CredentialVersion(c.Ref())) {
		return changedSince
	}
	store := d.Registry.SetCredential
	if c.SetTogether() {
		store = d.Registry.ReplaceCredential
	}
	if err := store(context.WithoutCancel(r.Context()), c.Ref(), slots); err != nil {
		return fmt.Errorf("storing a credential: %w", err)
	}
	d.Log.Info("credential set", "credential", c.Ref(), "operator", source(r))
	return nil
}

func slotHint(c *policy.Credential) string {
	var names []string
	for _, s := range c.Slots() {
		names = append(names, s.Name)
	}
	return "slots of " + c.Type + ": " + strings.Join(names, ", ")
}

// secretValue checks a value for the named slot and returns it without the line
// break that files and pastes end with; one that has lines ends with one, and
// has the line breaks of a file where a browser sent others, so that the same key
// has the same fingerprint however it came. Its errors do not quote the value.
func secretValue(slot, value string) (string, error) {
	bad := func(why string) error {
		return &slotFailure{&failure{http.StatusUnprocessableEntity, "bad_value", fmt.Sprintf("the value of %q %s", shown(slot), why), ""}, slot}
	}
	if slices.Contains(multiline, slot) {
		value = strings.TrimSpace(strings.ReplaceAll(value, "\r\n", "\n")) + "\n"
		switch {
		case value == "\n":
			return "", bad("is empty")
		case len(value) > maxSecret:
			return "", bad("is longer than 64 KiB")
		case strings.ContainsRune(value, 0):
			return "", bad("has a NUL byte")
		}
		return value, nil
	}
	value = strings.TrimSuffix(strings.TrimSuffix(value, "\n"), "\r")
	switch {
	case value == "":
		return "", bad("is empty")
	case len(value) > maxSecret:
		return "", bad("is longer than 64 KiB")
	case hasControl(value): // RFC 9110 section 5.5
		return "", bad("has a line break or another control character")
	}
	return value, nil
}

// clearCredential removes what is stored, also for a credential that the policy
// no longer has.
func (d *dashboard) clearCredential(r *http.Request, seen stamp) error {
	d.secretsMu.Lock()
	defer d.secretsMu.Unlock()
	v, err := d.credential(r)
	if err != nil {
		return err
	}
	if !seen.still(d.Registry.CredentialVersion(v.ref())) {
		return changedSince
	}
	if err := d.Registry.ClearCredential(context.WithoutCancel(r.Context()), v.ref()); err != nil {
		return fmt.Errorf("clearing a credential: %w", err)
	}
	d.Log.Info("credential cleared", "credential", v.ref(), "operator", source(r))
	return nil
}
