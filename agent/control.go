package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	controlTimeout  = 5 * time.Second  // for one request to be written or read
	downTimeout     = 60 * time.Second // for a holder to undo the tunnel
	maxControlConns = 8
	maxControlBody  = 64 << 10 // bytes
)

// errHeld is returned where another process holds the lock.
var errHeld = WithHint(errors.New("another clawpatrol holds this host's tunnel"), "clawpatrol status shows it, clawpatrol down ends it")

// lockState takes the lock that every process takes that changes the host. The
// kernel releases it with the process.
func lockState(p paths) (unlock func(), err error) {
	f, err := os.OpenFile(p.lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotEnrolled
	}
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errHeld
		}
		return nil, fmt.Errorf("taking the lock: %w", err)
	}
	if err := checkLock(p, f); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// checkLock refuses a lock file that a leave has removed since it was opened:
// nobody else will ask for that lock.
func checkLock(p paths, f *os.File) error {
	var ours, there unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &ours); err != nil {
		return fmt.Errorf("taking the lock: %w", err)
	}
	if err := unix.Stat(p.lock(), &there); err != nil || there.Ino != ours.Ino || there.Dev != ours.Dev {
		return errHeld
	}
	return nil
}

// controlRequest is what another command asks the process that holds the tunnel.
type controlRequest struct {
	Do string `json:"do"` // status, down, repin
}

type controlReply struct {
	Status *Status      `json:"status,omitempty"`
	Seen   []netip.Addr `json:"seen,omitempty"`
	Error  string       `json:"error,omitempty"`
	Hint   string       `json:"hint,omitempty"`
}

// controlAddress reaches the socket through its directory: a state directory may
// have a longer name than the 107 bytes of a socket address (unix(7)).
func controlAddress(p paths) (addr string, closeDir func(), err error) {
	d, err := os.Open(p.private())
	if err != nil {
		return "", nil, err
	}
	return filepath.Join("/proc/self/fd", fmt.Sprint(d.Fd()), controlSocket), func() { d.Close() }, nil
}

// control answers the other commands while this process holds the tunnel.
type control struct {
	status func() *Status
	down   func() // asks the holder to stop
	repin  func() ([]netip.Addr, error)

	ln      *net.UnixListener
	stopped chan struct{} // closed when the holder has undone the tunnel
	result  error         // of that; set before stopped is closed
	conns   sync.WaitGroup
}

// listen starts answering. The caller holds the lock, so a socket that is there
// is a dead process's.
func (c *control) listen(p paths) error {
	path := filepath.Join(p.private(), controlSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	addr, closeDir, err := controlAddress(p)
	if err != nil {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	defer closeDir()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: addr, Net: "unix"})
	if err != nil {
		return fmt.Errorf("opening the control socket: %w", err)
	}
	ln.SetUnlinkOnClose(false) // its name goes through a descriptor that is closed by then
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return fmt.Errorf("opening the control socket: %w", err)
	}
	c.ln, c.stopped = ln, make(chan struct{})
	c.conns.Go(c.accept)
	return nil
}

func (c *control) accept() {
	slots := make(chan struct{}, maxControlConns)
	for {
		slots <- struct{}{}
		conn, err := c.ln.AcceptUnix()
		if err != nil {
			return
		}
		c.conns.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			c.serve(conn)
		})
	}
}

func (c *control) serve(conn *net.UnixConn) {
	if !sameUser(conn) {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(controlTimeout))
	var req controlRequest
	if err := json.NewDecoder(io.LimitReader(conn, 1<<10)).Decode(&req); err != nil {
		return
	}
	var reply controlReply
	switch req.Do {
	case "status":
		reply.Status = c.status()
	case "down":
		c.down()
		<-c.stopped
		if c.result != nil {
			reply.Error, reply.Hint = c.result.Error(), HintOf(c.result)
		}
	case "repin":
		var err error
		if reply.Seen, err = c.repin(); err != nil {
			reply.Error, reply.Hint = err.Error(), HintOf(err)
		}
	default:
		reply.Error = "unknown request"
	}
	_ = conn.SetDeadline(time.Now().Add(controlTimeout))
	_ = json.NewEncoder(conn).Encode(reply)
}

// sameUser reports whether the other end is root or whoever runs this process.
// The socket's mode says the same; this does not depend on it.
func sameUser(conn *net.UnixConn) bool {
	cred, err := PeerOf(conn)
	return err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
}

// PeerOf says who is at the other end. For one that listens it is who called
// listen (unix(7)).
func PeerOf(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if ctl := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); ctl != nil {
		return nil, ctl
	}
	return cred, err
}

// finish tells those who asked for it how the tunnel was undone, and stops.
// Before listen it does nothing.
func (c *control) finish(p paths, result error) {
	if c.ln == nil {
		return
	}
	c.result = result
	close(c.stopped)
	c.ln.Close()
	_ = os.Remove(filepath.Join(p.private(), controlSocket))
	c.conns.Wait()
}

// errNoHolder is returned where no process holds the tunnel.
var errNoHolder = errors.New("no process holds the tunnel")

// askHolder sends one request to the process that holds the tunnel.
func askHolder(ctx context.Context, p paths, do string, timeout time.Duration) (*controlReply, error) {
	addr, closeDir, err := controlAddress(p)
	if err != nil {
		return nil, errNoHolder
	}
	defer closeDir()
	conn, err := (&net.Dialer{Timeout: controlTimeout}).DialContext(ctx, "unix", addr)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, errNoHolder
	}
	if err != nil {
		return nil, fmt.Errorf("asking the process that holds the tunnel: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	var reply controlReply
	err = json.NewEncoder(conn).Encode(controlRequest{Do: do})
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxControlBody)).Decode(&reply)
	}
	switch {
	case err == nil:
		return &reply, nil
	case ctx.Err() != nil:
		return nil, fmt.Errorf("asking the process that holds the tunnel: %w", context.Cause(ctx))
	case errors.Is(err, os.ErrDeadlineExceeded):
		who := "end it"
		if cred, err := PeerOf(conn.(*net.UnixConn)); err == nil {
			who = fmt.Sprintf("end it with kill -9 %d", cred.Pid)
		}
		return nil, WithHint(fmt.Errorf("asking the process that holds the tunnel: it does not answer within %s", timeout), "it hangs or stands still: "+who+", then run clawpatrol up, which repairs, or clawpatrol down")
	}
	return nil, WithHint(fmt.Errorf("asking the process that holds the tunnel: %w", err), "it may have just ended: run the command again")
}
