package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/clawpatrol/clawpatrol/agent"
)

const (
	startTimeout = 20 * time.Second // for a daemon to answer, the gateway's answer included
	logName      = "run.log"        // of the daemon: what it said when it last started
	maxComplaint = 4 << 10          // bytes of what a daemon that did not start says
)

// askLease connects to the enrolment's daemon, starting it if need be, and asks
// for a lease. The lease lasts as long as the connection.
func askLease(ctx context.Context, cfg Config) (*net.UnixConn, *lease, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		c, err := dial(cfg.Agent.PrivateDir())
		if err == nil {
			var l *lease
			if l, err = requestLease(ctx, c); err == nil {
				return c, l, nil
			}
			c.Close()
			// A daemon that ends while it is asked says nothing.
			if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				return nil, nil, err
			}
		}
		if err := startDaemon(ctx, cfg); err != nil && !errors.Is(err, agent.ErrHeld) {
			return nil, nil, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, nil, agent.WithHint(fmt.Errorf("asking the daemon for an address: %w", context.Cause(ctx)), "another clawpatrol may hold the enrolment without serving runs")
		}
	}
}

// EndDaemon ends an enrolment's daemon, if there is one. One that serves a run goes
// on: that is an error.
func EndDaemon(ctx context.Context, a *agent.Agent) error {
	c, err := dial(a.PrivateDir())
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err == nil {
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		_ = c.SetDeadline(time.Now().Add(messageTimeout))
		err = send(c, message{End: true}, -1)
	}
	if err == nil {
		var m message
		if m, _, err = receive(c); err == nil {
			err = m.err()
		} else if errors.Is(err, io.EOF) {
			err = nil // it has nothing to say, and ends
		}
	}
	if err != nil {
		return fmt.Errorf("ending the enrolment's daemon: %w", err)
	}
	return nil
}

// askHost asks the process that holds the host's tunnel for a lease.
func askHost(ctx context.Context, _ Config) (*net.UnixConn, *lease, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: agent.RunSocket, Net: "unixpacket"})
	if err != nil {
		return nil, nil, explainHost(fmt.Errorf("asking for a place in this host's tunnel: %w", err), agent.HostTunnel())
	}
	peer, err := agent.PeerOf(c)
	if err == nil && peer.Uid != 0 {
		err = fmt.Errorf("user %d answers on %s, where only root should", peer.Uid, agent.RunSocket)
	}
	var l *lease
	if err == nil {
		l, err = requestLease(ctx, c)
	}
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, l, nil
}

// explainHost adds what to do where the host's tunnel is not to be had. there says
// whether it has one.
func explainHost(err error, there bool) error {
	switch {
	case errors.Is(err, syscall.EACCES):
		return agent.WithHint(err, "this user is not one of those who may run here: the group is that of "+agent.RunSocket)
	case errors.Is(err, syscall.ENOENT) && there:
		return agent.WithHint(err, "root has not opened this host's tunnel to its users: as root, clawpatrol down, then clawpatrol up --run-users GROUP (or all)")
	}
	return agent.WithHint(err, "no process holds this host's tunnel: as root, clawpatrol up")
}

func dial(private string) (*net.UnixConn, error) {
	addr, closeDir, err := socketAddress(private)
	if err != nil {
		return nil, err
	}
	defer closeDir()
	return net.DialUnix("unixpacket", nil, addr)
}

func requestLease(ctx context.Context, c *net.UnixConn) (*lease, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	defer stop()
	if err := send(c, message{Run: true}, -1); err != nil {
		return nil, err
	}
	m, fd, err := receive(c)
	closeFD(fd)
	if err == nil {
		err = m.err()
	}
	if err == nil && (m.Lease == nil || len(m.Lease.Addresses) == 0) {
		err = errors.New("the daemon's answer has no address")
	}
	if err != nil {
		return nil, err
	}
	return m.Lease, nil
}

// startDaemon starts one and waits until it serves. agent.ErrHeld: there is one
// already, or just now another is starting.
func startDaemon(ctx context.Context, cfg Config) error {
	ready, child, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	defer ready.Close()
	defer child.Close()
	log, err := os.OpenFile(filepath.Join(cfg.Agent.PrivateDir(), logName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return agent.ErrNotEnrolled
		}
		return fmt.Errorf("starting the daemon: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(self, DaemonCommand, "--state", cfg.State)
	cmd.Args[0] = "clawpatrol"
	// It outlives this run, and nothing of this run's environment is for it.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{child}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	child.Close()
	go func() { _ = cmd.Wait() }() // so that it does not stay behind as a zombie while we run
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Now()) })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(ready, maxComplaint))
	if err != nil {
		return fmt.Errorf("starting the daemon: %w", err)
	}
	switch text, hint, _ := strings.Cut(string(said), "\n"); {
	case text == daemonServes:
		return nil
	case text == daemonHeld:
		return agent.ErrHeld
	case text == "":
		return agent.WithHint(errors.New("starting the daemon: it ended at once"), "see "+log.Name())
	default:
		return agent.WithHint(errors.New(text), hint)
	}
}

// What a daemon says on its descriptor 3 when it has started, or not: one of
// these, or an error and its hint on two lines.
const (
	daemonServes = "serving"
	daemonHeld   = "held"
)

// ServeStarted is Serve in a process that startDaemon made.
func ServeStarted(ctx context.Context, cfg DaemonConfig) error {
	return serveStarted(ctx, cfg, os.NewFile(3, "ready"))
}

func serveStarted(ctx context.Context, cfg DaemonConfig, told *os.File) error {
	tell := func(s string) {
		_, _ = told.WriteString(s) // whoever started it may have gone
		_ = told.Close()
	}
	up, err := cfg.Agent.LoadUplink()
	if errors.Is(err, agent.ErrHeld) {
		tell(daemonHeld)
		return nil
	}
	if err == nil {
		defer up.Close()
		// With the lock: another's log is another's.
		_ = os.Truncate(filepath.Join(cfg.Agent.PrivateDir(), logName), 0)
		err = serve(ctx, cfg, up, func() { tell(daemonServes) })
	}
	if err != nil {
		tell(err.Error() + "\n" + agent.HintOf(err))
	}
	return err
}
