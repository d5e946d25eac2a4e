package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// SystemKnownHosts is what OpenSSH, and Go programs that look there, read of all
// users' known hosts (ssh_config(5), GlobalKnownHostsFile).
const SystemKnownHosts = "/etc/ssh/ssh_known_hosts"

// MaxKnownHosts bounds a known_hosts file: ten years of cloud machines.
const MaxKnownHosts = 16 << 20 // bytes

// The kinds of change that the journal has for it.
const (
	stepBlock step = "block" // Key: path; File: what was there, without its content
	stepDir   step = "dir"   // Key: path of a directory that was not there
)

// EventSSHHosts says that SSH programs know the gateway's host keys. Path: the
// file.
const EventSSHHosts = "ssh_hosts"

// sshHosts is what every program may read of the gateway's SSH host keys.
func (p paths) sshHosts() string { return filepath.Join(p.public(), "ssh_known_hosts") }

// knowSSH makes this host's SSH programs know the gateway, as an approved poll
// tells it. j nil: only the public file is written, which env and run read. SSH
// is one protocol of many: what fails is said once, maxNamed of it, tried again at
// the next poll, and the rest stands.
func (a *Agent) knowSSH(j *journal, st *state, lines []string) {
	k, errs := checkSSHHosts(st.Claim.SSHCA, lines)
	changed := false
	err := a.writeSSHHosts(k)
	if err == nil && j != nil {
		changed, err = a.installSSHHosts(j, k.block())
	}
	if err != nil {
		errs = slices.Insert(errs, 0, fmt.Errorf("the gateway's SSH host keys are not installed: %w", err))
	}
	if more := len(errs) - maxNamed; more > 0 { // what they quote is the gateway's
		errs = append(errs[:maxNamed], fmt.Errorf("and %d more like these", more))
	}
	if now := fmt.Sprint(errors.Join(errs...)); now != a.sshTold {
		for _, err := range errs {
			a.tell(Event{Event: EventNote, Hint: HintOf(err)}, "%v", err)
		}
		a.sshTold = now
	}
	if changed {
		a.tell(Event{Event: EventSSHHosts, Path: SystemKnownHosts}, "SSH host keys installed: %s, hosts: %d", SystemKnownHosts, len(k.hosts))
	}
}

// writeSSHHosts writes the public file.
func (a *Agent) writeSSHHosts(k sshHosts) error {
	path, block := a.paths.sshHosts(), k.block()
	if len(block) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the known hosts: %w", err)
		}
		return nil
	}
	if now, err := ReadAtMost(path, MaxKnownHosts); err == nil && bytes.Equal(now, block) {
		return nil
	}
	if err := replaceFile(path, block, 0o644); err != nil {
		return fmt.Errorf("writing the known hosts: %w", err)
	}
	return nil
}

// SSHHostsFile is where the gateway's SSH host keys are in the form of a
// known_hosts file, without symbolic links. Where the gateway has told none there
// is no file; "": nor the directory.
func (a *Agent) SSHHostsFile() string {
	dir, err := filepath.EvalSymlinks(a.paths.public())
	if err != nil {
		return ""
	}
	return filepath.Join(dir, filepath.Base(a.paths.sshHosts()))
}

// sshVariables names the file of the gateway's SSH host keys, for programs that
// can be told of one more.
func (a *Agent) sshVariables() []Variable {
	if _, err := os.Stat(a.paths.sshHosts()); err != nil {
		return nil
	}
	return []Variable{{"CLAWPATROL_SSH_KNOWN_HOSTS", a.paths.sshHosts()}}
}

// readSSHHosts reads the public file: the lines between marks of ours, and what
// they say. Where the gateway has told no keys there are none.
func (a *Agent) readSSHHosts() ([]byte, sshHosts, error) {
	b, err := ReadAtMost(a.paths.sshHosts(), MaxKnownHosts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, sshHosts{}, nil
	}
	if err != nil {
		return nil, sshHosts{}, fmt.Errorf("reading the gateway's SSH host keys: %w", err)
	}
	k, err := parseBlock(b)
	if err != nil {
		return nil, sshHosts{}, WithHint(fmt.Errorf("reading %s: %w", a.paths.sshHosts(), err), "run: clawpatrol up")
	}
	return b, k, nil
}

