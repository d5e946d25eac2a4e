package wireguard_test

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/secret"
)

// patience bounds every wait of these tests; nothing asserts a duration.
const patience = 20 * time.Second

func admitAll(netip.Addr) bool { return true }

// open starts a gateway end on a free loopback port.
func open(t testing.TB, cfg wireguard.Config) *wireguard.Tunnel {
	t.Helper()
	if cfg.PrivateKey.IsZero() {
		cfg.PrivateKey = newKey(t)
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Admit == nil {
		cfg.Admit = admitAll
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError + 1}))
	}
	gw, err := wireguard.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := gw.Close(); err != nil {
			t.Error(err)
		}
	})
	return gw
}

func newKey(t testing.TB) secret.Secret {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return secret.New(key.Bytes())
}

func publicKey(t testing.TB, private secret.Secret) [32]byte {
	t.Helper()
	key, err := ecdh.X25519().NewPrivateKey(private.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(key.PublicKey().Bytes())
}

// agentHost is an agent host's end: a real wireguard-go device.
type agentHost struct {
	peer         wireguard.Peer
	addr4, addr6 netip.Addr
	dev          *device.Device

	net *netstack.Net // of newAgent: its kernel
	raw *rawTun       // of newRawAgent: its packets

	key  secret.Secret
	bind *roamingBind // of newRoamingAgent
}

func agentIdentity(t testing.TB, n int) (*agentHost, secret.Secret) {
	t.Helper()
	key := newKey(t)
	psk := make([]byte, 32)
	if _, err := rand.Read(psk); err != nil {
		t.Fatal(err)
	}
	return &agentHost{
		peer: wireguard.Peer{
			PublicKey:    publicKey(t, key),
			PresharedKey: secret.New(psk),
			Pin:          []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()},
			Prefixes: []netip.Prefix{
				netip.MustParsePrefix(fmt.Sprintf("10.55.%d.0/28", n)),
				netip.MustParsePrefix(fmt.Sprintf("fd55:%d::/64", n)),
			},
		},
		addr4: netip.MustParseAddr(fmt.Sprintf("10.55.%d.2", n)),
		addr6: netip.MustParseAddr(fmt.Sprintf("fd55:%d::2", n)),
	}, key
}

// newAgent starts an agent host whose kernel is a second netstack, another one
// than the gateway's.
func newAgent(t testing.TB, gw *wireguard.Tunnel, n int) *agentHost {
	t.Helper()
	a, key := agentIdentity(t, n)
	dev, net, err := netstack.CreateNetTUN([]netip.Addr{a.addr4, a.addr6}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	a.net = net
	a.start(t, gw, key, dev)
	return a
}

// newRawAgent starts an agent host whose packets the test makes itself.
func newRawAgent(t testing.TB, gw *wireguard.Tunnel, n int) *agentHost {
	t.Helper()
	a, key := agentIdentity(t, n)
	a.raw = newRawTun()
	a.start(t, gw, key, a.raw)
	return a
}

// newRoamingAgent is newRawAgent with a source address that the test changes,
// which also is its pin.
func newRoamingAgent(t testing.TB, gw *wireguard.Tunnel, n int, source string) *agentHost {
	t.Helper()
	a, key := agentIdentity(t, n)
	a.peer.Pin = []netip.Addr{netip.MustParseAddr(source)}
	a.raw = newRawTun()
	a.bind = newRoamingBind(t, gw, source)
	a.start(t, gw, key, a.raw)
	return a
}

// thief starts another host with the join credential of a.
func (a *agentHost) thief(t testing.TB, gw *wireguard.Tunnel, source string) *agentHost {
	t.Helper()
	b := &agentHost{peer: a.peer, addr4: a.addr4, addr6: a.addr6, raw: newRawTun(), bind: newRoamingBind(t, gw, source)}
	b.start(t, gw, a.key, b.raw)
	return b
}

func (a *agentHost) start(t testing.TB, gw *wireguard.Tunnel, key secret.Secret, dev tun.Device) {
	t.Helper()
	a.key = key
	var bind conn.Bind = conn.NewStdNetBind()
	if a.bind != nil {
		bind = a.bind
	}
	a.dev = device.NewDevice(dev, bind, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(a.dev.Close)
	gateway := gw.PublicKey()
	text := fmt.Sprintf("private_key=%s\npublic_key=%s\npreshared_key=%s\nendpoint=127.0.0.1:%d\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		hex.EncodeToString(key.Reveal()), hex.EncodeToString(gateway[:]), hex.EncodeToString(a.peer.PresharedKey.Reveal()), gw.ListenPort())
	if err := a.dev.IpcSet(text); err != nil {
		t.Fatal(err)
	}
	if err := a.dev.Up(); err != nil {
		t.Fatal(err)
	}
}

// setPeers makes the agents the gateway's peers.
func setPeers(t testing.TB, gw *wireguard.Tunnel, agents ...*agentHost) {
	t.Helper()
	var peers []wireguard.Peer
	for _, a := range agents {
		peers = append(peers, a.peer)
	}
	if err := gw.SetPeers(peers); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// within receives or fails.
func within[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
		panic("unreachable")
	}
}

// dial opens a TCP connection from the agent.
func (a *agentHost) dial(t testing.TB, to string) net.Conn {
	t.Helper()
	c, err := a.net.DialTCPAddrPort(netip.MustParseAddrPort(to))
	if err != nil {
		t.Fatalf("dialling %s: %v", to, err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// rawTun is a tun device with a test in place of a kernel.
type rawTun struct {
	toGateway chan []byte
	received  chan []byte
	events    chan tun.Event
	done      chan struct{}
	once      sync.Once
}

func newRawTun() *rawTun {
	return &rawTun{
		toGateway: make(chan []byte, 4096),
		received:  make(chan []byte, 65536),
		events:    make(chan tun.Event),
		done:      make(chan struct{}),
	}
}

func (r *rawTun) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case b := <-r.toGateway:
		sizes[0] = copy(bufs[0][offset:], b)
		return 1, nil
	case <-r.done:
		return 0, os.ErrClosed
	}
}

func (r *rawTun) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		select {
		case r.received <- append([]byte{}, b[offset:]...):
		default:
		}
	}
	return len(bufs), nil
}

func (r *rawTun) File() *os.File           { return nil }
func (r *rawTun) MTU() (int, error)        { return 1420, nil }
func (r *rawTun) Name() (string, error)    { return "raw", nil }
func (r *rawTun) Events() <-chan tun.Event { return r.events }
func (r *rawTun) BatchSize() int           { return 1 }
func (r *rawTun) Close() error {
	r.once.Do(func() {
		close(r.done)
		close(r.events)
	})
	return nil
}
