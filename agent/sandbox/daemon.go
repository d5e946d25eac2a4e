package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

const (
	// DefaultIdle is how long the daemon stays after the last run has ended.
	DefaultIdle = 2 * time.Minute

	socketName = "run.sock" // below the enrolment's private directory

	maxConns       = 4 * maxRuns      // runs that are beginning, or wait for an address
	messageTimeout = 10 * time.Second // for one message to be written or come
	readyTimeout   = 10 * time.Second // for the gateway to answer
)

// DaemonConfig describes a daemon. Agent is required.
type DaemonConfig struct {
	Agent *agent.Agent
	Idle  time.Duration // 0: DefaultIdle
	Ready func()        // called once runs can connect; nil: nothing
}

// daemon holds one enrolment's tunnel for its runs.
type daemon struct {
	up   *agent.Uplink
	pool *addressPool
	mux  *mux
	ln   *net.UnixListener

	conns sync.WaitGroup
	slots chan struct{}

	mu   sync.Mutex
	busy int         // guarded by mu: connections
	idle *time.Timer // guarded by mu
	wait time.Duration
}

// Serve holds the tunnel until ctx ends, or no run has been there for a while.
// Errors: agent.ErrHeld where another daemon holds it, agent.ErrNotEnrolled.
func Serve(ctx context.Context, cfg DaemonConfig) error {
	up, err := cfg.Agent.LoadUplink()
	if err != nil {
		return err
	}
	defer up.Close() // the lock goes last
	d := &daemon{up: up, wait: cfg.Idle, slots: make(chan struct{}, maxConns)}
	if d.wait == 0 {
		d.wait = DefaultIdle
	}
	if d.pool, err = newAddressPool(up.Addresses); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.mux = newMux(up.MTU)
	if err := up.Open(ctx, d.mux); err != nil {
		return err
	}
	if d.ln, err = listen(cfg.Agent.PrivateDir()); err != nil {
		cancel()
		up.Serve(ctx) // closes the tunnel
		return err
	}
	var background sync.WaitGroup
	background.Go(func() {
		up.Serve(ctx)
		d.ln.Close()
	})
	d.mu.Lock()
	d.idle = time.AfterFunc(d.wait, d.endIdle)
	d.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { d.ln.Close() })
	defer stop()
	if cfg.Ready != nil {
		cfg.Ready()
	}
	d.accept(ctx)
	// Whoever is connected is cut off: without a tunnel there is nothing to give.
	cancel()
	background.Wait()
	d.conns.Wait()
	return nil
}

// endIdle ends the daemon unless a run has come at the last moment.
func (d *daemon) endIdle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy == 0 {
		d.ln.Close()
	}
}

func (d *daemon) enter() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy++
	d.idle.Stop()
}

func (d *daemon) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy--; d.busy == 0 {
		d.idle.Reset(d.wait)
	}
}

func (d *daemon) accept(ctx context.Context) {
	for {
		c, err := d.ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: some will be closed
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case d.slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		d.enter()
		d.conns.Go(func() {
			defer func() { <-d.slots }()
			defer d.leave()
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			if err := d.serve(ctx, c); err != nil && ctx.Err() == nil {
				_ = c.SetWriteDeadline(time.Now().Add(messageTimeout))
				_ = send(c, failure(err), -1) // it may be gone
			}
		})
	}
}

// serve is one run, from its first message to its end.
func (d *daemon) serve(ctx context.Context, c *net.UnixConn) error {
	if !sameUser(c) {
		return errors.New("this socket is for another user")
	}
	_ = c.SetDeadline(time.Now().Add(messageTimeout))
	m, fd, err := receive(c)
	if err != nil || !m.Run || fd >= 0 {
		closeFD(fd)
		return errors.New("not a run's first message")
	}
	addrs, release, err := d.pool.take()
	if err != nil {
		return err
	}
	defer release()
	ready, cancel := context.WithTimeout(ctx, readyTimeout)
	err = d.up.Ready(ready)
	cancel()
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(2 * messageTimeout)) // the namespaces are being made
	if err := send(c, message{Lease: &lease{addrs, d.up.DNS, d.up.MTU}}, -1); err != nil {
		return err
	}
	m, fd, err = receive(c)
	if err != nil || m.Link == "" || fd < 0 {
		closeFD(fd)
		return errors.New("not a run's interface")
	}
	l, err := openLink(m.Link, fd)
	if err != nil {
		return err
	}
	detach := d.mux.attach(l, addrs)
	defer detach()
	_ = c.SetDeadline(time.Time{})
	if err := send(c, message{Linked: true}, -1); err != nil {
		return err
	}
	// The connection says nothing more: its end is the run's.
	_, fd, err = receive(c)
	closeFD(fd)
	if err == nil {
		return errors.New("a run has nothing more to say")
	}
	return nil
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}

// sameUser asks the kernel who connected (SO_PEERCRED, unix(7)).
func sameUser(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	same := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		same = err == nil && int(cred.Uid) == os.Geteuid()
	})
	return err == nil && same
}

// socketAddress reaches the socket through its directory: a state directory may
// have a longer name than the 107 bytes of a socket address (unix(7)).
func socketAddress(private string) (addr *net.UnixAddr, closeDir func(), err error) {
	d, err := os.Open(private)
	if err != nil {
		return nil, nil, err
	}
	path := filepath.Join("/proc/self/fd", fmt.Sprint(d.Fd()), socketName)
	return &net.UnixAddr{Name: path, Net: "unixpacket"}, func() { d.Close() }, nil
}

// listen opens the socket. The caller holds the enrolment's lock, so one that is
// there is a dead process's.
func listen(private string) (*net.UnixListener, error) {
	path := filepath.Join(private, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening the daemon's socket: %w", err)
	}
	addr, closeDir, err := socketAddress(private)
	if err != nil {
		return nil, fmt.Errorf("opening the daemon's socket: %w", err)
	}
	defer closeDir()
	// The directory is 0700 anyway; this process makes no other file meanwhile.
	defer syscall.Umask(syscall.Umask(0o177))
	ln, err := net.ListenUnix("unixpacket", addr)
	if err != nil {
		return nil, fmt.Errorf("opening the daemon's socket: %w", err)
	}
	ln.SetUnlinkOnClose(false) // its name is in /proc: the next daemon removes it
	return ln, nil
}
