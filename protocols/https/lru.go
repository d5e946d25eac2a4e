package https

import (
	"container/list"
	"sync"
)

// lru is a bounded map. The zero value with max set is empty and ready.
type lru[K comparable, V any] struct {
	max int

	mu    sync.Mutex
	order list.List           // of *lruEntry[K, V], most recent first; guarded by mu
	byKey map[K]*list.Element // guarded by mu
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
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
		if !keep(entry.value) {
			dropped = append(dropped, entry.value)
			entry.value = make_()
		}
		return entry.value, dropped
	}
	if l.byKey == nil {
		l.byKey = make(map[K]*list.Element)
	}
	value = make_()
	l.byKey[key] = l.order.PushFront(&lruEntry[K, V]{key, value})
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

func (l *lru[K, V]) removeLocked(e *list.Element) V {
	entry := e.Value.(*lruEntry[K, V])
	delete(l.byKey, entry.key)
	l.order.Remove(e)
	return entry.value
}
