package dashboard

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/clawpatrol/clawpatrol/registry"
)

// Limits of what an operator may send about a registration.
const (
	maxReason   = 512 // bytes of a block's reason
	maxProfiles = 64  // of one registration
)

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
	CreatedAt      time.Time  `json:"created_at"`
	ExpiresAt      *time.Time `json:"expires_at,omitempty"` // of a pending one
	BlockedReason  string     `json:"blocked_reason"`
	// CodeRequired: the registry takes it for a look-alike of another.
	CodeRequired bool `json:"user_code_required"`
}

type pinView struct {
	IPv4 string `json:"ipv4"`
	IPv6 string `json:"ipv6"`
}

// pin undoes what view makes of a pin.
func (v pinView) pin() (registry.Pin, error) {
	var p registry.Pin
	for text, to := range map[string]*netip.Addr{v.IPv4: &p.IPv4, v.IPv6: &p.IPv6} {
		if text == "" {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			return registry.Pin{}, badRequest("pin is not the addresses that were shown")
		}
		*to = a
	}
	return p, nil
}

// roster is what a registration is looked at against, read once per request.
type roster struct {
	snapshot *registry.Snapshot
	own      []netip.Addr // the gateway's
}

func (d *dashboard) roster() roster {
	return roster{snapshot: d.Registry.Snapshot(), own: d.gatewayAddrs()}
}

func (ro roster) view(reg *registry.Registration) registrationView {
	sum := sha256.Sum256(reg.PublicKey[:])
	v := registrationView{
		ID:             string(reg.ID),
		Name:           reg.Name,
		State:          string(reg.State),
		UserCode:       reg.UserCode,
		Addresses:      []string{},
		PinSealed:      reg.PinSealed,
		PinRemarks:     pinRemarks(reg.Pin, ro.own),
		Profiles:       append([]string{}, reg.Profiles...),
		Transport:      reg.Transport,
		PublicKey:      base64.StdEncoding.EncodeToString(reg.PublicKey[:]),
		KeyFingerprint: "sha256:" + hex.EncodeToString(sum[:]),
		LastHandshake:  optionalTime(reg.LastHandshake),
		CreatedAt:      reg.CreatedAt.UTC(),
		BlockedReason:  reg.BlockedReason,
		CodeRequired:   ro.snapshot.CodeRequired(reg.ID),
	}
	for _, p := range []netip.Prefix{reg.Prefix4, reg.Prefix6} {
		if p.IsValid() { // the agent host has the first address of its range
			v.Addresses = append(v.Addresses, netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits()).String())
		}
	}
	if reg.Pin.IPv4.IsValid() {
		v.Pin.IPv4 = reg.Pin.IPv4.String()
	}
	if reg.Pin.IPv6.IsValid() {
		v.Pin.IPv6 = reg.Pin.IPv6.String()
	}
	if reg.State == registry.Pending {
		v.ExpiresAt = optionalTime(reg.ExpiresAt)
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

// registration finds what {id} in r's path names.
func (d *dashboard) registration(r *http.Request) (*registry.Registration, error) {
	reg, ok := d.Registry.Snapshot().ByID(registry.ID(r.PathValue("id")))
	if !ok {
		return nil, registry.ErrNotFound
	}
	return reg, nil
}

// approve moves a pending or blocked registration to approved. With seen, its
// pin must be the one that the operator saw.
func (d *dashboard) approve(r *http.Request, profiles []string, userCode string, seen *pinView) error {
	reg, err := d.registration(r)
	if err != nil {
		return err
	}
	if reg.State == registry.Revoked {
		return &failure{http.StatusConflict, "revoked", "a revoked registration never returns", "join again on the agent host"}
	}
	profiles, err = d.knownProfiles(profiles)
	if err != nil {
		return err
	}
	ctx, userCode := context.WithoutCancel(r.Context()), strings.TrimSpace(userCode)
	if seen == nil {
		err = d.Registry.Approve(ctx, reg.ID, profiles, userCode)
	} else if pin, perr := seen.pin(); perr == nil {
		err = d.Registry.ApproveAs(ctx, reg.ID, registry.Approval{Profiles: profiles, UserCode: userCode, Shown: &pin})
	} else {
		err = perr
	}
	if errors.Is(err, registry.ErrState) {
		return d.whyNotApproved(reg.ID)
	}
	if err != nil {
		return fmt.Errorf("approving a registration: %w", err)
	}
	d.Log.Info("registration approved", "registration", reg.ID, "profiles", profiles, "was", reg.State, "operator", source(r))
	return nil
}

// whyNotApproved explains an ErrState of Approve from the present snapshot.
func (d *dashboard) whyNotApproved(id registry.ID) *failure {
	if now, ok := d.Registry.Snapshot().ByID(id); ok && now.State == registry.Approved {
		return &failure{http.StatusConflict, "already_approved", "the registration is approved already", "change its profiles instead"}
	}
	return &failure{http.StatusConflict, "revoked", "the registration has been revoked or has expired", "join again on the agent host"}
}

// setProfiles replaces a registration's profiles.
func (d *dashboard) setProfiles(r *http.Request, profiles []string) error {
	reg, err := d.registration(r)
	if err != nil {
		return err
	}
	if profiles, err = d.knownProfiles(profiles); err != nil {
		return err
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

// block blocks a registration.
func (d *dashboard) block(r *http.Request, reason string) error {
	reg, err := d.registration(r)
	if err != nil {
		return err
	}
	reason = strings.TrimSpace(reason)
	if len(reason) > maxReason || !utf8.ValidString(reason) || hasControl(reason) {
		return &failure{http.StatusUnprocessableEntity, "bad_reason", fmt.Sprintf("the reason is not one line of at most %d bytes", maxReason), ""}
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
