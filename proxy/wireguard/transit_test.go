package wireguard

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

func message(kind, index uint32, size int) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint32(b, kind)
	binary.LittleEndian.PutUint32(b[4:], index)
	return b
}

// inBuffer is a message in a buffer as the device's are.
func inBuffer(message []byte) []byte {
	b := make([]byte, device.MaxMessageSize)
	copy(b, message)
	return b
}

var (
	inPin     = netip.MustParseAddrPort("192.0.2.1:51000")
	elsewhere = netip.MustParseAddrPort("192.0.2.2:51000")
)

// newWatch returns a bind as the device has it, without a device.
func newWatch() *watchedBind {
	t := &Tunnel{identity: new(identity)}
	t.link = &link{transit: newTransit(), tunnel: t}
	table := newPeerTable(nil)
	table.pins[inPin.Addr()] = struct{}{}
	t.peers.Store(table)
	return newWatchedBind(nil, t)
}

func pinnedPeer(addrs ...netip.Addr) *peer {
	p := &peer{ctx: context.Background()}
	p.probing.Store(true) // there is no device that could send
	p.pin(Peer{Pin: addrs})
	return p
}

// flood gives the bind n messages of data and returns how many passed.
func flood(b *watchedBind, index uint32, n int, from netip.AddrPort, now time.Time) (passed int) {
	for range n {
		sizes, eps := []int{100}, []conn.Endpoint{&conn.StdNetEndpoint{AddrPort: from}}
		b.receive([][]byte{inBuffer(message(device.MessageTransportType, index, 100))}, sizes, eps, now)
		if sizes[0] != 0 {
			passed++
		}
	}
	return passed
}

// issued notes an answer of the gateway's to a peer's handshake.
func issued(b *watchedBind, index uint32, p *peer) {
	b.tunnel.link.transit.sessions.issue(message(device.MessageResponseType, index, device.MessageResponseSize), p)
}

// The attack: send faster than the gateway works off, with packets that count,
// and with forged ones that never come out.
func TestI16_WhatIsInsideTheDeviceIsBounded(t *testing.T) {
	b, now := newWatch(), start
	mine, other := pinnedPeer(inPin.Addr()), pinnedPeer(inPin.Addr())
	issued(b, 1, mine)
	issued(b, 2, other)
	if n := flood(b, 1, 5000, elsewhere, now); n != insideSuspect {
		t.Errorf("%d packets from outside the pin, want %d", n, insideSuspect)
	}
	n := flood(b, 1, 5000, inPin, now)
	if n != insideIn {
		t.Errorf("%d packets of one peer, want %d", n, insideIn)
	}
	// Another's are not delayed by that.
	if n := flood(b, 2, 100, inPin, now); n != 100 {
		t.Errorf("%d of another's 100 packets passed", n)
	}
	// What has come out makes room.
	mine.inside.gone.Add(10)
	if n := flood(b, 1, 100, inPin, now); n != 10 {
		t.Errorf("%d passed after 10 came out", n)
	}
	// Forged ones never come out, while others keep moving: they are forgotten.
	for range 4 {
		now = now.Add(insideStale + 1)
		mine.inside.gone.Add(1)
		flood(b, 1, 1, inPin, now)
	}
	if n := flood(b, 1, 100, inPin, now); n != 100 {
		t.Errorf("%d of 100 passed after forged packets", n)
	}
	// But not while the link has a packet in hand.
	flood(b, 1, 5000, inPin, now)
	mine.inside.busy.Add(1)
	if n := flood(b, 1, 100, inPin, now.Add(time.Minute)); n != 0 {
		t.Errorf("%d passed while the link was busy", n)
	}
}

func TestMessagesOfNoSessionAreDropped(t *testing.T) {
	b := newWatch()
	p := pinnedPeer(inPin.Addr())
	issued(b, 7, p)
	for name, m := range map[string]struct {
		message []byte
		passes  bool
	}{
		"data":                {message(device.MessageTransportType, 7, 100), true},
		"keepalive":           {message(device.MessageTransportType, 7, device.MessageKeepaliveSize), true},
		"cookie reply":        {message(device.MessageCookieReplyType, 7, device.MessageCookieReplySize), true},
		"initiation":          {message(device.MessageInitiationType, 99, device.MessageInitiationSize), true},
		"unknown data":        {message(device.MessageTransportType, 8, 100), false},
		"unknown keepalive":   {message(device.MessageTransportType, 8, device.MessageKeepaliveSize), false},
		"unknown cookie":      {message(device.MessageCookieReplyType, 8, device.MessageCookieReplySize), false},
		"response to nothing": {message(device.MessageResponseType, 7, device.MessageResponseSize), false}, // the receiver is further back
		"short initiation":    {message(device.MessageInitiationType, 7, 100), false},
		"other type":          {message(5, 7, 100), false},
		"too short":           {message(device.MessageTransportType, 7, 31), false},
		"empty":               {nil, false},
	} {
		sizes := []int{len(m.message)}
		b.receive([][]byte{m.message}, sizes, []conn.Endpoint{&conn.StdNetEndpoint{AddrPort: inPin}}, start)
		if sizes[0] != 0 != m.passes {
			t.Errorf("%s: size %d, want it to pass: %v", name, sizes[0], m.passes)
		}
	}
	// What a peer makes the gateway remember is bounded, and costs no other's.
	other := pinnedPeer(inPin.Addr())
	for i := range uint32(1000) {
		issued(b, 100+i, other)
	}
	sessions := &b.tunnel.link.transit.sessions
	if n := len(sessions.of); n != indexesKept+1 {
		t.Errorf("%d sessions remembered", n)
	}
	if sessions.find(7) != p || sessions.find(1099) != other || sessions.find(100) != nil {
		t.Error("the wrong ones remembered")
	}
	sessions.forget(other)
	if sessions.find(1099) != nil || len(sessions.of) != 1 || len(sessions.kept) != 1 {
		t.Error("a peer that has gone is remembered")
	}
}

// The attack: have more sent to oneself than the gateway can encrypt.
func TestI16_WhatIsInsideOnTheWayOutIsBounded(t *testing.T) {
	x, closed := newTransit(), make(chan struct{})
	x.out.Store(insideOut + 10)
	through := make(chan struct{})
	go func() {
		x.room(closed)
		close(through)
	}()
	packets := make([][]byte, 11)
	for i := range packets {
		packets[i] = message(device.MessageTransportType, 1, 100)
	}
	x.send(packets[:5])
	x.send(packets[5:])
	<-through
	if n := x.out.Load(); n != insideOut-1 && n != 0 { // 0 where this was too slow
		t.Errorf("%d inside", n)
	}
	// What never leaves does not stop the others for good.
	x.out.Store(insideOut)
	x.room(closed)
	if n := x.out.Load(); n != 0 {
		t.Errorf("%d inside", n)
	}
}
