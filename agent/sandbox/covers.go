package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

// ownDir is where the keeper puts the files that it mounts over others.
const ownDir = "/run/clawpatrol"

// apply changes this mount namespace, which is the caller's own, and mounts a
// proc of this PID namespace, in which processes outside do not exist.
func (p *plan) apply() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separating the mounts: %w", err)
	}
	if err := mountProc(); err != nil {
		return err
	}
	console, err := p.openConsole()
	if err != nil {
		return err
	}
	defer closeFD(console)
	if p.Root {
		if err := coverDevices(); err != nil {
			return err
		}
	}
	if err := ownTerminals(console); err != nil {
		return err
	}
	if err := p.coverDirs(); err != nil {
		return err
	}
	if err := p.replaceFiles(); err != nil {
		return err
	}
	if err := p.knowSSHHosts(); err != nil {
		return err
	}
	// A user may own control groups, and with them stop processes outside.
	if err := readOnly("/sys", true); err != nil {
		return err
	}
	for _, c := range p.Covers {
		if _, err := os.Lstat(c.Path); c.Writable || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := readOnly(c.Path, false); err != nil {
			return err
		}
	}
	return nil
}

func mountProc() error {
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		err := fmt.Errorf("mounting /proc: %w", err)
		if errors.Is(err, unix.EPERM) {
			// mount_too_revealing: parts of the old one are covered.
			return agent.WithHint(err, "in a container whose /proc is masked this cannot be done: run the container with its own /proc unmasked (docker: --security-opt systempaths=unconfined)")
		}
		return err
	}
	return nil
}

// step is a directory to cover, or to show again.
type step struct {
	path     string
	cover    bool
	writable bool
	public   bool
	fd       int // of what is shown again
}

// coverDirs covers and shows again, from the root downwards: what is deeper wins.
func (p *plan) coverDirs() error {
	var steps []step
	for _, c := range p.Covers {
		steps = append(steps, step{path: c.Path, cover: true, writable: c.Writable})
	}
	open := func(path string, public bool) error {
		// Before anything covers it.
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EACCES) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("opening %s: %w", path, err)
		}
		steps = append(steps, step{path: path, fd: fd, public: public})
		return nil
	}
	for _, k := range p.Keeps {
		if err := open(k, false); err != nil {
			return err
		}
	}
	for _, k := range p.Public {
		if err := open(k, true); err != nil {
			return err
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		return cmp.Compare(strings.Count(a.path, "/"), strings.Count(b.path, "/"))
	})
	for _, s := range steps {
		if err := s.do(); err != nil {
			return err
		}
	}
	return nil
}

func (s step) do() error {
	if s.cover {
		if _, err := os.Lstat(s.path); errors.Is(err, fs.ErrNotExist) {
			return nil // under another cover
		}
		mode := "mode=0755"
		if s.writable {
			mode = "mode=1777"
		}
		if err := unix.Mount("tmpfs", s.path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, mode); err != nil {
			return fmt.Errorf("covering %s: %w", s.path, err)
		}
		return nil
	}
	defer unix.Close(s.fd)
	if err := os.MkdirAll(s.path, 0o755); err != nil {
		return fmt.Errorf("showing %s: %w", s.path, err)
	}
	// Recursive: what is mounted below it is locked to it (mount_namespaces(7)).
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", s.fd), s.path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("showing %s: %w", s.path, err)
	}
	if s.public {
		return readOnly(s.path, true)
	}
	return nil
}

// replaceFiles mounts files of ours over the resolver's, and over the sockets of
// outside.
func (p *plan) replaceFiles() error {
	if err := os.Mkdir(ownDir, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", ownDir, err)
	}
	if p.Resolv != "" {
		if err := p.replace(p.ResolvAt, "resolv.conf", p.Resolv, 0o644); err != nil {
			return err
		}
	}
	if p.Nsswitch != "" {
		if err := p.replace("/etc/nsswitch.conf", "nsswitch.conf", p.Nsswitch, 0o644); err != nil {
			return err
		}
	}
	nothing := filepath.Join(ownDir, "nothing")
	if err := os.WriteFile(nothing, nil, 0o444); err != nil {
		return fmt.Errorf("making %s: %w", nothing, err)
	}
	for _, s := range p.Sockets {
		err := bindFile(nothing, s)
		if errors.Is(err, unix.ENOENT) {
			continue // gone since
		}
		if err != nil {
			return fmt.Errorf("covering %s: %w", s, err)
		}
	}
	return nil
}

