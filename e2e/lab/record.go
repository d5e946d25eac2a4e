package lab

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Recording is what somebody on the path has recorded: the UDP datagrams to one
// port of the gateway's that came into a host by one interface.
type Recording struct {
	mu      sync.Mutex
	packets [][]byte // payloads; guarded by mu
	from    []netip.Addr
	fd      int
	stop    chan struct{} // closed by Stop
	stopped chan struct{} // closed when nothing reads any more
}

// Record starts one. iface is the interface's name, port the destination's.
func (h *Host) Record(iface string, port uint16) (*Recording, error) {
	r := &Recording{stop: make(chan struct{}), stopped: make(chan struct{})}
	err := h.Inside(func() error {
		// SOCK_DGRAM: without the link's header. The protocol is in network order.
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all))
		if err != nil {
			return err
		}
		var req *unix.Ifreq
		if req, err = unix.NewIfreq(iface); err == nil {
			err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req)
		}
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: int(req.Uint32())})
		}
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
		}
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		r.fd = fd
		return nil
	})
	if err != nil {
		return nil, err
	}
	go r.read(port)
	return r, nil
}

func (r *Recording) read(port uint16) {
	defer close(r.stopped)
	defer unix.Close(r.fd)
	buf := make([]byte, 1<<16)
	for {
		select {
		case <-r.stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(r.fd, buf, 0)
		if err != nil {
			continue // the timeout: is it over?
		}
		if l, ok := from.(*unix.SockaddrLinklayer); ok && l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		source, payload, ok := datagram(buf[:n], port)
		if !ok {
			continue
		}
		r.mu.Lock()
		r.packets = append(r.packets, slices.Clone(payload))
		r.from = append(r.from, source)
		r.mu.Unlock()
	}
}

// datagram takes an IP packet without options apart; ok is false where it is no
// UDP datagram to this port.
func datagram(p []byte, port uint16) (source netip.Addr, payload []byte, ok bool) {
	const udp = 17
	var at int
	switch {
	case len(p) >= 28 && p[0] == 0x45 && p[9] == udp:
		source, _ = netip.AddrFromSlice(p[12:16])
		at = 20
	case len(p) >= 48 && p[0]>>4 == 6 && p[6] == udp:
		source, _ = netip.AddrFromSlice(p[8:24])
		at = 40
	default:
		return source, nil, false
	}
	if binary.BigEndian.Uint16(p[at+2:]) != port {
		return source, nil, false
	}
	size := int(binary.BigEndian.Uint16(p[at+4:]))
	if size < 8 || at+size > len(p) {
		return source, nil, false
	}
	return source, p[at+8 : at+size], true
}

// Stop ends it, and may be called once. It returns the datagrams' payloads and
// where they came from.
func (r *Recording) Stop() ([][]byte, []netip.Addr) {
	close(r.stop)
	<-r.stopped
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.packets, r.from
}
