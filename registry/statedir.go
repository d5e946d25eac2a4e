package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Names inside state_dir.
const (
	fileDB        = "clawpatrol.db"
	fileLock      = "clawpatrol.lock"
	fileMasterKey = "master.key"
)

// prepareDir creates dir 0700 where it is missing and checks it and our files
// in it (I03).
func prepareDir(dir string) error {
	if dir == "" {
		return errors.New("no state directory given")
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	fi, err := os.Stat(dir) // following a link: only the directory itself matters
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return &OpenError{Err: ErrPermissions, Detail: dir + " is not a directory",
			Advice: "set state_dir to a directory that belongs to the gateway alone"}
	}
	if err := checkOwner(dir, fi, 0o700); err != nil {
		return err
	}
	if err := checkAbove(dir); err != nil {
		return err
	}
	for _, name := range []string{fileDB, fileDB + "-wal", fileDB + "-shm", fileDB + "-journal", fileLock, fileMasterKey} {
		if err := checkFile(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// checkAbove refuses a state directory that everyone could move away: the next
// start would make another, empty one, whose first visitor sets the password.
// Where dir is a symbolic link, both ends are checked.
func checkAbove(dir string) error {
	link, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return err
	}
	for _, path := range []string{link, target} {
		if err := checkParents(path); err != nil {
			return err
		}
	}
	return nil
}

func checkParents(path string) error {
	var open error // the first directory found open
	for path != filepath.Dir(path) {
		path = filepath.Dir(path)
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		perm := fi.Mode().Perm()
		// In a sticky directory, such as /tmp, only an entry's owner may move it.
		if perm&0o002 != 0 && fi.Mode()&fs.ModeSticky == 0 && open == nil {
			open = &OpenError{Err: ErrPermissions, Detail: "everyone may replace what is in " + path,
				Advice: "chmod o-w " + path + ", or move state_dir to a directory that only root or the gateway's user may write"}
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && perm&0o011 == 0 && (st.Uid == 0 || int(st.Uid) == os.Geteuid()) {
			open = nil // others do not get to what is below
		}
	}
	return open
}

// checkFile checks that path, where it exists, is a file of ours that nobody
// else may read or write.
func checkFile(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return &OpenError{Err: ErrPermissions, Detail: path + " is not a regular file",
			Advice: "replace it by the file itself, owned by the gateway's user with mode 0600"}
	}
	return checkOwner(path, fi, 0o600)
}

func checkOwner(path string, fi fs.FileInfo, want fs.FileMode) error {
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return &OpenError{Err: ErrPermissions,
			Detail: fmt.Sprintf("%s does not belong to uid %d, the user this gateway runs as", path, os.Geteuid()),
			Advice: fmt.Sprintf("run the gateway as its owner, or: chown %d %s", os.Geteuid(), path)}
	}
	if perm := fi.Mode().Perm(); perm&0o077 != 0 {
		return &OpenError{Err: ErrPermissions,
			Detail: fmt.Sprintf("%s has mode %04o: others than its owner could get at secrets", path, perm),
			Advice: fmt.Sprintf("chmod %04o %s, and replace the secrets if others use this machine", want, path)}
	}
	return nil
}

// lockDir takes the lock that keeps a second process out until the returned
// file is closed, or this process ends however it ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, fileLock)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder := "another process"
		if pid, err := io.ReadAll(io.LimitReader(f, 20)); err == nil && len(pid) > 0 {
			holder = "process " + strings.TrimSpace(string(pid))
		}
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		return nil, &OpenError{Err: ErrLocked,
			Detail: fmt.Sprintf("%s is in use by %s", dir, holder),
			Advice: "stop that gateway first, or give this one its own state_dir"}
	}
	// The number is for the message above only; the lock is what counts.
	if err := f.Truncate(0); err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return f, nil
}

// createDBFile makes the database file before SQLite would, so that it (and
// the -wal and -shm files, which take its mode) is 0600 whatever the umask.
func createDBFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes names just created or renamed in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
