package dashboard

import (
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// PolicyFile is how the policy's file stands to the policy in force. The zero
// value is what is said where nothing is known of a file.
type PolicyFile struct {
	LoadedAt time.Time // when the policy in force was read
	AtStart  []string  // its blocks that wait for the gateway's next start

	Differs bool           // the file, or one that it names, is not what is in force
	Since   time.Time      // it does; zero: not known
	Problem error          // why the file cannot be put in force; nil: it can
	Next    *policy.Policy // what it would put in force; nil where it cannot
}

// configView is what the API says of the policy in force and its file.
type configView struct {
	Sources  []sourceView `json:"sources"`
	LoadedAt *time.Time   `json:"loaded_at,omitempty"`
	AtStart  []string     `json:"at_next_start"` // blocks of sources that are not in force before

	Differs bool         `json:"file_differs"`
	Since   *time.Time   `json:"since,omitempty"` // file_differs, as far as is known
	Problem *problemView `json:"problem,omitempty"`
	Changes *changesView `json:"changes,omitempty"` // where file_differs and it compiles
}

type sourceView struct {
	Name   string `json:"name"`
	Text   string `json:"text"`
	Masked bool   `json:"masked"` // text has asterisks in place of what looks like a secret
}

// problemView is why a file cannot be put in force.
type problemView struct {
	Message     string           `json:"message"`
	Hint        string           `json:"hint,omitempty"`
	Diagnostics []diagnosticView `json:"diagnostics"`
}

// diagnosticView is one mistake in a policy.
type diagnosticView struct {
	Severity string `json:"severity"` // "error" or "warning"
	Summary  string `json:"summary"`
	Detail   string `json:"detail"` // why, and what to do
	File     string `json:"file"`
	Line     int    `json:"line"` // from 1; 0: the file as a whole
	Column   int    `json:"column"`
}

// changesView is what would be different under another policy.
type changesView struct {
	Endpoints   differenceView `json:"endpoints"`
	Credentials differenceView `json:"credentials"`
	Profiles    differenceView `json:"profiles"`
	Rules       differenceView `json:"rules"` // none in this version

	Settings []string `json:"settings"`          // other blocks that differ
	AtStart  []string `json:"at_next_start"`     // blocks that differ, and take effect at the next start only
	Moved    []string `json:"moved_credentials"` // whose secrets would go to another endpoint, or to one that has changed

	Missing []missingView `json:"registrations_missing_profiles"`
}

type differenceView struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	Changed []string `json:"changed"`
}

// missingView is a registration some of whose profiles there would be no more:
// what it asks of an endpoint fails.
type missingView struct {
	Registration string   `json:"registration"`
	Name         string   `json:"name"`
	Profiles     []string `json:"profiles"`
}

// validationView is what checking a draft came to.
type validationView struct {
	Valid       bool             `json:"valid"`
	Diagnostics []diagnosticView `json:"diagnostics"`
	Changes     *changesView     `json:"changes,omitempty"` // where valid
}

// config gathers what the API and the page show.
func (d *dashboard) config() configView {
	now := d.Policy()
	v := configView{Sources: []sourceView{}, AtStart: []string{}}
	for _, s := range now.Sources() {
		v.Sources = append(v.Sources, sourceView{s.Name, s.Text, s.Masked})
	}
	if d.PolicyFile == nil {
		return v
	}
	f := d.PolicyFile()
	v.AtStart = append(v.AtStart, f.AtStart...)
	v.LoadedAt, v.Differs, v.Since = knownTime(f.LoadedAt), f.Differs, knownTime(f.Since)
	switch {
	case f.Problem != nil:
		v.Problem = newProblemView(f.Problem)
	case f.Differs && f.Next != nil:
		v.Changes = d.changes(now, f.Next)
	}
	return v
}

// knownTime is t for a view; nil where it is not known.
func knownTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func newProblemView(err error) *problemView {
	v := &problemView{Message: policy.Mask(err.Error()), Diagnostics: []diagnosticView{}}
	if invalid, ok := errors.AsType[*policy.DiagnosticsError](err); ok {
		v.Message = "the file does not compile: " + invalid.Summary()
		v.Diagnostics = diagnosticViews(invalid.Diagnostics)
	}
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		v.Hint = h.Hint()
	}
	return v
}

func diagnosticViews(diags hcl.Diagnostics) []diagnosticView {
	views := []diagnosticView{}
	for _, d := range diags {
		v := diagnosticView{Severity: "error", Summary: d.Summary, Detail: d.Detail}
		if d.Severity == hcl.DiagWarning {
			v.Severity = "warning"
		}
		if at := d.Subject; at != nil {
			v.File, v.Line, v.Column = at.Filename, at.Start.Line, at.Start.Column
		}
		views = append(views, v)
	}
	return views
}

// changes says what would change if next were in force instead of now.
func (d *dashboard) changes(now, next *policy.Policy) *changesView {
	c := policy.Compare(now, next)
	view := func(d policy.Difference) differenceView {
		return differenceView{append([]string{}, d.Added...), append([]string{}, d.Removed...), append([]string{}, d.Changed...)}
	}
	v := &changesView{
		Endpoints: view(c.Endpoints), Credentials: view(c.Credentials), Profiles: view(c.Profiles), Rules: view(policy.Difference{}),
		Settings: append([]string{}, c.Settings...), AtStart: append([]string{}, c.AtStart...), Moved: append([]string{}, c.Moved...),
		Missing: []missingView{},
	}
	for _, reg := range d.Registry.Snapshot().All() {
		if reg.State == registry.Revoked {
			continue
		}
		var gone []string
		for _, p := range reg.Profiles {
			if slices.Contains(c.Profiles.Removed, p) {
				gone = append(gone, p)
			}
		}
		if gone != nil {
			v.Missing = append(v.Missing, missingView{string(reg.ID), reg.Name, gone})
		}
	}
	return v
}

// Nothing reports whether there is no change at all. Templates ask.
func (v *changesView) Nothing() bool {
	return !v.Endpoints.Any() && !v.Credentials.Any() && !v.Profiles.Any() && !v.Rules.Any() && len(v.Settings)+len(v.AtStart) == 0
}

// Any reports whether there is a change.
func (v differenceView) Any() bool { return len(v.Added)+len(v.Removed)+len(v.Changed) > 0 }

// ShownName is the registration's name for a page.
func (v missingView) ShownName() string { return shown(v.Name) }

// What stands in a policy is shown by pages like all outside text.
func (v diagnosticView) ShownDetail() string { return spelled(v.Detail) }
func (v diagnosticView) ShownFile() string   { return spelled(v.File) }
func (v problemView) ShownMessage() string   { return spelled(v.Message) }
