// Package wireguard is the gateway's end of the tunnel: userspace WireGuard on
// a userspace network stack that accepts connections to any destination. It
// needs no root, no kernel module and no firewall rules.
//
// A packet from an agent host passes these gates, in this order:
//
//  1. watchedBind drops it unless it is of a peer's session, and has it watched
//     where it comes from outside that peer's pin, see pin.go.
//  2. wireguard-go decrypts it and drops it unless its source address is one of
//     the AllowedIPs of the peer whose key sealed it (cryptokey routing).
//  3. link.Write asks Config.Admit about the source, and drops what is
//     malformed, fails its checksum or is of a kind nobody here speaks.
//  4. netstack delivers it: TCP to a connection or, as a SYN, to Config.TCP;
//     UDP to Config.UDP; echo requests to Config.Echo. Netstack answers nothing
//     on its own but TCP resets: link drops every other packet it invents.
//
// On the way out the same peer table and Admit are asked once more, so that a
// registration that was blocked meanwhile receives nothing either.
package wireguard

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/device"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/clawpatrol/clawpatrol/secret"
)

// Config starts a tunnel. PrivateKey and Admit are required: the zero Config
// refuses. A nil TCP, UDP or Echo refuses what it would have handled.
type Config struct {
	PrivateKey secret.Secret // 32 bytes
	Listen     string        // UDP host:port; empty: ":51820", both families
	MTU        int           // bytes of inner packet, 1280 to 1500; 0: 1420

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
	// that it can release what it holds. The connection is a *Conn. The shape is
	// that of tsnet's fallback handler.
	TCP func(ctx context.Context, src, dst netip.AddrPort) (serve func(net.Conn), ok bool)

	// UDP takes one datagram. It runs on the receive path: it must not block,
	// dial or keep payload. Anything but Taken answers the agent with ICMP.
	UDP func(src, dst netip.AddrPort, payload []byte) Disposition

	// Echo takes one ICMP or ICMPv6 echo request, under the same rules as UDP.
	Echo func(e Echo) Disposition

	// Deviated is told, once for each, of a peer that was cut off because of an
	// authentic packet from outside its pin. Handshake is told of every good
	// initiation, before it is answered, on a goroutine of the device's: it must
	// not block.
	Deviated  func(Deviation)
	Handshake func(Handshake)

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
	Payload  []byte // of a request: valid during the call only
}

// Limits of a tunnel. Those of one peer are in peers.go.
const (
	defaultListen = ":51820"
	defaultMTU    = device.DefaultMTU
	minMTU        = 1280 // RFC 8200 section 5: IPv6 needs it
	maxMTU        = 1500

	// closeWait bounds how long Close waits for connections that serve calls
	// have not closed.
	closeWait = 10 * time.Second
)

// Tunnel is a running gateway end. Its methods may be called concurrently.
type Tunnel struct {
	cfg       Config
	log       *slog.Logger
	dev       *device.Device
	link      *link
	stack     *stack.Stack
	forwarder *tcp.Forwarder
	identity  *identity
	port      uint16

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	peers    atomic.Pointer[peerTable] // replaced whole by SetPeers
	peersMu  sync.Mutex                // serialises SetPeers
	attempts attempts
	flows    sync.WaitGroup // TCP attempts and serve calls; Add under attempts.mu
	conns    sync.WaitGroup // connections serve has not closed yet
	tasks    sync.WaitGroup // the tunnel's own goroutines

	counters counters
	closing  sync.Once
	closeErr error
}

// Open binds and starts the tunnel, without peers. The error names the address
// when it cannot be bound, and wraps syscall.EADDRINUSE when it is taken.
func Open(cfg Config) (*Tunnel, error) {
	key := cfg.PrivateKey.Reveal()
	private, err := ecdh.X25519().NewPrivateKey(key)
	if err != nil {
		// The error of crypto/ecdh says nothing about the key but its size.
		return nil, fmt.Errorf("opening tunnel: private key: %w", err)
	}
	if cfg.Admit == nil {
		return nil, errors.New("opening tunnel: Admit is required")
	}
	if cfg.Listen == "" {
		cfg.Listen = defaultListen
	}
	if cfg.MTU == 0 {
		cfg.MTU = defaultMTU
	}
	if cfg.MTU < minMTU || cfg.MTU > maxMTU {
		return nil, fmt.Errorf("opening tunnel: MTU %d is outside %d to %d", cfg.MTU, minMTU, maxMTU)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	bind, port, err := newBind(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("opening tunnel: %w", err)
	}

	t := &Tunnel{cfg: cfg, log: cfg.Log}
	t.identity = newIdentity(private)
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.peers.Store(newPeerTable(nil))
	t.attempts.byID = make(map[stack.TransportEndpointID]*attempt)
	t.link = newLink(cfg.MTU, t)
	if err := t.buildStack(); err != nil {
		t.cancel()
		return nil, fmt.Errorf("opening tunnel: %w", err)
	}
	t.link.bind = newWatchedBind(bind, t)
	t.dev = device.NewDevice(t.link, t.link.bind, deviceLogger(t.log))
	if err := t.start(key, port); err != nil {
		return nil, errors.Join(fmt.Errorf("opening tunnel: %w", err), t.Close())
	}
	t.tasks.Go(t.watchSessions)
	return t, nil
}

func (t *Tunnel) start(key []byte, port uint16) error {
	text := fmt.Appendf(hexLine("private_key", key), "listen_port=%d\n", port)
	if err := t.configure(text); err != nil {
		return fmt.Errorf("configuring the WireGuard key: %w", err)
	}
	if err := t.dev.Up(); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("listening on UDP %q: another process or a kernel WireGuard interface has the port: %w", t.cfg.Listen, err)
		}
		return fmt.Errorf("listening on UDP %q: %w", t.cfg.Listen, err)
	}
	state, err := t.inspect()
	if err != nil {
		return err
	}
	t.port = state.listenPort
	return nil
}

// PublicKey returns the gateway's public key.
func (t *Tunnel) PublicKey() [32]byte { return t.identity.public }

// ListenPort returns the UDP port bound.
func (t *Tunnel) ListenPort() uint16 { return t.port }

// Close tears everything down and waits for the serve calls' connections to be
// closed. It aborts them itself, so that a serve call sees its reads and writes
// fail; one that still holds its connection after 10 s is an error.
func (t *Tunnel) Close() error {
	t.closing.Do(func() { t.closeErr = t.close() })
	return t.closeErr
}

func (t *Tunnel) close() error {
	t.cancel()
	t.attempts.stop()
	t.abortConnections(func(netip.Addr) bool { return true })

	// The device first: it waits for its readers and writers, so nothing enters
	// netstack or reads from the link after it.
	t.dev.Close()
	t.tasks.Wait()

	released := make(chan struct{})
	go func() {
		t.flows.Wait()
		t.conns.Wait()
		close(released)
	}()
	var err error
	deadline := time.NewTimer(closeWait)
	defer deadline.Stop()
	for waiting := true; waiting; {
		// Again and again: an attempt may have become a connection in between.
		t.abortConnections(func(netip.Addr) bool { return true })
		select {
		case <-released:
			waiting = false
		case <-time.After(20 * time.Millisecond):
		case <-deadline.C:
			err = fmt.Errorf("closing tunnel: connections still held after %v", closeWait)
			waiting = false
		}
	}
	t.stack.Destroy()
	t.link.drain()
	return err
}
