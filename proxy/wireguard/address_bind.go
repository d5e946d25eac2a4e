package wireguard

import (
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"

	"github.com/clawpatrol/clawpatrol/datagrams"
)

// addressBind listens on one local address, which WireGuard's own bind cannot.
type addressBind struct {
	addr   netip.Addr
	socket atomic.Pointer[datagrams.Socket]
}

var _ conn.Bind = (*addressBind)(nil)

func newAddressBind(addr netip.Addr) *addressBind {
	return &addressBind{addr: addr}
}

// Open binds the socket.
func (b *addressBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	if b.socket.Load() != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	network := "udp6"
	if b.addr.Is4() {
		network = "udp4"
	}
	udp, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.addr, port)))
	if err != nil {
		return nil, 0, err
	}
	s, err := datagrams.New(udp, b.addr.Is4())
	if err != nil {
		return nil, 0, err
	}
	b.socket.Store(s)
	return []conn.ReceiveFunc{s.Receive}, s.Port(), nil
}

// Send sends packets to one endpoint.
func (b *addressBind) Send(packets [][]byte, to conn.Endpoint) error {
	s := b.socket.Load()
	if s == nil {
		return net.ErrClosed
	}
	end, ok := to.(*conn.StdNetEndpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	if end.Addr().Is4() != b.addr.Is4() {
		return unix.EAFNOSUPPORT
	}
	return s.Send(packets, end.AddrPort)
}

// Close closes the socket, if there is one.
func (b *addressBind) Close() error {
	if s := b.socket.Swap(nil); s != nil {
		return s.Close()
	}
	return nil
}

// ParseEndpoint reads an ip:port.
func (b *addressBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	return (*conn.StdNetBind)(nil).ParseEndpoint(s)
}

// SetMark does nothing: the tunnel sets none.
func (b *addressBind) SetMark(uint32) error { return nil }

// BatchSize is the number of packets of one receive.
func (b *addressBind) BatchSize() int { return conn.IdealBatchSize }
