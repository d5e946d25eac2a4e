package recording

import (
	"errors"
	"io"
	"sync"
	"time"
)

// Session is a recording in the making. Its methods may be called by several
// goroutines. An error of theirs means that something has not been recorded
// though there was room for it, and comes again with every call: the session
// should not go on.
type Session struct {
	store *Store
	file  *file
	meta  Meta
	start time.Time

	mu      sync.Mutex
	w       io.WriteCloser
	size    int64
	full    bool
	err     error
	streams [3]stream // by streamIndex
}

// The streams of a session.
const (
	stdout = iota
	stderr
	stdin
)

func newSession(s *Store, f *file, w io.WriteCloser, m Meta) *Session {
	session := &Session{store: s, file: f, meta: m, start: s.now(), w: w}
	for i := range session.streams {
		session.streams[i].mask = newMask(m.Mask)
	}
	return session
}

// begin writes the head.
func (s *Session) begin(n name) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(head(n, s.meta, s.streams[stdout].mask))
	if s.full {
		return errNoRoom
	}
	return s.err
}

// ID is what the recording is found by.
func (s *Session) ID() string { return s.file.name.id() }

// Stdout records what the upstream sent, in pieces as they came. A pty has no
// other output.
func (s *Session) Stdout(p []byte) error { return s.data(stdout, p) }

// Stderr records what the upstream sent as errors.
func (s *Session) Stderr(p []byte) error { return s.data(stderr, p) }

// Stdin records what the agent sent, if Meta.Input asks for it.
func (s *Session) Stdin(p []byte) error {
	if !s.meta.Input {
		return nil
	}
	return s.data(stdin, p)
}

func (s *Session) data(stream int, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full || s.err != nil {
		return s.err
	}
	for piece := range s.streams[stream].pieces(p, false) {
		s.write(s.event(stream, piece))
	}
	return s.err
}

// Resize records a new size of the terminal.
func (s *Session) Resize(columns, rows uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta.PTY {
		s.write(castEvent(s.since(), "r", size(columns, rows)))
	}
	return s.err
}

// Finish ends the recording with how the session ended: "exit status 0". It may
// be called once, after all others.
func (s *Session) Finish(how string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.streams {
		for piece := range s.streams[i].pieces(nil, true) {
			s.write(s.event(i, piece))
		}
	}
	var last []byte
	if s.full {
		last = s.mark("truncated: the recording reached its limit")
	}
	last = append(last, s.mark(cut(how, maxHow))...)
	s.store.finished(s.file, len(last))
	if s.err == nil {
		_, s.err = s.w.Write(last)
	}
	return errors.Join(s.err, s.w.Close())
}

// write writes a line unless there is no room for it: then it was the last one.
// s.mu is held.
func (s *Session) write(line []byte) {
	if s.full || s.err != nil {
		return
	}
	if s.size+int64(len(line)) > s.store.limits.File-room || !s.store.grow(s.file, len(line)) {
		s.full = true
		return
	}
	s.size += int64(len(line))
	_, s.err = s.w.Write(line)
}

func (s *Session) since() time.Duration { return s.store.now().Sub(s.start) }

// event is data as the file has it.
func (s *Session) event(stream int, p []byte) []byte {
	if s.meta.PTY {
		return castEvent(s.since(), [...]string{"o", "o", "i"}[stream], string(p))
	}
	return transcriptEvent(s.since(), [...]string{"stdout", "stderr", "stdin"}[stream], p)
}

// mark is a remark of ours.
func (s *Session) mark(text string) []byte {
	if s.meta.PTY {
		return castEvent(s.since(), "m", text)
	}
	return transcriptMark(s.since(), text)
}
