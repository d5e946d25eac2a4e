// Package invites makes invites: permissions to enrol that an operator hands
// out as a token, through the dashboard's API or the gateway's control socket.
//
// A token has everything that `clawpatrol join` needs: where the gateway is, and
// how it proves that it is the one meant. With profiles it is an approval given
// in advance. The gateway keeps a record of each invite, and never the token:
// whoever reads the registry can use none.
package invites

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// How long an invite is good.
const (
	DefaultTTL = 15 * time.Minute
	MinTTL     = time.Second
	MaxTTL     = 7 * 24 * time.Hour // only for who asks for it
)

// Config is what New needs. Every field without a stated default is required.
type Config struct {
	Registry      *registry.DB
	Policy        func() *policy.Policy // the one in force
	CAFingerprint string                // "sha256:<hex>" of the local CA's DER

	Now func() time.Time // nil: time.Now
	Log *slog.Logger     // nil: nothing is logged
}

// Office makes and voids invites. Its methods are safe for concurrent use.
type Office struct {
	Config
	ca  [32]byte
	key secret.Secret
}

// New opens the office of a gateway. It makes the signing key where there is
// none yet.
func New(ctx context.Context, cfg Config) (*Office, error) {
	if cfg.Registry == nil || cfg.Policy == nil {
		return nil, errors.New("preparing invites: no registry or policy")
	}
	o := &Office{Config: cfg}
	digits, _ := strings.CutPrefix(cfg.CAFingerprint, "sha256:")
	sum, err := hex.DecodeString(digits)
	if err != nil || len(sum) != len(o.ca) {
		return nil, errors.New("preparing invites: no CA fingerprint")
	}
	copy(o.ca[:], sum)
	if o.key, err = cfg.Registry.InviteKey(ctx); err != nil {
		return nil, fmt.Errorf("preparing invites: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// none is what no invite's ID is.
const none registry.InviteID = "none"

// Identify returns the ID that the registry may know a token's invite by. Of a
// token that this gateway did not make it is one that the registry never knows,
// so that every token that is not good takes the same way to the same answer
// (I10). A nil Office has made none.
func (o *Office) Identify(token string) registry.InviteID {
	if o == nil {
		return none
	}
	invite, err := enrolment.ParseInvite(token)
	// One that cannot be read is verified like one that can.
	if genuine := invite.Verify(o.key); !genuine || err != nil {
		return none
	}
	return registry.InviteID(invite.ID())
}

// Request is what an operator asks for, in the form of the API.
type Request struct {
	TTL      string   `json:"ttl,omitempty"`      // a Go duration, from 1 s to 168 h; "": 15 minutes
	Profiles []string `json:"profiles,omitempty"` // none: the registration waits for an operator
	Uses     int      `json:"uses,omitempty"`     // 0: 1
	Source   string   `json:"source,omitempty"`   // an address or CIDR range; "": anywhere
}

// Invite is what is shown of an invite.
type Invite struct {
	ID         string     `json:"id"`
	State      string     `json:"state"` // good, used_up, expired or voided
	Profiles   []string   `json:"profiles"`
	Source     string     `json:"source"` // "": anywhere
	Uses       int        `json:"uses"`
	Used       int        `json:"used"`
	MadeBy     string     `json:"made_by"`
	CreatedAt  time.Time  `json:"created_at"`
	ExpiresAt  time.Time  `json:"expires_at"`
	LastUsedAt *time.Time `json:"last_used_at"` // null: never
	VoidedAt   *time.Time `json:"voided_at"`    // null: not
}

// Issued is a new invite, and the only time its token is shown.
type Issued struct {
	Invite
	Token string `json:"token"`
}

// Refusal is why an invite cannot be made or voided.
type Refusal struct {
	Code    string // for programs
	Message string
	Advice  string // may be empty
}

func (r *Refusal) Error() string { return r.Message }

// Hint says what to do.
func (r *Refusal) Hint() string { return r.Advice }

// Make makes an invite for an operator, by, who is named in the log and the
// record. Where the request is at fault the error is a *Refusal.
func (o *Office) Make(ctx context.Context, by string, req Request) (*Issued, error) {
	want, err := o.parse(req)
	if err != nil {
		return nil, err
	}
	gateway := o.Policy().Gateway
	if gateway.Enrolment == policy.EnrolmentClosed {
		return nil, &Refusal{"enrolment_closed", "enrolment is closed: no invite would be good", `set gateway.enrolment to "invite" or "open" in gateway.hcl`}
	}
	token, id, err := enrolment.SignInvite(o.key, enrolment.Invite{
		URL:               gateway.PublicURL,
		CA:                o.ca,
		PublicCertificate: gateway.TLSCertFile != "",
		Expires:           want.ExpiresAt,
		Uses:              want.Uses,
		Source:            want.Source,
		Profiles:          want.Profiles,
	})
	if err != nil {
		return nil, err
	}
	want.ID, want.MadeBy = registry.InviteID(id), by
	if err := o.Registry.AddInvite(ctx, want); errors.Is(err, registry.ErrTooManyInvites) {
		return nil, &Refusal{"too_many_invites", "too many invites are in force", "void some that are not needed, or wait until they expire"}
	} else if err != nil {
		return nil, err
	}
	o.Log.Info("invite made", "invite", id, "profiles", want.Profiles, "uses", want.Uses, "source", req.Source, "expires", want.ExpiresAt, "operator", by)
	return &Issued{Invite: o.view(want), Token: token}, nil
}

// parse checks a request against the limits and the policy.
func (o *Office) parse(req Request) (registry.Invite, error) {
	now := o.Now().UTC()
	i := registry.Invite{Uses: max(req.Uses, 1), CreatedAt: now.Truncate(time.Microsecond)}
	ttl := DefaultTTL
	if req.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(req.TTL); err != nil || ttl < MinTTL || ttl > MaxTTL {
			return i, &Refusal{"bad_ttl", fmt.Sprintf("ttl is not a duration from %s to %s", MinTTL, MaxTTL), "write it as 15m or 8h"}
		}
	}
	i.ExpiresAt = now.Add(ttl + time.Second - 1).Truncate(time.Second) // as the token says it
	if req.Uses < 0 || req.Uses > enrolment.MaxInviteUses {
		return i, &Refusal{"bad_uses", fmt.Sprintf("uses is not between 1 and %d", enrolment.MaxInviteUses), ""}
	}
	if req.Source != "" {
		var err error
		if i.Source, err = parseSource(req.Source); err != nil {
			return i, err
		}
	}
	for _, name := range req.Profiles {
		if !slices.Contains(i.Profiles, name) {
			i.Profiles = append(i.Profiles, name)
		}
	}
	if len(i.Profiles) > enrolment.MaxInviteProfiles {
		return i, &Refusal{"too_many_profiles", fmt.Sprintf("more than %d profiles", enrolment.MaxInviteProfiles), ""}
	}
	if name, ok := Unknown(o.Policy(), i.Profiles); !ok {
		return i, &Refusal{"unknown_profile", fmt.Sprintf("the policy has no profile %.80q", name), "it has: " + strings.Join(profileNames(o.Policy()), ", ")}
	}
	return i, nil
}

// parseSource reads an address or a range. A range with bits beyond its length
// is a mistake, not a range.
func parseSource(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, &Refusal{"bad_source", "source is neither an address nor a range", "write it as 198.51.100.7, 198.51.100.0/24 or 2001:db8::/48"}
	case p != p.Masked():
		return p, &Refusal{"bad_source", "source has bits set beyond its length", "write it as " + p.Masked().String()}
	}
	return p, nil
}

// Unknown returns the first name that p has no profile for, or ok.
func Unknown(p *policy.Policy, names []string) (name string, ok bool) {
	known := profileNames(p)
	for _, n := range names {
		if !slices.Contains(known, n) {
			return n, false
		}
	}
	return "", true
}

func profileNames(p *policy.Policy) []string {
	var names []string
	for _, profile := range p.Profiles {
		names = append(names, profile.Name)
	}
	return names
}

// List returns the invites in force and those that ended in the last 30 days,
// newest first.
func (o *Office) List(ctx context.Context) ([]Invite, error) {
	all, err := o.Registry.Invites(ctx)
	if err != nil {
		return nil, err
	}
	views := []Invite{}
	for _, i := range all {
		views = append(views, o.view(i))
	}
	return views, nil
}

// Void ends an invite. Registrations that it made stay as they are; those among
// them that are still pending wait for an operator. Where there is no such
// invite the error is a *Refusal.
func (o *Office) Void(ctx context.Context, by, id string) error {
	err := o.Registry.VoidInvite(ctx, registry.InviteID(id))
	if errors.Is(err, registry.ErrInvite) {
		return &Refusal{"not_found", "no such invite", ""}
	}
	if err != nil {
		return err
	}
	o.Log.Info("invite voided", "invite", id, "operator", by)
	return nil
}

func (o *Office) view(i registry.Invite) Invite {
	v := Invite{
		ID:         string(i.ID),
		State:      "good",
		Profiles:   append([]string{}, i.Profiles...),
		Uses:       i.Uses,
		Used:       i.Used,
		MadeBy:     i.MadeBy,
		CreatedAt:  i.CreatedAt.UTC(),
		ExpiresAt:  i.ExpiresAt.UTC(),
		LastUsedAt: optional(i.LastUsedAt),
		VoidedAt:   optional(i.VoidedAt),
	}
	if i.Source.IsValid() {
		v.Source = i.Source.String()
	}
	switch {
	case v.VoidedAt != nil:
		v.State = "voided"
	case i.Used >= i.Uses:
		v.State = "used_up"
	case !o.Now().Before(i.ExpiresAt):
		v.State = "expired"
	}
	return v
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
