package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"

	inet4 "golang.org/x/net/ipv4"
	inet6 "golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	// socketBuffer is what a socket asks of the kernel, the size WireGuard's own
	// bind asks for.
	socketBuffer = 7 << 20 // bytes

	// A train is several datagrams of one size, the last of which may be shorter,
	// that pass the kernel as one: UDP_SEGMENT out and UDP_GRO in, see udp(7).
	trainMax      = 64                 // UDP_MAX_SEGMENTS of Linux
	trainMaxBytes = 1<<16 - 1 - 20 - 8 // of an IPv4 datagram's payload
)

// controlSpace holds one control message with the size of a train's datagrams.
var controlSpace = unix.CmsgSpace(4)

// pinnedBind has WireGuard's sockets, one per family, each bound to the one
// address of this host's that leads to the pin. A socket bound to all addresses,
// as WireGuard's own bind has it, would go on from whatever address the kernel
// takes next, and the packet that does so would block the registration.
//
// Which addresses those are may change while the device is open: the device then
// has to open the bind anew (Device.BindUpdate).
type pinnedBind struct {
	bypass   bypass
	messages sync.Pool // *[]inet6.Message

	mu      sync.Mutex            // held to change what is below
	sources map[family]netip.Addr // to bind to; a family that is missing sends nothing
	sockets [2]atomic.Pointer[socket]
}

type socket struct {
	udp       *net.UDPConn
	batch     batchConn
	trainsIn  bool
	trainsOut atomic.Bool // until a network card refuses
}

// batchConn is x/net's PacketConn of either family, whose Message types are one.
type batchConn interface {
	ReadBatch(messages []inet6.Message, flags int) (int, error)
	WriteBatch(messages []inet6.Message, flags int) (int, error)
}

var _ conn.Bind = (*pinnedBind)(nil)

func newPinnedBind(how bypass) *pinnedBind {
	b := &pinnedBind{bypass: how, sources: make(map[family]netip.Addr)}
	b.messages.New = func() any {
		messages := make([]inet6.Message, conn.IdealBatchSize)
		for i := range messages {
			messages[i].Buffers = make(net.Buffers, 0, trainMax)
			messages[i].OOB = make([]byte, 0, controlSpace)
		}
		return &messages
	}
	return b
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
			port = uint16(s.udp.LocalAddr().(*net.UDPAddr).Port)
		}
		b.sockets[f.index()].Store(s)
		receive = append(receive, func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			return b.receive(s, packets, sizes, eps)
		})
	}
	return receive, port, nil
}

func (b *pinnedBind) openSocket(f family, at netip.AddrPort) (*socket, error) {
	lc := net.ListenConfig{Control: b.bypass.control}
	pc, err := lc.ListenPacket(context.Background(), "udp"+string(f), at.String())
	if err != nil {
		return nil, err
	}
	udp := pc.(*net.UDPConn)
	s := &socket{udp: udp}
	if f == ipv4 {
		s.batch = inet4.NewPacketConn(udp)
	} else {
		s.batch = inet6.NewPacketConn(udp)
	}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing the socket: %w", err), udp.Close())
	}
	return s, nil
}

// prepare asks for buffers and finds out what the kernel can: Linux has
// UDP_SEGMENT since 4.18 and UDP_GRO since 5.0. What it does not grant makes the
// tunnel slower, not wrong.
func (s *socket) prepare() error {
	_ = s.udp.SetReadBuffer(socketBuffer)
	_ = s.udp.SetWriteBuffer(socketBuffer)
	raw, err := s.udp.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		// Beyond rmem_max and wmem_max, as root.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, socketBuffer)
		_, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT)
		s.trainsOut.Store(err == nil)
		s.trainsIn = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) == nil
	})
}

// get returns messages without buffers.
func (b *pinnedBind) get() *[]inet6.Message { return b.messages.Get().(*[]inet6.Message) }

func (b *pinnedBind) put(messages *[]inet6.Message) {
	for i := range *messages {
		m := &(*messages)[i]
		clear(m.Buffers)
		*m = inet6.Message{Buffers: m.Buffers[:0], OOB: m.OOB[:0]}
	}
	b.messages.Put(messages)
}

// receive fills packets. Trains are read into the last buffers, as many as can
// be taken apart into the others.
func (b *pinnedBind) receive(s *socket, packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
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
func (b *pinnedBind) write(s *socket, packets [][]byte, addr *net.UDPAddr, perTrain int) error {
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

// Close closes the sockets that there are.
func (b *pinnedBind) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for i := range b.sockets {
		if s := b.sockets[i].Swap(nil); s != nil {
			errs = append(errs, s.udp.Close())
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
