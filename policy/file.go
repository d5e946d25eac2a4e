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
// others replace them. Where path is a symbolic link, both ends are checked.
// The error says what to do about it.
func CheckFile(path string) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("checking who can change %s: %w", path, err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return fmt.Errorf("checking who can change %s: %w", path, err)
	}
	checked := []string{real, filepath.Dir(real)}
	if dir := filepath.Dir(abs); dir != filepath.Dir(real) {
		checked = append(checked, dir)
	}
	for _, p := range checked {
		if err := checkOwned(p); err != nil {
			return fmt.Errorf("checking who can change %s: %w", path, err)
		}
	}
	for dir := filepath.Dir(filepath.Dir(real)); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("checking who can change %s: %w", path, err)
		}
		// In a sticky directory (/tmp) only the owner of an entry renames it.
		if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("checking who can change %s: everyone may write in %s (hint: chmod o-w %s)", path, dir, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

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
		return fmt.Errorf("%s belongs to uid %d, not to root or uid %d (hint: chown root %s)", path, st.Uid, uid, path)
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("%s is writable by more than its owner, mode %04o (hint: chmod go-w %s)", path, perm, path)
	}
	return nil
}
