package postgres

import (
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/clawpatrol/clawpatrol/registry"
)

// gauge counts what is in use, up to a limit.
type gauge struct{ n atomic.Int64 }

// take takes one of max; false where all are taken. give gives it back.
func (g *gauge) take(max int64) bool {
	if g.n.Add(1) > max {
		g.n.Add(-1)
		return false
	}
	return true
}

func (g *gauge) give() { g.n.Add(-1) }

// share is what the connections of one registration have together.
type share struct {
	id          registry.ID
	startups    gauge
	connections gauge
	cancels     *rate.Limiter
	refusals    *rate.Limiter // rows of the action log
	warnings    *rate.Limiter // lines of the gateway's log
	looking     chan struct{} // has one for each statement that is being looked into

	holders int // guarded by shares.mu
}

// shares holds those of the registrations that are connected.
type shares struct {
	mu sync.Mutex
	of map[registry.ID]*share
}

// enter returns the share of a registration; leave gives it back.
func (s *shares) enter(id registry.ID) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	own := s.of[id]
	if own == nil {
		own = &share{
			id:       id,
			cancels:  rate.NewLimiter(cancelsPerSecond, cancelsPerSecond),
			refusals: rate.NewLimiter(refusalsPerSecond, refusalsPerSecond),
			warnings: rate.NewLimiter(warningsPerSecond, warningsBurst),
			looking:  make(chan struct{}, maxLooking),
		}
		if s.of == nil {
			s.of = make(map[registry.ID]*share)
		}
		s.of[id] = own
	}
	own.holders++
	return own
}

func (s *shares) leave(own *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if own.holders--; own.holders == 0 {
		delete(s.of, own.id)
	}
}
