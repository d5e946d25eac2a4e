package wireguard

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

func TestBacklogIsBoundedAndShared(t *testing.T) {
	var dropped atomic.Uint64
	g := newBacklog(&dropped)
	now := time.Now()
	message := func(kind, index uint32, size int) []byte {
		b := make([]byte, size)
		binary.LittleEndian.PutUint32(b, kind)
		binary.LittleEndian.PutUint32(b[4:], index)
		return b
	}
	passes := func(b []byte) bool {
		sizes := []int{len(b)}
		g.filter([][]byte{b}, sizes, now)
		return sizes[0] != 0
	}
	count := func(index uint32, n int) (passed int) {
		for range n {
			if passes(message(device.MessageTransportType, index, 100)) {
				passed++
			}
		}
		return passed
	}
	const heavy, light = 1, 2
	count(light, 10)
	if n := count(heavy, backlogMax-10); n != backlogMax-10 {
		t.Fatalf("%d passed within the limit", n)
	}
	if n := count(heavy, 500); n != 0 {
		t.Errorf("%d of a heavy session passed over the limit", n)
	}
	if n := count(light, 100); n != 100 {
		t.Errorf("%d of 100 of a light session passed", n)
	}
	if n := dropped.Load(); n != 500 {
		t.Errorf("counted %d", n)
	}
	for index := range uint32(100_000) { // sessions without end
		count(1000+index, 1)
	}
	if inside := g.received - g.finished.Load(); inside > 2*backlogMax {
		t.Errorf("%d packets inside", inside)
	}
	if len(g.recent) > recentWindow {
		t.Errorf("remembers %d sessions", len(g.recent))
	}
	if count(light, 1) != 0 {
		t.Error("passed at the hard limit")
	}
	// Neither handshakes nor keepalives are held back.
	if !passes(message(device.MessageInitiationType, 9, device.MessageInitiationSize)) || !passes(message(device.MessageTransportType, 9, device.MessageKeepaliveSize)) || !passes(message(device.MessageTransportType, 9, 8)) {
		t.Error("a handshake or keepalive was dropped")
	}
	g.finished.Add(backlogMax + 200)
	if count(light, 1) != 1 {
		t.Error("dropped though there was room again")
	}
	// What never finishes is forgotten.
	for count(heavy, 1) == 1 {
	}
	now = now.Add(backlogStale + 1)
	if count(heavy, 100) != 100 {
		t.Error("the backlog stays though nothing is inside")
	}
}
