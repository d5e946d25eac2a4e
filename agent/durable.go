package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// replaceFile puts a file in place of whatever is at path, a symbolic link
// included, so that at any instant either the old or the new one is there in
// full, and the new one stays once replaceFile has returned. The temporary name
// is a fixed one: a process killed half-way leaves at most that behind.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	tmp := temporaryName(path)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode) // the umask may have taken bits
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func temporaryName(path string) string {
	return filepath.Join(filepath.Dir(path), ".clawpatrol-"+filepath.Base(path)+".tmp")
}

// syncDir makes the directory's entries durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir makes a directory with exactly this mode, or checks that the one there
// is no wider and belongs to the caller.
func makeDir(path string, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("making the state directory: %w", err)
	}
	err := os.Mkdir(path, mode)
	if err == nil {
		return os.Chmod(path, mode) // the umask may have taken bits
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making the state directory: %w", err)
	}
	return checkMode(path, mode)
}

// checkMode refuses a file or directory that others than its owner can do more
// with than mode says, or that belongs to someone else (I03).
func checkMode(path string, mode fs.FileMode) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return fmt.Errorf("checking %s: it is a symbolic link", path)
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return withHint(fmt.Errorf("checking %s: it belongs to user %d, not to %d", path, st.Uid, uid),
			fmt.Sprintf("if you trust what it holds: chown %d %s", uid, path))
	}
	if have := fs.FileMode(st.Mode) & fs.ModePerm; have&^mode != 0 {
		return withHint(fmt.Errorf("checking %s: its mode is %04o, wider than %04o", path, have, mode),
			fmt.Sprintf("others may have read it: if they have not, chmod %04o %s", mode, path))
	}
	return nil
}

func syncDirOf(path string) error { return syncDir(filepath.Dir(path)) }
