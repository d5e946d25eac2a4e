package wireguard_test

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

const (
	pinned = "127.0.0.2"
	moved  = "127.0.0.3"
)

// watch is a gateway whose datagrams, deviations and handshakes a test sees.
type watch struct {
	*wireguard.Tunnel
	datagrams  chan netip.AddrPort // sources, inside the tunnel
	deviations chan wireguard.Deviation

	mu         sync.Mutex
	handshakes []wireguard.Handshake // guarded by mu
}

func openWatch(t testing.TB, cfg wireguard.Config) *watch {
	t.Helper()
	w := &watch{datagrams: make(chan netip.AddrPort, 1024), deviations: make(chan wireguard.Deviation, 64)}
	if cfg.Listen == "" {
		cfg.Listen = ":0"
	}
	cfg.UDP = func(src, _ netip.AddrPort, _ []byte) wireguard.Disposition {
		w.datagrams <- src
		return wireguard.Taken
	}
	cfg.Deviated = func(d wireguard.Deviation) { w.deviations <- d }
	cfg.Handshake = func(h wireguard.Handshake) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.handshakes = append(w.handshakes, h)
	}
	w.Tunnel = open(t, cfg)
	return w
}

func (w *watch) shook() []wireguard.Handshake {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.handshakes)
}

// datagram has the agent send one.
func (a *agentHost) datagram() { a.send(a.ping()) }

func (a *agentHost) ping() []byte {
	return udpPacket(netip.AddrPortFrom(a.addr4, 1000), netip.MustParseAddrPort("192.0.2.9:53"), []byte("ping"))
}

