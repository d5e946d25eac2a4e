package https

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// upload carries the body of a request upstream while the answer is awaited, on
// a goroutine of its own.
type upload struct {
	body     *requestBody
	to       sink
	rest     bool        // what nobody wants is read all the same, to get at the next request
	unwanted atomic.Bool // nobody wants the rest
	failed   atomic.Pointer[error]
	begin    sync.Once
	done     chan struct{}
	whole    bool // all of it was sent; of the goroutine until done
}

var errUpload = errors.New("the body could not be carried upstream")

// sink is where a body goes, piece by piece.
type sink interface {
	write(p []byte) error
	end() error        // after the last piece; the trailer's values are there
	close(fault error) // the upload has ended; fault is why the body could not be read, or nil
}

// newUpload makes s the way the body goes.
func (x *exchange) newUpload(s sink) *upload {
	x.upload = &upload{body: x.body, to: s, rest: x.agent != nil, done: make(chan struct{})}
	return x.upload
}

// start begins to send, once.
func (u *upload) start() {
	u.begin.Do(func() { u.body.exchange.conversation.running.Go(u.run) })
}

// run is the goroutine.
func (u *upload) run() {
	s := u.to
	defer close(u.done)
	defer func() {
		if fault := recover(); fault != nil {
			u.body.exchange.logPanic(fault)
			u.failed.Store(&errUpload)
			s.close(errUpload)
		}
	}()
	if u.body.permit != nil && !u.body.permit.wait() {
		s.close(nil)
		return
	}
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	left := int64(maxRest)
	for {
		n, err := u.body.Read(buf[:])
		if !u.unwanted.Load() && n > 0 {
			if s.write(buf[:n]) != nil {
				u.unwanted.Store(true)
			}
		}
		if err == io.EOF {
			if !u.unwanted.Load() {
				u.whole = s.end() == nil
			}
			break
		}
		if err != nil {
			if !u.unwanted.Load() {
				u.failed.Store(&err)
			}
			s.close(err)
			return
		}
		if u.unwanted.Load() {
			if left -= int64(n); left < 0 || !u.rest {
				break
			}
		}
	}
	s.close(nil)
}

// fault is why the body could not be read from the agent, or nil.
func (u *upload) fault() error {
	if err := u.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// waitUpload returns when the upload has ended; one that has not begun never
// will.
func (x *exchange) waitUpload() {
	if u := x.upload; u != nil {
		u.unwanted.Store(true)
		u.begin.Do(func() { close(u.done) })
		<-u.done
	}
}

// uploadDone reports whether all of the body was sent upstream, which may take
// a moment longer than the answer.
func (x *exchange) uploadDone() bool {
	if x.body == nil {
		return true
	}
	if x.upload == nil {
		return x.body.ended.Load()
	}
	select {
	case <-x.upload.done:
		return x.upload.whole
	default:
	}
	patience := time.NewTimer(uploadPatience)
	defer patience.Stop()
	select {
	case <-x.upload.done:
		return x.upload.whole
	case <-patience.C:
		x.upload.unwanted.Store(true)
		return false
	}
}

// bodyAtHand reports whether all of a small body has arrived already.
func (x *exchange) bodyAtHand() bool {
	return x.agent != nil && x.body.permit == nil && x.r.ContentLength > 0 &&
		x.r.ContentLength <= smallUpload && int64(x.agent.br.Buffered()) >= x.r.ContentLength
}

// wireSink is the body of a request on an upstream's HTTP/1.1 connection.
type wireSink struct {
	conn    *upstream
	w       *bufio.Writer
	chunked bool
	trailer http.Header
}

func (s *wireSink) write(p []byte) error {
	if s.chunked {
		_, _ = writeChunk(s.w, p)
	} else {
		_, _ = s.w.Write(p)
	}
	return s.w.Flush()
}

func (s *wireSink) end() error {
	if !s.chunked {
		return nil
	}
	if !sendable(s.trailer) {
		s.conn.close()
		return errUnsendable
	}
	_, _ = s.w.WriteString("0\r\n")
	writeFields(s.w, s.trailer)
	_, _ = s.w.WriteString("\r\n")
	return s.w.Flush()
}

// close hangs up where the body broke off: the upstream must not take what came
// for the whole.
func (s *wireSink) close(fault error) {
	if fault != nil {
		s.conn.close()
	}
	putWriter(s.w)
}

// bodyPipe is the body of an HTTP/1.1 agent's request on its way to a transport.
// The transport may let go of it at any time, when reading from the agent could
// not be interrupted without losing the connection.
type bodyPipe struct {
	r      *io.PipeReader
	w      *io.PipeWriter
	upload *upload
	begun  atomic.Bool
}

// pipeBody makes a pipe the way the body goes.
func (x *exchange) pipeBody() *bodyPipe {
	p := &bodyPipe{}
	p.r, p.w = io.Pipe()
	p.upload = x.newUpload(p)
	return p
}

// Read begins to read from the agent: before it, the transport may still look at
// the trailer, and the agent is not asked for its body.
func (p *bodyPipe) Read(b []byte) (int, error) {
	p.begun.Store(true)
	p.upload.start()
	return p.r.Read(b)
}

// Close does nothing before the first Read: a round trip may be tried again.
func (p *bodyPipe) Close() error {
	if p.begun.Load() {
		p.abandon()
	}
	return nil
}

// abandon fails what is still read or written.
func (p *bodyPipe) abandon() { _ = p.r.Close() }

func (p *bodyPipe) write(b []byte) error {
	_, err := p.w.Write(b)
	return err
}

func (p *bodyPipe) end() error        { return p.w.Close() }
func (p *bodyPipe) close(fault error) { _ = p.w.CloseWithError(fault) }
