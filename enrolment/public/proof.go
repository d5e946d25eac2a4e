package public

import (
	"crypto/rand"
	"net/http"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// maxNonces bounds the nonces kept for one registration. Each lives for two MAC
// windows at most, so this allows a request a second: agents poll far less.
// Registrations are bounded by wireguard.subnets.
const maxNonces = 128

// verifier decides whether a claim or poll comes from the holder of a join
// credential.
//
// Nonces are kept in memory only. A request recorded before a restart would
// therefore verify a second time after it, so a timestamp from before this
// process started is refused, even within the window. What remains is an agent
// host whose clock runs ahead: its requests stay good for as long as it does.
// How long ago that was is uptime's to say, not the wall clock's: one that is set
// back by an hour must not keep every agent host out for an hour.
type verifier struct {
	db     *registry.DB
	now    func() time.Time
	uptime func() time.Duration
	before map[registry.ID]struct{} // registrations older than this process; not changed
	decoy  secret.Secret            // stands in for the key of a registration that has none

	mu     sync.Mutex
	seen   map[registry.ID]map[string]time.Time // nonce -> when its timestamp has left the window; guarded by mu
	sweepT time.Time                            // when seen is next swept; guarded by mu
}

func newVerifier(db *registry.DB, now func() time.Time) *verifier {
	decoy := make([]byte, 32)
	rand.Read(decoy)
	before := make(map[registry.ID]struct{})
	for _, reg := range db.Snapshot().All() {
		before[reg.ID] = struct{}{}
	}
	started := now()
	return &verifier{
		db:     db,
		now:    now,
		uptime: func() time.Duration { return now().Sub(started) }, // by the monotonic clock, where now's times have it
		before: before,
		decoy:  secret.New(decoy),
		seen:   make(map[registry.ID]map[string]time.Time),
	}
}

type verdict int

const (
	unproven verdict = iota // the zero value refuses
	tooOften                // proven, but too many requests in the window
	proven
)

// verify checks one request. Every failure takes the same steps up to the MAC,
// whichever check fails, so that neither the answer nor its timing tells an
// unknown registration from a wrong key, an old timestamp or a replay (I10).
func (v *verifier) verify(r *http.Request, body []byte) (*registry.Registration, verdict) {
	auth, err := enrolment.ParseAuthorization(r.Header)
	id := registry.ID(auth.ID)
	key := v.db.MACKey(id)
	known := err == nil && !key.IsZero()
	if !known {
		key = v.decoy
	}
	authentic := auth.Verify(key, r.Method, r.URL.EscapedPath(), body)

	now := v.now()
	age := now.Sub(auth.Time)
	fresh := age <= enrolment.MACWindow && age >= -enrolment.MACWindow
	if _, older := v.before[id]; older && age > v.uptime() {
		fresh = false
	}
	if !known || !authentic || !fresh {
		return nil, unproven
	}
	reg, ok := v.db.Snapshot().ByID(id)
	if !ok || reg.State == registry.Revoked {
		return nil, unproven
	}
	// Only now is the nonce remembered: a forger can neither use up a nonce nor
	// fill the store.
	if d := v.remember(id, auth.Nonce, auth.Time.Add(enrolment.MACWindow), now); d != proven {
		return nil, d
	}
	return reg, proven
}

// remember records a nonce until its timestamp has left the window.
func (v *verifier) remember(id registry.ID, nonce string, until, now time.Time) verdict {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now.After(v.sweepT) {
		v.sweep(now)
	}
	nonces := v.seen[id]
	if _, used := nonces[nonce]; used {
		return unproven
	}
	if len(nonces) >= maxNonces {
		if dropExpired(nonces, now); len(nonces) >= maxNonces {
			return tooOften
		}
	}
	if nonces == nil {
		nonces = make(map[string]time.Time)
		v.seen[id] = nonces
	}
	nonces[nonce] = until
	return proven
}

// sweep drops expired nonces and idle registrations, once a window.
func (v *verifier) sweep(now time.Time) {
	for id, nonces := range v.seen {
		if dropExpired(nonces, now); len(nonces) == 0 {
			delete(v.seen, id)
		}
	}
	v.sweepT = now.Add(enrolment.MACWindow)
}

func dropExpired(nonces map[string]time.Time, now time.Time) {
	for n, until := range nonces {
		if now.After(until) {
			delete(nonces, n)
		}
	}
}
