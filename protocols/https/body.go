package https

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// requestBody is the agent's body on its way upstream. An upload or a transport
// reads it; the server closes what is under it.
type requestBody struct {
	exchange *exchange
	from     io.Reader
	trailer  http.Header  // gets its values at the body's end
	permit   *permit      // of a request with Expect: 100-continue; else nil
	started  atomic.Bool  // read from
	read     atomic.Int64 // bytes
	ended    atomic.Bool  // read to its end
}

func (b *requestBody) Read(p []byte) (int, error) {
	x := b.exchange
	if !b.started.Load() {
		if b.permit != nil && !b.permit.granted() {
			// An error would close the connection that the answer is coming on.
			<-b.permit.over
			return 0, errNotWanted
		}
		b.started.Store(true)
		if w, ok := x.w.(*answer); ok {
			w.askBody()
		}
	}
	n, err := b.from.Read(p)
	b.read.Add(int64(n))
	if err == io.EOF && !b.ended.Load() {
		for name := range b.trailer {
			b.trailer[name] = x.r.Trailer[name]
		}
		b.ended.Store(true)
		if x.agent != nil {
			x.agent.watch.bodyEnded()
		}
	}
	if err != nil && err != io.EOF {
		switch {
		case x.agent != nil && x.agent.gone():
			x.agent.leave()
		case x.agent == nil && (x.ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded)): // it has left, or Close was here
		default:
			err = errBody // HTTP/2: not as long as its Content-Length
		}
	}
	return n, err
}

// Close wakes a Read that waits for more of an HTTP/2 agent, because the upstream
// wants no more. Before the first Read it does nothing: RoundTrip may be tried
// again.
func (b *requestBody) Close() error {
	x := b.exchange
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.over && x.agent == nil && b.started.Load() && !b.ended.Load() {
		_ = x.control.SetReadDeadline(time.Unix(1, 0)) // of this stream
	}
	return nil
}

var (
	errNotWanted = errors.New("the upstream answered without asking for the body")
	errBody      = errors.New("the agent's request body is malformed")
)

// permit is the upstream's 100, or the second in which it did not answer. Where
// a final response comes instead, a transport may send the body all the same, to
// go on using the connection; but then the agent would be told to send it.
type permit struct {
	once  sync.Once
	over  chan struct{} // closed when the answer has come or the request has ended
	first sync.Once
	given chan struct{} // closed by grant

	mu    sync.Mutex
	asked time.Time // guarded by mu
}

func newPermit() *permit { return &permit{over: make(chan struct{}), given: make(chan struct{})} }

// ask runs when somebody begins to wait, grant when a 100 has come, end when none
// will.
func (p *permit) ask() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = time.Now()
}

func (p *permit) grant() { p.first.Do(func() { close(p.given) }) }
func (p *permit) end()   { p.once.Do(func() { close(p.over) }) }

func (p *permit) granted() bool {
	select {
	case <-p.given:
		return true
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.asked.IsZero() && time.Since(p.asked) >= continueTimeout
}

// wait returns when the body may be sent, or false when it must not be.
func (p *permit) wait() bool {
	patience := time.NewTimer(continueTimeout)
	defer patience.Stop()
	select {
	case <-p.given:
	case <-patience.C:
		p.grant()
	case <-p.over:
		return false
	}
	return true
}
