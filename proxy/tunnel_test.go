package proxy_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// world is a kit whose proxy serves a real tunnel, kept in step with the
// registry by Peers.
type world struct {
	*proxytest.Kit
	tunnel *wireguard.Tunnel
}

func openTunnel(t *testing.T, k *proxytest.Kit) *world {
	t.Helper()
	key, err := k.DB.WireGuardKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	peers := proxy.NewPeers(k.DB, nil)
	tunnel, err := wireguard.Open(wireguard.Config{
		Deviated:   peers.Deviated,
		Handshake:  peers.Handshake,
		PrivateKey: key,
		Listen:     "127.0.0.1:0",
		Admit:      k.Proxy.Admit,
		TCP:        k.Proxy.TCP,
		UDP:        k.Proxy.UDP,
		Echo:       k.Proxy.Echo,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tunnel.Close(); err != nil {
			t.Error(err)
		}
	})
	k.Proxy.SetTunnel(tunnel)
	ctx, cancel := context.WithCancel(context.Background())
	synced := make(chan error, 1)
	go func() { synced <- peers.Sync(ctx, tunnel) }()
	t.Cleanup(func() {
		cancel()
		if err := <-synced; err != nil {
			t.Error(err)
		}
	})
	return &world{k, tunnel}
}

// agentHost is one end of the tunnel: a wireguard-go device with a network stack
// of its own.
type agentHost struct {
	id  registry.ID
	key [32]byte // public
	net *netstack.Net
}

