package policy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// directoryCheck is how often Watch looks whether the directory it watches is
// still the one at that path.
const directoryCheck = time.Second

// Watch calls changed each time the file at path has been replaced by an atomic
// rename, until ctx ends; then it returns nil. It never calls changed for a
// file that is written in place, removed or created there: what such a write
// has got to is not known, and half a policy may well compile. A replacement of
// a symbolic link at path, or of the directory (or of a link to it), counts if
// another file is at path afterwards.
//
// What happened before Watch was called is not reported: start it before the
// file is read for the first time, or reload once after. It does not see
// changes another host makes on a network file system.
func Watch(ctx context.Context, path string, changed func()) error {
	w, err := newWatcher(path)
	if err != nil {
		return fmt.Errorf("watching %s: %w", path, err)
	}
	defer w.close()
	// Closing wakes a pending Read.
	stop := context.AfterFunc(ctx, func() { w.events.Close() })
	defer stop()
	for {
		replaced, err := w.wait(directoryCheck)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watching %s: %w", path, err)
		}
		if replaced {
			changed()
		}
	}
}

// watcher is owned by the goroutine that runs Watch. Only events is closed from
// elsewhere.
type watcher struct {
	path   string
	events *os.File

	watch int         // the kernel's number of the watch on dir
	dir   os.FileInfo // of the watched directory; nil: none is watched
	held  *os.File    // what was last at path; open, so that its inode number is not given to another file
	seen  os.FileInfo // of held
}

// newWatcher begins to watch: what happens after it returns is seen.
func newWatcher(path string) (*watcher, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	// Non-blocking, so that Read waits in Go's poller, which knows deadlines.
	w := &watcher{path: abs, events: os.NewFile(uintptr(fd), "inotify")}
	w.follow()
	w.another()
	return w, nil
}

func (w *watcher) close() {
	w.events.Close()
	w.held.Close() // nil if there never was a file: an error that means nothing
}

// wait reads one batch of events, or lets the time pass, and reports whether the
// file was replaced.
func (w *watcher) wait(most time.Duration) (bool, error) {
	var buf [16 << 10]byte // a few hundred events; the kernel gives whole ones
	if err := w.events.SetReadDeadline(time.Now().Add(most)); err != nil {
		return false, err
	}
	n, err := w.events.Read(buf[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		n, err = 0, nil
	}
	if err != nil {
		return false, err
	}
	renamed, elsewhere := w.renames(buf[:n])
	if w.follow() {
		elsewhere = true
	}
	if renamed || elsewhere {
		// Asked in either case: it remembers what is there now.
		if another := w.another(); another || renamed {
			return true, nil
		}
	}
	return false, nil
}

// renames reads events (inotify(7)): whether something was renamed to the path
// itself, or whether something happened that may have put another file there.
func (w *watcher) renames(b []byte) (renamed, elsewhere bool) {
	base := filepath.Base(w.path)
	for len(b) >= unix.SizeofInotifyEvent {
		watch := int(int32(binary.NativeEndian.Uint32(b[0:])))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := int(binary.NativeEndian.Uint32(b[12:]))
		b = b[unix.SizeofInotifyEvent:]
		if size > len(b) {
			return renamed, true
		}
		name := strings.TrimRight(string(b[:size]), "\x00")
		b = b[size:]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			elsewhere = true
		case watch != w.watch:
			// Of a directory that is no longer the one.
		case mask&unix.IN_IGNORED != 0:
			w.dir = nil
		case mask&unix.IN_MOVED_TO != 0 && name == base:
			renamed = true
		case mask&unix.IN_MOVED_TO != 0:
			// Where path is a link, a rename beside it may have changed where it
			// leads: so do Kubernetes' config maps.
			if info, err := os.Lstat(w.path); err == nil && info.Mode()&os.ModeSymlink != 0 {
				elsewhere = true
			}
		}
	}
	return renamed, elsewhere
}

// follow makes sure that the directory now at the path is the watched one, and
// reports whether it had to change that. A failure is tried again after
// directoryCheck.
func (w *watcher) follow() bool {
	dir := filepath.Dir(w.path)
	info, err := os.Stat(dir)
	if err != nil || w.dir != nil && os.SameFile(info, w.dir) {
		return false
	}
	raw, err := w.events.SyscallConn()
	if err != nil {
		return false
	}
	followed := false
	_ = raw.Control(func(fd uintptr) {
		watch, err := unix.InotifyAddWatch(int(fd), dir, unix.IN_MOVED_TO|unix.IN_ONLYDIR)
		if err != nil {
			return
		}
		if w.dir != nil && watch != w.watch {
			_, _ = unix.InotifyRmWatch(int(fd), uint32(w.watch)) // gone already if its directory is
		}
		w.watch, w.dir, followed = watch, info, true
	})
	return followed
}

// another reports whether the file at path is not the one it last saw, and
// remembers it. A missing file is not another one: it may come back.
func (w *watcher) another() bool {
	f, err := os.OpenFile(w.path, unix.O_PATH, 0)
	if err != nil {
		return false
	}
	info, err := f.Stat()
	if err != nil || w.seen != nil && os.SameFile(info, w.seen) {
		f.Close()
		return false
	}
	w.held.Close()
	w.held, w.seen = f, info
	return true
}
