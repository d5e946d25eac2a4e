package https

import (
	"context"
	"crypto/tls"
	"sync"
	"time"
)

// parkAfter is how long a connection is idle before the gateway waits for the
// upstream to close it. Before that a look just before its next use is cheaper.
const parkAfter = 20 * time.Millisecond

// h1Pool is the HTTP/1.1 connections of a pool that are idle.
type h1Pool struct {
	dial func(context.Context) (*tls.Conn, *socket, error)

	mu     sync.Mutex
	idle   []*upstream // the latest used last; guarded by mu
	sweep  *time.Timer // nil until there is something to sweep; guarded by mu
	soon   bool        // sweep comes within parkAfter; guarded by mu
	closed bool        // what comes back is closed; guarded by mu
}

// take returns a connection that nothing has been heard on, or a new one.
func (p *h1Pool) take(ctx context.Context) (*upstream, error) {
	for {
		p.mu.Lock()
		var u *upstream
		if n := len(p.idle); n > 0 {
			u = p.idle[n-1]
			p.idle[n-1] = nil
			p.idle = p.idle[:n-1]
		}
		p.mu.Unlock()
		if u == nil {
			break
		}
		if u.unpark() && u.quiet() {
			u.reused = true
			return u, nil
		}
		u.hangUp()
	}
	conn, s, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	return newUpstream(p, conn, s), nil
}

// put keeps a connection for its next use.
func (p *h1Pool) put(u *upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		u.hangUp()
		return
	}
	if len(p.idle) >= maxIdlePerPool {
		p.idle[0].hangUp() // its goroutine, if it has one, finds it gone
		p.idle = append(p.idle[:0], p.idle[1:]...)
	}
	u.settled = false
	p.idle = append(p.idle, u)
	if !p.soon {
		p.soon = true
		if p.sweep == nil {
			p.sweep = time.AfterFunc(parkAfter, p.tend)
		} else {
			p.sweep.Reset(parkAfter)
		}
	}
}

// tend parks what has been idle since it came by the last time, and closes what
// has been idle for too long.
func (p *h1Pool) tend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.soon = false
	next := upstreamIdleTimeout
	kept := p.idle[:0]
	spare := len(p.idle) - steadyIdle
	for i, u := range p.idle {
		limit := upstreamIdleTimeout
		if i < spare {
			limit = spareIdleTimeout
		}
		switch {
		case u.parked != nil && now.Sub(u.since) >= limit:
			u.hangUp()
			continue
		case u.parked != nil:
			next = min(next, limit-now.Sub(u.since))
		case u.settled:
			u.since = now
			next = min(next, limit)
			u.park()
		default:
			u.settled, p.soon = true, true
		}
		kept = append(kept, u)
	}
	clear(p.idle[len(kept):])
	p.idle = kept
	if p.soon {
		next = parkAfter
	}
	if len(kept) > 0 {
		p.sweep.Reset(next)
	}
}

// remove drops a connection that has ended; it may have been taken already.
func (p *h1Pool) remove(u *upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.idle {
		if other == u {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			return
		}
	}
}

// close closes what is idle, and what comes back later.
func (p *h1Pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.closeIdle()
}

// closeIdle closes what is idle.
func (p *h1Pool) closeIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.idle {
		u.close() // at once: its place is wanted
	}
	p.idle, p.soon = nil, false
	if p.sweep != nil {
		p.sweep.Stop()
	}
}
