package wireguard

import (
	"time"
)

// A packet for an agent host without a WireGuard session is staged inside the
// device until the next handshake, in a buffer of 64 KiB whatever its size, and
// the device's own bound on that (128 batches of up to 128 packets a peer)
// amounts to 1 GiB. Its PreallocatedBuffersPerPool cannot be used instead: on
// Linux it is a constant, 0, and a pool bound shared by all peers would let one
// that is away stall the rest. So the link hands over no more than stagedMax
// packets for a peer that it does not know to have a session.
//
// What is inside with a session, either way, is transit.go's to bound.
//
// What it knows: a packet that came in proves a session now, and the device's
// last handshake times, read every sessionPoll while there is traffic, say until
// when.
const (
	stagedMax   = 32 // an initial TCP window of 10 and some
	sessionPoll = 5 * time.Second

	// sessionGrace is how long an inbound packet counts where the handshake it
	// came under is not known yet: until the next poll, at most.
	sessionGrace = 2 * sessionPoll

	// A session is dead 180 s after its handshake: RejectAfterTime, section 6.1
	// of the WireGuard paper.
	sessionLife = 180 * time.Second

	// stagedLife is when the device has surely dropped what it staged: 90 s
	// without an answer to the handshakes it tries (RekeyAttemptTime).
	stagedLife = 100 * time.Second
)

// start is the origin of session times: a monotonic clock in an int64.
var start = time.Now()

func sinceStart() int64 { return int64(time.Since(start)) }

// heard notes a packet from the peer, and reports whether it came under a
// session that was not known.
func (p *peer) heard(now int64) (news bool) {
	if now < p.sessionUntil.Load() {
		return false
	}
	p.sessionUntil.Store(now + int64(sessionGrace))
	return true
}

// maySend reports whether packets for the peer may be handed to the device.
func (p *peer) maySend(now int64, packets int) bool {
	if now < p.sessionUntil.Load() {
		if p.staged.Load() != 0 {
			p.staged.Store(0)
		}
		return true
	}
	if now-p.lastStaged.Load() > int64(stagedLife) {
		p.staged.Store(0)
	}
	if p.staged.Add(int32(packets)) > stagedMax {
		p.staged.Add(int32(-packets))
		return false
	}
	p.lastStaged.Store(now)
	return true
}

// watchSessions reads the peers' last handshakes while there is traffic, until
// the tunnel closes.
func (t *Tunnel) watchSessions() {
	tick := time.NewTicker(sessionPoll)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
			if t.link.active.Swap(false) {
				t.learnSessions()
			}
		}
	}
}

func (t *Tunnel) learnSessions() {
	stats, err := t.Stats()
	if err != nil {
		t.log.Warn("wireguard sessions unknown", "error", err)
		return
	}
	table, now := t.peers.Load(), sinceStart()
	for key, s := range stats {
		p := table.peers[key]
		if p == nil || s.LastHandshake.IsZero() {
			continue
		}
		if until := now + int64(time.Until(s.LastHandshake.Add(sessionLife))); until > now {
			p.sessionUntil.Store(until)
		}
	}
}
