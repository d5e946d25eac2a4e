package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Limits of enrolment, from the contract of POST start and claim.
const (
	maxPending          = 100
	maxPendingPerSource = 3
	pendingLifetime     = 15 * time.Minute

	// ClaimWindow is how long after start Claim is possible.
	ClaimWindow = 60 * time.Second

	// rangeRest is how long an address range waits before another registration
	// gets it.
	rangeRest = 24 * time.Hour
)

// Enrol adds a pending registration, allocates its address ranges and its user
// code. Limits: 3 pending per source (/32, /64), 100 in all, 15 minutes each.
// A registration blocked before it was ever approved counts as pending here.
//
// An invite is used in the same transaction, and only if everything else is in
// order: else ErrInvite, whatever is wrong with it, and nothing has changed.
func (db *DB) Enrol(ctx context.Context, n NewRegistration) (*Registration, error) {
	source := n.Source.Unmap().WithZone("")
	switch {
	case !source.IsValid():
		return nil, fmt.Errorf("%w: no source address", ErrInvalid)
	case n.PublicKey == [32]byte{}:
		return nil, fmt.Errorf("%w: no public key", ErrInvalid)
	case len(n.MACKey.Reveal()) == 0 || len(n.PresharedKey.Reveal()) == 0:
		return nil, fmt.Errorf("%w: no enrolment keys", ErrInvalid)
	}
	id := newID()
	r := &record{
		Registration: Registration{
			ID:        id,
			Name:      cleanName(n.Name),
			State:     Pending,
			PublicKey: n.PublicKey,
			Pin:       Pin{}.with(source),
			Transport: "wireguard",
			Source:    source,
			Invite:    n.Invite,
		},
		mac: n.MACKey, macSealed: db.seal.seal(macPlace(id), n.MACKey.Reveal()),
		psk: n.PresharedKey, pskSealed: db.seal.seal(pskPlace(id), n.PresharedKey.Reveal()),
	}
	r.alike = skeleton(r.Name)
	err := db.amend(ctx, func(s *Snapshot, now time.Time) (amendment, error) {
		pending, here := 0, 0
		codes := make(map[string]bool, len(s.all))
		for _, other := range s.all {
			if other.PublicKey == r.PublicKey {
				return amendment{}, ErrDuplicateKey
			}
			if !other.held() {
				continue
			}
			codes[other.UserCode] = true
			if other.ExpiresAt.IsZero() {
				continue
			}
			pending++
			if sourceKey(other.Source) == sourceKey(source) {
				here++
			}
		}
		if pending >= maxPending || here >= maxPendingPerSource {
			return amendment{}, ErrTooManyPending
		}
		var ok bool
		if r.slot, ok = db.freeSlot(s, now); !ok {
			return amendment{}, ErrSubnetFull
		}
		r.Prefix4, r.Prefix6 = db.plan.prefixes(r.slot)
		for r.UserCode = newUserCode(); codes[r.UserCode]; {
			r.UserCode = newUserCode()
		}
		r.CreatedAt, r.ExpiresAt = now, now.Add(pendingLifetime)
		a := amendment{put: []*record{r}}
		if n.Invite != "" {
			a.first = func(ctx context.Context, tx *sql.Tx) (err error) {
				r.Invited, err = useInvite(ctx, tx, n.Invite, source, now)
				return err
			}
		}
		return a, nil
	})
	if err != nil {
		return nil, fmt.Errorf("enrolling %q: %w", r.Name, err)
	}
	return &r.Registration, nil
}

// freeSlot picks the range of a new registration: one that rested for a day.
// Where there is none left, the one that rested longest of those that expired
// unapproved, and so never carried a packet: otherwise whoever can start
// registrations from many addresses could use up a day's supply.
func (db *DB) freeSlot(s *Snapshot, now time.Time) (int, bool) {
	resting := make(map[int]bool)
	for _, r := range s.all {
		if r.held() || now.Sub(r.RevokedAt) < rangeRest {
			resting[r.slot] = true
		}
	}
	oldest := 0
	for slot := 1; slot < db.plan.ranges; slot++ {
		if resting[slot] {
			continue
		}
		freed, was := db.retired[slot]
		if !was || now.Sub(freed) >= rangeRest {
			return slot, true
		}
		if oldest == 0 || freed.Before(db.retired[oldest]) {
			oldest = slot
		}
	}
	return oldest, oldest != 0
}

