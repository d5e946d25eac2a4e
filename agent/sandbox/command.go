package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// failureFD is where the process that becomes the command says why it could not.
// It closes when the command is executed.
const failureFD = 3

// secureBits are SECBIT_NOROOT, SECBIT_NO_SETUID_FIXUP and
// SECBIT_NO_CAP_AMBIENT_RAISE, each with its lock (linux/securebits.h).
const secureBits = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<6 | 1<<7

// BecomeCommand gives up every privilege and executes the command. It is called
// in the inner user namespace, and returns only to fail.
func BecomeCommand(args []string) {
	runtime.LockOSThread() // all of what follows is this thread's, and so is execve
	out := os.NewFile(failureFD, "failure")
	b, err := json.Marshal(failure(become(args)))
	if err == nil {
		_, _ = out.Write(b) // the keeper may be gone, and we with it
	}
	os.Exit(codeFailed)
}

func become(args []string) error {
	if len(args) == 0 {
		return errors.New("no command")
	}
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return cannotExecute(args[0], err)
	}
	if err := giveUp(); err != nil {
		return err
	}
	return cannotExecute(args[0], syscall.Exec(path, args, os.Environ()))
}

// giveUp leaves this thread without capabilities and without a way to any. The
// order matters: some steps need what later ones take.
func giveUp() error {
	// User 0 is nobody special, and nothing raises capabilities (capabilities(7)).
	// The bounding set stays: a program whose file has capabilities, like ping,
	// could not be executed at all without it, and gets none of them
	// (no_new_privs).
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secureBits, 0, 0, 0); err != nil {
		return fmt.Errorf("making root an ordinary user: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("dropping ambient capabilities: %w", err)
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&hdr, &none[0]); err != nil {
		return fmt.Errorf("dropping capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding new privileges: %w", err)
	}
	// A session keyring of its own: the one inherited holds the keys of outside
	// (keyrings(7)). A kernel without keyrings has nothing to separate.
	if _, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0); errno != 0 && errno != unix.ENOSYS {
		return fmt.Errorf("making a session keyring: %w", errno)
	}
	if err := installFilter(); err != nil {
		return err
	}
	// Descriptors that were open in the shell outside may lead anywhere.
	if err := unix.CloseRange(failureFD, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("closing descriptors: %w", err)
	}
	return nil
}

// cannotExecute is the error with the status that env(1) would have.
func cannotExecute(name string, err error) error {
	var reason *exec.Error
	if errors.As(err, &reason) {
		err = reason.Err
	}
	e := &StartError{Code: codeNotExecutable, err: fmt.Errorf("starting %q: %w", name, err), hint: "check its mode, and the interpreter in its first line"}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		e.Code, e.hint = codeNotFound, "check the command's name, and PATH; /run and /tmp are not those of outside"
	}
	return e
}
