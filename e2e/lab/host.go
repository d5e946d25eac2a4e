package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// Host is one machine of the lab: a network namespace, and a mount namespace in
// which /etc, /var, /usr/local, /root and /run are its own.
type Host struct {
	Name   string
	holder *exec.Cmd
	log    *lockedWriter
}

// The holder keeps the namespaces alive. Its overlays lie in a tmpfs that is
// mounted in its own mount namespace only.
const holderScript = `
set -e
mount -t tmpfs tmpfs "$1"
for d in etc var usr/local root; do
	mkdir -p "$1/$d.upper" "$1/$d.work"
	mount -t overlay overlay -o "lowerdir=/$d,upperdir=$1/$d.upper,workdir=$1/$d.work" "/$d"
done
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
echo ready
exec sleep infinity`

func (l *Lab) newHost(ctx context.Context, name string) (*Host, error) {
	dir, err := os.MkdirTemp("", "clawpatrol-lab-")
	if err != nil {
		return nil, fmt.Errorf("making host %s: %w", name, err)
	}
	cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "--uts", "sh", "-c", holderScript, "holder", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("making host %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("making host %s: %w", name, err)
	}
	h := &Host{Name: name, holder: cmd, log: l.log}
	l.onClose(func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // reports the kill
		return os.Remove(dir)
	})
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, ready); err != nil {
		return nil, fmt.Errorf("making host %s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
	}
	return h, h.Script(ctx, "hostname "+name)
}

func (h *Host) pid() string { return strconv.Itoa(h.holder.Process.Pid) }

// Path returns where a file of the host is seen from outside.
func (h *Host) Path(p string) string { return "/proc/" + h.pid() + "/root" + p }

// Command returns a command that runs on the host.
func (h *Host) Command(ctx context.Context, args ...string) *exec.Cmd {
	ns := "/proc/" + h.pid() + "/ns/"
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + ns + "net", "--mount=" + ns + "mnt", "--uts=" + ns + "uts", "--"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Run runs a command on the host and returns what it printed on stdout. The
// error quotes its stderr.
func (h *Host) Run(ctx context.Context, args ...string) (string, error) {
	cmd := h.Command(ctx, args...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out.String(), nil
}

// Script runs shell lines on the host; the first that fails ends it.
func (h *Host) Script(ctx context.Context, script string) error {
	_, err := h.Run(ctx, "sh", "-ec", script)
	return err
}

// WriteFile puts a file on the host.
func (h *Host) WriteFile(path, content string, mode os.FileMode) error {
	return os.WriteFile(h.Path(path), []byte(content), mode)
}

// Inside calls f on a thread that is in the host's network namespace: sockets
// made there stay there.
func (h *Host) Inside(f func() error) error {
	errc := make(chan error, 1)
	go func() {
		// The thread goes back to where it was before it is unlocked; if it cannot,
		// it stays locked and ends with this goroutine.
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			errc <- err
			return
		}
		defer home.Close()
		there, err := netns.GetFromPid(h.holder.Process.Pid)
		if err != nil {
			errc <- err
			return
		}
		defer there.Close()
		if err := netns.Set(there); err != nil {
			errc <- err
			return
		}
		err = f()
		if back := netns.Set(home); back != nil {
			errc <- errors.Join(err, back)
			return
		}
		runtime.UnlockOSThread()
		errc <- err
	}()
	return <-errc
}

// Listen opens a TCP listener on the host, for a server in this process.
func (h *Host) Listen(addr string) (ln net.Listener, err error) {
	err = h.Inside(func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	return ln, err
}

// ListenUDP opens a UDP socket on the host.
func (h *Host) ListenUDP(addr string) (pc net.PacketConn, err error) {
	err = h.Inside(func() (err error) {
		pc, err = net.ListenPacket("udp", addr)
		return err
	})
	return pc, err
}

// Dial connects from the host. addr is a literal: names would be resolved
// outside.
func (h *Host) Dial(ctx context.Context, network, addr string) (c net.Conn, err error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("%s: dialling %s: %w", h.Name, addr, err)
	}
	err = h.Inside(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

func run(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// lockedWriter lets several programs print to one writer.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (w *lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.w == nil {
		return len(p), nil
	}
	return w.w.Write(p)
}
