package dashboard

import (
	"net/netip"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/listener"
)

// Limits of password attempts. An attempt is given back when the password was
// right, so that these count failures and attempts in flight.
const (
	attemptsBurst     = 10 // at once, per source
	attemptsRefill    = 6 * time.Second
	allAttemptsBurst  = 60 // at once, from everywhere
	allAttemptsRefill = time.Second
	maxTrusted        = 64 // sources remembered for a right password
)

// attempts limits guessing per source (an IPv4 address or an IPv6 /64) and over
// all sources. An attacker must not lock the operator out by using either up:
//
//   - a source that gave the right password since the start is not held back by
//     the limit over all, which guessers elsewhere can use up;
//   - a browser that has logged in before proves it with a cookie (see known) and
//     has an allowance of its own, which nobody else can use up, wherever they are;
//   - on the gateway's own host each of its users is a source: see owner.
//
// What is left is who comes for the first time, from where somebody guesses.
type attempts struct {
	now func() time.Time

	mu      sync.Mutex
	whole   map[guesser]time.Time // when an allowance is whole again; guarded by mu
	all     time.Time             // the same over all sources; guarded by mu
	trusted map[guesser]struct{}  // guarded by mu
	sweepT  time.Time             // guarded by mu
}

func newAttempts(now func() time.Time) *attempts {
	return &attempts{now: now, whole: make(map[guesser]time.Time), trusted: make(map[guesser]struct{})}
}

// caller is who tries a password.
type caller struct {
	addr  netip.Addr
	owner owner   // of the connection, if it is this host's
	known knownID // zero: not a known browser
}

// guesser is whose allowance an attempt was taken from: a source's, on the
// gateway's own host one user's of it, or a known browser's.
type guesser struct {
	source netip.Prefix
	owner  owner
	known  knownID
}

// attempt is one that take let through.
type attempt struct {
	of     guesser
	source guesser // which is trusted, should the password be right
	all    bool    // the limit over all sources was charged too
}

// take uses one attempt, if there is one. A new source costs one of all's, so
// the sources remembered are bounded by what all lets through in the minute
// that a source takes to recover; known browsers by how many have logged in.
func (l *attempts) take(c caller) (attempt, bool) {
	s, ok := listener.Source(c.addr)
	if !ok {
		return attempt{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.sweep(now)

	source := guesser{source: s, owner: c.owner}
	if c.known != (knownID{}) {
		if own := (guesser{known: c.known}); l.charge(own, now) {
			return attempt{of: own, source: source}, true
		}
		// Somebody else has the cookie: back to what anyone has.
	}
	all := later(l.all, now).Add(allAttemptsRefill)
	exhausted := all.Sub(now) > allAttemptsBurst*allAttemptsRefill
	if _, trusted := l.trusted[source]; exhausted && !trusted {
		return attempt{}, false
	}
	if !l.charge(source, now) {
		return attempt{}, false
	}
	if !exhausted {
		l.all = all
	}
	return attempt{of: source, source: source, all: !exhausted}, true
}

// charge takes one attempt of g's own allowance; called with mu held.
func (l *attempts) charge(g guesser, now time.Time) bool {
	whole := later(l.whole[g], now).Add(attemptsRefill)
	if whole.Sub(now) > attemptsBurst*attemptsRefill {
		return false
	}
	l.whole[g] = whole
	return true
}

// succeeded gives the attempt back and trusts its source.
func (l *attempts) succeeded(t attempt) {
	l.undone(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.trusted[t.source]; known {
		return
	}
	if len(l.trusted) >= maxTrusted {
		for other := range l.trusted { // any: all have known the password
			delete(l.trusted, other)
			break
		}
	}
	l.trusted[t.source] = struct{}{}
}

// undone gives back an attempt that was not wrong.
func (l *attempts) undone(t attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until, ok := l.whole[t.of]; ok {
		l.whole[t.of] = until.Add(-attemptsRefill)
	}
	if t.all {
		l.all = l.all.Add(-allAttemptsRefill)
	}
}

// sweep forgets whose allowance is whole; called with mu held.
func (l *attempts) sweep(now time.Time) {
	if now.Before(l.sweepT) {
		return
	}
	for g, t := range l.whole {
		if !t.After(now) {
			delete(l.whole, g)
		}
	}
	l.sweepT = now.Add(attemptsRefill)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
