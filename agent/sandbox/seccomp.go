package sandbox

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls of the architectures that one kernel runs beside each other, by
// AUDIT_ARCH. Their numbers are those of the kernel's syscall tables.
type abi struct {
	arch       uint32
	socket     uint32
	ioctl      uint32
	socketcall uint32 // 0: it has none
	ioUring    uint32 // io_uring_setup, the same number in all of them
}

var abis = map[string][]abi{
	"amd64": {
		{arch: unix.AUDIT_ARCH_X86_64, socket: 41, ioctl: 16, ioUring: 425},
		{arch: unix.AUDIT_ARCH_I386, socket: 359, ioctl: 54, socketcall: 102, ioUring: 425},
	},
	"arm64": {
		{arch: unix.AUDIT_ARCH_AARCH64, socket: 198, ioctl: 29, ioUring: 425},
		{arch: unix.AUDIT_ARCH_ARM, socket: 281, ioctl: 54, socketcall: 102, ioUring: 425},
	},
}

// x32 marks system calls of the x32 ABI, which has AUDIT_ARCH_X86_64 too.
const x32 = 0x40000000

// socketFamilies are those that a network namespace separates. Of the others,
// AF_VSOCK reaches the machine's hypervisor past every namespace.
var socketFamilies = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// terminalTricks put characters into a terminal as if they had been typed, for
// the shell outside to run.
var terminalTricks = []uint32{unix.TIOCSTI, 0x541C /* TIOCLINUX */}

// Offsets in struct seccomp_data (seccomp(2)); both architectures are
// little-endian.
const (
	dataNr   = 0
	dataArch = 4
	dataArg0 = 16
	dataArg1 = 24
)

// filter is the program of seccomp(2) that refuses what a network or mount
// namespace does not contain. It is nil for an architecture that it does not
// know.
func filter(goarch string) []unix.SockFilter {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		least = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		end   = unix.BPF_RET | unix.BPF_K
	)
	refuse := func(errno unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}
	}
	allow := unix.SockFilter{Code: end, K: unix.SECCOMP_RET_ALLOW}
	// only runs body, which must end in a return, where what was loaded equals k.
	only := func(k uint32, body ...unix.SockFilter) []unix.SockFilter {
		return append([]unix.SockFilter{{Code: equal, K: k, Jf: uint8(len(body))}}, body...)
	}
	var p []unix.SockFilter
	for _, a := range abis[goarch] {
		var body []unix.SockFilter
		body = append(body, unix.SockFilter{Code: load, K: dataNr})
		if a.arch == unix.AUDIT_ARCH_X86_64 {
			body = append(body, unix.SockFilter{Code: least, K: x32, Jf: 1}, refuse(unix.ENOSYS))
		}
		body = append(body, only(a.ioUring, refuse(unix.ENOSYS))...) // it makes sockets too
		if a.socketcall != 0 {
			body = append(body, only(a.socketcall, refuse(unix.ENOSYS))...) // its arguments are in memory
		}
		families := []unix.SockFilter{{Code: load, K: dataArg0}}
		for _, f := range socketFamilies {
			families = append(families, only(f, allow)...)
		}
		body = append(body, only(a.socket, append(families, refuse(unix.EAFNOSUPPORT))...)...)
		tricks := []unix.SockFilter{{Code: load, K: dataArg1}}
		for _, t := range terminalTricks {
			tricks = append(tricks, only(t, refuse(unix.EPERM))...)
		}
		body = append(body, only(a.ioctl, append(tricks, allow)...)...)
		body = append(body, allow)
		p = append(p, unix.SockFilter{Code: load, K: dataArch})
		p = append(p, only(a.arch, body...)...)
	}
	if p == nil {
		return nil
	}
	return append(p, refuse(unix.ENOSYS)) // an architecture that this one does not run
}

// installFilter puts the filter on this thread, and on what it executes.
// no_new_privs must be set.
func installFilter() error {
	p := filter(runtime.GOARCH)
	if p == nil {
		return fmt.Errorf("no list of system calls for %s", runtime.GOARCH)
	}
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("filtering system calls: %w", errno)
	}
	return nil
}
