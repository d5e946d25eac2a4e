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
	"time"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

const (
	// DefaultIdle is how long the daemon stays after the last run has ended.
	DefaultIdle = 2 * time.Minute

	socketName = "run.sock" // below the enrolment's private directory
)

// DaemonConfig describes a daemon. Agent is required.
type DaemonConfig struct {
	Agent *agent.Agent
	Idle  time.Duration // 0: DefaultIdle
}

// daemon holds one enrolment's tunnel for the runs of one user.
type daemon struct {
	up *agent.Uplink
	ln *net.UnixListener

	mu   sync.Mutex
	busy int         // guarded by mu: connections
	idle *time.Timer // guarded by mu
	wait time.Duration
}

// serve holds the tunnel until ctx ends, or no run has been there for a while. It
// calls ready once runs can connect.
func serve(ctx context.Context, cfg DaemonConfig, up *agent.Uplink, ready func()) error {
	d := &daemon{up: up, wait: cfg.Idle}
	if d.wait == 0 {
		d.wait = DefaultIdle
	}
	pool, err := newAddressPool(up.Addresses)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := newMux(up.MTU)
	if err := up.Open(ctx, m); err != nil {
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
	ready()
	l := &leaser{
		enter: d.enter,
		link:  byDescriptor,
		end:   d.end,
		ready: up.Ready,
		pool:  pool,
		mux:   m,
		offer: lease{DNS: up.DNS, MTU: up.MTU},
	}
	l.serve(ctx, d.ln)
	// Whoever is connected is cut off: without a tunnel there is nothing to give.
	cancel()
	background.Wait()
	l.conns.Wait()
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

// end is a leaser's. Whoever asks is connected himself.
func (d *daemon) end() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy > 1 {
		return agent.WithHint(fmt.Errorf("runs that this enrolment serves at the moment: %d", d.busy-1), "wait for them to end, or end them")
	}
	d.ln.Close()
	return nil
}

// enter is a leaser's: this socket is for one user.
func (d *daemon) enter(peer *unix.Ucred) (leave func(), err error) {
	if int(peer.Uid) != os.Geteuid() {
		return nil, errors.New("this socket is for another user")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy++
	d.idle.Stop()
	return d.leave, nil
}

func (d *daemon) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy--; d.busy == 0 {
		d.idle.Reset(d.wait)
	}
}

// byDescriptor is a leaser's link: the run is the same user's, and hands over its
// interface.
func byDescriptor(c *net.UnixConn) (link, error) {
	m, fd, err := receive(c)
	if err != nil || m.Link == "" || fd < 0 {
		closeFD(fd)
		return nil, errors.New("not a run's interface")
	}
	return openLink(m.Link, fd)
}

// socketAddress reaches the socket through its directory, whose name may be longer
// than the 107 bytes of a socket address (unix(7)).
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
	if err := os.Remove(filepath.Join(private, socketName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("opening the daemon's socket: %w", err)
	}
	ln, err := agent.ListenPrivately(private, socketName)
	if err != nil {
		return nil, fmt.Errorf("opening the daemon's socket: %w", err)
	}
	return ln, nil
}
