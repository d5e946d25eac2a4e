package dashboard

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	maxHolders = 100            // registrations that are listed with one credential
	inUse      = 24 * time.Hour // since a use after which clearing asks no more than a click
)

// useView is when a credential was last used, and by whom.
type useView struct {
	Time         time.Time `json:"time"`
	Registration string    `json:"registration"`
	Name         string    `json:"name"` // of the registration; empty where it is gone
}

// uses is who used which credential when, read once for each request.
type uses map[string][]registry.CredentialUse

func (d *dashboard) uses() uses {
	of := make(uses)
	for _, u := range d.Registry.CredentialUses() {
		of[u.Credential] = append(of[u.Credential], u)
	}
	return of
}

// last returns the newest use of the credential ref, nil where there is none.
func (of uses) last(ref string, snapshot *registry.Snapshot) *useView {
	if len(of[ref]) == 0 {
		return nil
	}
	u := slices.MaxFunc(of[ref], func(a, b registry.CredentialUse) int { return a.Time.Compare(b.Time) })
	v := &useView{Time: u.Time.UTC(), Registration: string(u.Registration)}
	if reg, ok := snapshot.ByID(u.Registration); ok {
		v.Name = reg.Name
	}
	return v
}

// holderView is a registration with a profile that has the credential: what it
// would lose if the credential were cleared.
type holderView struct {
	Registration string     `json:"registration"`
	Name         string     `json:"name"`
	State        string     `json:"state"`
	Profiles     []string   `json:"profiles"`  // of its own, those that have the credential
	LastUsed     *time.Time `json:"last_used"` // null: never, or longer ago than is remembered
}

// holders lists who has v's credential, the last to use it first, and says how
// many more there are than it lists. The revoked have nothing to lose.
func (d *dashboard) holders(v credentialView) (list []holderView, more int) {
	used := make(map[registry.ID]time.Time)
	for _, u := range d.uses()[v.ref()] {
		used[u.Registration] = u.Time
	}
	list = []holderView{}
	for _, reg := range d.Registry.Snapshot().All() {
		if reg.State == registry.Revoked {
			continue
		}
		h := holderView{Registration: string(reg.ID), Name: reg.Name, State: string(reg.State), LastUsed: optionalTime(used[reg.ID])}
		for _, p := range reg.Profiles {
			if slices.Contains(v.Profiles, p) {
				h.Profiles = append(h.Profiles, p)
			}
		}
		if len(h.Profiles) > 0 {
			list = append(list, h)
		}
	}
	slices.SortStableFunc(list, func(a, b holderView) int {
		return cmp.Or(timeOf(b.LastUsed).Compare(timeOf(a.LastUsed)), cmp.Compare(a.Name, b.Name))
	})
	if len(list) > maxHolders {
		list, more = list[:maxHolders], len(list)-maxHolders
	}
	return list, more
}

// usedLately reports whether anybody used v's credential in the last 24 hours.
func (d *dashboard) usedLately(v credentialView) bool {
	return v.LastUsed != nil && d.Now().Sub(v.LastUsed.Time) < inUse
}

// notConfirmed is the answer to a form that clears what is in use.
var notConfirmed = &failure{http.StatusUnprocessableEntity, "not_confirmed", "what was typed is not the credential's name, and it was used in the last 24 hours", "nothing has been cleared"}
