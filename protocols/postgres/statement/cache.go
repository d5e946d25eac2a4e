package statement

import (
	"container/list"
	"sync"
)

const (
	// maxCached bounds what a Parser keeps, in bytes of text and facts.
	maxCached = 16 << 20

	// maxCachedText is the longest statement that is kept, in bytes: longer ones
	// seldom come twice.
	maxCachedText = 16 << 10
)

// cache keeps the facts that were used last. Its zero value is empty.
type cache struct {
	mu      sync.Mutex
	entries map[string]*list.Element
	recent  list.List // of *entry, the last used first
	size    int
}

type entry struct {
	text  string
	facts []Facts
	size  int
}

func (c *cache) get(text string) ([]Facts, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[text]
	if !ok {
		return nil, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(*entry).facts, true
}

func (c *cache) put(text string, facts []Facts) {
	if len(text) > maxCachedText {
		return
	}
	e := &entry{text: text, facts: facts, size: 2*len(text) + 256}
	for _, f := range facts {
		e.size += f.size()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.entries[text]; ok || e.size > maxCached {
		return
	}
	if c.entries == nil {
		c.entries = make(map[string]*list.Element)
	}
	c.entries[text] = c.recent.PushFront(e)
	for c.size += e.size; c.size > maxCached; {
		last := c.recent.Remove(c.recent.Back()).(*entry)
		delete(c.entries, last.text)
		c.size -= last.size
	}
}
