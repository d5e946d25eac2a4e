package dashboard

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Limits of server-sent events.
const (
	maxEventStreams = 64                     // at a time, over all sessions
	eventTick       = 500 * time.Millisecond // between looks for something to send
	eventIdle       = 15 * time.Second       // after which an empty comment is sent
	eventWrite      = 10 * time.Second       // for the browser to take what is sent
	recheckPassword = 5 * time.Second        // of who came with the password instead of a cookie
)

var tooManyStreams = &failure{http.StatusServiceUnavailable, "busy", "too many pages are open", "close some, or reload this one now and then"}

// events is one answer of server-sent events (HTML Living Standard, section
// 9.2). It ends with the credential of the request that asked for it.
type events struct {
	w    http.ResponseWriter
	r    *http.Request
	out  *http.ResponseController
	last time.Time // when something was sent
}

// serveEvents answers r with a stream. It calls look twice a second, in which
// send may be called any number of times, until the browser goes, the session
// ends (event "ended"), or look fails.
func (d *dashboard) serveEvents(w http.ResponseWriter, r *http.Request, look func(ctx context.Context, e *events) error) {
	select {
	case d.streams <- struct{}{}:
		defer func() { <-d.streams }()
	default:
		d.fail(w, r, tooManyStreams)
		return
	}
	alive, err := d.stillLoggedIn(r)
	if err != nil {
		d.fail(w, r, err)
		return
	}
	e := &events{w: w, r: r, out: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead { // which would never end
		return
	}
	if e.write("retry: 2000\n\n") != nil {
		return
	}
	tick := time.NewTicker(eventTick)
	defer tick.Stop()
	for {
		if !alive() {
			_ = e.send("ended", "", "")
			return
		}
		if look(r.Context(), e) != nil {
			return
		}
		if time.Since(e.last) >= eventIdle && e.write(":\n\n") != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// send sends one event; id, which may be empty, comes back as Last-Event-ID when
// the browser connects again. Lines of data stay lines.
func (e *events) send(name, id, data string) error {
	var b strings.Builder
	if id != "" {
		fmt.Fprintf(&b, "id: %s\n", id)
	}
	fmt.Fprintf(&b, "event: %s\n", name)
	for line := range strings.Lines(data) {
		fmt.Fprintf(&b, "data: %s\n", strings.TrimRight(strings.ReplaceAll(line, "\r", " "), "\n"))
	}
	if data == "" {
		b.WriteString("data:\n")
	}
	b.WriteString("\n")
	return e.write(b.String())
}

func (e *events) write(s string) error {
	e.last = time.Now()
	// The server's own limit is for a whole answer.
	if err := e.out.SetWriteDeadline(e.last.Add(eventWrite)); err != nil {
		return err
	}
	if _, err := e.w.Write([]byte(s)); err != nil {
		return err
	}
	return e.out.Flush()
}

// stillLoggedIn returns what says whether r's credential is good still.
func (d *dashboard) stillLoggedIn(r *http.Request) (func() bool, error) {
	if hash, ok := d.sessionOf(r); ok {
		return func() bool { return d.Registry.SessionValid(hash) }, nil
	}
	// It came with the password, which is right as long as it is not changed; or
	// with a session that has just ended, which the second look tells.
	first, err := d.Registry.RootPasswordHash(r.Context())
	if err != nil {
		return nil, fmt.Errorf("reading the root password's hash: %w", err)
	}
	if err := d.authenticate(r); err != nil {
		return nil, err
	}
	next := d.Now().Add(recheckPassword)
	return func() bool {
		if now := d.Now(); !now.Before(next) {
			next = now.Add(recheckPassword)
			hash, err := d.Registry.RootPasswordHash(r.Context())
			return err == nil && string(hash) == string(first)
		}
		return true
	}, nil
}
