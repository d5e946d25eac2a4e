package dashboard

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clawpatrol/clawpatrol/registry"
)

// Limits of what an operator may send.
const (
	maxReason   = 512 // bytes of an operator's reason
	maxProfiles = 64  // of one registration
)

var registrationStates = []registry.State{registry.Pending, registry.Approved, registry.Blocked, registry.Revoked}

// registrationView is what the API shows of a registration.
type registrationView struct {
	ID             string     `json:"id"`
	Name           string     `json:"name"`
	State          string     `json:"state"`
	UserCode       string     `json:"user_code"`
	Addresses      []string   `json:"addresses"` // inside the tunnel, with prefix lengths
	Pin            pinView    `json:"pin"`
	PinSealed      bool       `json:"pin_sealed"`
	PinRemarks     []string   `json:"pin_remarks"` // why the pin proves less than it seems to
	Profiles       []string   `json:"profiles"`
	Transport      string     `json:"transport"`
	PublicKey      string     `json:"public_key"`      // WireGuard, standard base64
	KeyFingerprint string     `json:"key_fingerprint"` // "sha256:<hex>" of the 32 bytes
	LastHandshake  *time.Time `json:"last_handshake"`  // null: never
	Health         healthView `json:"health"`
	CreatedAt      time.Time  `json:"created_at"`
	ExpiresAt      *time.Time `json:"expires_at,omitempty"` // of one never approved
	BlockedReason  string     `json:"blocked_reason"`
	BlockedAt      *time.Time `json:"blocked_at"`   // null: not blocked
	Seen           *pinView   `json:"seen"`         // null: not blocked, or nothing authentic came since
	SeenRemarks    []string   `json:"seen_remarks"` // as PinRemarks, of Seen
	// CodeRequired: the registry takes it for a look-alike of another.
	CodeRequired bool `json:"user_code_required"`
}

// healthView is how a registration's tunnel fares: see registry.Health. Apart from
// the last handshake it counts from the gateway's start.
type healthView struct {
	LastHandshake *time.Time `json:"last_handshake"` // null: never
	BytesIn       uint64     `json:"bytes_in"`       // from the agent host
	BytesOut      uint64     `json:"bytes_out"`      // to it
	Handshakes    int        `json:"handshakes"`
	Silent        bool       `json:"silent"` // approved, and nothing came for 90 s
}

// roster is what a registration is looked at against, read once per request.
type roster struct {
	snapshot *registry.Snapshot
	health   func(registry.ID) registry.Health
	own      []netip.Addr // the gateway's
}

func (d *dashboard) roster() roster {
	own := d.gatewayAddrs()
	if a, err := netip.ParseAddr(d.Policy().Gateway.PublicHost()); err == nil {
		own = append(own, a.Unmap()) // behind a NAT, no interface has it
	}
	return roster{snapshot: d.Registry.Snapshot(), health: d.Registry.Health, own: own}
}

// inState returns the registrations in this state; empty: all.
func (ro roster) inState(state string) ([]*registry.Registration, error) {
	all := ro.snapshot.All()
	switch {
	case state == "":
		return all, nil
	case slices.Contains(registrationStates, registry.State(state)):
		return slices.DeleteFunc(all, func(reg *registry.Registration) bool { return string(reg.State) != state }), nil
	}
	return nil, badRequest("state is not pending, approved, blocked or revoked")
}

func (ro roster) view(reg *registry.Registration) registrationView {
	sum := sha256.Sum256(reg.PublicKey[:])
	health := ro.health(reg.ID)
	v := registrationView{
		ID:             string(reg.ID),
		Name:           reg.Name,
		State:          string(reg.State),
		UserCode:       reg.UserCode,
		Addresses:      []string{},
		Pin:            viewPin(reg.Pin),
		PinSealed:      reg.PinSealed,
		PinRemarks:     pinRemarks(reg.Pin, ro.own),
		Profiles:       append([]string{}, reg.Profiles...),
		Transport:      reg.Transport,
		PublicKey:      base64.StdEncoding.EncodeToString(reg.PublicKey[:]),
		KeyFingerprint: "sha256:" + hex.EncodeToString(sum[:]),
		LastHandshake:  optionalTime(health.LastHandshake),
		Health:         healthView{optionalTime(health.LastHandshake), health.BytesIn, health.BytesOut, health.Handshakes, health.Silent},
		CreatedAt:      reg.CreatedAt.UTC(),
		ExpiresAt:      optionalTime(reg.ExpiresAt),
		BlockedReason:  reg.BlockedReason,
		BlockedAt:      optionalTime(reg.BlockedAt),
		SeenRemarks:    pinRemarks(reg.Seen, ro.own),
		CodeRequired:   ro.snapshot.CodeRequired(reg.ID),
	}
	for _, p := range []netip.Prefix{reg.Prefix4, reg.Prefix6} {
		if p.IsValid() { // the agent host has the first address of its range
			v.Addresses = append(v.Addresses, netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits()).String())
		}
	}
	if reg.Seen != (registry.Pin{}) {
		seen := viewPin(reg.Seen)
		v.Seen = &seen
	}
	return v
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// timeOf undoes optionalTime.
func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// registration finds what {id} in r's path names.
func (d *dashboard) registration(r *http.Request) (*registry.Registration, error) {
	reg, ok := d.Registry.Snapshot().ByID(registry.ID(r.PathValue("id")))
	if !ok {
		return nil, registry.ErrNotFound
	}
	return reg, nil
}

