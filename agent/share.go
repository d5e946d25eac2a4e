package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// RunSocket is where the process that holds a host's tunnel answers the `run` of
// the host's users, where root has allowed it. It is in a directory of its own,
// which only root may write to.
const RunSocket = "/run/clawpatrol/run.sock"

// Who may run on a host's enrolment, besides the names of groups.
const (
	everyUser = "all"
	noUser    = "none"
)

// Shared is what the runs of a host's users get of its tunnel.
type Shared struct {
	Addresses []netip.Prefix              // the registration's ranges; the address in each is the host's own
	DNS       []netip.Addr                // the gateway's resolvers, reached through the tunnel
	MTU       int                         // bytes of a packet
	Ready     func(context.Context) error // nil error: the tunnel is there, and nothing is known against the registration
}

// checkRunUsers refuses what is no group of this host's.
func checkRunUsers(users string) error {
	if users == "" || users == everyUser || users == noUser {
		return nil
	}
	_, err := groupOf(users)
	return err
}

// groupOf returns the number of a group that is named by name or number.
func groupOf(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		g, err = user.LookupGroupId(name)
	}
	if err != nil {
		return 0, WithHint(fmt.Errorf("finding the group %q of those who may run: %w", name, err), "name a group of this host's (getent group), \"all\" or \"none\"")
	}
	return strconv.Atoi(g.Gid)
}

// AllowRuns sets who may run on this host's enrolment, as JoinRequest.RunUsers
// does, from the next Up on.
func (a *Agent) AllowRuns(users string) error {
	if err := checkRunUsers(users); err != nil {
		return usage(err)
	}
	if os.Geteuid() != 0 {
		return WithHint(errors.New("saying who may run on this host's enrolment: it needs root"), "run it with sudo")
	}
	if err := checkWay(a.paths.private()); err != nil {
		return err
	}
	unlock, err := lockState(a.paths)
	if err != nil {
		return fmt.Errorf("saying who may run on this host's enrolment: %w", err)
	}
	defer unlock()
	st, err := loadState(a.paths)
	if err != nil {
		return err
	}
	return a.allowRuns(st, users)
}

// allowRuns sets who may run from now on. "": as it was.
func (a *Agent) allowRuns(st *state, users string) error {
	if users == noUser {
		users = ""
	} else if users == "" {
		return nil
	}
	if st.RunUsers == users {
		return nil
	}
	st.RunUsers = users
	return saveState(a.paths, st)
}

// listenForRuns opens the socket that runs connect to. Its mode decides who may
// (unix(7)).
func (a *Agent) listenForRuns(j *journal, users string) (*net.UnixListener, error) {
	gid, mode := 0, fs.FileMode(0o666)
	if users != everyUser {
		mode = 0o660
		var err error
		if gid, err = groupOf(users); err != nil {
			return nil, err
		}
	}
	path := a.host(RunSocket)
	dir := filepath.Dir(path)
	if err := j.record(entry{Step: stepRunSocket, Scope: scopeTunnel, Key: dir}); err != nil {
		return nil, err
	}
	failed := func(err error) (*net.UnixListener, error) { return nil, fmt.Errorf("opening %s: %w", path, err) }
	if err := makeDir(dir, 0o755); err != nil {
		return failed(err)
	}
	// The caller holds the lock: one that is there is a dead process's.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failed(err)
	}
	ln, err := ListenPrivately(dir, filepath.Base(path))
	if err != nil {
		return failed(err)
	}
	if err := refuseDescriptors(ln); err != nil {
		ln.Close()
		return failed(err)
	}
	if err := errors.Join(os.Lchown(path, 0, gid), os.Chmod(path, mode)); err != nil {
		ln.Close()
		return failed(err)
	}
	a.cfg.checkpoint("made " + path)
	return ln, nil
}

// refuseDescriptors makes the kernel refuse each message to ln's connections that
// has a descriptor with it (SO_PASSRIGHTS). They take that over from ln. Linux
// before 6.16 does not know it: there a descriptor is closed where the message is
// read, which may take as long as its sender wants.
func refuseDescriptors(ln *net.UnixListener) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0)
	}); err != nil {
		return err
	}
	if failed == unix.ENOPROTOOPT {
		return nil
	}
	return os.NewSyscallError("setsockopt", failed)
}

// ListenPrivately opens a socket in a directory, of mode 0600. Its name may be
// longer than the 107 bytes of an address (unix(7)).
func ListenPrivately(dir, name string) (*net.UnixListener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	// Other files that this process makes meanwhile are only more private than
	// they were to be.
	defer syscall.Umask(syscall.Umask(0o177))
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join("/proc/self/fd", fmt.Sprint(d.Fd()), name), Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false) // its name goes through a descriptor that is closed by then
	return ln, nil
}

// removeRunSocket undoes listenForRuns.
func removeRunSocket(dir string) error {
	if err := os.Remove(filepath.Join(dir, filepath.Base(RunSocket))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	return nil
}

// shares reports whether this host's users may run on its enrolment.
func (h *holder) shares() bool { return h.st.RunUsers != "" && h.a.cfg.Runs != nil }

// share puts what serves runs between WireGuard and the host's interface.
func (h *holder) share(cfg tunnelConfig) func(tun.Device) (tun.Device, error) {
	if !h.shares() {
		return nil
	}
	return func(host tun.Device) (dev tun.Device, err error) {
		dev, h.serveRuns, err = h.a.cfg.Runs(host, Shared{cfg.addresses, cfg.dns, cfg.mtu, h.ready})
		return dev, err
	}
}

// openRuns opens the socket for runs. A host keeps its tunnel where that cannot
// be done.
func (h *holder) openRuns() {
	if !h.shares() {
		return
	}
	var err error
	if h.runs, err = h.a.listenForRuns(h.j, h.st.RunUsers); err != nil {
		h.a.tell(Event{Event: EventNote, Hint: HintOf(err)}, "nobody may run here: %v", err)
	}
}
