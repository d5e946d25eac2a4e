package registry

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"
)

// Limits of what an operator can store with a registration.
const (
	maxProfiles    = 64  // of one registration
	maxProfileName = 128 // bytes
	maxReason      = 512 // bytes
)

// Approve moves a pending or blocked registration to approved with these
// profiles (at least one: ErrNoProfiles). It seals the pin; a blocked
// registration keeps the pin it has. userCode is required where look-alikes
// are pending (ErrCodeRequired) and checked whenever it is given
// (ErrCodeWrong).
func (db *DB) Approve(ctx context.Context, id ID, profiles []string, userCode string) error {
	return db.ApproveAs(ctx, id, Approval{Profiles: profiles, UserCode: userCode})
}

// Approval is what an operator decides about a registration.
type Approval struct {
	Profiles []string
	UserCode string

	// Shown is the pin the operator was shown; where it is another by now, the
	// approval fails with ErrPinChanged. Until the approval, whoever has the join
	// credential can add an address to the pin. Nil: any.
	Shown *Pin

	// Blocks is Registration.Blocks as the operator was shown it; where it is
	// another by now, the approval fails with ErrBlockedSince. Nil: any.
	Blocks *int

	// Repin replaces the pin of a blocked registration. Each of its addresses
	// must be in Registration.Seen, and one of them have been proven over TCP;
	// else the approval fails with ErrPinChanged. Nil keeps the pin.
	Repin *Pin
}

// ApproveAs is Approve with everything an operator can say.
func (db *DB) ApproveAs(ctx context.Context, id ID, a Approval) error {
	profiles, err := cleanProfiles(a.Profiles)
	if err != nil {
		return fmt.Errorf("approving registration %q: %w", id, err)
	}
	return db.change(ctx, "approving", id, func(s *Snapshot, r *record, now time.Time) (bool, error) {
		if len(profiles) == 0 {
			return false, ErrNoProfiles
		}
		if r.State != Pending && r.State != Blocked {
			return false, fmt.Errorf("%w: the registration is %s", ErrState, r.State)
		}
		if a.Blocks != nil && *a.Blocks != r.Blocks {
			return false, ErrBlockedSince
		}
		if a.Shown != nil && *a.Shown != r.Pin {
			return false, ErrPinChanged
		}
		if a.UserCode != "" && !sameCode(a.UserCode, r.UserCode) {
			return false, ErrCodeWrong
		}
		if a.UserCode == "" && s.looksLikeAnother(r) {
			return false, ErrCodeRequired
		}
		if a.Repin != nil {
			if r.State != Blocked || !a.Repin.within(r.Seen) {
				return false, ErrPinChanged
			}
			r.Pin = *a.Repin
		}
		r.approve(profiles, now)
		return true, nil
	})
}

// approve is the one way into Approved.
func (r *record) approve(profiles []string, now time.Time) {
	r.State = Approved
	r.Profiles = profiles
	r.Invited = nil
	r.PinSealed = true
	r.ApprovedAt = now
	r.ExpiresAt = time.Time{}
	r.BlockedReason, r.BlockedAt, r.Seen = "", time.Time{}, Pin{}
}

// CodeRequired reports whether Approve asks for the user code of this
// registration.
func (s *Snapshot) CodeRequired(id ID) bool {
	r := s.byID[id]
	return r != nil && (r.State == Pending || r.State == Blocked) && s.looksLikeAnother(r)
}

// looksLikeAnother reports whether an operator could take r for another
// registration: one that is pending with the same name or source, or, where r
// is pending, any with the same name.
func (s *Snapshot) looksLikeAnother(r *record) bool {
	source := sourceKey(r.Source)
	return slices.ContainsFunc(s.all, func(o *record) bool {
		if o.ID == r.ID || !o.held() {
			return false
		}
		sameName := o.alike == r.alike
		if o.State == Pending {
			return sameName || sourceKey(o.Source) == source
		}
		return r.State == Pending && sameName
	})
}

// SetProfiles replaces the profiles of a registration that is not revoked.
func (db *DB) SetProfiles(ctx context.Context, id ID, profiles []string) error {
	profiles, err := cleanProfiles(profiles)
	if err != nil {
		return fmt.Errorf("setting the profiles of registration %q: %w", id, err)
	}
	return db.change(ctx, "setting the profiles of", id, func(_ *Snapshot, r *record, _ time.Time) (bool, error) {
		if r.State == Revoked {
			return false, fmt.Errorf("%w: the registration is revoked", ErrState)
		}
		same := slices.Equal(r.Profiles, profiles)
		r.Profiles = profiles
		return !same, nil
	})
}

