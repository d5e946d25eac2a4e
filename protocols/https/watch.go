package https

import (
	"sync"
	"time"
)

// watchAfter is how long an exchange has to be under way before the agent's
// connection is watched: most are over by then.
const watchAfter = 5 * time.Millisecond

// watch notices an agent that leaves while its request waits for an answer, or
// for more of one. It reads ahead; what comes is the beginning of the next
// request and stays in the connection's buffer. Only when the body of the
// present one has been read may it begin.
type watch struct {
	agent *agentConn
	timer *time.Timer

	mu      sync.Mutex
	on      bool          // guarded by mu
	due     bool          // the timer has fired; guarded by mu
	reading bool          // somebody else reads the agent's connection; guarded by mu
	done    chan struct{} // closed when the goroutine that reads has ended; nil without one; guarded by mu
}

// start begins to watch, in a while. body says that the request's body is still
// to be read; bodyEnded follows.
func (w *watch) start(body bool) {
	w.mu.Lock()
	w.on, w.due, w.reading = true, false, body
	w.mu.Unlock()
	w.timer.Reset(watchAfter)
}

// bodyEnded says that nobody reads the agent's connection any more.
func (w *watch) bodyEnded() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = false
	w.look()
}

// begin is what the timer does.
func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = true
	w.look()
}

// look reads ahead where it is time to; mu is held.
func (w *watch) look() {
	if !w.on || !w.due || w.reading || w.done != nil {
		return
	}
	done := make(chan struct{})
	w.done = done
	go func() {
		defer close(done)
		if _, err := w.agent.br.Peek(1); err != nil {
			w.mu.Lock()
			on := w.on
			w.mu.Unlock()
			if on { // else it was stop that woke this
				w.agent.leave()
			}
		}
	}()
}

// stop returns when nothing of the watch reads any more.
func (w *watch) stop() {
	w.mu.Lock()
	done := w.done
	w.on, w.done = false, nil
	w.mu.Unlock()
	w.timer.Stop()
	if done == nil {
		return
	}
	select {
	case <-done:
		return
	default:
	}
	_ = w.agent.conversation.SetReadDeadline(time.Unix(1, 0))
	<-done
	w.agent.lost.Store(false)
	_ = w.agent.conversation.SetReadDeadline(time.Time{})
}
