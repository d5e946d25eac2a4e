package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

const maxSSHFiles = 256 // entries of /etc/ssh

// knowSSHHosts shows the command a file of known hosts that has the gateway's
// SSH host keys, where the host's own has not. It comes after coverDirs: what it
// reads is what the command may read.
func (p *plan) knowSSHHosts() error {
	if p.SSHHosts == "" {
		return nil
	}
	block, err := agent.ReadAtMost(p.SSHHosts, agent.MaxKnownHosts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the gateway has told none
	}
	if err != nil {
		return fmt.Errorf("reading the gateway's SSH host keys: %w", err)
	}
	// One that cannot be read tells this user's ssh nothing either.
	before, err := agent.ReadAtMost(agent.SystemKnownHosts, agent.MaxKnownHosts)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("reading the known hosts: %w", err)
	}
	content := agent.WithSSHHosts(before, block)
	if bytes.Equal(content, before) {
		return nil
	}
	at, err := followLinks(agent.SystemKnownHosts)
	if err != nil {
		return fmt.Errorf("finding the known hosts: %w", err)
	}
	if _, err := os.Lstat(at); err == nil {
		return p.replace(at, "ssh_known_hosts", string(content), 0o644)
	}
	return addFile(at, content)
}

// addFile shows a file where none is, in a directory that is not the user's: an
// empty directory is mounted over it, and in there what it had.
func addFile(path string, content []byte) error {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // a program that would look there finds nothing, as outside
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", dir, err)
	}
	if len(entries) > maxSSHFiles {
		return fmt.Errorf("showing %s: there are more than %d files beside it", path, maxSSHFiles)
	}
	fds := make(map[string]int) // of what is not a symbolic link
	defer func() {
		for _, fd := range fds {
			closeFD(fd)
		}
	}()
	links := make(map[string]string)
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if e.Type()&fs.ModeSymlink != 0 {
			if links[name], err = os.Readlink(name); err != nil {
				return fmt.Errorf("keeping %s: %w", name, err)
			}
			continue
		}
		if fds[name], err = unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
			delete(fds, name)
			return fmt.Errorf("keeping %s: %w", name, err)
		}
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755"); err != nil {
		return fmt.Errorf("covering %s: %w", dir, err)
	}
	for name, target := range links {
		if err := os.Symlink(target, name); err != nil {
			return fmt.Errorf("keeping %s: %w", name, err)
		}
	}
	for name, fd := range fds {
		if err := keep(name, fd); err != nil {
			return fmt.Errorf("keeping %s: %w", name, err)
		}
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	return readOnly(dir, false)
}

// keep shows what fd is at path, where nothing is.
func keep(path string, fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(path, 0o755)
	} else {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		return err
	}
	// Recursive: what is mounted below it is locked to it (mount_namespaces(7)).
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), path, "", unix.MS_BIND|unix.MS_REC, "")
}
