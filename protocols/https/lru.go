package https

import (
	"container/list"
	"sync"

	"github.com/clawpatrol/clawpatrol/registry"
)

// lru is a bounded map. The zero value with max set is empty and ready.
type lru[K comparable, V any] struct {
	max int

	// Where owner is set, no registration has more than share entries: one that
	// makes up keys pushes out its own.
	owner func(K) registry.ID
	share int

	mu      sync.Mutex
	order   list.List                  // of *lruEntry[K, V], most recent first; guarded by mu
	byKey   map[K]*list.Element        // guarded by mu
	byOwner map[registry.ID]*list.List // of the elements of order, most recent first; guarded by mu
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
	owned *list.Element // in byOwner
}

// get returns the value for key, which make makes where there is none or keep
// refuses it. dropped are the values that went for it; make and keep run under
// the lock.
func (l *lru[K, V]) get(key K, keep func(V) bool, make_ func() V) (value V, dropped []V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.byKey[key]; ok {
		entry := e.Value.(*lruEntry[K, V])
		l.order.MoveToFront(e)
		if entry.owned != nil {
			l.byOwner[l.owner(key)].MoveToFront(entry.owned)
		}
		if !keep(entry.value) {
			dropped = append(dropped, entry.value)
			entry.value = make_()
		}
		return entry.value, dropped
	}
	if l.byKey == nil {
		l.byKey = make(map[K]*list.Element)
		l.byOwner = make(map[registry.ID]*list.List)
	}
	value = make_()
	entry := &lruEntry[K, V]{key: key, value: value}
	e := l.order.PushFront(entry)
	l.byKey[key] = e
	if l.owner != nil {
		id := l.owner(key)
		own := l.byOwner[id]
		if own == nil {
			own = list.New()
			l.byOwner[id] = own
		}
		entry.owned = own.PushFront(e)
		for own.Len() > l.share {
			dropped = append(dropped, l.removeLocked(own.Back().Value.(*list.Element)))
		}
	}
	for l.order.Len() > l.max {
		dropped = append(dropped, l.removeLocked(l.order.Back()))
	}
	return value, dropped
}

// trim drops the entries least recently used as long as stale says so, and
// returns them.
func (l *lru[K, V]) trim(stale func(V) bool) (dropped []V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for e := l.order.Back(); e != nil && stale(e.Value.(*lruEntry[K, V]).value); e = l.order.Back() {
		dropped = append(dropped, l.removeLocked(e))
	}
	return dropped
}

// of returns the values of one owner.
func (l *lru[K, V]) of(id registry.ID) (values []V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.byOwner[id]
	if own == nil {
		return nil
	}
	for e := own.Front(); e != nil; e = e.Next() {
		values = append(values, e.Value.(*list.Element).Value.(*lruEntry[K, V]).value)
	}
	return values
}

func (l *lru[K, V]) removeLocked(e *list.Element) V {
	entry := e.Value.(*lruEntry[K, V])
	delete(l.byKey, entry.key)
	l.order.Remove(e)
	if entry.owned != nil {
		id := l.owner(entry.key)
		own := l.byOwner[id]
		if own.Remove(entry.owned); own.Len() == 0 {
			delete(l.byOwner, id)
		}
	}
	return entry.value
}