// Block moves a registration to blocked, with the reason shown to operators.
// One that is blocked already keeps its first reason. Where the disk refuses
// the change, Block returns the error, and the registration is blocked all the
// same for as long as this process runs.
func (db *DB) Block(ctx context.Context, id ID, reason string) error {
	// Whoever sends packets from wrong addresses makes the data path call this
	// for each: once blocked, it must cost no lock.
	if r := db.Snapshot().byID[id]; r != nil && r.State == Blocked && !db.behind.Load() {
		return nil
	}
	return db.tighten(ctx, "blocking", id, func(_ *Snapshot, r *record, now time.Time) (bool, error) {
		switch r.State {
		case Revoked:
			return false, fmt.Errorf("%w: the registration is revoked", ErrState)
		case Blocked:
			return db.unsaved[id], nil
		}
		r.block(reason, now)
		return true, nil
	})
}

// block is the one way into Blocked.
func (r *record) block(reason string, now time.Time) {
	r.State = Blocked
	r.BlockedReason = cleanText(reason, maxReason)
	r.BlockedAt = now
	r.Blocks++
	r.Seen = Pin{}
}

// Revoke ends a registration for good and destroys its keys. Where the disk
// refuses the change, Revoke returns the error, and the registration is revoked
// all the same for as long as this process runs.
func (db *DB) Revoke(ctx context.Context, id ID) error {
	return db.tighten(ctx, "revoking", id, func(_ *Snapshot, r *record, now time.Time) (bool, error) {
		if r.State == Revoked {
			return db.unsaved[id], nil
		}
		next := record{Registration: r.Registration, alike: r.alike, slot: r.slot, claimed4: r.claimed4, claimed6: r.claimed6}
		next.State = Revoked
		next.RevokedAt = now
		next.ExpiresAt = time.Time{}
		next.Invited = nil
		*r = next
		return true, nil
	})
}

// UnapproveAll puts every approved or blocked registration back to pending
// (--reset-dashboard-password). They keep pins and profiles, and do not expire.
// Approvals given in advance go the same way, every invite is void; and so do the
// host keys that operators accepted.
func (db *DB) UnapproveAll(ctx context.Context) error {
	err := db.amend(ctx, func(s *Snapshot, now time.Time) (amendment, error) {
		var a amendment
		for _, r := range s.all {
			if !r.held() || (r.State == Pending && len(r.Invited) == 0) || r.expired(now) {
				continue
			}
			next := *r
			next.Invited = nil
			next.State = Pending
			next.BlockedReason, next.BlockedAt, next.Seen = "", time.Time{}, Pin{}
			a.put = append(a.put, &next)
		}
		a.first = func(ctx context.Context, tx *sql.Tx) error {
			if err := forgetHostKeys(ctx, tx); err != nil {
				return err
			}
			return voidInvites(ctx, tx, now)
		}
		return a, nil
	})
	if err == nil {
		err = db.rereadHostKeys(ctx)
	}
	if err != nil {
		return fmt.Errorf("withdrawing all approvals: %w", err)
	}
	return nil
}

// changer alters its own copy of one registration and says whether to store it.
// It runs under writing.
type changer func(s *Snapshot, r *record, now time.Time) (store bool, err error)

// change amends one registration; doing says what for, in errors.
func (db *DB) change(ctx context.Context, doing string, id ID, f changer) error {
	return db.changeOne(ctx, doing, id, false, f)
}

// tighten is change for what takes rights away: it holds even where the disk
// fails.
func (db *DB) tighten(ctx context.Context, doing string, id ID, f changer) error {
	return db.changeOne(ctx, doing, id, true, f)
}

func (db *DB) changeOne(ctx context.Context, doing string, id ID, tightening bool, f changer) error {
	err := db.amend(ctx, func(s *Snapshot, now time.Time) (amendment, error) {
		r := s.byID[id]
		if r == nil || r.expired(now) {
			return amendment{}, ErrNotFound
		}
		next := *r
		store, err := f(s, &next, now)
		if err != nil || !store {
			return amendment{}, err
		}
		return amendment{put: []*record{&next}, tightening: tightening}, nil
	})
	if err != nil {
		return fmt.Errorf("%s registration %q: %w", doing, id, err)
	}
	return nil
}

// cleanProfiles copies, bounds and dedupes names, keeping their order.
func cleanProfiles(names []string) ([]string, error) {
	clean := make([]string, 0, len(names))
	for _, name := range names {
		if name == "" || len(name) > maxProfileName || cleanText(name, maxProfileName) != name {
			return nil, fmt.Errorf("%w: profile name %q", ErrInvalid, name)
		}
		if !slices.Contains(clean, name) {
			clean = append(clean, name)
		}
	}
	if len(clean) > maxProfiles {
		return nil, fmt.Errorf("%w: more than %d profiles", ErrInvalid, maxProfiles)
	}
	return clean, nil
}
