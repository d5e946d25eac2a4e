package postgres

import (
	"sync"
	"sync/atomic"

	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// maxPending is how many requests of one session wait for an answer: a pipeline
// longer than that waits in the agent's socket.
const maxPending = 16 << 10

// request is something of the agent's that the upstream answers.
type request struct {
	kind    requestKind
	grant   *proxy.Grant   // nil: nothing of it is recorded
	denied  *proxy.Refusal // what the agent is to read in place of the upstream's error
	sent    int64          // bytes
	got     int64          // bytes
	copying bool           // the upstream asked for data
	status  string         // how it ended, where more is to come
}

type requestKind byte

const (
	asksQuery    requestKind = iota // until ReadyForQuery
	asksExecute                     // until CommandComplete, EmptyQueryResponse, PortalSuspended
	asksCall                        // FunctionCall: until ReadyForQuery
	asksSync                        // ReadyForQuery
	asksNothing                     // what is denied: an error, or nothing where one came before it
	endsCopyData                    // CopyDone or CopyFail: nothing by itself
)

// pending is what the agent has sent and the upstream has not answered, in order.
// Parse, Bind, Describe and Close are not in it: their answers mean nothing to the
// log, and the error of one is that of the Execute behind it.
type pending struct {
	mu       sync.Mutex
	changed  sync.Cond
	requests []request // a ring of at most maxPending
	first    int
	count    int
	skipping bool // the upstream ignores everything until a Sync that has not been sent yet
	closed   bool

	errors uint64        // that the upstream has reported
	lost   bool          // there may be fewer requests here than the upstream has to answer
	acks   atomic.Uint64 // ParseComplete, BindComplete and CloseComplete, of the upstream's goroutine
}

// answered is what names has to know of a pending.
type answered struct {
	all      bool // everything up to the last Sync, simple query and Execute
	skipping bool
	lost     bool
	errors   uint64
	acks     uint64
}

func (p *pending) answered() answered {
	p.mu.Lock()
	defer p.mu.Unlock()
	return answered{all: p.front() == nil, skipping: p.skipping, lost: p.lost, errors: p.errors, acks: p.acks.Load()}
}

func (p *pending) init() {
	p.changed.L = &p.mu
	p.requests = make([]request, 8)
}

// push adds what is about to go upstream. It waits while there is too much, which
// it announces, and reports false where the session has ended.
func (p *pending) push(r request, waiting func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count == maxPending {
		p.mu.Unlock()
		waiting()
		p.mu.Lock()
	}
	for p.count == maxPending && !p.closed {
		p.changed.Wait()
	}
	switch {
	case p.closed:
		r.finish("aborted")
		return false
	case p.skipping && r.kind != asksSync:
		r.finish("skipped")
		return true
	case r.kind == endsCopyData && p.count > 0 && p.at(p.count-1).kind == endsCopyData:
		return true
	}
	p.skipping = false
	if p.count == len(p.requests) {
		larger := make([]request, 2*len(p.requests))
		for i := range p.count {
			larger[i] = *p.at(i)
		}
		p.requests, p.first = larger, 0
	}
	p.count++
	*p.at(p.count - 1) = r
	return true
}

// add counts bytes of copied data, for the last that may have asked for it: a Sync
// may stand behind it already.
func (p *pending) add(sent int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := p.count - 1; i >= 0; i-- {
		if r := p.at(i); r.kind == asksQuery || r.kind == asksExecute {
			r.sent += sent
			return
		}
		if p.count-i > 4 { // not of a COPY
			return
		}
	}
}

func (p *pending) empty() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count == 0
}

// close lets nothing wait any longer.
func (p *pending) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changed.Broadcast()
}

// abandon finishes what is left.
func (p *pending) abandon(status string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for p.count > 0 {
		p.drop(status)
	}
}

// at is the i-th request; called with mu held.
func (p *pending) at(i int) *request { return &p.requests[(p.first+i)%len(p.requests)] }

