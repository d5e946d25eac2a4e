package wireguard_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
)

// The benchmarks move bytes over one TCP connection through the whole tunnel:
// an agent host's netstack, its WireGuard device, UDP on loopback, the gateway's
// device, the gateway's netstack. Both ends share the machine, so an operation
// costs what both cost. SetBytes makes go test print the throughput.

const chunk = 32 << 10 // a splice buffer, see Conn

// benchPair returns both ends of a connection: in is the gateway's.
func benchPair(b *testing.B, ipv4 bool) (out, in net.Conn) {
	b.Helper()
	conns := make(chan net.Conn, 1)
	gw := open(b, wireguard.Config{
		Listen: ":0", // the bind with UDP GSO and GRO
		TCP:    always(func(c net.Conn) { conns <- c }),
	})
	key := newKey(b)
	agent := open(b, wireguard.Config{PrivateKey: key, Listen: ":0"})
	identity, _ := agentIdentity(b, 1)
	peer := identity.peer
	peer.PublicKey = publicKey(b, key)
	if err := gw.SetPeers([]wireguard.Peer{peer}); err != nil {
		b.Fatal(err)
	}
	err := agent.SetPeers([]wireguard.Peer{{
		PublicKey:    gw.PublicKey(),
		PresharedKey: peer.PresharedKey,
		Prefixes:     []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
		Pin:          []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Endpoint:     netip.MustParseAddrPort(fmt.Sprintf("127.0.0.1:%d", gw.ListenPort())),
	}})
	if err != nil {
		b.Fatal(err)
	}
	from, to := identity.addr6, netip.MustParseAddrPort("[2001:db8::1]:80")
	if ipv4 {
		from, to = identity.addr4, netip.MustParseAddrPort("192.0.2.1:80")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err = wireguard.DialTCP(ctx, agent, from, to)
	if err != nil {
		b.Fatal(err)
	}
	in = within(b, "connection", conns)
	b.Cleanup(func() {
		out.Close()
		in.Close()
	})
	return out, in
}

func benchTransfer(b *testing.B, down bool) {
	for _, family := range []string{"IPv4", "IPv6"} {
		b.Run(family, func(b *testing.B) {
			out, in := benchPair(b, family == "IPv4")
			from, to := out, in
			if down {
				from, to = in, out
			}
			b.SetBytes(chunk)
			b.ReportAllocs()
			b.ResetTimer()
			sent := make(chan error, 1)
			go func() {
				data := make([]byte, chunk)
				for range b.N {
					if _, err := from.Write(data); err != nil {
						sent <- err
						return
					}
				}
				sent <- nil
			}()
			buf := make([]byte, 64<<10)
			for left := b.N * chunk; left > 0; {
				n, err := to.Read(buf[:min(left, len(buf))])
				if err != nil && err != io.EOF || n == 0 {
					b.Fatalf("%d bytes left: %v", left, err)
				}
				left -= n
			}
			b.StopTimer()
			if err := <-sent; err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkDown is gateway to agent host.
func BenchmarkDown(b *testing.B) { benchTransfer(b, true) }

// BenchmarkUp is agent host to gateway.
func BenchmarkUp(b *testing.B) { benchTransfer(b, false) }

// BenchmarkConnect opens and closes one connection after the other.
func BenchmarkConnect(b *testing.B) {
	gw := open(b, wireguard.Config{Listen: ":0", TCP: always(func(c net.Conn) {
		if c != nil {
			c.Close()
		}
	})})
	a := newAgent(b, gw, 1)
	setPeers(b, gw, a)
	// One destination after the other, or the agent's ports run out.
	to := netip.MustParseAddr("198.18.0.1")
	for n := 0; b.Loop(); n++ {
		if n%1000 == 999 {
			to = to.Next()
		}
		c, err := a.net.DialTCPAddrPort(netip.AddrPortFrom(to, 80))
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}
