package wireguard

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/clawpatrol/clawpatrol/secret"
)

// tape is a bind that records what a device sends, and receives nothing.
type tape struct {
	conn.Bind
	sent   chan []byte
	closed chan struct{}
}

func (b *tape) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	closed := make(chan struct{})
	b.closed = closed
	return []conn.ReceiveFunc{func([][]byte, []int, []conn.Endpoint) (int, error) {
		<-closed
		return 0, net.ErrClosed
	}}, 1, nil
}

func (b *tape) Send(packets [][]byte, _ conn.Endpoint) error {
	for _, p := range packets {
		b.sent <- bytes.Clone(p)
	}
	return nil
}

func (b *tape) Close() error {
	if b.closed != nil {
		close(b.closed)
		b.closed = nil
	}
	return nil
}

func (b *tape) BatchSize() int       { return 1 }
func (b *tape) SetMark(uint32) error { return nil }

func privateKey(t testing.TB) *ecdh.PrivateKey {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// recordInitiation returns what a real agent host with this key sends to begin.
func recordInitiation(t testing.TB, agent *ecdh.PrivateKey, gateway [32]byte) [device.MessageInitiationSize]byte {
	t.Helper()
	card, _, err := netstack.CreateNetTUN([]netip.Addr{netip.MustParseAddr("10.55.1.2")}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	bind := &tape{Bind: conn.NewStdNetBind(), sent: make(chan []byte, 16)}
	dev := device.NewDevice(card, bind, device.NewLogger(device.LogLevelSilent, ""))
	defer dev.Close()
	if err := dev.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=127.0.0.1:9\nallowed_ip=0.0.0.0/0\n",
		hex.EncodeToString(agent.Bytes()), hex.EncodeToString(gateway[:]))); err != nil {
		t.Fatal(err)
	}
	if err := dev.Up(); err != nil {
		t.Fatal(err)
	}
	if err := dev.LookupPeer(gateway).SendHandshakeInitiation(false); err != nil {
		t.Fatal(err)
	}
	return [device.MessageInitiationSize]byte(<-bind.sent)
}