// setProfiles replaces a registration's profiles. had are those that a page showed,
// which another operator may have changed since; nil: whatever they are.
func (d *dashboard) setProfiles(r *http.Request, profiles, had []string) error {
	d.profilesMu.Lock()
	defer d.profilesMu.Unlock()
	reg, err := d.registration(r)
	if err != nil {
		return err
	}
	if profiles, err = d.knownProfiles(profiles); err != nil {
		return err
	}
	if had != nil && !slices.Equal(slices.Sorted(slices.Values(had)), slices.Sorted(slices.Values(reg.Profiles))) {
		return &failure{http.StatusConflict, "changed_since", "somebody else has changed the profiles since you opened the page", "nothing of yours has been stored: look at what is there now, then send again if it is still right"}
	}
	if err := d.Registry.SetProfiles(context.WithoutCancel(r.Context()), reg.ID, profiles); err != nil {
		return fmt.Errorf("setting a registration's profiles: %w", err)
	}
	d.Log.Info("registration's profiles changed", "registration", reg.ID, "profiles", profiles, "operator", source(r))
	return nil
}

// knownProfiles checks an operator's choice against the policy in force.
func (d *dashboard) knownProfiles(names []string) ([]string, error) {
	var out []string
	for _, n := range names {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return nil, noProfiles
	}
	if len(out) > maxProfiles {
		return nil, &failure{http.StatusUnprocessableEntity, "too_many_profiles", fmt.Sprintf("more than %d profiles", maxProfiles), ""}
	}
	var known []string
	for _, p := range d.Policy().Profiles {
		known = append(known, p.Name)
	}
	for _, n := range out {
		if !slices.Contains(known, n) {
			return nil, &failure{http.StatusUnprocessableEntity, "unknown_profile", fmt.Sprintf("the policy has no profile %q", shown(n)), "it has: " + strings.Join(known, ", ")}
		}
	}
	return out, nil
}

// givenReason checks an operator's reason, which may be empty.
func givenReason(reason string) (string, error) {
	reason = strings.TrimSpace(reason)
	if len(reason) > maxReason || !utf8.ValidString(reason) || hasControl(reason) {
		return "", &failure{http.StatusUnprocessableEntity, "bad_reason", fmt.Sprintf("the reason is not one line of at most %d bytes", maxReason), ""}
	}
	return reason, nil
}

// block blocks a registration.
func (d *dashboard) block(r *http.Request, reason string) error {
	reg, err := d.registration(r)
	if err != nil {
		return err
	}
	if reason, err = givenReason(reason); err != nil {
		return err
	}
	if reason == "" {
		reason = "blocked by an operator"
	}
	if err := d.Registry.Block(context.WithoutCancel(r.Context()), reg.ID, reason); err != nil {
		return fmt.Errorf("blocking a registration: %w", err)
	}
	d.Log.Info("registration blocked", "registration", reg.ID, "operator", source(r))
	return nil
}

// revoke ends a registration for good.
func (d *dashboard) revoke(r *http.Request) error {
	reg, err := d.registration(r)
	if err != nil {
		return err
	}
	if err := d.Registry.Revoke(context.WithoutCancel(r.Context()), reg.ID); err != nil {
		return fmt.Errorf("revoking a registration: %w", err)
	}
	d.Log.Info("registration revoked", "registration", reg.ID, "operator", source(r))
	return nil
}
