package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

// keeperFD is the keeper's connection to the front.
const keeperFD = 3

// passed are the signals that the command gets when the front gets them. The
// terminal's own stop signals are not among them: they go to the whole process
// group, and stop the front as well.
var passed = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.SIGALRM, syscall.SIGWINCH, syscall.SIGCONT,
}

// notify asks for those of the signals that are not ignored: what nohup(1) has
// the front ignore, the command ignores too.
func notify() chan os.Signal {
	c := make(chan os.Signal, 32)
	for _, s := range passed {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
	return c
}

// Keep is process 1 of a run's namespaces. It sets them up, starts the command,
// and ends as it does. Its own end is that of every process in there.
func Keep(args []string) int {
	runtime.LockOSThread()
	fd, err := unix.Dup(keeperFD)
	if err != nil {
		return codeFailed // nobody to tell
	}
	_ = unix.Close(keeperFD)
	unix.CloseOnExec(fd)
	front, err := connOf(fd)
	if err != nil {
		return codeFailed
	}
	k := &keeper{front: front, group: make(map[os.Signal]time.Time)}
	code, err := k.run(args)
	if err != nil {
		_ = send(front, failure(err), -1) // it may be gone
		return codeFailed
	}
	return code
}

type keeper struct {
	front *net.UnixConn

	mu      sync.Mutex
	command int                     // guarded by mu: the process's number in here; 0 once it has ended
	group   map[os.Signal]time.Time // guarded by mu: when this process itself got one
}

func (k *keeper) run(args []string) (code int, err error) {
	if os.Getpid() != 1 {
		return 0, errors.New("this is a part of clawpatrol run, not a command of its own")
	}
	m, fd, err := receive(k.front)
	closeFD(fd)
	if err != nil {
		return 0, err
	}
	if m.Plan == nil || m.Plan.Lease == nil {
		return 0, errors.New("no plan for this run")
	}
	if err := m.Plan.apply(); err != nil {
		return 0, err
	}
	if err := k.connect(m.Plan.Lease); err != nil {
		return 0, err
	}
	if m.Plan.Root {
		if err := coverSettings(); err != nil {
			return 0, err
		}
	}
	signals := notify()
	if err := k.start(args, m.Plan.Dir); err != nil {
		return 0, err
	}
	if err := send(k.front, message{Started: true}, -1); err != nil {
		return 0, err
	}
	go k.remember(signals)
	go k.listen()
	return k.reap()
}

// connect makes the interface, gives it to the daemon, and waits until that has
// it.
func (k *keeper) connect(l *lease) error {
	fd, kind, err := makeInterface(l)
	if err != nil {
		return err
	}
	err = send(k.front, message{Link: kind}, fd)
	closeFD(fd)
	if err != nil {
		return err
	}
	m, fd, err := receive(k.front)
	closeFD(fd)
	if err == nil && !m.Linked {
		err = errors.New("the daemon did not take the interface")
	}
	return err
}

// start starts the command in a user namespace and a mount namespace of its own,
// in which the mounts of this one are locked (mount_namespaces(7)).
func (k *keeper) start(args []string, dir string) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("starting the command: %w", err)
	}
	failed := os.NewFile(uintptr(pipe[0]), "failure")
	defer failed.Close()
	uid, gid := os.Geteuid(), os.Getegid()
	// The descriptors are in one place, so an option of the command's cannot be
	// taken for one of ours.
	argv := append([]string{"clawpatrol", CommandCommand, "--"}, args...)
	pid, err := syscall.ForkExec(self, argv, &syscall.ProcAttr{
		Dir:   dir,
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, uintptr(pipe[1])},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
			AmbientCaps: []uintptr{unix.CAP_SETPCAP}, // to give them all up for good
		},
	})
	_ = unix.Close(pipe[1])
	// The command is of the same user. Its own namespace keeps it from tracing this
	// process (ptrace(2)); this keeps it from looking as well. It comes after the
	// fork, for which the child's files in /proc must be ours.
	if dumpable := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err == nil && dumpable != nil {
		return fmt.Errorf("hiding the keeper: %w", dumpable)
	}
	if err != nil {
		if _, there := os.Stat(dir); there != nil {
			return agent.WithHint(fmt.Errorf("starting the command in %s: %w", dir, there), "this directory is not shown inside: start from another")
		}
		return fmt.Errorf("starting the command: %w", err)
	}
	k.mu.Lock()
	k.command = pid
	k.mu.Unlock()
	b, err := io.ReadAll(io.LimitReader(failed, maxMessage))
	if err != nil || len(b) == 0 {
		return err
	}
	var m message
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("starting the command: %w", err)
	}
	return m.err()
}

// reap collects what ends in here until the command does.
func (k *keeper) reap() (code int, err error) {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("waiting for the command: %w", err)
		}
		k.mu.Lock()
		mine := pid == k.command
		if mine {
			k.command = 0
		}
		k.mu.Unlock()
		switch {
		case !mine:
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		default:
			return ws.ExitStatus(), nil
		}
	}
}

// remember notes the signals that came to this process itself: as to the whole
// process group, by the terminal or by kill(2) of a group, so that the command
// has got them too.
func (k *keeper) remember(signals <-chan os.Signal) {
	for s := range signals {
		k.mu.Lock()
		k.group[s] = time.Now()
		k.mu.Unlock()
	}
}

// groupDelay is how far apart two processes may notice one signal to their
// group.
const groupDelay = 50 * time.Millisecond

// listen passes on the signals that the front tells of, but those that the whole
// group got. When the front is gone so is the reason to be here.
func (k *keeper) listen() {
	for {
		m, fd, err := receive(k.front)
		closeFD(fd)
		if err != nil {
			os.Exit(128 + int(syscall.SIGKILL))
		}
		s := syscall.Signal(m.Signal)
		if m.Signal <= 0 || s == syscall.SIGKILL {
			continue
		}
		told := time.Now()
		time.AfterFunc(groupDelay, func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			if last, ok := k.group[s]; k.command == 0 || (ok && told.Sub(last) < groupDelay) {
				return
			}
			_ = unix.Kill(k.command, s)
		})
	}
}
