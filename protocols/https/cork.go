package https

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

const (
	// corkTime is how long the head of a response to an HTTP/2 agent waits for its
	// body, if that is at hand.
	corkTime = time.Millisecond

	// maxCorked is how many bytes wait at most, and the memory kept for them.
	maxCorked = 8 << 10
)

// cork joins writes of an HTTP/2 server: it sends the head of a response and what
// there is of its body in two, and each is a TLS record, a system call or a
// segment of the tunnel's, and a wake-up of the agent.
type cork struct {
	to     io.Writer
	bodies atomic.Bool  // of late, heads are followed by bodies that are at hand
	resets atomic.Int64 // RST_STREAM frames written that do not count yet

	mu    sync.Mutex
	said  frameScanner // guarded by mu
	held  []byte       // heads; guarded by mu
	timer *time.Timer  // ends the wait of held; guarded by mu
	err   error        // of a write that nobody waited for; guarded by mu
}

// Write writes p, or keeps it for what follows.
func (k *cork) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return 0, k.err
	}
	head := k.endsWithHead(p)
	if head && k.bodies.Load() && len(k.held)+len(p) <= maxCorked {
		if len(k.held) == 0 {
			k.wait()
		}
		k.held = append(k.held, p...)
		return len(p), nil
	}
	if len(k.held) == 0 {
		return k.to.Write(p)
	}
	k.timer.Stop()
	held, all := len(k.held), append(k.held, p...)
	k.held = nil
	if cap(all) <= maxCorked {
		k.held = all[:0]
	}
	n, err := k.to.Write(all)
	return max(0, n-held), err
}

// endsWithHead follows the frames in p, and reports whether the last is a whole
// head of which a body follows, or a 1xx; mu is held.
func (k *cork) endsWithHead(p []byte) bool {
	var piece framePiece
	for ; len(p) > 0; p = p[piece.length:] {
		piece = k.said.next(p)
		if piece.begins && k.said.kind() == http2.FrameRSTStream {
			k.resets.Add(1)
		}
	}
	return piece.ends && k.said.kind() == http2.FrameHeaders &&
		k.said.flags().Has(http2.FlagHeadersEndHeaders) && !k.said.flags().Has(http2.FlagHeadersEndStream)
}

// wait begins to hold; mu is held.
func (k *cork) wait() {
	if k.timer == nil {
		k.timer = time.AfterFunc(corkTime, k.release)
	} else {
		k.timer.Reset(corkTime)
	}
}

// release writes what has waited in vain.
func (k *cork) release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.held) == 0 {
		return
	}
	k.bodies.Store(false)
	_, k.err = k.to.Write(k.held)
	k.held = k.held[:0]
}
