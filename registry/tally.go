package registry

import "time"

// tally counts by key over the last few units of time, in a ring of as many
// slots: what is older falls out. It has at most max keys; what belongs to no
// key that is there is counted under others. Its owner guards it.
type tally[K comparable] struct {
	unit   time.Duration
	max    int
	others K
	slots  []int64 // which unit since 1970 a slot counts
	keys   map[K]*counted
}

// counted is what a tally has of one key.
type counted struct {
	last  time.Time // of those of its units; also of older ones, until the key is dropped
	slots []counts
}

type counts struct{ allowed, denied uint32 }

func newTally[K comparable](unit time.Duration, slots, keys int, others K) tally[K] {
	return tally[K]{unit: unit, max: keys, others: others, slots: make([]int64, slots), keys: make(map[K]*counted)}
}

func (t *tally[K]) unitOf(at time.Time) int64 { return at.Unix() / int64(t.unit/time.Second) }

// since is the first unit that counts at now.
func (t *tally[K]) since(now time.Time) int64 { return t.unitOf(now) - int64(len(t.slots)) + 1 }

// add counts n at that time, unless it is too long ago, or yet to come: a clock
// that was set back has left rows of that kind.
func (t *tally[K]) add(now time.Time, key K, at time.Time, n counts) {
	unit := t.unitOf(at)
	if unit < t.since(now) || unit > t.unitOf(now) {
		return
	}
	slot := int(unit % int64(len(t.slots)))
	if t.slots[slot] != unit {
		t.turn(now, slot, unit)
	}
	c := t.keys[key]
	if c == nil {
		if len(t.keys) >= t.max {
			key = t.others
			c = t.keys[key]
		}
		if c == nil {
			c = &counted{slots: make([]counts, len(t.slots))}
			t.keys[key] = c
		}
	}
	c.slots[slot].allowed += n.allowed
	c.slots[slot].denied += n.denied
	if at.After(c.last) {
		c.last = at
	}
}

// turn has slot count another unit, and drops keys that nothing is left of.
func (t *tally[K]) turn(now time.Time, slot int, unit int64) {
	t.slots[slot] = unit
	for key, c := range t.keys {
		c.slots[slot] = counts{}
		if sum := t.sum(now, c); sum.Allowed+sum.Denied == 0 {
			delete(t.keys, key)
		}
	}
}

// sum is what counts of c at now, without Ref.
func (t *tally[K]) sum(now time.Time, c *counted) (s CountedRef) {
	s.Last = c.last
	for slot, n := range c.slots {
		if u := t.slots[slot]; u >= t.since(now) && u <= t.unitOf(now) {
			s.Allowed += int(n.allowed)
			s.Denied += int(n.denied)
		}
	}
	return s
}
