package wireguard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/secret"
)

func TestOpenRefuses(t *testing.T) {
	good := func() wireguard.Config {
		return wireguard.Config{PrivateKey: newKey(t), Listen: "127.0.0.1:0", Admit: admitAll}
	}
	for name, spoil := range map[string]func(*wireguard.Config){
		"no key":       func(c *wireguard.Config) { c.PrivateKey = secret.Secret{} },
		"short key":    func(c *wireguard.Config) { c.PrivateKey = secret.New(make([]byte, 31)) },
		"no Admit":     func(c *wireguard.Config) { c.Admit = nil },
		"no port":      func(c *wireguard.Config) { c.Listen = "127.0.0.1" },
		"port name":    func(c *wireguard.Config) { c.Listen = "127.0.0.1:http" },
		"host name":    func(c *wireguard.Config) { c.Listen = "localhost:0" },
		"not our host": func(c *wireguard.Config) { c.Listen = "192.0.2.1:0" },
		"small MTU":    func(c *wireguard.Config) { c.MTU = 1279 },
		"large MTU":    func(c *wireguard.Config) { c.MTU = 9000 },
	} {
		cfg := good()
		spoil(&cfg)
		if gw, err := wireguard.Open(cfg); err == nil {
			t.Errorf("%s: opened", name)
			gw.Close()
		} else if !strings.HasPrefix(err.Error(), "opening tunnel: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPortInUseIsNamed(t *testing.T) {
	taken := open(t, wireguard.Config{Listen: "127.0.0.1:0"})
	for _, host := range []string{"127.0.0.1", ""} {
		listen := fmt.Sprintf("%s:%d", host, taken.ListenPort())
		gw, err := wireguard.Open(wireguard.Config{PrivateKey: newKey(t), Listen: listen, Admit: admitAll})
		if err == nil {
			gw.Close()
			t.Fatalf("%s: opened twice", listen)
		}
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), listen) {
			t.Errorf("%s: %v", listen, err)
		}
	}
}

func TestPublicKeyIsThatOfThePrivateOne(t *testing.T) {
	key := newKey(t)
	gw := open(t, wireguard.Config{PrivateKey: key})
	if gw.PublicKey() != publicKey(t, key) {
		t.Error("another key")
	}
}

func TestSetPeersRefuses(t *testing.T) {
	gw := open(t, wireguard.Config{})
	a, _ := agentIdentity(t, 1)
	b, _ := agentIdentity(t, 2)
	setPeers(t, gw, a)
	for name, list := range map[string][]wireguard.Peer{
		"key twice":       {b.peer, b.peer},
		"no key":          {{Prefixes: b.peer.Prefixes}},
		"gateway's key":   {{PublicKey: gw.PublicKey(), Prefixes: b.peer.Prefixes}},
		"same prefix":     {a.peer, {PublicKey: b.peer.PublicKey, Prefixes: a.peer.Prefixes}},
		"prefix inside":   {a.peer, {PublicKey: b.peer.PublicKey, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.55.1.8/32")}}},
		"prefix around":   {a.peer, {PublicKey: b.peer.PublicKey, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
		"invalid prefix":  {{PublicKey: b.peer.PublicKey, Prefixes: []netip.Prefix{{}}}},
		"mapped prefix":   {{PublicKey: b.peer.PublicKey, Prefixes: []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}}},
		"short preshared": {{PublicKey: b.peer.PublicKey, PresharedKey: secret.New([]byte("short")), Prefixes: b.peer.Prefixes}},
	} {
		if err := gw.SetPeers(list); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	stats, err := gw.Stats()
	if _, ok := stats[a.peer.PublicKey]; err != nil || !ok || len(stats) != 1 {
		t.Errorf("after refused lists: %v, %v", stats, err)
	}
}

func TestPeersThatStayKeepTheirSession(t *testing.T) {
	handler, conns := handOver()
	gw := open(t, wireguard.Config{TCP: handler})
	a, b := newAgent(t, gw, 1), newAgent(t, gw, 2)
	setPeers(t, gw, a, b)
	outA, inA := a.dial(t, "192.0.2.1:80"), within(t, "connection", conns)
	outB, inB := b.dial(t, "192.0.2.1:80"), within(t, "connection", conns)
	defer inA.Close()
	echo(t, outB, inB)
	before, err := gw.Stats()
	if err != nil {
		t.Fatal(err)
	}
	s := before[a.peer.PublicKey]
	if s.LastHandshake.IsZero() || s.BytesIn == 0 || s.BytesOut == 0 || !s.Endpoint.Addr().IsLoopback() {
		t.Errorf("stats %+v", s)
	}

	c := newAgent(t, gw, 3)
	setPeers(t, gw, a, c) // b goes, c comes
	echo(t, outA, inA)
	after, err := gw.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if after[a.peer.PublicKey].LastHandshake != s.LastHandshake {
		t.Error("the peer that stayed made a new handshake")
	}
	if _, ok := after[b.peer.PublicKey]; ok || len(after) != 2 {
		t.Errorf("%d peers, removed one there: %v", len(after), ok)
	}
	if _, err := inB.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read on the removed peer's connection: %v", err)
	}
	inB.Close()
	outC, inC := c.dial(t, "[2001:db8::1]:80"), within(t, "connection", conns)
	echo(t, outC, inC)
	inC.Close()

	// A peer whose prefixes change loses what they no longer cover.
	a.peer.Prefixes = a.peer.Prefixes[1:]
	setPeers(t, gw, a, c)
	if _, err := inA.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read from an address that is no longer the peer's: %v", err)
	}
}

func TestRemovalEndsAttempts(t *testing.T) {
	asked := make(chan struct{}, 1)
	ended := make(chan struct{})
	gw := open(t, wireguard.Config{TCP: func(ctx context.Context, _, _ netip.AddrPort) (func(net.Conn), bool) {
		asked <- struct{}{}
		<-ctx.Done()
		close(ended)
		return func(c net.Conn) {
			if c != nil {
				t.Error("served after removal")
				c.Close()
			}
		}, true
	}})
	a := newRawAgent(t, gw, 1)
	setPeers(t, gw, a)
	a.send(a.syn(1000))
	within(t, "question", asked)
	setPeers(t, gw)
	within(t, "end of the attempt", ended)
}

func TestPeerWithEndpointIsShakenHands(t *testing.T) {
	gw := open(t, wireguard.Config{})
	a := newRawAgent(t, gw, 1)
	text, err := a.dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	var port uint16
	for line := range strings.Lines(text) {
		fmt.Sscanf(line, "listen_port=%d", &port)
	}
	a.peer.Endpoint = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	setPeers(t, gw, a)
	// The agent has sent nothing: the handshake is the gateway's.
	eventually(t, "handshake", func() bool {
		stats, err := gw.Stats()
		return err == nil && !stats[a.peer.PublicKey].LastHandshake.IsZero()
	})
}

func TestPanicsStopAtTheFlow(t *testing.T) {
	var log bytes.Buffer
	var mode atomic.Pointer[string]
	set := func(s string) { mode.Store(&s) }
	set("")
	boom := func(what string) {
		if *mode.Load() == what {
			panic("boom " + what)
		}
	}
	gw, a := openRaw(t, wireguard.Config{
		Log:   slog.New(slog.NewTextHandler(&log, nil)),
		Admit: func(netip.Addr) bool { boom("admit"); return true },
		TCP: func(context.Context, netip.AddrPort, netip.AddrPort) (func(net.Conn), bool) {
			boom("tcp")
			return func(net.Conn) { boom("serve") }, true
		},
		UDP: func(netip.AddrPort, netip.AddrPort, []byte) wireguard.Disposition {
			boom("udp")
			return wireguard.Taken
		},
	})
	b := newAgent(t, gw, 2)
	setPeers(t, gw, a, b)
	a.fence(t)
	datagram := udpPacket(netip.AddrPortFrom(a.addr4, 1000), netip.MustParseAddrPort("192.0.2.1:53"), nil)

	set("udp")
	a.send(datagram)
	wantError(t, a.next(t), datagram, 3, 13, 1, 1)
	set("tcp")
	if c, err := b.net.DialTCPAddrPort(netip.MustParseAddrPort("192.0.2.1:80")); err == nil {
		c.Close()
		t.Error("connected")
	}
	set("serve")
	c := b.dial(t, "192.0.2.1:80")
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read %v, want a reset", err)
	}
	set("admit")
	n := gw.Counters().NotAdmitted
	a.send(datagram)
	eventually(t, "the packet to be dropped", func() bool { return gw.Counters().NotAdmitted > n })
	set("")
	a.fence(t)
	if n := gw.Counters().Panics; n < 4 {
		t.Errorf("counted %d panics", n)
	}
	if err := gw.Close(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"boom udp", "boom tcp", "boom serve", "boom admit", "tunnel_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log lacks %q", want)
		}
	}
}

func TestCloseEndsConnectionsAndLeaksNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	serving := make(chan struct{}, 8)
	ended := make(chan error, 8)
	gw, err := wireguard.Open(wireguard.Config{
		PrivateKey: newKey(t), Listen: "127.0.0.1:0", Admit: admitAll,
		TCP: func(ctx context.Context, _, dst netip.AddrPort) (func(net.Conn), bool) {
			if dst.Port() == 81 { // never decided
				serving <- struct{}{}
				<-ctx.Done()
				return nil, false
			}
			return func(c net.Conn) {
				defer c.Close()
				serving <- struct{}{}
				_, err := io.Copy(io.Discard, c)
				ended <- err
			}, true
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("agents", func(t *testing.T) { // so that the agent hosts end with it
		a := newAgent(t, gw, 1)
		raw := newRawAgent(t, gw, 2)
		setPeers(t, gw, a, raw)
		a.dial(t, "192.0.2.1:80")
		a.dial(t, "[2001:db8::1]:80")
		raw.send(tcpPacket(netip.AddrPortFrom(raw.addr4, 1), netip.MustParseAddrPort("192.0.2.1:81"), 2, 1, 0))
		raw.send(raw.syn(1000)) // decided, and never completed by the agent
		for range 3 {
			within(t, "flow", serving)
		}
		raw.next(t)
		closed := make(chan error, 1)
		go func() { closed <- gw.Close() }()
		if err := within(t, "Close", closed); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := within(t, "end of a connection", ended); err == nil {
				t.Error("ended like a connection the agent closed")
			}
		}
		if err := gw.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if err := gw.SetPeers(nil); err == nil {
			t.Error("SetPeers after Close: no error")
		}
		if err := gw.SendUDP(netip.MustParseAddrPort("192.0.2.1:53"), netip.AddrPortFrom(a.addr4, 9), nil); err == nil {
			t.Error("SendUDP after Close: no error")
		}
	})
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			b := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestIdleFlowsStayUsable(t *testing.T) {
	const flows = 200
	handler, conns := handOver()
	gw := open(t, wireguard.Config{TCP: handler})
	a := newAgent(t, gw, 1)
	setPeers(t, gw, a)
	type pair struct{ out, in net.Conn }
	var pairs []pair
	for range flows {
		out := a.dial(t, "192.0.2.1:80")
		pairs = append(pairs, pair{out, within(t, "connection", conns)})
	}
	for _, p := range pairs {
		echo(t, p.out, p.in)
		p.in.Close()
	}
}