// openFor opens a gateway with one peer that is pinned to inPin.
func openFor(t testing.TB, change func(*Peer)) (*Tunnel, *ecdh.PrivateKey) {
	t.Helper()
	gw, err := Open(Config{PrivateKey: secret.New(privateKey(t).Bytes()), Listen: "127.0.0.1:0", Admit: func(netip.Addr) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := gw.Close(); err != nil {
			t.Error(err)
		}
	})
	agent := privateKey(t)
	p := Peer{PublicKey: [32]byte(agent.PublicKey().Bytes()), Pin: []netip.Addr{inPin.Addr()}, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.55.1.0/28")}}
	if change != nil {
		change(&p)
	}
	if err := gw.SetPeers([]Peer{p}); err != nil {
		t.Fatal(err)
	}
	return gw, agent
}

// offer gives the bind a message as the network does and returns its endpoint as
// the device would have it, nil where the device does not see it.
func offer(b *watchedBind, message []byte, from netip.AddrPort, now time.Time) conn.Endpoint {
	sizes, eps := []int{len(message)}, []conn.Endpoint{&conn.StdNetEndpoint{AddrPort: from}}
	b.receive([][]byte{inBuffer(message)}, sizes, eps, now)
	if sizes[0] == 0 {
		return nil
	}
	return eps[0]
}

func responseTo(initiation []byte, sender uint32) []byte {
	response := message(device.MessageResponseType, sender, device.MessageResponseSize)
	copy(response[offsetResponseReceiver:], initiation[offsetSender:offsetSender+4])
	return response
}

// Between accepting an initiation and answering it the device may hear from the
// agent host's old session, and then answers to where that is.
func TestI08_AResponseFollowsItsInitiationAndNotTheDevice(t *testing.T) {
	other := &conn.StdNetEndpoint{AddrPort: netip.AddrPortFrom(inPin.Addr(), 999)}
	t.Run("from inside the pin", func(t *testing.T) {
		gw, agent := openFor(t, nil)
		initiation := recordInitiation(t, agent, gw.PublicKey())
		offer(gw.link.bind, initiation[:], inPin, time.Now())
		response := responseTo(initiation[:], 77)
		to := gw.link.bind.destination([][]byte{response}, other)
		if to == nil || to.DstToString() != inPin.String() {
			t.Fatalf("the response goes to %v", to)
		}
		p := gw.peers.Load().peers[[32]byte(agent.PublicKey().Bytes())]
		if gw.link.transit.sessions.find(77) != p || p.newestMet() == (Timestamp{}) {
			t.Error("the session is not known")
		}
		if to := gw.link.bind.destination([][]byte{response}, other); to != nil {
			t.Errorf("a second response goes to %v", to)
		}
	})
	t.Run("from outside", func(t *testing.T) {
		gw, agent := openFor(t, nil)
		initiation := recordInitiation(t, agent, gw.PublicKey())
		offer(gw.link.bind, initiation[:], elsewhere, time.Now())
		if to := gw.link.bind.destination([][]byte{responseTo(initiation[:], 77)}, other); to != nil {
			t.Errorf("the response goes to %v", to)
		}
		p := gw.peers.Load().peers[[32]byte(agent.PublicKey().Bytes())]
		if !p.deviated.Load() || gw.link.transit.sessions.find(77) != nil {
			t.Error("the thief is not found out")
		}
	})
}

// The attack: fill the device's handshake queue, so that it drops everybody's,
// and have the gateway answer forged sources.
func TestI08_InitiationsOfStrangersAreFewAndGetNoCookie(t *testing.T) {
	gw, agent := openFor(t, nil)
	b, now := gw.link.bind, time.Now()
	initiation := recordInitiation(t, agent, gw.PublicKey())
	forged := initiation
	forged[offsetInitiationMAC1]++ // without the gateway's public key
	for range 1000 {
		if offer(b, forged[:], elsewhere, now) != nil {
			t.Fatal("an initiation to nobody passed")
		}
	}
	passed := 0
	for range 1000 {
		if offer(b, initiation[:], elsewhere, now) != nil {
			passed++
		}
	}
	if passed != strangersBurst {
		t.Errorf("%d initiations from outside every pin, want %d", passed, strangersBurst)
	}
	if n := gw.Counters().Strangers; n != 2000-strangersBurst {
		t.Errorf("%d strangers counted", n)
	}
	if offer(b, initiation[:], inPin, now) == nil {
		t.Error("the agent host's does not pass")
	}
	cookie := [][]byte{message(device.MessageCookieReplyType, 1, device.MessageCookieReplySize)}
	if to := b.destination(cookie, offer(b, initiation[:], elsewhere, now.Add(time.Second))); to != nil {
		t.Errorf("a cookie reply to a stranger goes to %v", to)
	}
	if to := b.destination(cookie, offer(b, initiation[:], inPin, now)); to == nil || to.DstToString() != inPin.String() {
		t.Errorf("a cookie reply to the agent host goes to %v", to)
	}
}

// What the registry says next may be from before it heard of the handshake.
func TestI08_WhatWasLearntIsKeptUntilThePinIsSealed(t *testing.T) {
	var p pinning
	config := Peer{Pin: []netip.Addr{inPin.Addr()}, Learn: true}
	p.pin(config)
	if s := p.meet(elsewhere.Addr(), Timestamp{1}, nil); s != welcome {
		t.Fatalf("the first handshake: %d", s)
	}
	p.pin(config)
	if !p.allows(elsewhere.Addr()) {
		t.Error("forgotten")
	}
	if s := p.meet(netip.MustParseAddr("192.0.2.3"), Timestamp{2}, nil); s != outside {
		t.Errorf("a second address: %d", s)
	}
	p.pin(Peer{Pin: config.Pin})
	if p.allows(elsewhere.Addr()) {
		t.Error("kept although the pin was sealed without it")
	}
}

// A recording leads the device astray once after a restart. The gateway's own
// calls go on to where the agent host was.
func TestI08_ARecordingDoesNotTakeTheGatewaysCallsAway(t *testing.T) {
	gw, agent := openFor(t, nil)
	initiation := recordInitiation(t, agent, gw.PublicKey())
	_, newest, err := gw.identity.open(&initiation, func([32]byte) ([]byte, bool) {
		shared, err := sharedWith(gw.identity.private(), agent.PublicKey().Bytes())
		return shared, err == nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Since(newest.Time()).Abs(); d > time.Hour {
		t.Errorf("the initiation is from %v", newest.Time())
	}
	config := gw.peers.Load().configs[[32]byte(agent.PublicKey().Bytes())]
	config.Newest, config.Endpoint, config.Life = newest, inPin, 1
	if err := gw.SetPeers([]Peer{config}); err != nil {
		t.Fatal(err)
	}
	led := offer(gw.link.bind, initiation[:], elsewhere, time.Now()).(*held)
	if to := gw.link.bind.path(led, led); to == nil || to.DstToString() != inPin.String() {
		t.Errorf("packets go to %v", to)
	}
	if c := gw.Counters(); c.Recorded != 1 || c.Deviations != 0 {
		t.Errorf("%+v", c)
	}
	// From inside the pin it may be a clock that went back, which an operator has
	// to hear of, once.
	var logged bytes.Buffer
	gw.log = slog.New(slog.NewTextHandler(&logged, nil))
	for range 2 {
		gw.judge(offer(gw.link.bind, initiation[:], inPin, time.Now()).(*held))
	}
	if n := strings.Count(logged.String(), "clock has gone back"); n != 1 {
		t.Errorf("said %d times:\n%s", n, logged.String())
	}
}

type held = initiation // the name is taken above

// Nothing else tells that the device has taken a packet whose inner source is not
// the peer's: the gateway has to send, to see where.
func TestI08_EverySuspectPacketIsProbed(t *testing.T) {
	for _, size := range []int{device.MessageKeepaliveSize, 100} {
		gw, agent := openFor(t, nil)
		p := gw.peers.Load().peers[[32]byte(agent.PublicKey().Bytes())]
		issued(gw.link.bind, 5, p)
		offer(gw.link.bind, message(device.MessageTransportType, 5, size), elsewhere, time.Now())
		if !p.probing.Load() {
			t.Errorf("a packet of %d bytes is not probed", size)
		}
	}
}

// What cannot be marked is not let in, and what cannot be read is not let on.
func TestI08_WithoutAMarkNothingPasses(t *testing.T) {
	b, p := newWatch(), pinnedPeer(inPin.Addr())
	issued(b, 1, p)
	sizes, eps := []int{100}, []conn.Endpoint{&conn.StdNetEndpoint{AddrPort: elsewhere}}
	b.receive([][]byte{message(device.MessageTransportType, 1, 100)}, sizes, eps, start)
	if sizes[0] != 0 {
		t.Error("a suspect packet passed without a mark")
	}
	if from, ok := suspicious(make([]byte, 100)); !ok || from.IsValid() {
		t.Error("a packet in a foreign buffer is not suspicious")
	}
}

// A message may be on its way out while its peer goes.
func TestSessionsOfAPeerThatHasGoneAreNotRemembered(t *testing.T) {
	gw, agent := openFor(t, nil)
	p := gw.peers.Load().peers[[32]byte(agent.PublicKey().Bytes())]
	if err := gw.SetPeers(nil); err != nil {
		t.Fatal(err)
	}
	issued(gw.link.bind, 5, p)
	if s := &gw.link.transit.sessions; len(s.of) != 0 || len(s.kept) != 0 {
		t.Error("remembered")
	}
}

func FuzzOpenInitiation(f *testing.F) {
	gateway, agent := privateKey(f), privateKey(f)
	id := newIdentity(gateway)
	static := [32]byte(agent.PublicKey().Bytes())
	shared, err := sharedWith(gateway, static[:])
	if err != nil {
		f.Fatal(err)
	}
	real := recordInitiation(f, agent, id.public)
	f.Add(real[:])
	f.Add(make([]byte, len(real)))
	for _, at := range []int{offsetSender, offsetInitiationKey, offsetInitiationStatic, offsetInitiationStamp, offsetInitiationMAC1} {
		changed := real
		changed[at] ^= 1
		f.Add(changed[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != len(real) {
			return
		}
		got, _, err := id.open((*[device.MessageInitiationSize]byte)(b), func(s [32]byte) ([]byte, bool) { return shared, s == static })
		same := bytes.Equal(b[offsetInitiationKey:offsetInitiationMAC1], real[offsetInitiationKey:offsetInitiationMAC1])
		// X25519 ignores the highest bit of a key, but the hash does not.
		if (err == nil) != same || err == nil && got != static {
			t.Errorf("opened: %v, the agent host's: %v", err == nil, same)
		}
	})
}

func FuzzReceive(f *testing.F) {
	const index = 7
	for kind := range uint32(6) {
		for _, size := range []int{0, 3, 31, device.MessageKeepaliveSize, device.MessageCookieReplySize, device.MessageResponseSize, device.MessageInitiationSize, 1400} {
			m := message(kind, index, max(size, 8))[:size]
			f.Add(m, true)
			f.Add(m, false)
		}
	}
	f.Fuzz(func(t *testing.T, m []byte, inside bool) {
		if len(m) > markAt {
			return
		}
		b, p := newWatch(), pinnedPeer(inPin.Addr())
		issued(b, index, p)
		from := elsewhere
		if inside {
			from = inPin
		}
		end := offer(b, m, from, start)
		if end == nil {
			return
		}
		if len(m) < device.MinMessageSize || plainAddr(end.DstIP()) != from.Addr() {
			t.Fatalf("%d bytes passed, from %v", len(m), end.DstIP())
		}
		at := offsetSender
		switch kind := binary.LittleEndian.Uint32(m); kind {
		case device.MessageInitiationType:
			if _, ok := end.(*initiation); !ok || len(m) != device.MessageInitiationSize {
				t.Error("an initiation that is not held")
			}
			if !inside && !addressedTo(m, new([blake2s.Size]byte)) {
				t.Error("a stranger's initiation, for somebody else")
			}
			return
		case device.MessageResponseType:
			at = offsetResponseReceiver
		case device.MessageCookieReplyType, device.MessageTransportType:
		default:
			t.Fatalf("kind %d passed", kind)
		}
		if binary.LittleEndian.Uint32(m[at:]) != index {
			t.Error("a message of no session passed")
		}
		if _, ok := end.(*suspect); ok == inside {
			t.Errorf("suspect: %v, from inside the pin: %v", ok, inside)
		}
		p.deviated.Store(true)
		if offer(b, m, from, start) != nil {
			t.Error("a packet of a peer that has deviated passed")
		}
	})
}
