package sandbox

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
)

// relayLink is a run's packets on its connection to the host's daemon: a link at
// both ends. The two ends do not trust each other, and share no descriptor: one of
// a TUN, or of a packet socket, would let a run block whoever reads or writes it
// (O_NONBLOCK is a property of what is shared).
type relayLink struct {
	c    *net.UnixConn
	raw  syscall.RawConn
	wait bool // for room: the run's end does, the daemon's loses packets

	read []byte // of Read, which one goroutine calls
	left []byte // of read: what did not fit

	mu  sync.Mutex // held to write
	out []byte     // guarded by mu
}

func newRelayLink(c *net.UnixConn, wait bool) (*relayLink, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &relayLink{c: c, raw: raw, wait: wait, read: make([]byte, maxPackets+1), out: make([]byte, 0, maxPackets)}, nil
}

// Read returns the packets of one message, or the rest of it. What is no packets,
// or has one that is larger than bufs, ends the connection.
func (p *relayLink) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	if len(p.left) == 0 {
		// Not ReadMsgUnix: what has no room for descriptors takes none. Closing what
		// comes may hold this up as it does receiveRequest.
		n, err := p.c.Read(p.read)
		if err != nil {
			return 0, err
		}
		if n > maxPackets {
			return 0, errPackets
		}
		p.left = p.read[:n]
	}
	n := 0
	for ; n < len(bufs) && len(p.left) > 0; n++ {
		packet, rest, err := cutPacket(p.left)
		if err != nil {
			return 0, err
		}
		if len(packet) > len(bufs[n])-offset {
			return 0, errPackets
		}
		sizes[n], p.left = copy(bufs[n][offset:], packet), rest
	}
	return n, nil
}

// Write sends packets.
func (p *relayLink) Write(bufs [][]byte, offset int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = p.out[:0]
	for _, b := range bufs {
		packet := b[offset:]
		if len(packet) == 0 {
			continue
		}
		var ok bool
		if p.out, ok = appendPacket(p.out, packet); ok {
			continue
		}
		if err := p.flush(); err != nil {
			return 0, err
		}
		p.out, _ = appendPacket(p.out, packet) // one always has room
	}
	return len(bufs), p.flush()
}

// flush sends what is in out. mu is held.
func (p *relayLink) flush() error {
	if len(p.out) == 0 {
		return nil
	}
	var failed error
	err := p.raw.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), p.out, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
		return !p.wait || failed != unix.EAGAIN
	})
	p.out = p.out[:0]
	if err == nil && failed != unix.EAGAIN {
		err = failed
	}
	return err
}

// Close ends the connection, without waiting for a Read that is held up. Whoever
// made the connection closes it.
func (p *relayLink) Close() error { return errors.Join(p.c.CloseRead(), p.c.CloseWrite()) }

// relayRoom is the room of a packet on its way to the interface, in bytes: the
// segments of a TCP connection are put together there. vnetRoom is what a TUN
// wants before it: struct virtio_net_hdr.
const (
	relayRoom = 16 << 10
	vnetRoom  = 10
)

// relay moves packets between a run's interface and its connection until either
// ends, and closes both. It reports whether it was the connection.
func relay(inside, outside link, mtu int) bool {
	var (
		up    sync.WaitGroup
		first atomic.Bool // the interface ended first
	)
	up.Go(func() {
		move(outside, inside, mtu+batchRoom, 0)
		first.Store(true)
		outside.Close()
	})
	move(inside, outside, vnetRoom+relayRoom, vnetRoom)
	lost := !first.Load()
	outside.Close()
	inside.Close()
	up.Wait()
	return lost
}

// move copies packets from one link to another until the first has no more, or has
// one that the segmentation of wireguard-go cannot take (I16). What the second does
// not take is lost; where it is gone, its own reader knows.
func move(to, from link, room, offset int) {
	defer func() { _ = recover() }()
	bufs, sizes := make([][]byte, conn.IdealBatchSize), make([]int, conn.IdealBatchSize)
	for i := range bufs {
		bufs[i] = make([]byte, room)
	}
	out := make([][]byte, 0, len(bufs))
	for {
		n, err := from.Read(bufs, sizes, offset)
		if err != nil && n == 0 {
			if err == tun.ErrTooManySegments {
				continue
			}
			return
		}
		out = out[:0]
		for i := range n {
			if sizes[i] > 0 {
				out = append(out, bufs[i][:offset+sizes[i]])
			}
		}
		_, _ = to.Write(out, offset)
	}
}
