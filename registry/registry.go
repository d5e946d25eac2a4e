// Package registry is the gateway's state: registrations, profile assignments,
// sealed secrets, virtual addresses, operator sessions, approvals and the action
// log, in one SQLite file under state_dir.
//
// # Files
//
// state_dir holds clawpatrol.db (with SQLite's -wal and -shm beside it),
// master.key and clawpatrol.lock. The directory is 0700, the files 0600, all
// owned by the gateway's user; Open refuses anything wider. One process at a
// time has the registry open.
//
// # Secrets
//
// Credentials' secrets, named secrets and keys are sealed one by one with
// XChaCha20-Poly1305 under a key derived from the master key, each bound to
// what it is and where it belongs: a sealed value copied to another row does
// not open. The master key is 32 bytes in master.key, or the systemd credential
// clawpatrol-master-key where there is one. Back it up apart from the database:
// without it the database yields no secret, to nobody.
//
// # Durability
//
// A method that changes state and returns nil has committed and synced the
// change. Action log rows are written in batches moments after they are queued;
// Sync waits for them. The oldest are removed when they are too old or too many
// (Retention), and LogHealth says what was.
package registry

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// DB is the open registry. All methods are safe for concurrent use. A method
// that returns nil has committed: the change survives kill -9.
type DB struct {
	log  *slog.Logger
	now  func() time.Time
	plan addressPlan
	seal sealer
	lock *os.File // flocked while the registry is open

	write   *sql.DB       // one connection; used by whoever holds writing
	read    *sql.DB       // a few read-only connections
	writing chan struct{} // holds one token while somebody changes state

	snapshot    atomic.Pointer[Snapshot]     // replaced under writing
	credentials atomic.Pointer[credentials]  // replaced under writing
	named       atomic.Pointer[namedSecrets] // replaced under writing
	retired     map[int]time.Time            // ranges of removed registrations, when freed; under writing
	unsaved     map[ID]bool                  // blocked or revoked in memory only; under writing
	behind      atomic.Bool                  // whether unsaved holds any
	removals    atomic.Pointer[[]Removal]    // newest first; replaced under writing

	vitals    *vitals
	watchers  watchers
	sessions  sessions
	virtual   virtualTables
	actions   *actionLog
	stats     *actionStats
	usesSaved time.Time // when credential_uses was last written; under writing
	approvals approvals

	closing  chan struct{} // closed by Close
	tending  sync.WaitGroup
	closed   sync.Once
	closeErr error
}

// Config opens a registry. Dir and Subnets are required.
type Config struct {
	Dir       string           // state_dir: owned by this user, 0700
	Subnets   []netip.Prefix   // the policy's wireguard.subnets, one IPv4 and one IPv6
	Retention Retention        // zero: the default
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: nothing is logged
}

// Errors that callers branch on.
var (
	ErrNotFound       = errors.New("no such registration")
	ErrTooManyPending = errors.New("too many pending registrations")
	ErrState          = errors.New("not possible in this state") // e.g. approving a revoked one
	ErrPinSealed      = errors.New("the pin is sealed")
	ErrPinChanged     = errors.New("the pin is not the one that was shown")
	ErrBlockedSince   = errors.New("the registration has been blocked since it was shown")
	ErrCodeRequired   = errors.New("several pending registrations look alike: the user code is required")
	ErrSubnetFull     = errors.New("no free address range left for a registration")
	ErrTableFull      = errors.New("no free virtual address left")
	ErrDuplicateKey   = errors.New("a registration with this public key exists")
	ErrNoProfiles     = errors.New("at least one profile is required")
	ErrInvite         = errors.New("the invite is not good") // whatever is wrong with it
	ErrTooManyInvites = errors.New("too many invites are in force")
	ErrInvalid        = errors.New("invalid value") // a name, reference or length out of bounds
	ErrLogFailed      = errors.New("the action log cannot be written")
	ErrClosed         = errors.New("the registry is closed")
)

// ErrCodeWrong is returned for a user code that is not the registration's. It
// is also an ErrCodeRequired: the answer to both is to ask for the code.
var ErrCodeWrong error = wrongCode{}

type wrongCode struct{}

func (wrongCode) Error() string        { return "this is not the registration's user code" }
func (wrongCode) Is(target error) bool { return target == ErrCodeRequired }

// Errors of Open, each inside an *OpenError.
var (
	ErrLocked      = errors.New("in use by another process")
	ErrNewerSchema = errors.New("the database was written by a newer clawpatrol")
	ErrMasterKey   = errors.New("the master key does not fit the database")
	ErrPermissions = errors.New("permissions or ownership are wrong")
	ErrDamaged     = errors.New("the database is damaged, or not ours")
	ErrSubnets     = errors.New("the tunnel subnets do not fit")
	ErrDiskFull    = errors.New("the disk is full")
)

// OpenError is why a registry cannot be opened and what to do about it.
type OpenError struct {
	Err    error  // one of the errors of Open
	Detail string // one clause naming the file and what is wrong with it
	Advice string // one sentence to the operator
}

func (e *OpenError) Error() string { return e.Detail }
func (e *OpenError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *OpenError) Hint() string { return e.Advice }

// begin waits for the right to change state and returns what gives it back.
func (db *DB) begin(ctx context.Context) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-db.closing:
		return nil, ErrClosed
	default:
	}
	select {
	case db.writing <- struct{}{}:
		return func() { <-db.writing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-db.closing:
		return nil, ErrClosed
	}
}

// commit runs f in one transaction. The caller holds writing. Once begun, a
// transaction is finished whatever becomes of ctx: a change half abandoned
// would leave memory and disk apart.
func (db *DB) commit(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	ctx = context.WithoutCancel(ctx)
	tx, err := db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(ctx, tx); err != nil {
		_ = tx.Rollback() // the error that matters is err
		return err
	}
	return tx.Commit()
}

// clock returns the time as the database keeps it: UTC, whole microseconds.
func (db *DB) clock() time.Time { return db.now().UTC().Truncate(time.Microsecond) }

// micros is how times are stored: microseconds since 1970, 0 for the zero Time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

// fromMicros undoes micros.
func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
