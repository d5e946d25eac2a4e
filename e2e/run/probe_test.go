package run

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probePath is where this test program is on the agent hosts, under another
// name: as such it does what no common tool does.
const probePath = "/usr/local/bin/probe"

// installProbe puts it there.
func installProbe(ctx context.Context) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	for _, h := range theLab.Agents {
		if err := h.Script(ctx, "install -m 755 "+exe+" "+probePath); err != nil {
			return err
		}
	}
	return nil
}

// probe is the program: exit status 0 if it did what it was asked to, and an
// errno's sentence otherwise.
func probe(args []string) int {
	do := map[string]func([]string) error{
		"listen":  probeListen,
		"connect": probeConnect,
		"socket":  probeSocket,
		"typing":  probeTyping,
		"uring":   probeUring,
		"ptrace":  probePtrace,
		"setns":   probeSetns,
		"forge":   probeForge,
		"serve":   probeServe,
		"echo":    probeEcho,
	}[args[0]]
	if do == nil {
		fmt.Fprintln(os.Stderr, "unknown probe", args[0])
		return 99
	}
	if err := do(args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// listen PATH…: UNIX sockets that greet, until killed.
func probeListen(paths []string) error {
	for _, p := range paths {
		if !strings.HasPrefix(p, "@") {
			_ = os.Remove(p)
		}
		ln, err := net.Listen("unix", p)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(p, "@") {
			if err := os.Chmod(p, 0o666); err != nil {
				return err
			}
		}
		go greet(ln)
	}
	fmt.Println("listening")
	select {}
}

func greet(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "hello from outside\n")
		c.Close()
	}
}

// serve NETWORK ADDR: the same for TCP.
func probeServe(args []string) error {
	ln, err := net.Listen(args[0], args[1])
	if err != nil {
		return err
	}
	fmt.Println("listening")
	greet(ln)
	return nil
}

// connect NETWORK ADDR: prints the greeting.
func probeConnect(args []string) error {
	c, err := net.DialTimeout(args[0], args[1], 3*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	b, err := io.ReadAll(c)
	fmt.Print(string(b))
	return err
}

// echo NETWORK ADDR TEXT: sends TEXT and prints what comes back.
func probeEcho(args []string) error {
	c, err := net.DialTimeout(args[0], args[1], 5*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, args[2]); err != nil {
		return err
	}
	b := make([]byte, len(args[2]))
	n, err := io.ReadFull(c, b)
	fmt.Println(string(b[:n]))
	return err
}

// socket FAMILY TYPE PROTOCOL, all numbers.
func probeSocket(args []string) error {
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(args[i])
	}
	fd, err := unix.Socket(n[0], n[1], n[2])
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// typing: puts a character into the terminal that is standard input.
func probeTyping([]string) error {
	c := byte('x')
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c))); errno != 0 {
		return errno
	}
	return nil
}

// uring: makes an io_uring, with which sockets can be made.
func probeUring([]string) error {
	var params [120]byte
	if _, _, errno := unix.Syscall(425, 8, uintptr(unsafe.Pointer(&params)), 0); errno != 0 {
		return errno
	}
	return nil
}

// ptrace PID.
func probePtrace(args []string) error {
	pid, _ := strconv.Atoi(args[0])
	return syscall.PtraceAttach(pid)
}

// setns PATH.
func probeSetns(args []string) error {
	fd, err := unix.Open(args[0], unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	return unix.Setns(fd, 0)
}

// forge SOURCE DESTINATION TEXT: a datagram from an IPv6 address that is not
// this namespace's. IPV6_FREEBIND takes no privilege.
func probeForge(args []string) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, 78 /* IPV6_FREEBIND */, 1); err != nil {
		return err
	}
	from, to := unix.SockaddrInet6{}, unix.SockaddrInet6{Port: 7007}
	copy(from.Addr[:], net.ParseIP(args[0]).To16())
	copy(to.Addr[:], net.ParseIP(args[1]).To16())
	if err := unix.Bind(fd, &from); err != nil {
		return err
	}
	return unix.Sendto(fd, []byte(args[2]), 0, &to)
}
