package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

const (
	// silentFor is after how long without an answer WireGuard shakes hands again
	// (Keepalive-Timeout and Rekey-Timeout); initiationSize, in bytes, is what that
	// takes. Keepalives alone are smaller, and are not answered.
	silentFor      = 15 * time.Second
	initiationSize = 148

	tellWaiting = 2 * time.Second // after this long without an answer
)

// connect tries the gateway's endpoints until a handshake other than the one at
// before completes; once tells to give up after a round.
func (h *holder) connect(ctx context.Context, before time.Time, once bool) error {
	if !once {
		waiting := time.AfterFunc(tellWaiting, func() {
			h.a.tell(Event{Event: EventWaitingForGateway}, "waiting for the gateway: nothing leaves this host until it answers")
		})
		defer waiting.Stop()
	}
	for {
		endpoints, err := h.t.cfg.endpoints(ctx, h.a.cfg.Lookup, h.s.where.families())
		if err != nil && once {
			return err
		}
		var away error
		tried := false
		for _, e := range endpoints {
			here, err := h.leave(ctx, e.Addr())
			if !here {
				if away == nil {
					away = err
				}
				continue
			}
			tried = true
			if ok, err := h.handshake(ctx, e, before); ok || err != nil {
				h.tellAway(nil)
				return err
			}
		}
		if tried { // a gateway that is silent is no sign of having moved
			away = nil
		}
		if once && away != nil {
			return fmt.Errorf("bringing the tunnel up: %w", away)
		}
		h.tellAway(away)
		if once {
			return WithHint(fmt.Errorf("bringing the tunnel up: the gateway does not answer WireGuard at %v", endpoints), "a firewall may drop UDP to that port (wireguard.listen on the gateway)")
		}
		if err := h.nap(ctx); err != nil {
			return err
		}
	}
}

// leave has what goes to an address of the gateway's leave from where the pin
// says. It reports false where it must not leave, and why: a *moved, or that the
// gateway could not be asked.
func (h *holder) leave(ctx context.Context, to netip.Addr) (here bool, err error) {
	source, err := h.s.where.source(ctx, to)
	var none *noWay
	if errors.As(err, &none) {
		return true, nil // nothing can leave; the sockets keep their address
	}
	if err != nil {
		source = netip.Addr{}
	}
	if berr := h.t.from(familyOf(to), source); berr != nil {
		return false, berr
	}
	return err == nil, err
}

// tellAway tells once that the host has moved, and remembers it for status. nil:
// it is where its pin says.
func (h *holder) tellAway(err error) {
	var m *moved
	if !errors.As(err, &m) {
		m = nil
	}
	h.mu.Lock()
	before := h.away
	h.away = m
	h.mu.Unlock()
	if m != nil && (before == nil || *before != *m) {
		h.a.tell(Event{Event: EventMoved, Hint: m.Hint()}, "moved: %v; nothing leaves this host", m)
	}
}

// nap waits for the next look, or for something to look at.
func (h *holder) nap(ctx context.Context) error {
	t := time.NewTimer(tickEvery)
	defer t.Stop()
	select {
	case <-t.C:
	case <-h.wake:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// look has the goroutine of keepConnected look at once.
func (h *holder) look() {
	select {
	case h.wake <- struct{}{}:
	default: // it will
	}
}

// handshake tries one endpoint for as long as is reasonable.
func (h *holder) handshake(ctx context.Context, e netip.AddrPort, before time.Time) (ok bool, err error) {
	began := time.Now()
	for wait, next := firstHandshake, began; ; {
		s, err := h.t.stats()
		if err != nil {
			return false, err
		}
		if !s.lastHandshake.IsZero() && !s.lastHandshake.Equal(before) {
			return true, nil
		}
		if now := time.Now(); now.After(next) {
			if wait > lastHandshake {
				return false, nil
			}
			// The one that openTunnel began counts as the first.
			if s.endpoint != e.String() || next != began {
				if err := h.t.dial(e); err != nil {
					return false, err
				}
			}
			next, wait = now.Add(wait), 2*wait
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return false, err
		}
	}
}

// keepConnected looks for the gateway anew when its session has died, when it has
// gone silent and its name leads elsewhere, as it may have moved, and when this
// host's own way to it is another one. A gateway that restarts in place needs
// nothing of this. connected is sent to once the first session is there, unless
// there is one.
func (h *holder) keepConnected(ctx context.Context, connected chan<- struct{}) {
	if connected != nil {
		if h.connect(ctx, time.Time{}, false) != nil {
			return
		}
		select {
		case connected <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
	var quiet silence
	for h.nap(ctx) == nil {
		s, err := h.t.stats()
		if err != nil {
			continue
		}
		silent := quiet.observe(time.Now(), s)
		here := true
		if e, err := netip.ParseAddrPort(s.endpoint); err == nil {
			here, _ = h.leave(ctx, e.Addr()) // connect tells why
		}
		// By the host's clock: it goes on while the machine sleeps.
		if here && !h.anew.Swap(false) && h.a.cfg.Now().Sub(s.lastHandshake) < staleAfter && !(silent && h.gatewayMoved(ctx, s.endpoint)) {
			continue
		}
		if h.connect(ctx, s.lastHandshake, false) == nil {
			h.a.tell(Event{Event: EventTunnelUp}, "tunnel up again")
		}
	}
}

// gatewayMoved reports whether the gateway's name no longer leads to this
// endpoint.
func (h *holder) gatewayMoved(ctx context.Context, endpoint string) bool {
	now, err := h.t.cfg.endpoints(ctx, h.a.cfg.Lookup, h.s.where.families())
	return err == nil && !slices.ContainsFunc(now, func(e netip.AddrPort) bool { return e.String() == endpoint })
}

// silence tells a gateway that does not answer from a host that does not ask.
type silence struct {
	in, out uint64    // bytes, when something last came in
	since   time.Time // and when that was
}

// observe takes the next look, and reports whether the gateway has been silent
// for silentFor although it was sent what it would have answered. It says so once
// in that time.
func (q *silence) observe(now time.Time, s tunnelStats) bool {
	if q.since.IsZero() || s.bytesIn != q.in || s.bytesOut < q.out { // fewer: the device began anew
		*q = silence{s.bytesIn, s.bytesOut, now}
		return false
	}
	if s.bytesOut-q.out < initiationSize || now.Sub(q.since) < silentFor {
		return false
	}
	q.out, q.since = s.bytesOut, now
	return true
}
