package wireguard

import (
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// A packet of a session that comes from outside the pin has to go through the
// device, which alone can tell whether it is authentic, and must come to nothing
// there. Two things show that the device has taken it:
//
//   - It hands the packet to the link. A mark in the buffer says that it must go
//     no further. The device's buffers are as long as the longest UDP payload
//     and some more, so that the mark survives, whatever is in the packet.
//   - It sends to where the packet came from: then Send is given the suspect.
//     An empty packet, a keepalive, never reaches the link, nor does what has
//     a source that is not the peer's, and the gateway may have nothing to
//     send; so it is made to send a keepalive itself. While
//     packets from inside the pin come at the same moment it may send there
//     instead, and a lone keepalive go unnoticed, which has carried nothing.

// suspect is the endpoint of a packet from outside its peer's pin.
type suspect struct {
	conn.Endpoint
	peer  *peer
	from  netip.Addr
	proof string
}

const (
	// markAt is behind the longest payload of a UDP datagram, 65507 bytes.
	markAt  = device.MaxMessageSize - 1 - 16
	marked  = 1
	_       = uint(markAt - 65507)
	probeIn = 2 * time.Millisecond // until the device has surely decrypted

	// probeEvery is how often a peer is probed at most: who knows a session's
	// index and forges packets makes the gateway send a keepalive for each.
	probeEvery = 100 * time.Millisecond
)

// mark writes into a buffer of the device's that its packet is suspect; false
// where it is no such buffer, and the packet must not be let in.
func mark(buffer []byte, from netip.Addr) bool {
	if len(buffer) != device.MaxMessageSize {
		return false
	}
	buffer[markAt] = marked
	address := from.As16()
	copy(buffer[markAt+1:], address[:])
	return true
}

// unmark removes what an earlier packet left.
func unmark(buffer []byte) {
	if len(buffer) == device.MaxMessageSize {
		buffer[markAt] = 0
	}
}

// suspicious returns where the packet in a buffer of the device's came from, if
// that is outside the pin. Of another buffer nobody can say: the zero Addr.
func suspicious(packet []byte) (netip.Addr, bool) {
	if cap(packet) != device.MaxMessageSize {
		return netip.Addr{}, true
	}
	if packet[:cap(packet)][markAt] != marked {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(packet[:cap(packet)][markAt+1:])).Unmap(), true
}

// probe has the gateway send to the peer soon.
func (t *Tunnel) probe(p *peer) {
	if !p.probing.CompareAndSwap(false, true) {
		return
	}
	time.AfterFunc(probeIn, func() {
		if known := t.dev.LookupPeer(p.key); known != nil && p.ctx.Err() == nil {
			known.SendKeepalive()
		}
		time.AfterFunc(probeEvery, func() { p.probing.Store(false) })
	})
}
