package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

// keeperCaps are the capabilities that the keeper needs, in its own user
// namespace only.
var keeperCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_SETPCAP, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETFCAP}

// Run runs a command and returns *Exit when it has ended. It must be called on
// the main goroutine of a process that does nothing else.
func Run(ctx context.Context, cfg Config) error {
	// PR_SET_PDEATHSIG goes by the thread that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := checkStdio(); err != nil {
		return err
	}
	exported, err := cfg.Agent.Env()
	if err != nil {
		if _, there := os.Stat(cfg.Agent.PrivateDir()); errors.Is(there, os.ErrNotExist) && !cfg.Host {
			return agent.WithHint(errors.New("this user has not enrolled for clawpatrol run"), "run: clawpatrol join URL --ca-fingerprint sha256:HEX --no-tunnel")
		}
		return err
	}
	keeper, child, err := pair()
	if err != nil {
		return fmt.Errorf("starting the command: %w", err)
	}
	defer keeper.Close()
	cmd := keeperProcess(cfg, environment(os.Environ(), exported, cfg.KeepEnv), child)
	err = cmd.Start()
	child.Close()
	if err != nil {
		return explain(fmt.Errorf("making the namespaces: %w", err), surroundingsOfUserns())
	}
	f := &front{keeper: keeper}
	signals := notify() // what comes before the command is there waits for it
	if err := f.begin(ctx, cfg); err != nil {
		f.close()
		_ = keeper.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if ctx.Err() != nil {
			return errors.New("stopped before the command was started")
		}
		return err
	}
	defer f.close()
	done := make(chan struct{})
	defer close(done)
	go f.pass(signals, done)
	go f.watch(done)
	return ended(cmd.Wait())
}

// ended turns the keeper's end into the command's.
func ended(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return &Exit{0}
	case !errors.As(err, &exit):
		return fmt.Errorf("waiting for the command: %w", err)
	}
	if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
		return &Exit{128 + int(ws.Signal())}
	}
	return &Exit{exit.ExitCode()}
}

func keeperProcess(cfg Config, env []string, conn *os.File) *exec.Cmd {
	cmd := exec.Command(self, append([]string{KeeperCommand, "--"}, cfg.Command...)...)
	cmd.Args[0] = "clawpatrol"
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{conn}
	uid, gid := os.Geteuid(), os.Getegid()
	const flags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWNET
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: flags,
		// The same numbers inside: as user 0 of its namespace the command would own
		// the network's settings.
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: keeperCaps,
		Pdeathsig:   syscall.SIGKILL,
	}
	return cmd
}

// front is the process that a person started.
type front struct {
	keeper *net.UnixConn
	daemon *net.UnixConn // nil: without a lease yet
	lease  *lease
	inside link // nil: the daemon has the interface, see lease.Relay
}

func (f *front) close() {
	if f.daemon != nil {
		_ = f.daemon.Close()
	}
	if f.inside != nil {
		_ = f.inside.Close()
	}
}

// begin brings the command to its start.
func (f *front) begin(ctx context.Context, cfg Config) error {
	stop := context.AfterFunc(ctx, func() { _ = f.keeper.SetDeadline(time.Now()) })
	defer stop()
	ask := askLease
	if cfg.Host {
		ask = askHost
	}
	var err error
	if f.daemon, f.lease, err = ask(ctx, cfg); err != nil {
		return err
	}
	p, err := planFor(cfg, f.lease)
	if err != nil {
		return err
	}
	if err := send(f.keeper, message{Plan: p}, -1); err != nil {
		return explain(fmt.Errorf("making the namespaces: %w", err), surroundingsOfUserns())
	}
	for {
		m, fd, err := receive(f.keeper)
		if err == nil {
			err = m.err()
		}
		if err != nil {
			closeFD(fd)
			if errors.Is(err, io.EOF) {
				err = errors.New("making the namespaces: the process in them ended")
			}
			return explain(err, surroundingsOfUserns())
		}
		if m.Started {
			closeFD(fd)
			return nil
		}
		if m.Link == "" || fd < 0 {
			closeFD(fd)
			return errors.New("making the namespaces: an answer without sense")
		}
		if err := f.link(m.Link, fd); err != nil {
			return err
		}
	}
}

