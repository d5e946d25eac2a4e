// Package wireguard is the gateway's end of the tunnel: userspace WireGuard on
// a userspace network stack that accepts connections to any destination.
package wireguard

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// Config starts a tunnel. PrivateKey and Admit are required: the zero Config
// refuses. A nil TCP, UDP or Echo refuses what it would have handled.
type Config struct {
	PrivateKey secret.Secret // 32 bytes
	Listen     string        // UDP host:port
	MTU        int           // 0: 1420

	// Admit reports whether a packet from this tunnel address may enter the
	// network stack. It is called for every packet on the receive path and must
	// not block. WireGuard has already bound src to its peer's AllowedIPs.
	Admit func(src netip.Addr) bool

	// TCP decides about one connection attempt before the agent's handshake is
	// completed. src is the agent's tunnel address and port, dst where it thinks
	// it goes. It may take its time (ctx ends when the tunnel closes or after
	// 15 s). ok false answers RST. Otherwise the handshake is completed and
	// serve is called in a goroutine of its own with the connection, which it
	// must close; if the agent has gone meanwhile serve is called with nil, so
	// that it can release what it holds. The shape is that of tsnet's fallback
	// handler.
	TCP func(ctx context.Context, src, dst netip.AddrPort) (serve func(net.Conn), ok bool)

	// UDP takes one datagram. It runs on the receive path: it must not block,
	// dial or keep payload. Anything but Taken answers the agent with ICMP.
	UDP func(src, dst netip.AddrPort, payload []byte) Disposition

	// Echo takes one ICMP or ICMPv6 echo request, under the same rules as UDP.
	Echo func(e Echo) Disposition

	Log *slog.Logger
}

// Disposition is what became of a datagram or echo request. The zero value
// refuses.
type Disposition int

const (
	Prohibited      Disposition = iota // ICMP administratively prohibited
	PortUnreachable                    // ICMP port unreachable
	HostUnreachable                    // ICMP host unreachable
	Taken                              // handled, or silently dropped
)

// Echo is an ICMP echo request or, for SendEcho, its reply.
type Echo struct {
	Src, Dst netip.Addr // of the request: agent, target
	ID, Seq  uint16
	Payload  []byte
}

// Tunnel is a running gateway end.
type Tunnel struct{}

// Open binds and starts the tunnel, without peers.
func Open(cfg Config) (*Tunnel, error) { panic("wireguard: not built yet") }

// Peer is one registration's end.
type Peer struct {
	PublicKey    [32]byte
	PresharedKey secret.Secret
	Prefixes     []netip.Prefix // AllowedIPs; limits are counted per peer
	Endpoint     netip.AddrPort // last known; a handshake is started when the peer is added with one
}

// SetPeers makes exactly these the tunnel's peers: peers that stay keep their
// sessions, peers that go are torn down with their connections.
func (t *Tunnel) SetPeers(peers []Peer) error { panic("wireguard: not built yet") }

// PeerStats is what the tunnel knows of a peer.
type PeerStats struct {
	Endpoint          netip.AddrPort
	LastHandshake     time.Time
	BytesIn, BytesOut uint64
}

// Stats returns every peer's, by public key.
func (t *Tunnel) Stats() (map[[32]byte]PeerStats, error) { panic("wireguard: not built yet") }

// SendUDP sends one datagram to the agent: from is the remote the agent talked
// to, to the agent's tunnel address. payload is copied. Datagrams larger than
// the MTU are fragmented.
func (t *Tunnel) SendUDP(from, to netip.AddrPort, payload []byte) error {
	panic("wireguard: not built yet")
}

// SendEcho answers an echo request; e is the request with the reply's payload.
func (t *Tunnel) SendEcho(e Echo) error { panic("wireguard: not built yet") }

// PublicKey returns the gateway's public key.
func (t *Tunnel) PublicKey() [32]byte { panic("wireguard: not built yet") }

// ListenPort returns the UDP port bound.
func (t *Tunnel) ListenPort() uint16 { panic("wireguard: not built yet") }

// Close tears everything down and waits for the serve calls' connections to be
// closed.
func (t *Tunnel) Close() error { panic("wireguard: not built yet") }
