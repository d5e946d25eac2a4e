package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
		return WithHint(fmt.Errorf("checking %s: it belongs to user %d, not to %d", path, st.Uid, uid),
			fmt.Sprintf("if you trust what it holds: chown %d %s", uid, path))
	}
	if have := fs.FileMode(st.Mode) & fs.ModePerm; have&^mode != 0 {
		return WithHint(fmt.Errorf("checking %s: its mode is %04o, wider than %04o", path, have, mode),
			fmt.Sprintf("others may have read it: if they have not, chmod %04o %s", mode, path))
	}
	return nil
}

// maxLinks bounds the symbolic links on a way, as path_resolution(7) does.
const maxLinks = 40

// checkWay refuses a path that another user could put something else in the
// place of: one that leads through a directory or symbolic link of theirs, or
// through a directory where all may rename what is in it. What is not there yet
// is not refused.
func checkWay(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("checking %s: it is not an absolute path", path)
	}
	split := func(p string) []string {
		return strings.FieldsFunc(p, func(r rune) bool { return r == filepath.Separator })
	}
	var root unix.Stat_t
	if err := unix.Stat("/", &root); err != nil {
		return &fs.PathError{Op: "stat", Path: "/", Err: err}
	}
	at, left := "/", split(path)
	for links := 0; len(left) > 0; {
		next := filepath.Join(at, left[0])
		var st unix.Stat_t
		if err := unix.Lstat(next, &st); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return fmt.Errorf("checking %s: %w", path, &fs.PathError{Op: "lstat", Path: next, Err: err})
		}
		// Whoever owns the root directory owns the host.
		if uid := int(st.Uid); uid != 0 && uid != os.Geteuid() && st.Uid != root.Uid {
			return WithHint(fmt.Errorf("checking %s: %s belongs to user %d, who could put something else in its place", path, next, uid), "choose a path that leads through directories of root's only")
		}
		switch kind := st.Mode & unix.S_IFMT; {
		case kind == unix.S_IFLNK:
			if links++; links > maxLinks {
				return fmt.Errorf("checking %s: it leads through more than %d symbolic links", path, maxLinks)
			}
			target, err := os.Readlink(next)
			if err != nil {
				return fmt.Errorf("checking %s: %w", path, err)
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			left = append(split(target), left[1:]...)
			continue
		case st.Mode&unix.S_IWOTH != 0 && (kind != unix.S_IFDIR || st.Mode&unix.S_ISVTX == 0):
			return WithHint(fmt.Errorf("checking %s: every user may write to %s", path, next), "choose a path that leads through directories of root's only")
		}
		at, left = next, left[1:]
	}
	return nil
}

func syncDirOf(path string) error { return syncDir(filepath.Dir(path)) }