// link hands the interface to the daemon, or tells it that packets come from now
// on. It takes fd over.
func (f *front) link(kind linkKind, fd int) error {
	if f.lease.Relay {
		var err error
		if f.inside, err = openLink(kind, fd); err != nil {
			return fmt.Errorf("connecting the interface: %w", err)
		}
		kind, fd = linkRelay, -1
	}
	err := send(f.daemon, message{Link: kind}, fd)
	closeFD(fd)
	if err != nil {
		return fmt.Errorf("connecting the interface: %w", err)
	}
	_ = f.daemon.SetReadDeadline(time.Now().Add(messageTimeout))
	m, extra, err := receive(f.daemon)
	closeFD(extra)
	if err == nil {
		err = m.err()
	}
	if err == nil && !m.Linked {
		err = errors.New("the daemon did not take it")
	}
	if err != nil {
		return fmt.Errorf("connecting the interface: %w", err)
	}
	_ = f.daemon.SetReadDeadline(time.Time{})
	return send(f.keeper, message{Linked: true}, -1)
}

// watch carries the run's packets, where the daemon does not, and tells when the
// daemon has gone: the command goes on, without a network.
func (f *front) watch(done <-chan struct{}) {
	if f.inside != nil {
		if p, err := newRelayLink(f.daemon, true); err == nil && !relay(f.inside, p, f.lease.MTU) {
			return
		}
	} else if _, fd, err := receive(f.daemon); err == nil {
		closeFD(fd) // the daemon has nothing to say
		return
	}
	select {
	case <-done:
	default:
		fmt.Fprintln(os.Stderr, "clawpatrol: the daemon that held the tunnel is gone: this run has no network any more")
	}
}

// pass tells the keeper of the signals that this process gets.
func (f *front) pass(signals chan os.Signal, done <-chan struct{}) {
	defer signal.Stop(signals)
	for {
		select {
		case s := <-signals:
			_ = send(f.keeper, message{Signal: int(s.(syscall.Signal))}, -1) // it may have ended
		case <-done:
			return
		}
	}
}

// planFor reads what a plan depends on.
func planFor(cfg Config, l *lease) (*plan, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, agent.WithHint(fmt.Errorf("finding the working directory: %w", err), "start from a directory that is there")
	}
	sockets, err := os.Open("/proc/net/unix")
	if err != nil {
		return nil, fmt.Errorf("listing the UNIX sockets of outside: %w", err)
	}
	defer sockets.Close()
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("reading the mount table: %w", err)
	}
	defer mounts.Close()
	states := map[string]string{cfg.State: cfg.Agent.PublicDir()}
	if own, err := agent.UserStateDir(); err == nil && own != cfg.State {
		// With --state there may be another enrolment of this user's.
		states[own] = filepath.Join(own, "public")
	}
	if os.Geteuid() == 0 && cfg.State != agent.DefaultStateDir {
		// Root may read the host's own enrolment.
		states[agent.DefaultStateDir] = agent.DefaultStateDir + "/public"
	}
	p, err := makePlan(surroundings{
		root:        os.Geteuid() == 0,
		home:        os.Getenv("HOME"),
		runtimeDir:  os.Getenv("XDG_RUNTIME_DIR"),
		dir:         dir,
		unixSockets: sockets,
		mounts:      mounts,
	}, states, l)
	if err != nil {
		return nil, err
	}
	p.SSHHosts = cfg.Agent.SSHHostsFile()
	for fd := range 3 {
		if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && below(name, "/dev/pts") {
			p.Console = name
			break
		}
	}
	return p, nil
}