// drop finishes the first request and removes it; called with mu held.
func (p *pending) drop(status string) {
	r := p.at(0)
	r.finish(status)
	*r = request{}
	p.first = (p.first + 1) % len(p.requests)
	if p.count--; p.count == maxPending-1 {
		p.changed.Broadcast()
	}
}

func (r *request) finish(status string) {
	if r.status != "" {
		status = r.status
	}
	if r.grant != nil {
		r.grant.Finish(registry.ActionResult{Status: status, BytesIn: r.sent, BytesOut: r.got})
	}
}

// front is the request that is being answered, or nil; called with mu held. The
// end of copied data is not answered.
func (p *pending) front() *request {
	for p.count > 0 && p.at(0).kind == endsCopyData {
		p.drop("")
	}
	if p.count == 0 {
		return nil
	}
	return p.at(0)
}

// completed records that the upstream has done something: tag is a command tag.
// got counts the bytes since the last answer.
func (p *pending) completed(tag string, got int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.front()
	if r == nil {
		return
	}
	r.got += got
	switch r.kind {
	case asksQuery:
		r.status = tag // of the last of several statements
		p.copied(r, false)
	case asksExecute:
		p.copied(r, true)
		p.drop(tag)
	}
}

// copying records that the upstream takes data.
func (p *pending) copying() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.front(); r != nil {
		r.copying = true
	}
}

// copied takes out what the upstream has read as part of a COPY: any Sync before
// the end of the data means nothing (CopyGetData in
// src/backend/commands/copyfromparse.c). Called with mu held, r being the first.
// Which Sync that was is certain after an Execute that succeeded.
func (p *pending) copied(r *request, certain bool) {
	if !r.copying {
		return
	}
	r.copying = false
	for i := 1; i < p.count; i++ {
		if p.at(i).kind != endsCopyData {
			continue
		}
		head := *r
		for j := range i {
			if j > 0 {
				p.lost = p.lost || !certain || p.at(0).kind != asksSync
				p.at(0).finish("lost")
			}
			*p.at(0) = request{}
			p.first = (p.first + 1) % len(p.requests)
			p.count--
		}
		*p.at(0) = head
		return
	}
}

// failed records an error. mark reports whether it is that of what was sent in
// place of something denied, whose refusal failed then returns.
func (p *pending) failed(state string, marked bool, got int64) *proxy.Refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errors++
	r := p.front()
	if r == nil { // of a Parse or Bind whose Sync is still to come
		p.skipping = true
		return nil
	}
	if marked { // whatever is thought to be before it has been answered
		for i := range p.count {
			if p.at(i).denied != nil {
				p.lost = p.lost || i > 0
				for range i {
					p.drop("")
				}
				r = p.at(0)
				break
			}
		}
	}
	var denied *proxy.Refusal
	if marked {
		denied = r.denied
	}
	r.got += got
	if r.kind == asksQuery || r.kind == asksCall {
		r.status = state
		p.copied(r, false)
		return denied
	}
	// Everything until the next Sync is skipped.
	p.copied(r, false)
	for p.count > 0 && p.at(0).kind != asksSync {
		if kind := p.at(0).kind; kind == asksQuery || kind == asksCall { // or the error was its own
			p.lost = true
		}
		p.drop(state)
	}
	p.skipping = p.count == 0
	if p.skipping {
		p.changed.Broadcast()
	}
	return denied
}

// ready records that the upstream awaits the next request: one ReadyForQuery
// answers one Query, FunctionCall or Sync. It reports whether nothing is left.
func (p *pending) ready(got int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for r := p.front(); r != nil; r = p.front() {
		kind := r.kind
		r.got += got
		got = 0
		p.drop("done")
		if kind == asksQuery || kind == asksCall || kind == asksSync {
			break
		}
	}
	p.skipping = false
	return p.count == 0
}