func (w *world) enrol(t *testing.T, name string) *agentHost {
	t.Helper()
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	psk := make([]byte, 32)
	_, _ = rand.Read(psk)
	a := &agentHost{key: [32]byte(private.PublicKey().Bytes())}
	reg, err := w.DB.Enrol(t.Context(), registry.NewRegistration{
		Name:         name,
		PublicKey:    a.key,
		MACKey:       secret.New(psk),
		PresharedKey: secret.New(psk),
		Source:       netip.MustParseAddr("127.0.0.1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	a.id = reg.ID
	w.Eventually(10*time.Second, "a pending registration is a peer", func() bool { return w.isPeer(a) })
	dev, stack, err := netstack.CreateNetTUN([]netip.Addr{reg.Prefix4.Addr().Next(), reg.Prefix6.Addr().Next()}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	a.net = stack
	wg := device.NewDevice(dev, conn.NewStdNetBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(wg.Close)
	gateway := w.tunnel.PublicKey()
	if err := wg.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\npreshared_key=%s\nendpoint=127.0.0.1:%d\npersistent_keepalive_interval=1\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		hex.EncodeToString(private.Bytes()), hex.EncodeToString(gateway[:]), hex.EncodeToString(psk), w.tunnel.ListenPort())); err != nil {
		t.Fatal(err)
	}
	if err := wg.Up(); err != nil {
		t.Fatal(err)
	}
	return a
}

func (w *world) approve(t *testing.T, a *agentHost, profiles ...string) {
	t.Helper()
	reg, _ := w.DB.Snapshot().ByID(a.id)
	if err := w.DB.Approve(t.Context(), a.id, profiles, reg.UserCode); err != nil {
		t.Fatal(err)
	}
}

func (w *world) isPeer(a *agentHost) bool {
	stats, err := w.tunnel.Stats()
	_, ok := stats[a.key]
	return err == nil && ok
}

func (a *agentHost) dial(t *testing.T, to netip.AddrPort) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := a.net.DialContextTCPAddrPort(ctx, to)
	if err != nil {
		t.Fatalf("connecting to %v: %v", to, err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

// TestThroughTheTunnel is every kind of flow, from a network stack of an agent
// host's own.
func TestThroughTheTunnel(t *testing.T) {
	tcp, udp := upstream(t, echo), udpUpstream(t, shout)
	rude := upstream(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.SetLinger(0)
	})
	closed := closedPort(t)
	w := openTunnel(t, proxytest.New(t, reaching(443, tcp, udp, rude, closed)+asking(resolver(t, nil))))
	w.Handler = handler(func(_ context.Context, f *proxy.Flow) error {
		_, err := fmt.Fprintf(f.Conn, "%s as %s", f.Match.Host, f.Registration)
		return err
	})
	a := w.enrol(t, "a")
	w.approve(t, a, "red")

	// DNS, and from it an endpoint.
	question, err := a.net.DialUDPAddrPort(netip.AddrPort{}, netip.AddrPortFrom(w.DB.Resolvers()[0], 53))
	if err != nil {
		t.Fatal(err)
	}
	_ = question.SetDeadline(time.Now().Add(10 * time.Second))
	asked := &mdns.Conn{Conn: question}
	if err := asked.WriteMsg(new(mdns.Msg).SetQuestion("api.test.", mdns.TypeA)); err != nil {
		t.Fatal(err)
	}
	reply, err := asked.ReadMsg()
	if err != nil {
		t.Fatal(err)
	}
	packed, _ := reply.Pack()
	virtual := aRecord(t, string(packed))
	want := "api.test as " + string(a.id)
	if got, err := io.ReadAll(a.dial(t, netip.AddrPortFrom(virtual, 443))); string(got) != want {
		t.Errorf("the endpoint says %q, %v; want %q", got, err, want)
	}

	// Loopback is no address for a network stack to send to: the upstreams are
	// other ports of the endpoint's host.
	at := func(up netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(virtual, up.Port()) }

	// A splice, both ways at once, with a half-close at the end.
	c := a.dial(t, at(tcp))
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<15)
	go func() {
		_, _ = c.Write(sent)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}

	// What refuses is refused, what resets is reset.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := a.net.DialContextTCPAddrPort(ctx, at(closed)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a closed port: %v", err)
	}
	c = a.dial(t, at(rude))
	_, _ = c.Write([]byte("x"))
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("a reset upstream: %v", err)
	}

	// UDP.
	datagrams, err := a.net.DialUDPAddrPort(netip.AddrPort{}, at(udp))
	if err != nil {
		t.Fatal(err)
	}
	_ = datagrams.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = datagrams.Write([]byte("x"))
	buf := make([]byte, 100)
	if n, err := datagrams.Read(buf); string(buf[:n]) != "re: x" {
		t.Errorf("over UDP: %q, %v", buf[:n], err)
	}

	// What the tunnel saw is persisted.
	w.Eventually(10*time.Second, "endpoint and handshake are recorded", func() bool {
		reg, _ := w.DB.Snapshot().ByID(a.id)
		return reg.Endpoint.IsValid() && !reg.LastHandshake.IsZero()
	})
}

func TestI07_TheTunnelFollowsTheRegistry(t *testing.T) {
	up := upstream(t, echo)
	for name, remove := range map[string]func(*registry.DB, registry.ID) error{
		"block":  func(db *registry.DB, id registry.ID) error { return db.Block(context.Background(), id, "test") },
		"revoke": func(db *registry.DB, id registry.ID) error { return db.Revoke(context.Background(), id) },
	} {
		t.Run(name, func(t *testing.T) {
			w := openTunnel(t, proxytest.New(t, reaching(443, up)+asking(resolver(t, nil))))
			a, other := w.enrol(t, "a"), w.enrol(t, "b")
			w.approve(t, other, "red")
			w.approve(t, a, "red")
			mine := a.dial(t, w.Virtual(a.id, "api.test", up.Port()))
			theirs := other.dial(t, w.Virtual(other.id, "api.test", up.Port()))
			for _, c := range []net.Conn{mine, theirs} {
				_, _ = c.Write([]byte("x"))
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			if err := remove(w.DB, a.id); err != nil {
				t.Fatal(err)
			}
			w.Eventually(soon, "the peer is gone", func() bool { return !w.isPeer(a) })
			w.Eventually(soon, "its flow is gone", func() bool { return w.Proxy.Counters().Flows == 1 })
			_ = mine.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, _ = mine.Write([]byte("y"))
			if n, _ := mine.Read(make([]byte, 1)); n > 0 {
				t.Error("the flow still carries")
			}
			// The other's session goes on.
			_, _ = theirs.Write([]byte("z"))
			if _, err := theirs.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("the other agent: %v", err)
			}
		})
	}
}

// TestEnrollingWithTheGatewaysKeyHarmsNobody: the tunnel refuses a list with
// such a peer as a whole. One registration must not keep the others out, nor a
// blocked one in.
func TestEnrollingWithTheGatewaysKeyHarmsNobody(t *testing.T) {
	w := openTunnel(t, proxytest.New(t, reaching(443)))
	before := w.enrol(t, "before")
	if _, err := w.DB.Enrol(t.Context(), registry.NewRegistration{
		Name:         "attacker",
		PublicKey:    w.tunnel.PublicKey(),
		MACKey:       secret.New([]byte("k")),
		PresharedKey: secret.New([]byte("k")),
		Source:       netip.MustParseAddr("192.0.2.66"),
	}); err != nil {
		t.Fatal(err)
	}
	w.enrol(t, "after") // fails where it does not become a peer
	if err := w.DB.Revoke(t.Context(), before.id); err != nil {
		t.Fatal(err)
	}
	w.Eventually(soon, "the revoked peer is gone", func() bool { return !w.isPeer(before) })
}
