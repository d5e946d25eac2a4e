package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"
)

// judge runs a filter on one system call, as the kernel does.
func judge(t *testing.T, p []unix.SockFilter, arch, nr uint32, arg0, arg1 uint32) uint32 {
	t.Helper()
	data := map[uint32]uint32{dataNr: nr, dataArch: arch, dataArg0: arg0, dataArg1: arg1}
	var a uint32
	for pc := 0; pc < len(p); pc++ {
		switch i := p[pc]; i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			v, ok := data[i.K]
			if !ok {
				t.Fatalf("it loads what is at %d", i.K)
			}
			a = v
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			if a == i.K {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			if a >= i.K {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatalf("instruction %d has code %#x", pc, i.Code)
		}
	}
	t.Fatal("it has no end")
	return 0
}

func TestFilter(t *testing.T) {
	refused := func(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }
	const ok = uint32(unix.SECCOMP_RET_ALLOW)
	for goarch, list := range abis {
		p := filter(goarch)
		if len(p) > 4096 { // BPF_MAXINSNS
			t.Fatalf("%s: %d instructions", goarch, len(p))
		}
		for _, a := range list {
			for _, c := range []struct {
				name           string
				nr, arg0, arg1 uint32
				want           uint32
			}{
				{name: "TCP", nr: a.socket, arg0: unix.AF_INET, want: ok},
				{name: "IPv6", nr: a.socket, arg0: unix.AF_INET6, want: ok},
				{name: "UNIX", nr: a.socket, arg0: unix.AF_UNIX, want: ok},
				{name: "netlink", nr: a.socket, arg0: unix.AF_NETLINK, want: ok},
				{name: "vsock", nr: a.socket, arg0: unix.AF_VSOCK, want: refused(unix.EAFNOSUPPORT)},
				{name: "alg", nr: a.socket, arg0: unix.AF_ALG, want: refused(unix.EAFNOSUPPORT)},
				{name: "packet", nr: a.socket, arg0: unix.AF_PACKET, want: refused(unix.EAFNOSUPPORT)},
				{name: "family 0", nr: a.socket, want: refused(unix.EAFNOSUPPORT)},
				{name: "TIOCSTI", nr: a.ioctl, arg1: unix.TIOCSTI, want: refused(unix.EPERM)},
				{name: "TIOCLINUX", nr: a.ioctl, arg1: 0x541C, want: refused(unix.EPERM)},
				{name: "TIOCGWINSZ", nr: a.ioctl, arg1: unix.TIOCGWINSZ, want: ok},
				{name: "io_uring_setup", nr: a.ioUring, want: refused(unix.ENOSYS)},
				{name: "another", nr: 1000, want: ok},
			} {
				if got := judge(t, p, a.arch, c.nr, c.arg0, c.arg1); got != c.want {
					t.Errorf("%s, %#x, %s: %#x, want %#x", goarch, a.arch, c.name, got, c.want)
				}
			}
			if a.socketcall != 0 {
				if got := judge(t, p, a.arch, a.socketcall, 1, 0); got != refused(unix.ENOSYS) {
					t.Errorf("%s, %#x, socketcall: %#x", goarch, a.arch, got)
				}
			}
		}
		if got := judge(t, p, unix.AUDIT_ARCH_S390X, 1, 0, 0); got != refused(unix.ENOSYS) {
			t.Errorf("%s: another architecture: %#x", goarch, got)
		}
	}
	if got := judge(t, filter("amd64"), unix.AUDIT_ARCH_X86_64, x32|41, unix.AF_VSOCK, 0); got != refused(unix.ENOSYS) {
		t.Errorf("x32: %#x", got)
	}
	if filter("riscv64") != nil {
		t.Error("a filter for an architecture that it does not know")
	}
}
