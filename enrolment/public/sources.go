package public

import (
	"net/netip"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/listener"
)

// Limits of start, per source. The registry limits pending registrations; this
// limits the work of asking.
const (
	startBurst  = 10              // at once
	startRefill = 6 * time.Second // one more
	maxSources  = 4096            // remembered at a time; beyond them new sources wait
)

// sourceLimiter is a token bucket per source: see listener.Source.
type sourceLimiter struct {
	now func() time.Time

	mu     sync.Mutex
	full   map[netip.Prefix]time.Time // when the source's bucket is full again; guarded by mu
	sweepT time.Time                  // guarded by mu
}

func newSourceLimiter(now func() time.Time) *sourceLimiter {
	return &sourceLimiter{now: now, full: make(map[netip.Prefix]time.Time)}
}

// allow takes a token of a's source, if there is one.
func (l *sourceLimiter) allow(a netip.Addr) bool {
	source, ok := listener.Source(a)
	if !ok {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if now.After(l.sweepT) {
		for s, full := range l.full {
			if !full.After(now) {
				delete(l.full, s)
			}
		}
		l.sweepT = now.Add(startRefill)
	}
	full, known := l.full[source]
	if !known && len(l.full) >= maxSources {
		return false
	}
	if full.Before(now) {
		full = now
	}
	full = full.Add(startRefill)
	if full.Sub(now) > startBurst*startRefill {
		return false
	}
	l.full[source] = full
	return true
}
