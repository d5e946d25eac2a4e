package dns

import (
	"container/list"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	maxEntries    = 10_000
	maxCacheBytes = 32 << 20 // of messages

	maxAge         = 24 * time.Hour  // of any answer
	maxNegativeAge = time.Hour       // RFC 2308, section 5: one to three hours
	failureAge     = 1 * time.Second // RFC 9520, section 3.2: failures are cached, for a second at least
	inFlight       = 1024            // questions to resolvers at once
	inFlightEach   = 256             // of one registration

	// inFlightCrowded is how many one has left once half of all are taken, so
	// that a few that flood do not leave the others without answers.
	inFlightCrowded = 16
)

// cacheKey is all that an answer of the operator's resolvers depends on.
type cacheKey struct {
	name   string // wire format, lower case
	qtype  uint16
	qclass uint16
	do, cd bool
}

// cache holds the answers used last. It is shared by all registrations.
type cache struct {
	mu      sync.Mutex
	entries map[cacheKey]*list.Element // of *cached
	used    list.List                  // most recently used first
	bytes   int
}

type cached struct {
	key cacheKey
	e   *entry
}

func newCache() *cache { return &cache{entries: make(map[cacheKey]*list.Element)} }

// get returns an entry that has not expired, or nil.
func (c *cache) get(key cacheKey, now time.Time) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.entries[key]
	if !ok {
		return nil
	}
	e := el.Value.(*cached).e
	if !now.Before(e.expires) {
		c.remove(el)
		return nil
	}
	c.used.MoveToFront(el)
	return e
}

// put keeps an entry until it expires or others crowd it out.
func (c *cache) put(key cacheKey, e *entry) {
	if !e.expires.After(e.stored) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[key]; ok {
		c.remove(el)
	}
	c.entries[key] = c.used.PushFront(&cached{key, e})
	c.bytes += len(e.wire)
	for c.used.Len() > maxEntries || c.bytes > maxCacheBytes {
		c.remove(c.used.Back())
	}
}

// remove drops an element; mu is held.
func (c *cache) remove(el *list.Element) {
	old := c.used.Remove(el).(*cached)
	delete(c.entries, old.key)
	c.bytes -= len(old.e.wire)
}

// limiter counts the questions that wait for a resolver, so that no
// registration takes all of them.
type limiter struct {
	mu   sync.Mutex
	all  int
	each map[registry.ID]int
}

func newLimiter() *limiter { return &limiter{each: make(map[registry.ID]int)} }

// enter counts one more question, or reports that there are too many.
func (l *limiter) enter(id registry.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := inFlightEach
	if l.all >= inFlight/2 {
		limit = inFlightCrowded
	}
	if l.all >= inFlight || l.each[id] >= limit {
		return false
	}
	l.all++
	l.each[id]++
	return true
}

// leave ends what enter began.
func (l *limiter) leave(id registry.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.each[id]--; l.each[id] == 0 {
		delete(l.each, id)
	}
}
