package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// headSize is a message's type and its length, which counts itself
// (PostgreSQL's documentation, section "Message Formats").
const headSize = 5

// stream is one direction of a session: messages are found in place in what is
// read, and go on as they are. Nothing is written until there is nothing more to
// read without waiting, or the buffer is full. One goroutine owns it.
type stream struct {
	from io.Reader
	to   io.Writer
	buf  []byte

	begin int  // of what has been read and not been written
	at    int  // of the message that is next
	end   int  // of what has been read
	skip  int  // bytes of the message before that have not been read yet
	drop  bool // whether they go no further

	failed error // of to; nothing is written any more
}

var (
	errShort = errors.New("a message is shorter than its length")
	errLong  = errors.New("a message is too long")
)

func newStream(from io.Reader, to io.Writer) *stream {
	return &stream{from: from, to: to, buf: make([]byte, bufferSize)}
}

// next returns the type of the next message and the length of its body. It
// belongs to nothing until pass or remove is called, once.
func (s *stream) next() (kind byte, length int, err error) {
	for s.skip > 0 {
		if err := s.fill(); err != nil {
			return 0, 0, err
		}
	}
	for s.end-s.at < headSize {
		if err := s.fill(); err != nil {
			return 0, 0, err
		}
	}
	n := binary.BigEndian.Uint32(s.buf[s.at+1:])
	switch {
	case n < 4:
		return 0, 0, errShort
	case n > maxMessage:
		return 0, 0, errLong
	}
	return s.buf[s.at], int(n) - 4, nil
}

// body returns the first n bytes of the next message's body. They are the
// buffer's, until the next call. Callers bound n.
func (s *stream) body(n int) ([]byte, error) {
	if headSize+n > len(s.buf) { // until the next fill that does not need it
		if err := s.flush(); err != nil {
			return nil, err
		}
		s.move(make([]byte, headSize+n))
	}
	for s.end-s.at < headSize+n {
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
	return s.buf[s.at+headSize : s.at+headSize+n], nil
}

// pass lets the next message, whose body has this length, go on.
func (s *stream) pass(length int) { s.step(length, false) }

func (s *stream) step(length int, drop bool) {
	s.at += headSize + length
	if s.at > s.end {
		s.skip, s.drop = s.at-s.end, drop
		s.at = s.end
	}
}

// remove takes the next message out of the stream, and puts instead, which may be
// nil, in its place.
func (s *stream) remove(length int, instead []byte) error {
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.write(instead); err != nil {
		return err
	}
	s.step(length, true)
	s.begin = s.at
	return nil
}

// flush writes what has been passed.
func (s *stream) flush() error {
	passed := s.buf[s.begin:s.at]
	s.begin = s.at
	return s.write(passed)
}

func (s *stream) write(p []byte) error {
	if s.failed == nil && len(p) > 0 {
		if _, err := s.to.Write(p); err != nil {
			s.failed = &writeError{err}
		}
	}
	return s.failed
}

// fill reads more, once what has been passed is on its way: reading may wait.
func (s *stream) fill() error {
	if err := s.flush(); err != nil {
		return err
	}
	switch {
	case s.at == s.end && len(s.buf) > bufferSize: // a large message has been passed
		s.move(make([]byte, bufferSize))
	case s.at == s.end || s.end == len(s.buf): // not each time: what drips in would be moved over and over
		s.move(s.buf)
	}
	n, err := s.from.Read(s.buf[s.end:])
	if n == 0 && err == nil {
		return nil
	}
	if n == 0 {
		return err
	}
	s.end += n
	if s.skip > 0 {
		skipped := min(s.skip, n)
		s.skip -= skipped
		s.at = skipped
		if s.drop {
			s.begin = s.at
		}
	}
	return nil
}

// move takes what has not been passed to the beginning of buf.
func (s *stream) move(buf []byte) {
	s.end = copy(buf, s.buf[s.at:s.end])
	s.buf, s.begin, s.at = buf, 0, 0
}

// whole reports whether what has been written ends with a message.
func (s *stream) whole() bool { return s.failed == nil && (s.skip == 0 || s.drop) }

// writeError is an error of the side that is written to.
type writeError struct{ err error }

func (e *writeError) Error() string { return fmt.Sprintf("writing: %v", e.err) }
func (e *writeError) Unwrap() error { return e.err }
