package dashboard

import (
	"encoding/binary"
	"net"
	"net/http"
	"net/netip"

	"golang.org/x/sys/unix"
)

// owner is who on the gateway's own host made a connection: the UNIX user's ID and
// 1. Zero: not known, or made on another host.
type owner uint64

// ownerOf asks the kernel who made r's connection, if it comes from this host: on
// loopback all share one address, and one user's guesses must not keep out
// another.
func (d *dashboard) ownerOf(r *http.Request) owner {
	remote, err := netip.ParseAddrPort(r.RemoteAddr)
	at, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if err != nil || at == nil {
		return 0
	}
	local, err := netip.ParseAddrPort(at.String())
	if err != nil {
		return 0
	}
	remote, local = unmapped(remote), unmapped(local)
	if remote.Addr().IsLoopback() || remote.Addr() == local.Addr() {
		return d.connectionOwner(remote, local)
	}
	return 0
}

func unmapped(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// Offsets and sizes of linux/inet_diag.h.
const (
	diagRequest  = unix.SizeofNlMsghdr + 56 // struct inet_diag_req_v2
	diagAnswer   = unix.SizeofNlMsghdr + 72 // struct inet_diag_msg
	diagState    = unix.SizeofNlMsghdr + 1
	diagID       = 4 // struct inet_diag_sockid in inet_diag_msg; in the request it is at 8
	diagUID      = unix.SizeofNlMsghdr + 64
	establishedT = 1 // TCP_ESTABLISHED
)

// connectionOwner asks by sock_diag(7), for one socket and not for a list of all,
// who has the TCP socket of this host that is bound to from and connected to to.
// One that its owner has closed belongs to nobody, whom the kernel calls root.
func connectionOwner(from, to netip.AddrPort) owner {
	family := uint8(unix.AF_INET)
	if from.Addr().Is6() {
		family = unix.AF_INET6
	}
	if from.Addr().Is6() != to.Addr().Is6() {
		return 0
	}
	q := make([]byte, diagRequest)
	native := binary.NativeEndian
	native.PutUint32(q[0:], uint32(len(q)))
	native.PutUint16(q[4:], unix.SOCK_DIAG_BY_FAMILY)
	native.PutUint16(q[6:], unix.NLM_F_REQUEST)
	b := q[unix.SizeofNlMsghdr:]
	b[0], b[1] = family, unix.IPPROTO_TCP
	native.PutUint32(b[4:], 1<<establishedT)
	id := b[8:]
	binary.BigEndian.PutUint16(id[0:], from.Port())
	binary.BigEndian.PutUint16(id[2:], to.Port())
	copy(id[4:20], from.Addr().AsSlice())
	copy(id[20:36], to.Addr().AsSlice())
	native.PutUint64(id[40:], ^uint64(0)) // any cookie

	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0
	}
	defer unix.Close(s)
	if unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}) != nil ||
		unix.Sendto(s, q, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return 0
	}
	a := make([]byte, 1024)
	n, sender, err := unix.Recvfrom(s, a, 0)
	kernel, ok := sender.(*unix.SockaddrNetlink)
	if err != nil || n < diagAnswer || !ok || kernel.Pid != 0 || native.Uint16(a[4:]) != unix.SOCK_DIAG_BY_FAMILY || a[diagState] != establishedT ||
		string(a[unix.SizeofNlMsghdr+diagID:][:36]) != string(id[:36]) {
		return 0
	}
	return owner(native.Uint32(a[diagUID:])) + 1
}
