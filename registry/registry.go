// Package registry is the gateway's state: registrations, profile assignments,
// sealed secrets, virtual addresses, operator sessions and the action log, in
// one SQLite file under state_dir.
package registry

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// DB is the open registry. All methods are safe for concurrent use. A method
// that returns nil has committed: the change survives kill -9.
type DB struct{}

// Config opens a registry. Dir and Subnets are required.
type Config struct {
	Dir     string         // state_dir: owned by this user, 0700
	Subnets []netip.Prefix // the policy's wireguard.subnets, one IPv4 and one IPv6
	Now     func() time.Time
	Log     *slog.Logger
}

// Open opens or creates clawpatrol.db in cfg.Dir, and master.key beside it.
func Open(ctx context.Context, cfg Config) (*DB, error) { panic("registry: not built yet") }

// Close flushes the action log and closes the database.
func (db *DB) Close() error { panic("registry: not built yet") }

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

// Pin is an address pair; a zero Addr is a family the registration does not have.
type Pin struct {
	IPv4, IPv6 netip.Addr
}

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
	Profiles      []string
	Transport     string         // "wireguard"
	Endpoint      netip.AddrPort // last known WireGuard endpoint; zero: none
	LastHandshake time.Time
	CreatedAt     time.Time
	ExpiresAt     time.Time // of a pending one
	BlockedReason string
}

// Snapshot is the registrations at one instant, immutable. The zero Snapshot is
// empty.
type Snapshot struct{}

// Snapshot returns the present one: an atomic load, no database.
func (db *DB) Snapshot() *Snapshot { panic("registry: not built yet") }

// Changed returns a channel that receives after each newly published Snapshot;
// several changes may coalesce into one receive. stop releases it.
func (db *DB) Changed() (c <-chan struct{}, stop func()) { panic("registry: not built yet") }

// ByAddr finds the registration whose /28 or /64 holds the tunnel address a.
// Revoked registrations are not found.
func (s *Snapshot) ByAddr(a netip.Addr) (*Registration, bool) { panic("registry: not built yet") }

// ByID finds a registration, revoked ones included.
func (s *Snapshot) ByID(id ID) (*Registration, bool) { panic("registry: not built yet") }

// All returns every registration, oldest first.
func (s *Snapshot) All() []*Registration { panic("registry: not built yet") }

// Errors that callers branch on.
var (
	ErrNotFound       = errors.New("no such registration")
	ErrTooManyPending = errors.New("too many pending registrations")
	ErrState          = errors.New("not possible in this state") // e.g. approving a revoked one
	ErrPinSealed      = errors.New("the pin is sealed")
	ErrCodeRequired   = errors.New("several pending registrations look alike: the user code is required")
	ErrSubnetFull     = errors.New("no free address range left for a registration")
	ErrTableFull      = errors.New("no free virtual address left")
	ErrDuplicateKey   = errors.New("a registration with this public key exists")
)

// NewRegistration is what POST start records.
type NewRegistration struct {
	Name         string
	PublicKey    [32]byte
	MACKey       secret.Secret // enrolment.Keys.MAC
	PresharedKey secret.Secret // enrolment.Keys.PresharedKey
	Source       netip.Addr    // the TCP peer, unmapped
}

// Enrol adds a pending registration, allocates its address ranges and its user
// code. Limits: 3 pending per source (/32, /64), 100 in all, 15 minutes each.
func (db *DB) Enrol(ctx context.Context, n NewRegistration) (*Registration, error) {
	panic("registry: not built yet")
}

// MACKey returns the key that authenticates the registration's claim and poll;
// zero for an unknown, expired or revoked one.
func (db *DB) MACKey(id ID) secret.Secret { panic("registry: not built yet") }

// PresharedKey returns the registration's WireGuard preshared key.
func (db *DB) PresharedKey(id ID) secret.Secret { panic("registry: not built yet") }

// Claim records source as the registration's observed address of its family. It
// is allowed once per family within 60 s of start, the first from start's
// address; ErrPinSealed afterwards.
func (db *DB) Claim(ctx context.Context, id ID, source netip.Addr) (*Registration, error) {
	panic("registry: not built yet")
}

// PeerState is what the tunnel saw of a registration.
type PeerState struct {
	Endpoint  netip.AddrPort
	Handshake time.Time
}

// RecordPeers persists endpoints and handshake times, in one transaction. The
// first handshake seals the pin.
func (db *DB) RecordPeers(ctx context.Context, seen map[ID]PeerState) error {
	panic("registry: not built yet")
}

// Approve moves a pending or blocked registration to approved with these
// profiles (at least one). userCode is required where look-alikes are pending
// (ErrCodeRequired) and checked whenever it is given.
func (db *DB) Approve(ctx context.Context, id ID, profiles []string, userCode string) error {
	panic("registry: not built yet")
}

// SetProfiles replaces the profiles of a registration that is not revoked.
func (db *DB) SetProfiles(ctx context.Context, id ID, profiles []string) error {
	panic("registry: not built yet")
}

// Block moves a registration to blocked, with the reason shown to operators.
func (db *DB) Block(ctx context.Context, id ID, reason string) error {
	panic("registry: not built yet")
}

// Revoke ends a registration for good.
func (db *DB) Revoke(ctx context.Context, id ID) error { panic("registry: not built yet") }

// UnapproveAll puts every approved or blocked registration back to pending
// (--reset-dashboard-password).
func (db *DB) UnapproveAll(ctx context.Context) error { panic("registry: not built yet") }

// WireGuardKey returns the gateway's WireGuard private key, made on first use
// and sealed.
func (db *DB) WireGuardKey(ctx context.Context) (secret.Secret, error) {
	panic("registry: not built yet")
}
