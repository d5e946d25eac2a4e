package dashboard

import (
	"context"
	"slices"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// actionsShown is how many of the last actions stand on a registration's page.
const actionsShown = 10

// profileChoice is a profile's checkbox.
type profileChoice struct {
	Name        string
	Credentials []string // refs
	Ticked      bool
	Missing     bool // assigned, but the policy in force does not have it
}

// profileChoices lists the policy's profiles, with those ticked that were chosen
// in a form that has to be shown again, or else those that the registration has.
// One that has none gets the defaults ticked; the operator still has to approve.
func (d *dashboard) profileChoices(reg *registry.Registration, chosen []string) []profileChoice {
	ticked := chosen
	if len(ticked) == 0 {
		ticked = reg.Profiles
	}
	var out []profileChoice
	known := make(map[string]bool)
	for _, p := range d.Policy().Profiles {
		c := profileChoice{Name: p.Name, Ticked: slices.Contains(ticked, p.Name)}
		if len(ticked) == 0 {
			c.Ticked = p.Default
		}
		for _, cr := range p.Credentials {
			c.Credentials = append(c.Credentials, cr.Ref())
		}
		known[p.Name] = true
		out = append(out, c)
	}
	for _, name := range reg.Profiles {
		if !known[name] {
			out = append(out, profileChoice{Name: shown(name), Missing: true})
		}
	}
	return out
}

// heldProfile is a profile that a registration has, with what it can use by it.
type heldProfile struct {
	Name        string
	Missing     bool // from the policy
	Credentials []heldCredential
}

type heldCredential struct {
	Ref, Page, Endpoint string
	Set                 bool // what is stored suffices to be used
}

// held lists a registration's profiles. An error says that what is stored could
// not be read; then no credential counts as set.
func (d *dashboard) held(ctx context.Context, reg *registry.Registration) ([]heldProfile, error) {
	stored, err := d.Registry.Credentials(ctx)
	slots := make(map[string]map[string]time.Time, len(stored))
	for _, s := range stored {
		slots[s.Ref] = s.Slots
	}
	policy := d.Policy()
	var out []heldProfile
	for _, name := range reg.Profiles {
		h := heldProfile{Name: shown(name), Missing: true}
		for _, p := range policy.Profiles {
			if p.Name != name {
				continue
			}
			h.Missing = false
			for _, c := range p.Credentials {
				held := heldCredential{Ref: c.Ref(), Page: "/credentials/" + c.Type + "/" + c.Name}
				held.Set = c.Complete(func(slot string) bool { return !slots[c.Ref()][slot].IsZero() })
				if c.Endpoint != nil {
					held.Endpoint = c.Endpoint.Ref()
				}
				h.Credentials = append(h.Credentials, held)
			}
		}
		out = append(out, h)
	}
	return out, err
}

// flowRow is a running flow on a page.
type flowRow struct {
	Protocol, Destination, Endpoint string
	Since                           time.Time
	Bytes                           int64
}

// lastAction is one of a registration's last actions on its page.
type lastAction struct {
	ID                                 int64
	Time                               time.Time
	Endpoint, Summary, Verdict, Status string
}

// fillDoing adds what a registration can use and does. The page is where it is
// blocked: it is shown also where one of these cannot be read.
func (d *dashboard) fillDoing(ctx context.Context, body *registrationBody, reg *registry.Registration) {
	var err error
	if body.Held, err = d.held(ctx, reg); err != nil {
		d.Log.Error("dashboard: reading which credentials are set", "err", err)
		body.NoSecrets = true
	}
	flows, told := d.flows(reg.ID)
	body.FlowsTold, body.FlowsFull = told, len(flows) == MaxFlows
	for _, f := range flows {
		body.Flows = append(body.Flows, flowRow{shown(f.Protocol), shown(f.Destination), shown(f.Endpoint), f.Since, f.Bytes})
	}
	actions, err := d.Registry.Actions(ctx, registry.ActionFilter{Registration: reg.ID, Limit: actionsShown})
	if err != nil {
		d.Log.Error("dashboard: reading a registration's last actions", "err", err)
		body.NoActions = true
	}
	for _, a := range actions {
		row := lastAction{ID: a.ID, Time: a.Time, Endpoint: shown(a.Endpoint), Summary: shown(a.Summary), Verdict: shown(a.Verdict)}
		if a.Result != nil {
			row.Status = shown(a.Result.Status)
		}
		body.Actions = append(body.Actions, row)
	}
}
