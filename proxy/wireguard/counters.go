package wireguard

import "sync/atomic"

// Counters counts what the tunnel did not carry, in packets since Open.
type Counters struct {
	NotAdmitted    uint64 // no peer owns the address, or Admit said no; either direction
	Malformed      uint64 // wrong version, length or header
	BadChecksum    uint64
	Unsupported    uint64 // well formed, of a kind nobody here speaks (options, IGMP, neighbour discovery, fragments over the limit)
	ICMPSuppressed uint64 // ICMP errors not sent because the peer had its share
	OverLimit      uint64 // TCP connection attempts over one of the peer's limits: reset
	NoSession      uint64 // not sent: the agent host is away and its share of the staging queue is used up
	Flooded        uint64 // not decrypted: the peer had its share inside the WireGuard device
	Strays         uint64 // messages of no session
	Strangers      uint64 // initiations from outside every pin, over their limit or not for this gateway
	Suspects       uint64 // messages of a session from outside its peer's pin, authentic or not
	Recorded       uint64 // initiations not newer than one before
	Deviations     uint64 // peers cut off
	QueueFull      uint64 // not sent: the link queue was full
	Panics         uint64 // in callbacks
}

type counters struct {
	notAdmitted, malformed, badChecksum, unsupported atomic.Uint64
	icmpSuppressed, overLimit, noSession, queueFull  atomic.Uint64
	panics, strays, suspects, recorded, deviations   atomic.Uint64
	strangers                                        atomic.Uint64
}

// Counters returns the counters' present values.
func (t *Tunnel) Counters() Counters {
	c := &t.counters
	return Counters{
		NotAdmitted:    c.notAdmitted.Load(),
		Malformed:      c.malformed.Load(),
		BadChecksum:    c.badChecksum.Load(),
		Unsupported:    c.unsupported.Load(),
		ICMPSuppressed: c.icmpSuppressed.Load(),
		OverLimit:      c.overLimit.Load(),
		NoSession:      c.noSession.Load(),
		Flooded:        t.link.transit.dropped.Load(),
		Strays:         c.strays.Load(),
		Strangers:      c.strangers.Load(),
		Suspects:       c.suspects.Load(),
		Recorded:       c.recorded.Load(),
		Deviations:     c.deviations.Load(),
		QueueFull:      c.queueFull.Load(),
		Panics:         c.panics.Load(),
	}
}