// arrives has the agent send until the gateway gets something of it.
func (w *watch) arrives(t testing.TB, a *agentHost) {
	t.Helper()
	eventually(t, "a datagram", func() bool {
		a.datagram()
		select {
		case src := <-w.datagrams:
			return src.Addr() == a.addr4
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	for { // what was still on its way
		select {
		case <-w.datagrams:
		case <-time.After(50 * time.Millisecond):
			return
		}
	}
}

// blames waits for the deviation of a and checks what is said about it.
func (w *watch) blames(t testing.TB, a *agentHost, from, proof string) {
	t.Helper()
	d := within(t, "a deviation", w.deviations)
	want := wireguard.Deviation{PublicKey: a.peer.PublicKey, From: netip.MustParseAddr(from), Proof: proof}
	if d != want {
		t.Errorf("deviation %+v, want %+v", d, want)
	}
}

// nothing checks that the gateway forwarded nothing and blamed nobody.
func (w *watch) nothing(t testing.TB) {
	t.Helper()
	select {
	case src := <-w.datagrams:
		t.Errorf("a datagram of %v was forwarded", src)
	case d := <-w.deviations:
		t.Errorf("blamed: %+v", d)
	case <-time.After(aMoment):
	}
}

// silent checks that nothing was sent to an address.
func (a *agentHost) silent(t testing.TB, at string) {
	t.Helper()
	time.Sleep(aMoment)
	if n := a.bind.answers(at); n != 0 {
		t.Errorf("%d datagrams were sent to %s", n, at)
	}
}

func TestI08_TheFirstDataFromElsewhereIsNotForwardedAndBlocks(t *testing.T) {
	for name, elsewhere := range map[string]string{"same family": moved, "a family the pin does not have": "::1"} {
		t.Run(name, func(t *testing.T) {
			w := openWatch(t, wireguard.Config{TCP: always(func(c net.Conn) {})})
			a, b := newRoamingAgent(t, w.Tunnel, 1, pinned), newRoamingAgent(t, w.Tunnel, 2, pinned)
			setPeers(t, w.Tunnel, a, b)
			w.arrives(t, a)
			w.arrives(t, b)
			entered := wireguard.StackPackets(w.Tunnel)

			a.bind.moveTo(t, elsewhere)
			a.datagram()
			w.blames(t, a, elsewhere, "a data packet")
			w.nothing(t)
			if n := wireguard.StackPackets(w.Tunnel); n != entered {
				t.Errorf("%d packets entered the network stack", n-entered)
			}
			a.silent(t, elsewhere)
			// Not from the pin either any more; and the other behind that address
			// goes on.
			a.bind.moveTo(t, pinned)
			a.datagram()
			w.nothing(t)
			w.arrives(t, b)
		})
	}
}

func TestI08_ThePinsAddressOfTheOtherFamilyIsAsGood(t *testing.T) {
	w := openWatch(t, wireguard.Config{})
	a := newRoamingAgent(t, w.Tunnel, 1, pinned)
	a.peer.Pin = append(a.peer.Pin, netip.IPv6Loopback())
	setPeers(t, w.Tunnel, a)
	w.arrives(t, a)
	a.bind.moveTo(t, "::1")
	w.arrives(t, a)
	w.nothing(t)
}

func TestI08_AnotherPortIsNoOtherAddress(t *testing.T) {
	for _, listen := range []string{":0", "127.0.0.1:0"} {
		w := openWatch(t, wireguard.Config{Listen: listen})
		a := newRoamingAgent(t, w.Tunnel, 1, pinned)
		setPeers(t, w.Tunnel, a)
		w.arrives(t, a)
		a.bind.moveTo(t, pinned)
		w.arrives(t, a)
		if c := w.Counters(); c.Suspects != 0 || c.Deviations != 0 {
			t.Errorf("%+v", c)
		}
	}
}

func TestI08_AKeepaliveFromElsewhereBlocks(t *testing.T) {
	w := openWatch(t, wireguard.Config{})
	a := newRoamingAgent(t, w.Tunnel, 1, pinned)
	setPeers(t, w.Tunnel, a)
	w.arrives(t, a)
	a.bind.moveTo(t, moved)
	gateway := w.PublicKey()
	a.dev.LookupPeer(gateway).SendKeepalive()
	w.blames(t, a, moved, "a keepalive")
	a.silent(t, moved)
}

func TestI08_AStolenJoinCredentialMovesNoByteAndBlocks(t *testing.T) {
	for name, first := range map[string]bool{"beside the agent host": true, "before the agent host's first packet": false} {
		t.Run(name, func(t *testing.T) {
			w := openWatch(t, wireguard.Config{})
			a := newRoamingAgent(t, w.Tunnel, 1, pinned)
			setPeers(t, w.Tunnel, a)
			if first {
				w.arrives(t, a)
			}
			thief := a.thief(t, w.Tunnel, moved)
			thief.datagram()
			w.blames(t, a, moved, "a handshake initiation")
			w.nothing(t)
			thief.silent(t, moved)
			a.datagram()
			w.nothing(t)
		})
	}
}

// While the agent host sends without a pause, the device's idea of where it is
// changes between accepting the thief's initiation and answering it.
func TestI08_AStolenJoinCredentialBlocksABusyRegistration(t *testing.T) {
	w := openWatch(t, wireguard.Config{})
	a := newRoamingAgent(t, w.Tunnel, 1, pinned)
	setPeers(t, w.Tunnel, a)
	w.arrives(t, a)
	ctx, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	busy.Go(func() {
		packet := a.ping()
		for {
			select {
			case a.raw.toGateway <- packet:
			case <-w.datagrams:
			case <-ctx.Done():
				return
			}
		}
	})
	defer busy.Wait()
	defer stop()
	thief := a.thief(t, w.Tunnel, moved)
	thief.datagram()
	w.blames(t, a, moved, "a handshake initiation")
	thief.silent(t, moved)
}

func TestI08_AHandshakeResponseFromElsewhereBlocks(t *testing.T) {
	key := newKey(t)
	w := openWatch(t, wireguard.Config{PrivateKey: key})
	a := newRoamingAgent(t, w.Tunnel, 1, pinned)
	a.bind.mu.Lock()
	a.peer.Endpoint = a.bind.source
	a.bind.mu.Unlock()
	a.bind.moveTo(t, moved) // answers from there what comes to its pin
	setPeers(t, w.Tunnel, a)
	w.blames(t, a, moved, "a handshake response")
	a.silent(t, moved)
}

func TestI08_ForgedAndReplayedPacketsBlockNobody(t *testing.T) {
	w := openWatch(t, wireguard.Config{})
	a := newRoamingAgent(t, w.Tunnel, 1, pinned)
	setPeers(t, w.Tunnel, a)
	w.arrives(t, a)
	attacker := newRoamingBind(t, w.Tunnel, moved)

	data := a.bind.last(device.MessageTransportType)
	forged := slices.Clone(data)
	forged[len(forged)-1] ^= 1
	later := slices.Clone(forged)
	binary.LittleEndian.PutUint64(later[device.MessageTransportOffsetCounter:], 1<<20)
	keepalive := slices.Clone(data[:device.MessageKeepaliveSize])
	initiation := a.bind.last(device.MessageInitiationType)
	other := slices.Clone(initiation)
	other[60] ^= 1
	response := make([]byte, device.MessageResponseSize)
	response[0] = device.MessageResponseType
	copy(response[8:], data[4:8])
	for _, message := range [][]byte{data, forged, later, keepalive, initiation, other, response} {
		attacker.raw(t, message)
	}
	w.nothing(t)
	if n := attacker.answers(moved); n != 0 {
		t.Errorf("%d datagrams were sent to %s", n, moved)
	}
	if c := w.Counters(); c.Suspects < 5 || c.Deviations != 0 {
		t.Errorf("%+v", c)
	}
	w.arrives(t, a)

	// A flood of them, and the agent host does not feel it.
	for range 20_000 {
		_ = attacker.write(later)
	}
	w.arrives(t, a)
	w.nothing(t)
}

// After a restart the device knows no timestamps: only those that were kept tell
// a recording from an agent host that has moved.
func TestI08_ARecordedInitiationBlocksNobodyAfterARestart(t *testing.T) {
	for name, kept := range map[string]bool{"timestamp kept": true, "timestamp lost": false} {
		t.Run(name, func(t *testing.T) {
			key := newKey(t)
			before := openWatch(t, wireguard.Config{PrivateKey: key})
			a := newRoamingAgent(t, before.Tunnel, 1, pinned)
			setPeers(t, before.Tunnel, a)
			before.arrives(t, a)
			shook := before.shook()
			if len(shook) == 0 || shook[0].PublicKey != a.peer.PublicKey || shook[0].From != netip.MustParseAddr(pinned) {
				t.Fatalf("handshakes %+v", shook)
			}
			recorded := a.bind.last(device.MessageInitiationType)
			if err := before.Close(); err != nil {
				t.Fatal(err)
			}

			after := openWatch(t, wireguard.Config{PrivateKey: key})
			a.bind.mu.Lock()
			a.bind.gateway4 = netip.AddrPortFrom(a.bind.gateway4.Addr(), after.ListenPort())
			a.bind.mu.Unlock()
			if kept {
				a.peer.Newest = shook[len(shook)-1].Timestamp
			}
			setPeers(t, after.Tunnel, a)
			attacker := newRoamingBind(t, after.Tunnel, moved)
			attacker.raw(t, recorded)
			if !kept {
				after.blames(t, a, moved, "a handshake initiation")
				return
			}
			after.nothing(t)
			if c := after.Counters(); c.Recorded != 1 {
				t.Errorf("%+v", c)
			}
			if n := attacker.answers(moved); n != 0 {
				t.Errorf("%d datagrams were sent to the attacker", n)
			}
			// The agent host does not know of the restart until nothing comes back:
			// then it begins anew.
			a.dev.LookupPeer(after.PublicKey()).ExpireCurrentKeypairs()
			after.arrives(t, a)
		})
	}
}

func TestI08_WhoHasDeviatedStaysOutUntilApprovedAgain(t *testing.T) {
	w := openWatch(t, wireguard.Config{})
	a := newRoamingAgent(t, w.Tunnel, 1, pinned)
	setPeers(t, w.Tunnel, a)
	w.arrives(t, a)
	a.bind.moveTo(t, moved)
	a.datagram()
	w.blames(t, a, moved, "a data packet")

	a.peer.Pin = append(a.peer.Pin, netip.MustParseAddr(moved)) // would be enough, were it not for what happened
	setPeers(t, w.Tunnel, a)
	a.dev.LookupPeer(w.PublicKey()).ExpireCurrentKeypairs()
	a.datagram()
	w.nothing(t)

	a.peer.Life++
	setPeers(t, w.Tunnel, a)
	a.dev.LookupPeer(w.PublicKey()).ExpireCurrentKeypairs()
	w.arrives(t, a)
}

func TestI08_TheFirstHandshakeMayAddItsAddress(t *testing.T) {
	w := openWatch(t, wireguard.Config{})
	a := newRoamingAgent(t, w.Tunnel, 1, pinned)
	a.peer.Learn = true
	setPeers(t, w.Tunnel, a)
	a.bind.moveTo(t, moved)
	w.arrives(t, a)
	if shook := w.shook(); len(shook) == 0 || shook[0].From != netip.MustParseAddr(moved) {
		t.Errorf("handshakes %+v", shook)
	}
	// Once.
	thief := a.thief(t, w.Tunnel, "127.0.0.4")
	thief.datagram()
	w.blames(t, a, "127.0.0.4", "a handshake initiation")
}

func TestI08_AnEmptyPinAllowsNothing(t *testing.T) {
	w := openWatch(t, wireguard.Config{})
	a := newRoamingAgent(t, w.Tunnel, 1, pinned)
	a.peer.Pin = nil
	setPeers(t, w.Tunnel, a)
	a.datagram()
	w.blames(t, a, pinned, "a handshake initiation")
	a.silent(t, pinned)
}

// Blocked and approved again at once: the device knows no timestamps of the life
// before, and the registry has not stored the newest yet.
func TestI08_ARecordedInitiationBlocksNobodyAfterReapproval(t *testing.T) {
	w := openWatch(t, wireguard.Config{})
	a := newRoamingAgent(t, w.Tunnel, 1, pinned)
	setPeers(t, w.Tunnel, a)
	w.arrives(t, a)
	a.peer.Life++
	setPeers(t, w.Tunnel, a)
	attacker := newRoamingBind(t, w.Tunnel, moved)
	attacker.raw(t, a.bind.last(device.MessageInitiationType))
	w.nothing(t)
	if c := w.Counters(); c.Recorded != 1 || attacker.answers(moved) != 0 {
		t.Errorf("%+v", c)
	}
	a.dev.LookupPeer(w.PublicKey()).ExpireCurrentKeypairs()
	w.arrives(t, a)
}
