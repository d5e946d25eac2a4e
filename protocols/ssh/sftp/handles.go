package sftp

import (
	"errors"
	"sync"
)

// maxHandles bounds the files and directories that a session has open or is
// opening: the usual RLIMIT_NOFILE of OpenSSH's server.
const maxHandles = 1024

var (
	errHandles = errors.New("too many open files")
	errSameID  = errors.New("request id is that of an open that has not been answered")
)

// handles knows which path a handle was opened for, so that what is asked of an
// open file can be decided by its name. The zero value is ready.
type handles struct {
	mu      sync.Mutex
	opening map[uint32]string // paths by request id; guarded by mu
	open    map[string]string // paths by handle; guarded by mu
}

// ask notes that a request is sent on that a handle is the answer to.
func (h *handles) ask(id uint32, path string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.opening)+len(h.open) >= maxHandles {
		return errHandles
	}
	if h.opening == nil {
		h.opening, h.open = make(map[uint32]string), make(map[string]string)
	}
	h.opening[id] = path
	return nil
}

// free tells whether a request may have this id: the answer to an open must be
// told from every other.
func (h *handles) free(id uint32) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, taken := h.opening[id]
	return !taken
}

// answer notes the answer to a request; handle is empty where it is another.
func (h *handles) answer(id uint32, handle []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	path, ok := h.opening[id]
	if !ok {
		return
	}
	delete(h.opening, id)
	if len(handle) > 0 {
		h.open[string(handle)] = path
	}
}

// path returns what an open handle was opened for.
func (h *handles) path(handle []byte) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	path, ok := h.open[string(handle)]
	return path, ok
}

// close forgets a handle. It is called before the upstream is told, which may use
// the handle again at once.
func (h *handles) close(handle []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, string(handle))
}
