package wireguard_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

const (
	crowdSize  = 300
	floodBurst = 32   // packets a millisecond
	floodMost  = 5000 // in all: with the race detector the rounds take long
)

// newCrowd starts agent hosts with an address each.
func newCrowd(t *testing.T, w *watch) []*agentHost {
	t.Helper()
	crowd := make([]*agentHost, crowdSize)
	for i := range crowd {
		source := fmt.Sprintf("127.0.%d.%d", 8+i/250, 1+i%250)
		a, key := agentIdentity(t, 1)
		a.addr4 = netip.AddrFrom4([4]byte{10, 55, byte(i / 16), byte(i % 16 * 16)}).Next()
		a.peer.Prefixes = []netip.Prefix{netip.PrefixFrom(a.addr4, 28)}
		a.peer.Pin = []netip.Addr{netip.MustParseAddr(source)}
		a.raw = &rawTun{toGateway: make(chan []byte, 16), received: make(chan []byte, 16), events: make(chan tun.Event), done: make(chan struct{})}
		a.bind = newRoamingBind(t, w.Tunnel, source)
		a.start(t, w.Tunnel, key, a.raw)
		crowd[i] = a
	}
	return crowd
}

// round has everybody send until the gateway has something of each, and returns
// how long that took.
func (w *watch) round(t *testing.T, crowd []*agentHost) time.Duration {
	t.Helper()
	began := time.Now()
	waiting := make(map[netip.Addr]*agentHost, len(crowd))
	for _, a := range crowd {
		waiting[a.addr4] = a
	}
	for len(waiting) > 0 {
		if time.Since(began) > 3*patience {
			t.Fatalf("nothing of %d agent hosts: %+v", len(waiting), w.Counters())
		}
		for _, a := range waiting {
			select {
			case a.raw.toGateway <- a.ping():
			default: // its handshake is under way
			}
		}
		for retry := time.After(200 * time.Millisecond); len(waiting) > 0; {
			select {
			case src := <-w.datagrams:
				delete(waiting, src.Addr())
				continue
			case <-retry:
			}
			break
		}
	}
	return time.Since(began)
}

// forgedInitiation is one that passes for the device until it is opened.
func forgedInitiation(gateway [32]byte) []byte {
	m := make([]byte, device.MessageInitiationSize)
	_, _ = rand.Read(m) // never fails
	binary.LittleEndian.PutUint32(m, device.MessageInitiationType)
	key := blake2s.Sum256(append([]byte(device.WGLabelMAC1), gateway[:]...))
	h, _ := blake2s.New128(key[:]) // fails for longer keys
	h.Write(m[:len(m)-32])
	copy(m[len(m)-32:], h.Sum(nil))
	return m
}

// The attack: from an address in nobody's pin, send whatever costs the gateway
// something, while 300 registrations work. What it costs them is logged.
func TestI16_FloodsFromOutsideThePinsLeaveACrowdAlone(t *testing.T) {
	w := openWatch(t, wireguard.Config{})
	crowd := newCrowd(t, w)
	setPeers(t, w.Tunnel, crowd...)
	t.Logf("the first handshakes and packets of %d registrations: %v", crowdSize, w.round(t, crowd))
	const rounds = 10
	quiet := time.Duration(0)
	for range rounds {
		quiet += w.round(t, crowd)
	}
	known := make([][]byte, crowdSize)
	for i, a := range crowd {
		m := slices.Clone(a.bind.last(device.MessageTransportType))
		m[len(m)-1] ^= 1
		binary.LittleEndian.PutUint64(m[device.MessageTransportOffsetCounter:], 1<<20)
		known[i] = m
	}
	gateway := w.PublicKey()
	for _, flood := range []struct {
		name string
		next func(n int) []byte
	}{
		{"initiations", func(int) []byte { return forgedInitiation(gateway) }},
		{"indices of no session", func(n int) []byte {
			m := slices.Clone(known[n%crowdSize])
			_, _ = rand.Read(m[4:8]) // never fails
			return m
		}},
		{"packets with everybody's indices", func(n int) []byte { return known[n%crowdSize] }},
	} {
		attacker := newRoamingBind(t, w.Tunnel, moved)
		ctx, stop := context.WithCancel(t.Context())
		var flooding sync.WaitGroup
		sent := 0
		flooding.Go(func() {
			for ; ctx.Err() == nil && sent < floodMost; sent++ {
				_ = attacker.write(flood.next(sent)) // what does not fit is lost
				if sent%floodBurst == 0 {
					time.Sleep(time.Millisecond) // the attacker has no core of its own
				}
			}
		})
		took := time.Duration(0)
		for range rounds {
			took += w.round(t, crowd)
		}
		stop()
		flooding.Wait()
		t.Logf("%s: %d sent meanwhile; %d rounds took %v, quiet %v, %.1f times as long", flood.name, sent, rounds, took, quiet, took.Seconds()/quiet.Seconds())
		if n := attacker.answers(moved); n != 0 {
			t.Errorf("%s: %d were answered", flood.name, n)
		}
	}
	c := w.Counters()
	t.Logf("%+v", c)
	if c.Deviations != 0 || c.Strangers == 0 || c.Strays == 0 || c.Suspects == 0 {
		t.Error("the floods were something else")
	}
	// Each still lasts, and each is still found out.
	last := crowd[crowdSize-1]
	last.bind.moveTo(t, moved)
	eventually(t, "its deviation", func() bool { // the flood may have used up the room for suspects
		last.datagram()
		return w.Counters().Deviations == 1
	})
	w.blames(t, last, moved, "a data packet")
	w.round(t, crowd[:crowdSize-1])
}
