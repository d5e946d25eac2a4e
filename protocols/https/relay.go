package https

import (
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// copyBuffer is what one direction of one exchange holds: SPEED says 32 KiB.
	copyBuffer = 32 << 10

	// headPatience is how long the head of a response waits for the first bytes
	// of its body, so that both go out in one write.
	headPatience = time.Millisecond

	// smallBody is how long a body may be for its head to wait smallPatience for
	// it: both fit net/http's write buffer, and such a body nearly always follows
	// its head at once.
	smallBody     = 2 << 10
	smallPatience = 10 * time.Millisecond
)

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// relay sends an upstream's response to the agent as it comes.
func (x *exchange) relay(resp *http.Response) {
	h := x.w.Header()
	x.responseHeader(h, resp.Header)
	for name := range resp.Trailer {
		if x.trailerRelayed(name) {
			h["Trailer"] = append(h["Trailer"], name)
		}
	}
	if x.conversation.draining() {
		h["Connection"] = []string{"close"}
	}
	x.w.WriteHeader(resp.StatusCode)
	code := strconv.Itoa(resp.StatusCode)

	f := flusher{control: x.control}
	defer f.stop()
	switch {
	case resp.Body == http.NoBody, isReady(resp.Body):
	case resp.ContentLength < 0 || resp.ContentLength > smallBody:
		f.after(headPatience)
	default:
		f.after(smallPatience)
	}
	err := x.copyBody(&f, resp)
	if err == nil && x.out != resp.ContentLength {
		err = x.ctx.Err() // an agent that has left did not get it whole
	}
	if err != nil {
		x.status = code + " aborted"
		f.stop()
		// A cut body must not look whole: the connection or stream is reset.
		panic(http.ErrAbortHandler)
	}
	x.status = code
	if len(resp.Trailer) > 0 {
		f.now() // or net/http would send a length, and no trailer
	}
	f.stop() // a flush reads and writes h
	x.relayTrailer(h, resp.Trailer)
}

// relayTrailer puts the trailer that came after the body where net/http sends
// it from; names that were not announced need its prefix.
func (x *exchange) relayTrailer(h, trailer http.Header) {
	announced := make(map[string]bool)
	for _, name := range h["Trailer"] {
		announced[name] = true
	}
	for name, values := range trailer {
		switch {
		case len(values) == 0 || !x.trailerRelayed(name): // one that is announced need not come
		case announced[name]:
			h[name] = x.mask(values)
		default:
			h[http.TrailerPrefix+name] = x.mask(values)
		}
	}
}

func (x *exchange) trailerRelayed(name string) bool {
	return !connectionField(name) && !x.withheld(name) && framing(name)
}

// copyBody copies until the body ends. What one read returned is flushed before
// the next: an event or a message never waits for the one after it. A read that
// also brings the end is not flushed, so that a small response is one write; nor,
// for a moment, is the last of a length that was announced.
func (x *exchange) copyBody(f *flusher, resp *http.Response) error {
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := resp.Body.Read(buf[:])
		if n > 0 {
			if x.out == 0 && x.conversation.frames != nil {
				x.conversation.frames.bodyAtHand()
			}
			last := x.out+int64(n) == resp.ContentLength
			written, werr := f.write(x.w, buf[:n], err == nil && !last)
			if last && err == nil {
				f.after(headPatience)
			}
			x.out += int64(written)
			if werr != nil {
				return werr
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			f.now()
			return err
		}
	}
}

// flusher serialises the handler's writes with the timer's flush.
type flusher struct {
	control *http.ResponseController

	mu      sync.Mutex
	timer   *time.Timer
	stopped bool // guarded by mu
}

// after flushes after d, unless something is written before.
func (f *flusher) after(d time.Duration) {
	f.timer = time.AfterFunc(d, f.now)
}

func (f *flusher) now() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.stopped {
		_ = f.control.Flush() // the next write says what is wrong
	}
}

func (f *flusher) write(w io.Writer, p []byte, flush bool) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
	n, err := w.Write(p)
	if err == nil && flush {
		err = f.control.Flush()
	}
	return n, err
}

// stop returns when no flush runs or will.
func (f *flusher) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	if f.timer != nil {
		f.timer.Stop()
		f.timer = nil
	}
}

// isReady reports whether the first bytes of a body are here already.
func isReady(body io.Reader) bool {
	b, ok := body.(*tripBody)
	return ok && b.ready()
}