// Claim records source as the registration's observed address of its family. It
// is allowed once per family within 60 s of start, the first from start's
// address (else ErrState); ErrPinSealed afterwards. An approval that overtook the
// first claim does not refuse it: it adds nothing to the pin, and without it the
// agent host would have no tunnel.
func (db *DB) Claim(ctx context.Context, id ID, source netip.Addr) (*Registration, error) {
	source = source.Unmap().WithZone("")
	var claimed *record
	err := db.amend(ctx, func(s *Snapshot, now time.Time) (amendment, error) {
		r := s.byID[id]
		overtaken := r != nil && r.State == Approved && !r.claimed4 && !r.claimed6 &&
			source == r.Source && r.Pin.with(source) == r.Pin
		switch {
		case !source.IsValid():
			return amendment{}, fmt.Errorf("%w: no source address", ErrInvalid)
		case r == nil || r.expired(now):
			return amendment{}, ErrNotFound
		case r.State == Blocked || r.State == Revoked:
			return amendment{}, fmt.Errorf("%w: the registration is %s", ErrState, r.State)
		case now.Sub(r.CreatedAt) > ClaimWindow, !overtaken && (r.PinSealed || r.State != Pending):
			return amendment{}, ErrPinSealed
		case source.Is4() && r.claimed4, source.Is6() && r.claimed6:
			return amendment{}, ErrPinSealed
		case !r.claimed4 && !r.claimed6 && source != r.Source:
			return amendment{}, fmt.Errorf("%w: the first claim must come from where start came from", ErrState)
		}
		next := *r
		next.Pin = r.Pin.with(source)
		next.claimed4 = r.claimed4 || source.Is4()
		next.claimed6 = r.claimed6 || source.Is6()
		claimed = &next
		return amendment{put: []*record{claimed}}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("claiming registration %q: %w", id, err)
	}
	return &claimed.Registration, nil
}

// RecordPeers persists endpoints, handshake times and timestamps, in one
// transaction. The first handshake seals the pin, with the address it came from. Unknown and revoked registrations are passed
// over, and rows that would not change are not written.
func (db *DB) RecordPeers(ctx context.Context, seen map[ID]PeerState) error {
	err := db.amend(ctx, func(s *Snapshot, now time.Time) (amendment, error) {
		var a amendment
		for id, peer := range seen {
			r := s.byID[id]
			if r == nil || !r.held() || r.expired(now) {
				continue
			}
			next := *r
			if peer.Endpoint.IsValid() {
				next.Endpoint = peer.Endpoint
			}
			if at := peer.Handshake.UTC().Truncate(time.Microsecond); !peer.Handshake.IsZero() && at.After(r.LastHandshake) {
				next.LastHandshake = at
				next.PinSealed = true
			}
			if bytes.Compare(peer.Newest[:], r.Newest[:]) > 0 {
				next.Newest = peer.Newest
				if from := peer.From.Unmap().WithZone(""); !r.PinSealed {
					next.Pin = r.Pin.withUDP(from)
				}
				next.PinSealed = true
			}
			if next.Endpoint != r.Endpoint || next.LastHandshake != r.LastHandshake || next.PinSealed != r.PinSealed || next.Newest != r.Newest {
				a.put = append(a.put, &next)
			}
		}
		return a, nil
	})
	if err != nil {
		return fmt.Errorf("recording endpoints: %w", err)
	}
	return nil
}

// newID draws 130 random bits: never the same twice.
func newID() ID { return ID("r_" + strings.ToLower(rand.Text())) }
