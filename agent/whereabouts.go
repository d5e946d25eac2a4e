package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

const (
	// maxWays is how many ways are remembered per family: a cable and a Wi-Fi of
	// one network, and some more.
	maxWays = 8

	// askAgain is when a way that led outside the pin is tried again: the NAT's
	// address may have come back.
	askAgain = time.Minute
)

// whereabouts tells whether this host is where its pin says, before anything is
// sent that carries the registration's name: a message from elsewhere is a
// deviation, and the gateway blocks it (I08). Its methods may be called from any
// goroutine.
//
// A host that has the pinned address itself is there. One behind NAT cannot
// see its own address: where it leaves by a way that has led to the pin before,
// it is there too; otherwise it asks the gateway what it looks like, with a
// request that names nobody (GET /info). What no host can see is that a NAT in
// front of it has got another address: then the gateway notices.
type whereabouts struct {
	bypass bypass
	ask    func(ctx context.Context, source netip.Addr) (netip.Addr, error) // what the gateway sees of us
	now    func() time.Time
	first  family // start's

	mu   sync.Mutex
	pin  enrolment.Pin      // guarded by mu, as is all below
	ways map[family][]way   // that have led to the pin, the latest last
	away map[way]outsidePin // that have not
}

// outsidePin is what the gateway saw, and when.
type outsidePin struct {
	seen netip.Addr
	at   time.Time
}

// moved is returned where this host is outside its pin.
type moved struct {
	family    family
	seen, pin string
}

func (e *moved) Error() string {
	return fmt.Sprintf("this host has moved: the gateway sees its %s address as %s, and the registration is pinned to %s", e.family, e.seen, e.pin)
}

func (e *moved) Hint() string {
	return "go back to the network it was approved in, or run: clawpatrol repin, and have an operator approve the new address"
}

// source returns the address of this host's to send from to an address of the
// gateway's. The error is a *moved, a *noWay, or why the gateway could not be
// asked.
func (w *whereabouts) source(ctx context.Context, to netip.Addr) (netip.Addr, error) {
	is, err := w.bypass.wayTo(to)
	if err != nil {
		return netip.Addr{}, err
	}
	f := familyOf(to)
	w.mu.Lock()
	defer w.mu.Unlock()
	pin := pinOf(w.pin, f)
	if pin == "" {
		return netip.Addr{}, &moved{f, is.Source.String(), "no " + f.String() + " address"}
	}
	if is.Source.String() == pin || slices.Contains(w.ways[f], is) {
		return is.Source, nil
	}
	last, asked := w.away[is]
	if !asked || w.now().Sub(last.at) >= askAgain {
		w.mu.Unlock()
		seen, err := w.ask(ctx, is.Source)
		w.mu.Lock()
		if err != nil {
			return netip.Addr{}, err
		}
		last = outsidePin{seen.Unmap(), w.now()}
		if len(w.away) >= maxWays {
			clear(w.away)
		}
		w.away[is] = last
	}
	if last.seen.String() != pinOf(w.pin, f) {
		return netip.Addr{}, &moved{f, last.seen.String(), pin}
	}
	w.learn(f, is)
	return is.Source, nil
}

// known is source without asking anybody.
func (w *whereabouts) known(to netip.Addr) (netip.Addr, bool) {
	is, err := w.bypass.wayTo(to)
	if err != nil {
		return netip.Addr{}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f := familyOf(to)
	pin := pinOf(w.pin, f)
	return is.Source, pin != "" && (is.Source.String() == pin || slices.Contains(w.ways[f], is))
}

// learn remembers a way that leads to the pin. mu is held.
func (w *whereabouts) learn(f family, is way) {
	delete(w.away, is)
	ways := slices.DeleteFunc(slices.Clone(w.ways[f]), func(o way) bool { return o == is })
	if len(ways) >= maxWays {
		ways = ways[1:]
	}
	w.ways[f] = append(ways, is)
}

// repin sets another pin. Ways to the old one prove nothing any more.
func (w *whereabouts) repin(pin enrolment.Pin) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range families {
		if pinOf(pin, f) != pinOf(w.pin, f) {
			delete(w.ways, f)
		}
	}
	w.pin = pin
	clear(w.away)
}

// families are those that the pin has, the one that started first.
func (w *whereabouts) families() []family {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]family, 0, len(families))
	for _, f := range []family{w.first, w.first.other()} {
		if pinOf(w.pin, f) != "" {
			out = append(out, f)
		}
	}
	return out
}

// learnt returns the ways to remember, for the state file.
func (w *whereabouts) learnt() map[family][]way {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.ways)
}

// claimed makes the session keep to the pin of a registration.
func (s *session) claimed(st *state) {
	ways := maps.Clone(st.Ways)
	if ways == nil {
		ways = make(map[family][]way)
	}
	s.where = &whereabouts{bypass: s.bypass(), ask: s.seen, now: s.now, first: st.Family, pin: st.Claim.Pin, ways: ways, away: make(map[way]outsidePin)}
	s.asking.Store(st.Asking)
}
