package wireguard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	// socketBuffer is what a socket asks of the kernel, the size WireGuard's own
	// bind asks for. Without CAP_NET_ADMIN the kernel gives up to its rmem_max
	// and wmem_max.
	socketBuffer = 7 << 20

	// A train is several datagrams of one size, the last of which may be shorter,
	// that pass the kernel as one: UDP_SEGMENT out and UDP_GRO in, see udp(7).
	trainMax      = 64                 // UDP_MAX_SEGMENTS of Linux
	trainMaxBytes = 1<<16 - 1 - 20 - 8 // of an IPv4 datagram's payload
)

// controlSpace holds one control message with the size of a train's datagrams.
var controlSpace = unix.CmsgSpace(4)

// addressBind listens on one local address, which WireGuard's own bind cannot.
type addressBind struct {
	addr     netip.Addr
	messages sync.Pool // *[]ipv6.Message
	socket   atomic.Pointer[socket]
}

type socket struct {
	udp       *net.UDPConn
	batch     batchConn
	trainsIn  bool
	trainsOut atomic.Bool // until a network card refuses
}

// batchConn is ipv4.PacketConn or ipv6.PacketConn, whose Message types are one.
type batchConn interface {
	ReadBatch(messages []ipv6.Message, flags int) (int, error)
	WriteBatch(messages []ipv6.Message, flags int) (int, error)
}

var _ conn.Bind = (*addressBind)(nil)

func newAddressBind(addr netip.Addr) *addressBind {
	b := &addressBind{addr: addr}
	b.messages.New = func() any {
		messages := make([]ipv6.Message, conn.IdealBatchSize)
		for i := range messages {
			messages[i].Buffers = make(net.Buffers, 0, trainMax)
			messages[i].OOB = make([]byte, 0, controlSpace)
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
	if err := s.askForTrains(); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("preparing the socket: %w", err), udp.Close())
	}
	b.socket.Store(s)
	receive := func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		return b.receive(s, packets, sizes, eps)
	}
	return []conn.ReceiveFunc{receive}, uint16(udp.LocalAddr().(*net.UDPAddr).Port), nil
}

// askForTrains finds out what the kernel can: Linux has UDP_SEGMENT since 4.18
// and UDP_GRO since 5.0.
func (s *socket) askForTrains() error {
	raw, err := s.udp.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.trainsOut.Store(err == nil)
		s.trainsIn = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	})
}

// get returns messages without buffers.
func (b *addressBind) get() *[]ipv6.Message { return b.messages.Get().(*[]ipv6.Message) }

func (b *addressBind) put(messages *[]ipv6.Message) {
	for i := range *messages {
		m := &(*messages)[i]
		clear(m.Buffers)
		*m = ipv6.Message{Buffers: m.Buffers[:0], OOB: m.OOB[:0]}
	}
	b.messages.Put(messages)
}

// receive fills packets. Trains are read into the last buffers, as many as can
// be taken apart into the others.
func (b *addressBind) receive(s *socket, packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	pool := b.get()
	defer b.put(pool)
	first := 0
	if s.trainsIn {
		first = max(0, len(packets)-max(1, len(packets)/trainMax))
	}
	messages := (*pool)[:len(packets)-first]
	for i := range messages {
		messages[i].Buffers = append(messages[i].Buffers, packets[first+i])
		messages[i].OOB = messages[i].OOB[:cap(messages[i].OOB)]
	}
	read, err := s.batch.ReadBatch(messages, 0)
	if err != nil {
		return 0, err
	}
	n := 0
	for i, m := range messages[:read] {
		from := m.Addr.(*net.UDPAddr).AddrPort()
		end := &conn.StdNetEndpoint{AddrPort: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
		train := packets[first+i][:m.N]
		size := datagramSize(m.OOB[:m.NN])
		if size == 0 {
			size = max(1, len(train))
		}
		// A datagram never lands on one that is still to be read: a train before
		// this one had its own room, and this one moves forward only.
		for len(train) > 0 && n <= first+i {
			sizes[n] = copy(packets[n], train[:min(size, len(train))])
			eps[n] = end
			train = train[sizes[n]:]
			n++
		}
	}
	return n, nil
}

// datagramSize reads the size of a train's datagrams, 0 if it is none.
func datagramSize(control []byte) int {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_UDP && m.Header.Type == unix.UDP_GRO && len(m.Data) >= 2 {
			return int(binary.NativeEndian.Uint16(m.Data))
		}
	}
	return 0
}

// setDatagramSize is the control message that makes a message a train.
func setDatagramSize(control []byte, size int) []byte {
	control = control[:unix.CmsgSpace(2)]
	clear(control)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(control[unix.CmsgLen(0):], uint16(size))
	return control
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
	addr := net.UDPAddrFromAddrPort(end.AddrPort)
	if !s.trainsOut.Load() {
		return b.write(s, packets, addr, 1)
	}
	err := b.write(s, packets, addr, trainMax)
	if errors.Is(err, unix.EIO) {
		s.trainsOut.Store(false) // the network card computes no checksums, see udp(7)
	}
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) {
		// EINVAL is about this destination: the path has a smaller MTU. Some of the
		// packets may be gone already; a receiver drops what it sees twice.
		return b.write(s, packets, addr, 1)
	}
	return err
}

// write sends packets in trains of up to perTrain.
func (b *addressBind) write(s *socket, packets [][]byte, addr *net.UDPAddr, perTrain int) error {
	pool := b.get()
	defer b.put(pool)
	count := 0
	for len(packets) > 0 && count < len(*pool) {
		m := &(*pool)[count]
		n := trainLength(packets, perTrain)
		m.Buffers, m.Addr = append(m.Buffers, packets[:n]...), addr
		if n > 1 {
			m.OOB = setDatagramSize(m.OOB, len(packets[0]))
		}
		packets = packets[n:]
		count++
	}
	for sent := 0; sent < count; {
		n, err := s.batch.WriteBatch((*pool)[sent:count], 0)
		if err != nil {
			return err
		}
		sent += n
	}
	if len(packets) > 0 {
		return b.write(s, packets, addr, perTrain)
	}
	return nil
}

// trainLength returns how many of packets can go as one train, at least 1.
func trainLength(packets [][]byte, most int) int {
	size, total, n := len(packets[0]), len(packets[0]), 1
	for n < min(most, len(packets)) {
		next := len(packets[n])
		if next > size || total+next > trainMaxBytes {
			break
		}
		total += next
		n++
		if next < size {
			break // a shorter one ends the train
		}
	}
	return n
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
