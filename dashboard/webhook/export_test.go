package webhook

import "time"

// Quickly sets the pauses between attempts.
func (c Config) Quickly(pause time.Duration) Config {
	c.pauses = &[attempts - 1]time.Duration{pause, pause}
	return c
}

// Queue is how many announcements wait at most.
const Queue = maxQueued

// Summary is how an agent's words are passed on.
func Summary(s string) string { return summary(s) }

// WaitQueued waits, for at most 10 s, until so many announcements are queued.
func (w *Webhook) WaitQueued(n int) {
	for deadline := time.Now().Add(10 * time.Second); len(w.queue) != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			panic("the queue does not fill")
		}
	}
}
