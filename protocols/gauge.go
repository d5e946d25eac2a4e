package protocols

import "sync/atomic"

// Gauge counts what is in use, up to a limit. The zero Gauge is of nothing in use.
type Gauge struct{ n atomic.Int64 }

// Take takes one of max; false where all are taken. Give gives it back.
func (g *Gauge) Take(max int64) bool {
	if g.n.Add(1) > max {
		g.n.Add(-1)
		return false
	}
	return true
}

// Give gives back what Take has taken.
func (g *Gauge) Give() { g.n.Add(-1) }

// Taken is how many are.
func (g *Gauge) Taken() int64 { return g.n.Load() }
