package wireguard

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

func at(addr netip.AddrPort) conn.Endpoint { return &conn.StdNetEndpoint{AddrPort: addr} }

// callTo is an initiation of the gateway's own to p.
func callTo(t *testing.T, p *peer) []byte {
	t.Helper()
	m := message(device.MessageInitiationType, 9, device.MessageInitiationSize)
	end := len(m) - trailingMACs
	h, err := blake2s.New128(p.macKey[:])
	if err != nil {
		t.Fatal(err)
	}
	h.Write(m[:end])
	h.Sum(m[end:end])
	return m
}

// Whatever the device wants to send, it goes into its peer's pin or nowhere, and
// to one that has deviated nowhere.
func TestI08_NothingIsSentOutsideThePin(t *testing.T) {
	data := message(device.MessageTransportType, 1, 100)
	cookie := message(device.MessageCookieReplyType, 1, device.MessageCookieReplySize)
	for name, c := range map[string]struct {
		send       func(gw *Tunnel, p *peer, initiation []byte) (message []byte, to conn.Endpoint)
		goes       bool // to inPin
		isDeviated bool // then
	}{
		"a call into the pin": {goes: true, send: func(_ *Tunnel, p *peer, _ []byte) ([]byte, conn.Endpoint) {
			return callTo(t, p), at(inPin)
		}},
		"a call outside": {send: func(_ *Tunnel, p *peer, _ []byte) ([]byte, conn.Endpoint) {
			return callTo(t, p), at(elsewhere)
		}},
		"a call to who has deviated": {isDeviated: true, send: func(_ *Tunnel, p *peer, _ []byte) ([]byte, conn.Endpoint) {
			p.deviated.Store(true)
			return callTo(t, p), at(inPin)
		}},
		"a response to who has deviated": {isDeviated: true, send: func(gw *Tunnel, p *peer, initiation []byte) ([]byte, conn.Endpoint) {
			to := offer(gw.link.bind, initiation, inPin, time.Now())
			p.deviated.Store(true)
			return responseTo(initiation, 77), to
		}},
		"data to a suspect": {isDeviated: true, send: func(_ *Tunnel, p *peer, _ []byte) ([]byte, conn.Endpoint) {
			return data, &suspect{Endpoint: at(elsewhere), peer: p, from: elsewhere.Addr()}
		}},
		"data to one that the pin has meanwhile": {goes: true, send: func(_ *Tunnel, p *peer, _ []byte) ([]byte, conn.Endpoint) {
			return data, &suspect{Endpoint: at(inPin), peer: p, from: inPin.Addr()}
		}},
		"a cookie to a suspect, which proves nothing": {send: func(_ *Tunnel, p *peer, _ []byte) ([]byte, conn.Endpoint) {
			return cookie, &suspect{Endpoint: at(elsewhere), peer: p, from: elsewhere.Addr()}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			gw, agent := openFor(t, nil)
			p := gw.peers.Load().peers[[32]byte(agent.PublicKey().Bytes())]
			initiation := recordInitiation(t, agent, gw.PublicKey())
			message, to := c.send(gw, p, initiation[:])
			got := gw.link.bind.destination([][]byte{message}, to)
			if c.goes && (got == nil || got.DstToString() != inPin.String()) || !c.goes && got != nil {
				t.Errorf("it goes to %v", got)
			}
			if p.deviated.Load() != c.isDeviated {
				t.Errorf("deviated: %v", !c.isDeviated)
			}
		})
	}
}

// Cookie replies are sealed with what anybody knows who has seen the handshake.
func TestI08_ACookieReplyFromOutsideIsNotHeard(t *testing.T) {
	gw, agent := openFor(t, nil)
	p := gw.peers.Load().peers[[32]byte(agent.PublicKey().Bytes())]
	issued(gw.link.bind, 5, p)
	reply := message(device.MessageCookieReplyType, 5, device.MessageCookieReplySize)
	if to := offer(gw.link.bind, reply, elsewhere, time.Now()); to != nil {
		t.Error("the device sees it")
	}
	if to := offer(gw.link.bind, reply, inPin, time.Now()); to == nil {
		t.Error("the device does not see the pin's own")
	}
}

func TestI08_AFirstHandshakeAddsNoFamily(t *testing.T) {
	var p pinning
	p.pin(Peer{Pin: []netip.Addr{inPin.Addr()}, Learn: true})
	if s := p.meet(netip.MustParseAddr("2001:db8::1"), Timestamp{1}, nil); s != outside {
		t.Errorf("the other family: %d", s)
	}
}

func TestI08_ADeviationEndsWhatThePeerIsDoing(t *testing.T) {
	gw, agent := openFor(t, nil)
	p := gw.peers.Load().peers[[32]byte(agent.PublicKey().Bytes())]
	gw.deviate(p, elsewhere.Addr(), "a data packet")
	if p.ctx.Err() == nil {
		t.Error("it goes on")
	}
}
