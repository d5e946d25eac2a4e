package ssh

import (
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"github.com/clawpatrol/clawpatrol/protocols"
	"github.com/clawpatrol/clawpatrol/registry"
)

// share is what the connections of one registration have together.
type share struct {
	handshakes  protocols.Gauge
	connections protocols.Gauge
	channels    protocols.Gauge
	opens       *rate.Limiter
	refusals    *rate.Limiter // rows of the action log
	warnings    *rate.Limiter // lines of the gateway's log
	waiting     atomic.Int64  // see ledger

	holders int // guarded by shares.mu
}

// shares holds those of the registrations that are connected, and of those that
// were a moment ago: who connects again has no more than who stayed.
type shares struct {
	opens rate.Limit

	mu sync.Mutex
	of map[registry.ID]*share // guarded by mu
}

// enter returns the share of a registration; leave gives it back. Shares that are
// as new go.
func (s *shares) enter(id registry.ID) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, o := range s.of {
		if o.holders == 0 && o.refusals.Tokens() >= refusalsPerSecond && o.warnings.Tokens() >= warningsBurst && o.opens.Tokens() >= opensBurst {
			delete(s.of, other)
		}
	}
	own := s.of[id]
	if own == nil {
		own = &share{
			opens:    rate.NewLimiter(s.opens, opensBurst),
			refusals: rate.NewLimiter(refusalsPerSecond, refusalsPerSecond),
			warnings: rate.NewLimiter(warningsPerSecond, warningsBurst),
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
	own.holders--
}
