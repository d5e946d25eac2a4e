package sandbox

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	tunDevice   = "/dev/net/tun"
	insideName  = "clawpatrol0"
	outsideName = "clawpatrol1" // the far end of the veth pair, in the same namespace
)

// makeInterface makes the one interface of this network namespace and returns
// the descriptor that its packets go through: a TUN or, where there is none to be
// had, a packet socket on the other end of a veth pair. The namespace must be
// new: there is nothing else in it.
func makeInterface(l *lease) (fd int, kind linkKind, err error) {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return -1, "", fmt.Errorf("setting the loopback interface up: %w", err)
	}
	kind = linkTUN
	if fd, err = makeTUN(l.MTU); err != nil {
		tunErr := err
		kind = linkPacket
		if fd, err = makeVeth(l.MTU); err != nil {
			return -1, "", fmt.Errorf("making the interface: %w", errors.Join(tunErr, err))
		}
	}
	if err := configure(l); err != nil {
		_ = unix.Close(fd)
		return -1, "", err
	}
	return fd, kind, nil
}

// makeTUN makes a TUN that vanishes with its descriptor.
func makeTUN(mtu int) (fd int, err error) {
	fd, err = unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening %s: %w", tunDevice, err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	ifr, err := unix.NewIfreq(insideName)
	if err != nil {
		return -1, err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return -1, fmt.Errorf("making a TUN: %w", err)
	}
	l, err := netlink.LinkByName(insideName)
	if err != nil {
		return -1, err
	}
	return fd, netlink.LinkSetMTU(l, mtu)
}

// makeVeth makes a pair of interfaces. The inner one asks for no neighbours
// (IFF_NOARP): its frames go to its own address, and so reach the packet socket
// on the outer one, and nothing else there.
func makeVeth(mtu int) (fd int, err error) {
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: insideName, MTU: mtu, HardwareAddr: net.HardwareAddr(insideMAC[:6])},
		PeerName:  outsideName,
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return -1, fmt.Errorf("making a veth pair: %w", err)
	}
	inner, err := netlink.LinkByName(insideName)
	if err != nil {
		return -1, err
	}
	outer, err := netlink.LinkByName(outsideName)
	if err != nil {
		return -1, err
	}
	if err := errors.Join(
		netlink.LinkSetARPOff(inner),
		netlink.LinkSetMTU(outer, mtu),
		noLinkLocal(outsideName),
		plainPackets(insideName),
		netlink.LinkSetUp(outer),
	); err != nil {
		return -1, fmt.Errorf("setting up a veth pair: %w", err)
	}
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening a packet socket: %w", err)
	}
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: outer.Attrs().Index}),
	); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("opening a packet socket: %w", err)
	}
	return fd, nil
}

// configure gives the interface its addresses and makes it the way to
// everywhere.
func configure(l *lease) error {
	if err := noLinkLocal(insideName); err != nil {
		return err
	}
	link, err := netlink.LinkByName(insideName)
	if err != nil {
		return fmt.Errorf("finding %s: %w", insideName, err)
	}
	for _, a := range l.Addresses {
		flags := 0
		if a.Is6() {
			flags = unix.IFA_F_NODAD // RFC 4862: nobody else is on this link
		}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: flags}); err != nil {
			return fmt.Errorf("giving %s the address %s: %w", insideName, a, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up: %w", insideName, err)
	}
	for _, a := range l.Addresses {
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if a.Is6() {
			everywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(everywhere), Src: a.AsSlice()}
		if a.Is4() {
			r.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("making the route for %s: %w", everywhere, err)
		}
	}
	// ping(8) without a capability: sockets of ICMP echo alone (icmp(7)). The
	// command's group is the only one that there is.
	gid := os.Getegid()
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", fmt.Appendf(nil, "%d %d", gid, gid), 0); err != nil {
		return fmt.Errorf("allowing ping: %w", err)
	}
	return nil
}

// noLinkLocal keeps the kernel from sending router solicitations, which would
// not get far.
func noLinkLocal(name string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/addr_gen_mode", []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel without IPv6
	}
	return err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// plainPackets turns off what leaves packets unfinished for a network card: a
// packet socket would get them without checksums, and larger than the MTU.
func plainPackets(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, cmd := range []uint32{unix.ETHTOOL_STXCSUM, unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO} {
		value := struct{ cmd, data uint32 }{cmd: cmd}
		ifr := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte // the rest of struct ifreq
		}{data: unsafe.Pointer(&value)}
		copy(ifr.name[:], name)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
			return fmt.Errorf("turning offloads off: %w", errno)
		}
	}
	return nil
}
