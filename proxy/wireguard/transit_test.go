package wireguard

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

func message(kind, index uint32, size int) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint32(b, kind)
	binary.LittleEndian.PutUint32(b[4:], index)
	return b
}

// flood gives the transit n messages of data and returns how many passed.
func flood(x *transit, index uint32, n int, now time.Time) (passed int) {
	for range n {
		sizes := []int{100}
		x.receive([][]byte{message(device.MessageTransportType, index, 100)}, sizes, now)
		if sizes[0] != 0 {
			passed++
		}
	}
	return passed
}

// issued lets the transit see the gateway's answer to a handshake.
func issued(x *transit, index uint32, now time.Time) {
	x.send([][]byte{message(device.MessageResponseType, index, device.MessageResponseSize)}, now)
}

// The attack: send faster than the gateway works off, with packets that count,
// and with forged ones that never come out.
func TestI16_WhatIsInsideTheDeviceIsBounded(t *testing.T) {
	x, now := newTransit(), start
	issued(x, 1, now)
	if n := flood(x, 1, 5000, now); n != insideNew {
		t.Errorf("%d packets of a session nobody has proved, want %d", n, insideNew)
	}
	mine, other := new(peer), new(peer)
	x.arrived(mine, message(device.MessageTransportType, 1, device.MessageTransportOffsetContent))
	n := flood(x, 1, 5000, now)
	if n > insideIn+1 || n < insideIn {
		t.Errorf("%d packets of one peer, want %d", n, insideIn)
	}
	// Another's are not delayed by that, nor by what forged packets with other
	// indexes use up.
	flood(x, 99, 5000, now)
	issued(x, 2, now)
	x.arrived(other, message(device.MessageTransportType, 2, device.MessageTransportOffsetContent))
	if n := flood(x, 2, 100, now); n != 100 {
		t.Errorf("%d of another's 100 packets passed", n)
	}
	// What has come out makes room.
	for range 10 {
		x.arrived(mine, message(device.MessageTransportType, 1, device.MessageTransportOffsetContent))
	}
	if n := flood(x, 1, 100, now); n != 10 {
		t.Errorf("%d passed after 10 came out", n)
	}
	// Forged ones never come out, while others keep moving: they are forgotten.
	for range 4 {
		now = now.Add(insideStale + 1)
		x.arrived(mine, message(device.MessageTransportType, 1, device.MessageTransportOffsetContent))
		flood(x, 1, 1, now)
	}
	if n := flood(x, 1, 100, now); n != 100 {
		t.Errorf("%d of 100 passed after forged packets", n)
	}
	// But not while the link has a packet in hand.
	flood(x, 1, 5000, now)
	mine.inside.busy.Add(1)
	if n := flood(x, 1, 100, now.Add(time.Minute)); n != 0 {
		t.Errorf("%d passed while the link was busy", n)
	}
}

func TestWhatTheGatewayDidNotIssueIsNotCounted(t *testing.T) {
	x := newTransit()
	if n := flood(x, 7, 5000, start); n != 5000 { // the device throws them away
		t.Errorf("%d passed", n)
	}
	for i := range uint32(3 * maxSessions) {
		issued(x, i, start)
	}
	if n := len(x.sessions.now) + len(x.sessions.old); n > 2*maxSessions {
		t.Errorf("%d sessions remembered", n)
	}
	sizes := []int{device.MessageKeepaliveSize, 148}
	x.receive([][]byte{message(device.MessageTransportType, 7, device.MessageKeepaliveSize), message(device.MessageInitiationType, 7, 148)}, sizes, start)
	if sizes[0] == 0 || sizes[1] == 0 {
		t.Error("a keepalive or a handshake was dropped")
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
	x.send(packets[:5], start)
	x.send(packets[5:], start)
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
