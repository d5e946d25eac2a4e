package sftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// bufferSize holds any packet that is read whole, and mostly the next one too.
const bufferSize = 64 << 10

var errSize = errors.New("packet has a length that none can have")

// stream reads packets from one side and passes them to the other. What is
// passed is written in as few pieces as it was read: before the next read, or
// before something else is written.
type stream struct {
	src io.Reader
	dst *shared

	buf    []byte
	passed int  // buf[passed:at] is passed and not yet written
	at     int  // buf[at:end] is read and not yet passed
	end    int  //
	turn   bool // dst's turn is ours: a packet has been begun there
}

func newStream(src io.Reader, dst *shared) *stream {
	return &stream{src: src, dst: dst, buf: make([]byte, bufferSize)}
}

// next returns the next packet's type and size, without its length field. io.EOF
// means that there is none.
func (s *stream) next() (typ byte, size int, err error) {
	switch p, err := s.peek(lengthSize + 1); {
	case err == io.EOF && s.at == s.end:
		return 0, 0, io.EOF
	case err == io.EOF:
		return 0, 0, io.ErrUnexpectedEOF
	case err != nil:
		return 0, 0, err
	default:
		n := binary.BigEndian.Uint32(p)
		if n == 0 || n > maxPacket {
			return 0, 0, errSize
		}
		return p[lengthSize], int(n), nil
	}
}

// body returns the first n bytes of the next packet, from its type on; n is at
// most maxRequest. They are good until the next call.
func (s *stream) body(n int) ([]byte, error) {
	p, err := s.peek(lengthSize + n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	return p[lengthSize:], nil
}

// peek returns the next n bytes.
func (s *stream) peek(n int) ([]byte, error) {
	for s.end-s.at < n {
		if err := s.flush(true); err != nil {
			return nil, err
		}
		if s.at+n > len(s.buf) || s.at == s.end {
			s.end = copy(s.buf, s.buf[s.at:s.end])
			s.passed, s.at = 0, 0
		}
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
	return s.buf[s.at : s.at+n], nil
}

// fill reads once.
func (s *stream) fill() error {
	n, err := s.src.Read(s.buf[s.end:])
	s.end += n
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// pass passes the next packet, of this size.
func (s *stream) pass(size int) error {
	for left := lengthSize + size; ; {
		n := min(left, s.end-s.at)
		s.at += n
		if left -= n; left == 0 {
			return nil
		}
		// The rest of it does not wait for its last byte.
		if err := s.flush(false); err != nil {
			return err
		}
		s.passed, s.at, s.end = 0, 0, 0
		if err := s.fill(); err != nil {
			return unexpected(err)
		}
	}
}

// skip takes the next packet, which is in the buffer, out of the stream.
func (s *stream) skip(size int) error {
	if err := s.flush(true); err != nil {
		return err
	}
	s.at += lengthSize + size
	s.passed = s.at
	return nil
}

// replace is skip, with another packet in its place.
func (s *stream) replace(size int, p []byte) error {
	if err := s.skip(size); err != nil {
		return err
	}
	return s.dst.packet(p)
}

// flush writes what has been passed. whole says that it ends with a packet.
func (s *stream) flush(whole bool) error {
	if s.passed == s.at {
		return nil
	}
	if !s.turn {
		s.dst.turn.Lock()
		s.turn = true
	}
	err := s.dst.write(s.buf[s.passed:s.at])
	s.passed = s.at
	if whole || err != nil {
		s.release()
	}
	return err
}

// release lets others write after a packet of which no more will come.
func (s *stream) release() {
	if s.turn {
		s.turn = false
		s.dst.turn.Unlock()
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ending wraps how a direction ended; nil for its proper end.
func ending(who string, err error) error {
	if err == nil || err == io.EOF {
		return nil
	}
	return fmt.Errorf("sftp %s: %w", who, err)
}
