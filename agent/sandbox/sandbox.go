// Package sandbox is `clawpatrol run`: it starts a command that has no way out
// but the tunnel, without root.
//
// Four processes take part. The front is what the person started: it asks the
// daemon for an address, passes signals on and waits. The daemon, one for each
// enrolment, holds the WireGuard device and knows the join credential; it starts
// on demand and ends when it is idle. The keeper is process 1 of new user,
// network, mount, PID and IPC namespaces: it makes the network interface, hands
// it to the daemon through the front, and covers what must not be reached. The
// command itself runs in a second user namespace inside, as the user who started
// it and with no capability, so that it can neither uncover nor reconfigure
// anything.
//
// Where root has joined the host as a whole, the process that holds its tunnel is
// the daemon. It takes no descriptor of a user's: the front moves the packets.
//
//	front ──starts──► keeper ──starts──► command
//	  │  ◄─interface──┘ (namespaces)     (user and mount namespace of its own)
//	  └──interface──► daemon ──UDP──► gateway
//
// When any of them dies, the command is left with less network, never with more:
// an interface whose holder is gone disappears, and there is no other.
package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

// Config is what `clawpatrol run` was asked for.
type Config struct {
	Agent   *agent.Agent // of the enrolment; made by agent.NewForRun, or agent.New with Host
	State   string       // its state directory, absolute
	Host    bool         // it is the host's, which root has joined: who holds its tunnel is asked for a place
	KeepEnv bool         // leave variables that look like secrets
	Command []string     // at least one word
}

// Program arguments of the processes that this one starts of itself. They are
// hidden commands of clawpatrol.
const (
	KeeperCommand  = "run-keeper"
	CommandCommand = "run-command"
	DaemonCommand  = "run-daemon"
)

// self is the running program, also when its file has been replaced.
const self = "/proc/self/exe"

// Exit is returned when the command has ended: its status, 128+n for a signal.
type Exit struct{ Code int }

func (e *Exit) Error() string { return fmt.Sprintf("the command ended with status %d", e.Code) }

// Statuses of a command that could not be started, as env(1) and nohup(1) have
// them.
const (
	codeFailed        = 1
	codeNotExecutable = 126
	codeNotFound      = 127
)

// StartError is a command that could not be started. Its Code is the exit status.
type StartError struct {
	Code int
	err  error
	hint string
}

func (e *StartError) Error() string { return e.err.Error() }
func (e *StartError) Unwrap() error { return e.err }

// Hint is what to do about it, or "".
func (e *StartError) Hint() string { return e.hint }

// checkStdio refuses a directory as standard input, output or error: through its
// descriptor the command would reach below what is covered.
func checkStdio() error {
	for fd, name := range map[int]string{0: "standard input", 1: "standard output", 2: "standard error"} {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return fmt.Errorf("%s is a directory", name)
		}
	}
	return nil
}