// installSSHHosts puts block into the system's file, once the journal knows what
// was there. It goes with the tunnel: without it these keys are those of nobody,
// and OpenSSH would refuse the hosts' own. Exchanging the file at once is the
// only way: one that cannot be exchanged, being a mount of its own, stays as it
// is.
func (a *Agent) installSSHHosts(j *journal, block []byte) (changed bool, err error) {
	path, now, err := readKnownHosts(a.host(SystemKnownHosts))
	if err != nil {
		return false, err
	}
	content := WithSSHHosts(now.Content, block)
	e := j.find(stepBlock, path)
	if bytes.Equal(content, now.Content) && (e != nil || len(block) == 0) {
		return false, nil
	}
	if e == nil {
		dir := filepath.Dir(path)
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			if err := j.record(entry{Step: stepDir, Scope: scopeTunnel, Key: dir}); err != nil {
				return false, err
			}
		}
		before := &fileBefore{Kind: now.Kind, Mode: now.Mode, UID: now.UID, GID: now.GID}
		if len(now.Content) > 0 && len(withoutBlock(now.Content)) == 0 {
			before.Kind = "absent" // ours, left by a state directory that is gone
		}
		if err := j.record(entry{Step: stepBlock, Scope: scopeTunnel, Key: path, File: before}); err != nil {
			return false, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, err
	}
	if err := exchangeFile(path, content, now); err != nil {
		return false, err
	}
	j.checkpoint("wrote " + path)
	return true, nil
}

// removeBlock undoes installSSHHosts: whatever the file is by now, it has our
// lines no more.
func removeBlock(e entry) error {
	if err := os.Remove(temporaryName(e.Key)); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EROFS) {
		return err
	}
	path, now, err := readKnownHosts(e.Key)
	if err != nil || now.Kind == "absent" {
		return err
	}
	content := withoutBlock(now.Content)
	switch {
	case len(content) == 0 && e.File.Kind == "absent":
		if err := os.Remove(path); err != nil {
			return err
		}
		return syncDirOf(path)
	case len(content) == len(now.Content):
		return nil
	}
	return exchangeFile(path, content, now)
}

// removeEmptyDir undoes the making of a directory, unless something is in it.
func removeEmptyDir(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// readKnownHosts reads a known_hosts file that may not be there, and says where
// it is: at the end of any symbolic links. Anything but a regular file is refused,
// without waiting for it.
func readKnownHosts(path string) (real string, now *fileBefore, err error) {
	real, err = filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(path); err == nil {
			return "", nil, fmt.Errorf("%s is a symbolic link that leads nowhere", path)
		}
		return path, &fileBefore{Kind: "absent", Mode: 0o644, UID: os.Geteuid(), GID: os.Getegid()}, nil
	}
	if err != nil {
		return "", nil, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(real, &st); err != nil {
		return "", nil, &fs.PathError{Op: "lstat", Path: real, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", nil, fmt.Errorf("%s is not a regular file", real)
	}
	f, err := os.OpenFile(real, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", nil, &fs.PathError{Op: "fstat", Path: real, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG { // exchanged since
		return "", nil, fmt.Errorf("%s is not a regular file", real)
	}
	now = &fileBefore{Kind: "regular", Mode: fs.FileMode(st.Mode) & fs.ModePerm, UID: int(st.Uid), GID: int(st.Gid)}
	if now.Content, err = io.ReadAll(io.LimitReader(f, MaxKnownHosts+1)); err != nil {
		return "", nil, err
	}
	if len(now.Content) > MaxKnownHosts {
		return "", nil, fmt.Errorf("%s is larger than %d bytes", real, MaxKnownHosts)
	}
	return real, now, nil
}

// exchangeFile replaces a file whose mode and owner stay what they were.
func exchangeFile(path string, content []byte, before *fileBefore) error {
	if err := replaceFile(path, content, before.Mode); err != nil {
		hint := ""
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EROFS) {
			hint = "it cannot be exchanged: a mount, or on a file system that is read-only"
		}
		return WithHint(fmt.Errorf("writing %s: %w", path, err), hint)
	}
	if before.UID == os.Geteuid() && before.GID == os.Getegid() {
		return nil
	}
	return os.Lchown(path, before.UID, before.GID)
}
