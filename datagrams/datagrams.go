// Package datagrams moves WireGuard's messages through UDP sockets, many in one
// system call: in batches, and in trains where the kernel takes several datagrams
// of one size as one (UDP_SEGMENT and UDP_GRO, see udp(7)). WireGuard's own bind
// does the same, but only for sockets that listen on every address.
package datagrams

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
	// bind asks for.
	socketBuffer = 7 << 20 // bytes

	// A train is several datagrams of one size, the last of which may be shorter.
	trainMax      = 64                 // UDP_MAX_SEGMENTS of Linux
	trainMaxBytes = 1<<16 - 1 - 20 - 8 // of an IPv4 datagram's payload
)

// controlSpace holds one control message with the size of a train's datagrams.
var controlSpace = unix.CmsgSpace(4)

// Socket is a UDP socket of one family. Receive may be called by one goroutine at
// a time, Send by any.
type Socket struct {
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

// New takes over a socket, which it closes where it fails. is4 says its family.
func New(udp *net.UDPConn, is4 bool) (*Socket, error) {
	s := &Socket{udp: udp}
	if is4 {
		s.batch = ipv4.NewPacketConn(udp)
	} else {
		s.batch = ipv6.NewPacketConn(udp)
	}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing the socket: %w", err), udp.Close())
	}
	return s, nil
}

// prepare asks for buffers and finds out what the kernel can: Linux has
// UDP_SEGMENT since 4.18 and UDP_GRO since 5.0. What it does not grant makes the
// tunnel slower, not wrong.
func (s *Socket) prepare() error {
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

// Port is the local port.
func (s *Socket) Port() uint16 { return uint16(s.udp.LocalAddr().(*net.UDPAddr).Port) }

// Close closes the socket; Receive returns.
func (s *Socket) Close() error { return s.udp.Close() }

// messages are *[]ipv6.Message without buffers.
var messages = sync.Pool{New: func() any {
	batch := make([]ipv6.Message, conn.IdealBatchSize)
	for i := range batch {
		batch[i].Buffers = make(net.Buffers, 0, trainMax)
		batch[i].OOB = make([]byte, 0, controlSpace)
	}
	return &batch
}}

func put(batch *[]ipv6.Message) {
	for i := range *batch {
		m := &(*batch)[i]
		clear(m.Buffers)
		*m = ipv6.Message{Buffers: m.Buffers[:0], OOB: m.OOB[:0]}
	}
	messages.Put(batch)
}

// Receive fills packets, as a conn.ReceiveFunc does; the endpoints are
// *conn.StdNetEndpoint with plain addresses. Trains are read into the last
// buffers, as many as can be taken apart into the others.
func (s *Socket) Receive(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
	pool := messages.Get().(*[]ipv6.Message)
	defer put(pool)
	first := 0
	if s.trainsIn {
		first = max(0, len(packets)-max(1, len(packets)/trainMax))
	}
	batch := (*pool)[:len(packets)-first]
	for i := range batch {
		batch[i].Buffers = append(batch[i].Buffers, packets[first+i])
		batch[i].OOB = batch[i].OOB[:cap(batch[i].OOB)]
	}
	read, err := s.batch.ReadBatch(batch, 0)
	if err != nil {
		return 0, err
	}
	n := 0
	for i, m := range batch[:read] {
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

// Send sends packets to one address of the socket's family.
func (s *Socket) Send(packets [][]byte, to netip.AddrPort) error {
	addr := net.UDPAddrFromAddrPort(to)
	if !s.trainsOut.Load() {
		return s.write(packets, addr, 1)
	}
	err := s.write(packets, addr, trainMax)
	if errors.Is(err, unix.EIO) {
		s.trainsOut.Store(false) // the network card computes no checksums
	}
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) {
		// EINVAL is about this destination: the path has a smaller MTU. Some of the
		// packets may be gone already; a receiver drops what it sees twice.
		return s.write(packets, addr, 1)
	}
	return err
}

// write sends packets in trains of up to perTrain.
func (s *Socket) write(packets [][]byte, addr *net.UDPAddr, perTrain int) error {
	pool := messages.Get().(*[]ipv6.Message)
	defer put(pool)
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
		return s.write(packets, addr, perTrain)
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
