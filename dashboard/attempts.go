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
// all sources. A source that gave the right password since the start is not
// held back by the limit over all: guessers elsewhere cannot lock it out.
type attempts struct {
	now func() time.Time

	mu      sync.Mutex
	sources map[netip.Prefix]time.Time // when the source's allowance is whole again; guarded by mu
	all     time.Time                  // the same over all sources; guarded by mu
	trusted map[netip.Prefix]struct{}  // guarded by mu
	sweepT  time.Time                  // guarded by mu
}

func newAttempts(now func() time.Time) *attempts {
	return &attempts{now: now, sources: make(map[netip.Prefix]time.Time), trusted: make(map[netip.Prefix]struct{})}
}

// attempt is one that take let through.
type attempt struct {
	source netip.Prefix
	all    bool // the limit over all sources was charged too
}

// take uses one attempt, if there is one. A new source costs one of all's, so
// the sources remembered are bounded by what all lets through in the minute
// that a source takes to recover.
func (l *attempts) take(a netip.Addr) (attempt, bool) {
	s, ok := listener.Source(a)
	if !ok {
		return attempt{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.sweep(now)

	own := later(l.sources[s], now).Add(attemptsRefill)
	if own.Sub(now) > attemptsBurst*attemptsRefill {
		return attempt{}, false
	}
	all := later(l.all, now).Add(allAttemptsRefill)
	exhausted := all.Sub(now) > allAttemptsBurst*allAttemptsRefill
	if _, trusted := l.trusted[s]; exhausted && !trusted {
		return attempt{}, false
	}
	l.sources[s] = own
	if !exhausted {
		l.all = all
	}
	return attempt{source: s, all: !exhausted}, true
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
	if until, ok := l.sources[t.source]; ok {
		l.sources[t.source] = until.Add(-attemptsRefill)
	}
	if t.all {
		l.all = l.all.Add(-allAttemptsRefill)
	}
}

// sweep forgets sources whose allowance is whole; called with mu held.
func (l *attempts) sweep(now time.Time) {
	if now.Before(l.sweepT) {
		return
	}
	for s, t := range l.sources {
		if !t.After(now) {
			delete(l.sources, s)
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
