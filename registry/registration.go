package registry

import (
	"net/netip"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// State is where a registration stands.
type State string

// The states: pending -> approved <-> blocked -> revoked, and never back from
// revoked.
const (
	Pending  State = "pending"
	Approved State = "approved"
	Blocked  State = "blocked"
	Revoked  State = "revoked"
)

// ID identifies a registration for good; it is never reused.
type ID string

// Registration is one enrolled agent host, as a value nobody changes.
type Registration struct {
	ID            ID
	Name          string
	State         State
	UserCode      string
	PublicKey     [32]byte     // WireGuard
	Prefix4       netip.Prefix // its /28
	Prefix6       netip.Prefix // its /64
	Pin           Pin          // observed so far; sealed when PinSealed
	PinSealed     bool
	Seen          Pin // while blocked: where authentic messages have come from since
	Profiles      []string
	Transport     string         // "wireguard"
	Endpoint      netip.AddrPort // last known WireGuard endpoint; zero: none
	LastHandshake time.Time
	Newest        [12]byte // timestamp of the newest good initiation, from the agent host's clock
	Blocks        int      // how often it was blocked
	CreatedAt     time.Time
	ExpiresAt     time.Time // of one never approved; zero: it does not expire
	BlockedReason string
	Source        netip.Addr // where start came from
	Invite        InviteID   // that it was made with; "": none
	Invited       []string   // while pending: profiles that the invite approves it with, see ApproveInvited
	ApprovedAt    time.Time  // the last approval
	BlockedAt     time.Time
	RevokedAt     time.Time
}

// record is a Registration with what only the registry knows. Like it, a record
// is never changed: a change makes another.
type record struct {
	Registration
	alike              string // skeleton(Name)
	slot               int    // the number of its address ranges
	claimed4, claimed6 bool   // families that Claim was called for

	mac, psk             secret.Secret
	macSealed, pskSealed []byte
}

// held reports whether r's address ranges and keys are in use.
func (r *record) held() bool { return r.State != Revoked }

// expired reports whether r's time to be approved has run out.
func (r *record) expired(now time.Time) bool {
	return r.held() && !r.ExpiresAt.IsZero() && !now.Before(r.ExpiresAt)
}

// NewRegistration is what POST start records.
type NewRegistration struct {
	Name         string
	PublicKey    [32]byte
	MACKey       secret.Secret // enrolment.Keys.MAC
	PresharedKey secret.Secret // enrolment.Keys.PresharedKey
	Source       netip.Addr    // the TCP peer, unmapped
	Invite       InviteID      // to use once; "": none
}

// PeerState is what the tunnel saw of a registration.
type PeerState struct {
	Endpoint  netip.AddrPort
	Handshake time.Time

	// Of a good initiation: where it came from, and its timestamp.
	From   netip.Addr
	Newest [12]byte
}

// MACKey returns the key that authenticates the registration's claim and poll;
// zero for an unknown, expired or revoked one.
func (db *DB) MACKey(id ID) secret.Secret {
	if r := db.live(id); r != nil {
		return r.mac
	}
	return secret.Secret{}
}

// PresharedKey returns the registration's WireGuard preshared key; zero for an
// unknown, expired or revoked one.
func (db *DB) PresharedKey(id ID) secret.Secret {
	if r := db.live(id); r != nil {
		return r.psk
	}
	return secret.Secret{}
}

// live returns the record of a registration that is neither unknown, expired
// nor revoked, else nil.
func (db *DB) live(id ID) *record {
	r := db.Snapshot().byID[id]
	if r == nil || !r.held() || r.expired(db.clock()) {
		return nil
	}
	return r
}
