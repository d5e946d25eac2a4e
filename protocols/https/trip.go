package https

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"
)

const (
	// smallUpload is how long a body may be to go out in one write with its head,
	// where all of it is here.
	smallUpload = 8 << 10

	// uploadPatience is how long the end of a request may come after that of its
	// response before their connection is given up.
	uploadPatience = 50 * time.Millisecond
)

var errUnsendable = errors.New("the request cannot be written in HTTP/1.1")

// roundTrip sends out and returns the upstream's final response, or the 101.
// Closing the response's body lets go of the connection; x gets the 1xx before it.
func (p *h1Pool) roundTrip(x *exchange, out *http.Request) (*http.Response, error) {
	for {
		u, err := p.take(x.ctx)
		if err != nil {
			return nil, err
		}
		t := &trip{x: x, out: out, conn: u, sentBefore: u.socket.sent.Load()}
		resp, err := t.run()
		if err == nil {
			return resp, nil
		}
		if !t.repeatable(err) {
			return nil, err
		}
	}
}

// trip is one request and its answer on an upstream's connection.
type trip struct {
	x          *exchange
	out        *http.Request
	conn       *upstream
	sentBefore int64
	answered   bool        // the first byte of an answer has come
	release    func() bool // ends the watch over the context; false where it has ended and the connection is closed
}

// repeatable reports whether the request may be sent again after err: nothing of
// it was sent, or it is safe, has no body and met a connection that was dead
// (RFC 9110 section 9.2.2). Only a connection used before turns out to be dead.
func (t *trip) repeatable(err error) bool {
	if !t.conn.reused || t.answered || t.x.ctx.Err() != nil || t.x.body != nil && t.x.body.started.Load() {
		return false
	}
	if t.conn.socket.sent.Load() == t.sentBefore {
		return true
	}
	switch t.out.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return t.x.body == nil
	}
	return false
}

func (t *trip) run() (*http.Response, error) {
	u := t.conn
	t.release = context.AfterFunc(t.x.ctx, u.close)
	if err := t.send(); err != nil {
		return nil, t.fail(err)
	}
	u.head.left = maxHeaderBytes
	if _, err := u.br.Peek(1); err != nil {
		return nil, t.fail(err)
	}
	t.answered = true
	for {
		head := u.peekHead()
		resp, err := http.ReadResponse(u.br, t.out)
		if err != nil {
			return nil, t.fail(err)
		}
		if head != nil {
			dropAdded(resp.Header, head)
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			u.head.left = -1
			resp.Body = &switched{trip: t}
			return resp, nil
		}
		if resp.StatusCode >= 100 && resp.StatusCode < 200 {
			if resp.StatusCode == http.StatusContinue && t.x.body != nil && t.x.body.permit != nil {
				t.x.body.permit.grant()
			}
			if err := t.x.inform(resp.StatusCode, resp.Header); err != nil {
				return nil, t.fail(err)
			}
			u.head.left = maxHeaderBytes
			continue
		}
		u.head.left = -1
		if t.x.body != nil && t.x.body.permit != nil {
			t.x.body.permit.end()
		}
		if resp.Body == http.NoBody {
			t.done(resp)
		} else {
			resp.Body = &tripBody{trip: t, resp: resp, from: resp.Body}
		}
		return resp, nil
	}
}

// send writes the head of the request, and its body where that is at hand;
// otherwise it begins the upload.
func (t *trip) send() error {
	out := t.out
	if !isToken(out.Method) || !sendable(out.Header) || !sendable(out.Trailer) {
		return errUnsendable
	}
	w := writerTo(t.conn.conn)
	_, _ = w.WriteString(out.Method)
	_ = w.WriteByte(' ')
	_, _ = w.WriteString(t.x.path)
	if out.URL.ForceQuery || out.URL.RawQuery != "" {
		_ = w.WriteByte('?')
		_, _ = w.WriteString(out.URL.RawQuery)
	}
	_, _ = w.WriteString(" HTTP/1.1\r\nHost: ")
	_, _ = w.WriteString(out.Host)
	_, _ = w.WriteString("\r\n")
	length := out.Header["Content-Length"]
	delete(out.Header, "Content-Length")
	writeFields(w, out.Header)
	if len(length) > 0 {
		out.Header["Content-Length"] = length // for another try
	}
	switch {
	case out.ContentLength > 0 || out.ContentLength == 0 && (len(length) > 0 || usuallyHasBody(out.Method)):
		_, _ = w.WriteString("Content-Length: ")
		var digits [20]byte
		_, _ = w.Write(strconv.AppendInt(digits[:0], out.ContentLength, 10))
		_, _ = w.WriteString("\r\n")
	case out.ContentLength < 0:
		_, _ = w.WriteString("Transfer-Encoding: chunked\r\n")
		for name := range out.Trailer {
			_, _ = w.WriteString("Trailer: ")
			_, _ = w.WriteString(name)
			_, _ = w.WriteString("\r\n")
		}
	}
	_, _ = w.WriteString("\r\n")
	if t.x.body == nil {
		err := w.Flush()
		putWriter(w)
		return err
	}
	if t.x.bodyAtHand() {
		defer putWriter(w)
		if _, err := io.CopyN(w, t.x.body, out.ContentLength); err != nil {
			return err
		}
		return w.Flush()
	}
	if err := w.Flush(); err != nil {
		putWriter(w)
		return err
	}
	t.x.newUpload(&wireSink{conn: t.conn, w: w, chunked: out.ContentLength < 0, trailer: out.Trailer}).start()
	return nil
}

// usuallyHasBody: RFC 9110 section 8.6.
func usuallyHasBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// fail ends the trip without an answer.
func (t *trip) fail(err error) error {
	t.release()
	t.conn.close()
	if t.x.upload != nil {
		t.x.upload.unwanted.Store(true)
		if t.x.upload.fault() != nil {
			return t.x.upload.fault()
		}
	}
	return err
}

// done lets go of the connection after the whole of the response has been read.
func (t *trip) done(resp *http.Response) {
	u := t.conn
	uploaded := t.x.uploadDone()
	switch {
	case !t.release() || !uploaded:
		u.close()
		return
	case resp.Close, u.br.Buffered() > 0:
		u.hangUp()
		return
	}
	u.pool.put(u)
}

// tripBody is the body of a response.
type tripBody struct {
	trip *trip
	resp *http.Response
	from io.Reader
	over bool
}

func (b *tripBody) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	if err != nil && !b.over {
		b.over = true
		if err == io.EOF {
			b.trip.done(b.resp)
		} else {
			b.trip.fail(err)
		}
	}
	return n, err
}

// ready reports whether a Read would return at once.
func (b *tripBody) ready() bool { return !b.over && b.trip.conn.br.Buffered() > 0 }

func (b *tripBody) Close() error {
	if !b.over {
		b.over = true
		b.trip.fail(nil)
	}
	return nil
}

// switched is the connection after a 101.
type switched struct{ trip *trip }

func (s *switched) Read(p []byte) (int, error)  { return s.trip.conn.br.Read(p) }
func (s *switched) Write(p []byte) (int, error) { return s.trip.conn.conn.Write(p) }
func (s *switched) CloseWrite() error           { return s.trip.conn.conn.CloseWrite() }
func (s *switched) Close() error {
	s.trip.release()
	s.trip.conn.close()
	return nil
}
