package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// readFile reads a regular file of at most limit bytes. A FIFO or device is an
// error at once: it could block, or never end.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, nil
}

// CheckFile reports whether nobody but root and this process's user can change
// the file at path (I22): the file and its directory belong to one of the two
// and are writable by neither group nor others, and no directory above lets
// everyone replace them. Where path is a symbolic link, both ends are checked.
// An error about permissions has a Hint method that says what to do.
func CheckFile(path string) error {
	if err := checkFile(path); err != nil {
		return fmt.Errorf("checking who can change %s: %w", path, err)
	}
	return nil
}

func checkFile(path string) error {
	link, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(link)
	if err != nil {
		return err
	}
	for _, p := range []string{target, filepath.Dir(target), filepath.Dir(link)} {
		if err := checkOwned(p); err != nil {
			return err
		}
	}
	for _, p := range []string{target, link} {
		for dir := filepath.Dir(p); dir != filepath.Dir(dir); {
			dir = filepath.Dir(dir)
			if err := checkNotForAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkOwned refuses what others than root and this process's user can write.
func checkOwned(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("this system does not say who owns a file")
	}
	if uid := os.Geteuid(); st.Uid != 0 && int(st.Uid) != uid {
		return &permissionError{
			what: fmt.Sprintf("%s belongs to uid %d, not to root or to uid %d, which this runs as", path, st.Uid, uid),
			hint: "chown root " + path,
		}
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return &permissionError{
			what: fmt.Sprintf("%s has mode %04o: others than its owner may write it", path, perm),
			hint: "chmod go-w " + path,
		}
	}
	return nil
}

// checkNotForAll refuses a directory in which everyone may rename what is not
// theirs. In a sticky one, such as /tmp, only the owner of an entry may.
func checkNotForAll(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return &permissionError{
			what: fmt.Sprintf("everyone may replace what is in %s", dir),
			hint: "chmod o-w " + dir,
		}
	}
	return nil
}

// permissionError is a file that others could change, and the command that ends
// that.
type permissionError struct{ what, hint string }

func (e *permissionError) Error() string { return e.what }

// Hint returns what to do about it.
func (e *permissionError) Hint() string { return e.hint }
