package https

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy"
)

// maxRest is how much of a body that nobody upstream wants is read to get at
// the request behind it.
const maxRest = 256 << 10

// agentConn is the connection of an HTTP/1.1 agent: one request after the other,
// on the goroutine of the flow. What reads is that goroutine, or for the time of
// an exchange its upload or its watch.
type agentConn struct {
	handler      *Handler
	conversation *conversation
	ctx          context.Context // ends with the flow, and when the agent has left
	leave        context.CancelFunc
	conn         *tls.Conn
	br           *bufio.Reader
	lost         atomic.Bool // a read of the connection has failed
	clock        *time.Timer // ends a wait for a request, or for the rest of its head
	watch        watch
	header       http.Header // of the answers, one after the other
	fields       http.Header // of the requests upstream, one after the other

	lastMethod string
	first      bool // no request has come yet
	switched   bool // the connection is no longer HTTP
	cut        bool // the end of what was sent must look like what it is
}

// serveH1 serves the requests of a connection until it ends.
func (h *Handler) serveH1(c *conversation, conn *tls.Conn) {
	a := &agentConn{handler: h, conversation: c, conn: conn, header: make(http.Header), fields: make(http.Header), first: true}
	a.br = bufio.NewReaderSize(a, readBuffer)
	a.ctx, a.leave = context.WithCancel(c.ctx)
	defer a.leave()
	a.watch.agent = a
	a.watch.timer = time.AfterFunc(readHeaderTimeout, a.watch.begin)
	a.watch.timer.Stop()
	// A deadline of the connection's own costs much more to move, for each request.
	a.clock = time.AfterFunc(readHeaderTimeout, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer a.clock.Stop()
	for a.next() {
		a.first = false
		a.clock.Reset(agentIdleTimeout)
	}
	if !a.switched && !a.cut {
		_ = conn.CloseWrite() // close_notify: what was sent is whole
	}
	_ = c.Close()
}

// Read reads from the connection.
func (a *agentConn) Read(p []byte) (int, error) {
	n, err := a.conn.Read(p)
	if err != nil {
		a.lost.Store(true)
	}
	return n, err
}

// gone reports whether nothing can be read from the agent any more.
func (a *agentConn) gone() bool { return a.lost.Load() }

// next serves one request. It reports whether another may follow.
func (a *agentConn) next() bool {
	head, err := a.readHead()
	var r *http.Request
	var hosts []string
	if err == nil {
		r, hosts, err = a.parse(head)
	}
	if err != nil {
		var bad *unreadable
		if errors.As(err, &bad) {
			a.reject(bad, head)
		}
		return false
	}
	a.lastMethod = r.Method
	w := newAnswer(a, r)
	x := &exchange{handler: a.handler, conversation: a.conversation, agent: a, ctx: a.ctx, w: w, control: http.NewResponseController(w), r: r, hosts: hosts, status: "aborted"}
	whole := a.handler.carry(x)
	a.watch.stop()
	if a.switched {
		return false
	}
	if !whole {
		a.cut = true
		a.leave()                  // wakes an upload that writes
		_ = a.conversation.Close() // and one that reads
		x.waitUpload()
		w.drop()
		return false
	}
	again := w.finish() && !a.cut && a.ctx.Err() == nil
	return a.settle(x, w) && again
}

// settle reads what is left of the request's body; false where that is too much
// or too slow: then no request can follow, and the connection is deaf.
func (a *agentConn) settle(x *exchange, w *answer) bool {
	ended := x.r.ContentLength == 0 || x.body != nil && x.body.ended.Load()
	switch {
	case ended:
		x.waitUpload()
	case !w.bodyWanted():
		// The agent waits to be asked for the body, or has begun to send it all the
		// same: what comes next is anybody's guess.
	default:
		a.conversation.expectRest()
		x.waitUpload()
		if x.body != nil && x.body.started.Load() {
			ended = x.body.ended.Load()
		} else {
			_, err := io.CopyN(io.Discard, x.r.Body, maxRest+1)
			ended = err == io.EOF
		}
		a.conversation.restCame()
	}
	if !ended {
		a.conversation.deaf.Store(true)
	}
	return ended
}

// reject answers what is no request the gateway could decide about. The
// connection ends with it: where the next request begins is not known.
func (a *agentConn) reject(bad *unreadable, head []byte) {
	method, _, _ := bytes.Cut(head, []byte(" ")) // an answer to HEAD has no body, whatever else is wrong
	r := &http.Request{Method: string(method), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Close: true}
	w := newAnswer(a, r)
	x := &exchange{handler: a.handler, conversation: a.conversation, agent: a, ctx: a.ctx, w: w, r: r}
	refusal := &proxy.Refusal{Code: codeRequest, Reason: bad.reason}
	x.answer(bad.status, refusal)
	_ = w.finish()
	a.conversation.deaf.Store(true) // linger: the agent may still be sending
}
