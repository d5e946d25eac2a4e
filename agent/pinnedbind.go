package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/clawpatrol/clawpatrol/datagrams"
)

// pinnedBind has WireGuard's sockets, one per family, each bound to the one
// address of this host's that leads to the pin. A socket bound to all addresses,
// as WireGuard's own bind has it, would go on from whatever address the kernel
// takes next, and the packet that does so would block the registration.
//
// Which addresses those are may change while the device is open: the device then
// has to open the bind anew (Device.BindUpdate).
type pinnedBind struct {
	bypass bypass

	mu      sync.Mutex            // held to change what is below
	sources map[family]netip.Addr // to bind to; a family that is missing sends nothing
	sockets [2]atomic.Pointer[datagrams.Socket]
}

var _ conn.Bind = (*pinnedBind)(nil)

func newPinnedBind(how bypass) *pinnedBind {
	return &pinnedBind{bypass: how, sources: make(map[family]netip.Addr)}
}

// setSource says what a family's packets leave from; the zero Addr: they do not
// leave. It reports whether the device has to open the bind anew.
func (b *pinnedBind) setSource(f family, source netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sources[f] == source && (b.sockets[f.index()].Load() != nil) == source.IsValid() {
		return false
	}
	b.sources[f] = source
	return true
}

func (f family) index() int {
	if f == ipv4 {
		return 0
	}
	return 1
}

// Open binds the sockets. An address that is gone, or not there yet, leaves its
// family without: whoever set it looks again.
func (b *pinnedBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var receive []conn.ReceiveFunc
	for _, f := range families {
		if b.sockets[f.index()].Load() != nil {
			return nil, 0, conn.ErrBindAlreadyOpen
		}
		if !b.sources[f].IsValid() {
			continue
		}
		s, err := b.openSocket(f, netip.AddrPortFrom(b.sources[f], port))
		if errors.Is(err, unix.EADDRINUSE) {
			s, err = b.openSocket(f, netip.AddrPortFrom(b.sources[f], 0))
		}
		if err != nil {
			continue
		}
		if port == 0 {
			port = s.Port()
		}
		b.sockets[f.index()].Store(s)
		receive = append(receive, s.Receive)
	}
	return receive, port, nil
}

func (b *pinnedBind) openSocket(f family, at netip.AddrPort) (*datagrams.Socket, error) {
	lc := net.ListenConfig{Control: b.bypass.control}
	pc, err := lc.ListenPacket(context.Background(), "udp"+string(f), at.String())
	if err != nil {
		return nil, err
	}
	return datagrams.New(pc.(*net.UDPConn), f == ipv4)
}

// Send sends packets to one endpoint. Where the family has no socket they are
// lost on the way, which for the device is no error.
func (b *pinnedBind) Send(packets [][]byte, to conn.Endpoint) error {
	end, ok := to.(*conn.StdNetEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	s := b.sockets[familyOf(end.Addr()).index()].Load()
	if s == nil {
		return nil
	}
	return s.Send(packets, end.AddrPort)
}

// Close closes the sockets that there are.
func (b *pinnedBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for i := range b.sockets {
		if s := b.sockets[i].Swap(nil); s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// ParseEndpoint reads an ip:port.
func (b *pinnedBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	return (*conn.StdNetBind)(nil).ParseEndpoint(s)
}

// SetMark does nothing: sockets have their mark from the first, see bypass.
func (b *pinnedBind) SetMark(uint32) error { return nil }

// BatchSize is the number of packets of one receive.
func (b *pinnedBind) BatchSize() int { return conn.IdealBatchSize }
