package agent

import (
	"context"
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

// pinned are the families whose address the gateway knows, start's first.
func (h *holder) pinned() []family {
	out := []family{h.st.Family}
	for _, f := range families {
		if f != h.st.Family && pinOf(h.st.Claim.Pin, f) != "" {
			out = append(out, f)
		}
	}
	return out
}

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
		endpoints, err := h.t.cfg.endpoints(ctx, h.a.cfg.Lookup, h.pinned())
		if err != nil && once {
			return err
		}
		for _, e := range endpoints {
			if ok, err := h.handshake(ctx, e, before); ok || err != nil {
				return err
			}
		}
		if once {
			return withHint(fmt.Errorf("bringing the tunnel up: the gateway does not answer WireGuard at %v", endpoints), "a firewall may drop UDP to that port (wireguard.listen on the gateway)")
		}
		if err := sleep(ctx, tickEvery); err != nil {
			return err
		}
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

// keepConnected looks for the gateway anew when its session has died, or when it
// has gone silent and its name leads elsewhere: it may have moved. A gateway that
// restarts in place needs nothing of this.
func (h *holder) keepConnected(ctx context.Context) {
	var quiet silence
	for sleep(ctx, tickEvery) == nil {
		s, err := h.t.stats()
		if err != nil {
			continue
		}
		silent := quiet.observe(time.Now(), s)
		// By the host's clock: it goes on while the machine sleeps.
		if h.a.cfg.Now().Sub(s.lastHandshake) < staleAfter && !(silent && h.moved(ctx, s.endpoint)) {
			continue
		}
		if h.connect(ctx, s.lastHandshake, false) == nil {
			h.a.tell(Event{Event: EventTunnelUp}, "tunnel up again")
		}
	}
}

// moved reports whether the gateway's name no longer leads to this endpoint.
func (h *holder) moved(ctx context.Context, endpoint string) bool {
	now, err := h.t.cfg.endpoints(ctx, h.a.cfg.Lookup, h.pinned())
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