func (p *plan) replace(target, name, content string, mode fs.FileMode) error {
	source := filepath.Join(ownDir, name)
	if err := os.WriteFile(source, []byte(content), mode); err != nil {
		return fmt.Errorf("making %s: %w", source, err)
	}
	if _, err := os.Lstat(target); errors.Is(err, fs.ErrNotExist) { // it was under a cover
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("replacing %s: %w", target, err)
		}
		if err := os.WriteFile(target, nil, mode); err != nil {
			return fmt.Errorf("replacing %s: %w", target, err)
		}
	}
	if err := bindFile(source, target); err != nil {
		return fmt.Errorf("replacing %s: %w", target, err)
	}
	return nil
}

func bindFile(source, target string) error {
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return readOnly(target, false)
}

func readOnly(path string, recursive bool) error {
	flags := uint(0)
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, path, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		err = fmt.Errorf("making %s read-only: %w", path, err)
		if errors.Is(err, unix.ENOSYS) {
			return agent.WithHint(err, "it takes Linux 5.12")
		}
		return err
	}
	return nil
}

// openConsole returns a descriptor for the terminal, or -1.
func (p *plan) openConsole() (int, error) {
	if p.Console == "" {
		return -1, nil
	}
	fd, err := unix.Open(p.Console, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("keeping the terminal: %w", err)
	}
	return fd, nil
}

// ownTerminals mounts new pseudo-terminals over those of outside: a process of
// the same user may read and write all of them. The command's own stays, as
// /dev/console.
func ownTerminals(console int) error {
	if console >= 0 {
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", console), "/dev/console", "", unix.MS_BIND, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("keeping the terminal: %w", err)
		}
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"); err != nil {
		return fmt.Errorf("making new pseudo-terminals: %w", err)
	}
	return nil
}

// plainDevices are those that give access to nothing.
var plainDevices = []string{"null", "zero", "full", "random", "urandom", "tty", "net/tun"}

// coverDevices is for root's command. It has no capability, but it is the owner
// of the machine's disks and of the kernel's settings, and that is enough to
// write to them.
func coverDevices() error {
	fds := make(map[string]int)
	for _, d := range plainDevices {
		fd, err := unix.Open("/dev/"+d, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("keeping /dev/%s: %w", d, err)
		}
		defer unix.Close(fd)
		fds[d] = fd
	}
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=0755"); err != nil {
		return fmt.Errorf("covering /dev: %w", err)
	}
	for d, fd := range fds {
		if err := os.MkdirAll(filepath.Dir("/dev/"+d), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile("/dev/"+d, nil, 0o600); err != nil {
			return fmt.Errorf("keeping /dev/%s: %w", d, err)
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), "/dev/"+d, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keeping /dev/%s: %w", d, err)
		}
	}
	if err := errors.Join(
		os.Mkdir("/dev/pts", 0o755),
		os.Mkdir("/dev/shm", 0o1777),
		os.WriteFile("/dev/console", nil, 0o600),
		os.Symlink("pts/ptmx", "/dev/ptmx"),
		os.Symlink("/proc/self/fd", "/dev/fd"),
		os.Symlink("/proc/self/fd/0", "/dev/stdin"),
		os.Symlink("/proc/self/fd/1", "/dev/stdout"),
		os.Symlink("/proc/self/fd/2", "/dev/stderr"),
	); err != nil {
		return fmt.Errorf("covering /dev: %w", err)
	}
	return nil
}

// coverSettings is for root's command too: settings that take effect outside,
// and a button that stops the machine. The keeper's own are made by then.
func coverSettings() error {
	for _, path := range []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi"} {
		err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("covering %s: %w", path, err)
		}
		if err := readOnly(path, true); err != nil {
			return err
		}
	}
	return nil
}
