package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// insideMAC is the address of the inner end of a veth pair. It is in namespaces
// of its own, so all runs have the same one; it is locally administered (IEEE
// 802, section 8.4.4).
var insideMAC = [8]byte{0x02, 0xc1, 0xa1, 0, 0, 1}

// openLink makes a link of a descriptor from a run, which it takes over. What
// that descriptor is, is the run's word only: it is checked.
func openLink(kind linkKind, fd int) (link, error) {
	switch kind {
	case linkTUN:
		if err := checkCharDevice(fd, 10, 200); err != nil { // devices.txt: /dev/net/tun
			_ = unix.Close(fd)
			return nil, err
		}
		// A TUN without IFF_VNET_HDR would be one packet at a time, one that is a TAP
		// something else.
		ifr, err := unix.NewIfreq("")
		if err != nil {
			_ = unix.Close(fd)
			return nil, err
		}
		if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr); err != nil || ifr.Uint16()&(unix.IFF_TUN|unix.IFF_VNET_HDR|unix.IFF_NO_PI) != unix.IFF_TUN|unix.IFF_VNET_HDR|unix.IFF_NO_PI {
			_ = unix.Close(fd)
			return nil, errors.New("a TUN of another kind than a run makes")
		}
		dev, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
		if err != nil {
			return nil, fmt.Errorf("using the TUN: %w", err)
		}
		return dev, nil
	case linkPacket:
		return newPacketLink(fd)
	}
	_ = unix.Close(fd)
	return nil, fmt.Errorf("an interface of the unknown kind %q", kind)
}

func checkCharDevice(fd int, major, minor uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || unix.Major(st.Rdev) != major || unix.Minor(st.Rdev) != minor {
		return errors.New("a descriptor that is no TUN")
	}
	return nil
}

// packetLink is an AF_PACKET socket of type SOCK_DGRAM (packet(7)): it reads and
// writes IP packets on the outer end of a veth pair, whose ends are both in the
// run's namespace.
type packetLink struct {
	f   *os.File
	raw interface {
		Read(func(fd uintptr) bool) error
		Write(func(fd uintptr) bool) error
	}
	ifindex int
}

func newPacketLink(fd int) (*packetLink, error) {
	name, err := unix.Getsockname(fd)
	ll, ok := name.(*unix.SockaddrLinklayer)
	if err != nil || !ok || ll.Ifindex == 0 {
		_ = unix.Close(fd)
		return nil, errors.New("a descriptor that is no bound packet socket")
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	p := &packetLink{f: os.NewFile(uintptr(fd), "packet"), ifindex: ll.Ifindex}
	if p.raw, err = p.f.SyscallConn(); err != nil {
		p.f.Close()
		return nil, err
	}
	return p, nil
}

// Read returns one packet.
func (p *packetLink) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	var n int
	var failed error
	err := p.raw.Read(func(fd uintptr) bool {
		n, _, failed = unix.Recvfrom(int(fd), bufs[0][offset:], unix.MSG_TRUNC)
		return failed != unix.EAGAIN
	})
	switch {
	case err != nil:
		return 0, err
	case failed == unix.ENETDOWN:
		return 0, io.EOF
	case failed != nil:
		return 0, failed
	case n > len(bufs[0])-offset:
		n = 0 // larger than the MTU: of no use
	}
	sizes[0] = n
	return 1, nil
}

// Write sends each packet to the inner end.
func (p *packetLink) Write(bufs [][]byte, offset int) (int, error) {
	sent := 0
	for _, b := range bufs {
		packet := b[offset:]
		if len(packet) == 0 {
			continue
		}
		proto := uint16(unix.ETH_P_IP)
		if packet[0]>>4 == 6 {
			proto = unix.ETH_P_IPV6
		}
		to := &unix.SockaddrLinklayer{Protocol: bigEndian(proto), Ifindex: p.ifindex, Halen: 6, Addr: insideMAC}
		var failed error
		if err := p.raw.Write(func(fd uintptr) bool {
			failed = unix.Sendto(int(fd), packet, unix.MSG_DONTWAIT, to)
			return true // a full queue drops the packet
		}); err != nil {
			return sent, err
		}
		if failed == nil {
			sent++
		}
	}
	return sent, nil
}

// Close closes the socket.
func (p *packetLink) Close() error { return p.f.Close() }

// bigEndian is htons: packet sockets take protocols in network order.
func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }
