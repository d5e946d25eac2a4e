package wireguard

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// newBind returns a bind for a UDP host:port and the port, 0 for any. An empty
// or unspecified host is both families, and WireGuard's own bind, which moves
// up to 64 packets a system call where the kernel can (UDP GSO and GRO) and is
// the faster one.
func newBind(listen string) (conn.Bind, uint16, error) {
	host, portText, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, 0, fmt.Errorf("reading listen address %q: %w", listen, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, 0, fmt.Errorf("reading listen address %q: port must be a number up to 65535", listen)
	}
	if host == "" {
		return conn.NewStdNetBind(), uint16(port), nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return nil, 0, fmt.Errorf("reading listen address %q: host must be an IP address or empty", listen)
	}
	if addr = addr.Unmap(); addr.IsUnspecified() {
		return conn.NewStdNetBind(), uint16(port), nil
	}
	return newAddressBind(addr), uint16(port), nil
}

// socketBuffer is what a socket asks of the kernel, the size WireGuard's own
// bind asks for. Without CAP_NET_ADMIN the kernel gives up to its rmem_max and
// wmem_max.
const socketBuffer = 7 << 20

// addressBind listens on one local address, which WireGuard's own bind cannot.
type addressBind struct {
	addr     netip.Addr
	messages sync.Pool // *[]ipv6.Message
	socket   atomic.Pointer[socket]
}

type socket struct {
	udp   *net.UDPConn
	batch batchConn
}

// batchConn is ipv4.PacketConn or ipv6.PacketConn, whose Message types are one.
type batchConn interface {
	ReadBatch(messages []ipv6.Message, flags int) (int, error)
	WriteBatch(messages []ipv6.Message, flags int) (int, error)
}

func newAddressBind(addr netip.Addr) *addressBind {
	b := &addressBind{addr: addr}
	b.messages.New = func() any {
		messages := make([]ipv6.Message, conn.IdealBatchSize)
		for i := range messages {
			messages[i].Buffers = make(net.Buffers, 1)
		}
		return &messages
	}
	return b
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
	// What the kernel does not grant makes the tunnel slower, not wrong.
	_ = udp.SetReadBuffer(socketBuffer)
	_ = udp.SetWriteBuffer(socketBuffer)
	s := &socket{udp: udp}
	if b.addr.Is4() {
		s.batch = ipv4.NewPacketConn(udp)
	} else {
		s.batch = ipv6.NewPacketConn(udp)
	}
	b.socket.Store(s)
	receive := func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		return b.receive(s, packets, sizes, eps)
	}
	return []conn.ReceiveFunc{receive}, uint16(udp.LocalAddr().(*net.UDPAddr).Port), nil
}

func (b *addressBind) receive(s *socket, packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	messages := b.messages.Get().(*[]ipv6.Message)
	defer b.messages.Put(messages)
	for i := range packets {
		(*messages)[i].Buffers[0] = packets[i]
	}
	n, err := s.batch.ReadBatch((*messages)[:len(packets)], 0)
	if err != nil {
		return 0, err
	}
	for i, m := range (*messages)[:n] {
		from := m.Addr.(*net.UDPAddr).AddrPort()
		sizes[i] = m.N
		eps[i] = &conn.StdNetEndpoint{AddrPort: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
	}
	return n, nil
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
	messages := b.messages.Get().(*[]ipv6.Message)
	defer b.messages.Put(messages)
	addr := net.UDPAddrFromAddrPort(end.AddrPort)
	for len(packets) > 0 {
		batch := packets[:min(len(packets), len(*messages))]
		packets = packets[len(batch):]
		for i := range batch {
			(*messages)[i].Buffers[0], (*messages)[i].Addr = batch[i], addr
		}
		for sent := 0; sent < len(batch); {
			n, err := s.batch.WriteBatch((*messages)[sent:len(batch)], 0)
			if err != nil {
				return err
			}
			sent += n
		}
	}
	return nil
}

// Close closes the socket, if there is one.
func (b *addressBind) Close() error {
	if s := b.socket.Swap(nil); s != nil {
		return s.udp.Close()
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
