package framing

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// replies are what came back on each stream of a connection.
type replies struct {
	mu   sync.Mutex
	by   map[uint32]*message // guarded by mu
	over bool                // the connection has ended; guarded by mu
	wake chan struct{}
}

// perform sends a program and reads until every stream that was ended is
// answered or reset, and a little longer.
func (p program) perform(conn net.Conn, leave func() error) (*replies, error) {
	r := &replies{by: make(map[uint32]*message), wake: make(chan struct{}, 1)}
	read, written := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		r.read(conn)
	}()
	go func() {
		defer close(written)
		// The other end may have had enough.
		if !p.slow {
			_, _ = conn.Write(p.raw)
			return
		}
		for rest := p.raw; len(rest) > 0; {
			n := len(http2.ClientPreface)
			if len(rest) < len(p.raw) && len(rest) >= 3 {
				n = 9 + int(rest[0])<<16 + int(rest[1])<<8 + int(rest[2])
			}
			n = min(n, len(rest))
			if _, err := conn.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
			time.Sleep(time.Millisecond)
		}
	}()
	limit := patience
	if p.clean {
		limit = wait
	}
	enough := time.After(limit)
	for !r.answered(p.ended) {
		select {
		case <-r.wake:
			continue
		case <-enough:
		}
		break
	}
	if p.damaged || p.unended {
		time.Sleep(pause)
	}
	err := leave()
	<-written
	<-read
	return r, err
}

func (r *replies) answered(ended map[uint32]bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range ended {
		if m := r.by[id]; m == nil || !m.whole {
			return r.over
		}
	}
	return true
}

// read collects frames until the connection ends. A stream that is reset counts
// as whole, with status 0.
func (r *replies) read(conn net.Conn) {
	framer := http2.NewFramer(io.Discard, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.MaxHeaderListSize = 2 * maxHead
	for {
		frame, err := framer.ReadFrame()
		r.mu.Lock()
		if err != nil {
			r.over = true
		} else {
			m := r.by[frame.Header().StreamID]
			if m == nil {
				m = new(message)
				r.by[frame.Header().StreamID] = m
			}
			m.take(frame)
			if f, ok := frame.(*http2.GoAwayFrame); ok && f.ErrCode != http2.ErrCodeNo {
				r.over = true // the server closes a second later
			}
		}
		r.mu.Unlock()
		select {
		case r.wake <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// take adds a frame to a response.
func (m *message) take(frame http2.Frame) {
	switch f := frame.(type) {
	case *http2.MetaHeadersFrame:
		for _, h := range f.Fields {
			if m.body != "" {
				m.trailer = append(m.trailer, field{h.Name, h.Value})
				continue
			}
			m.fields = append(m.fields, field{h.Name, h.Value})
		}
		m.whole = m.whole || f.StreamEnded()
	case *http2.DataFrame:
		m.body += string(f.Data())
		m.whole = m.whole || f.StreamEnded()
	case *http2.RSTStreamFrame:
		m.whole = true
	}
}

// piped is a connection whose requests are noted.
type piped struct {
	net.Conn
	record *notes
}

func (p piped) notes() *notes { return p.record }

// readProgram returns the requests of a program.
func (g *goServer) readProgram(p program) []message {
	near, far := net.Pipe()
	conn := piped{far, &notes{ended: make(chan struct{})}}
	g.tapes <- conn
	_ = near.SetDeadline(time.Now().Add(wait))
	_, _ = p.perform(near, near.Close)
	return conn.record.settled()
}

// readAgain has net/http read a program a few times over, in pieces: what it makes
// of frames on a stream that it has reset depends on when they come.
func (j *judge) readAgain(p program, same func(message) bool) bool {
	for slow := range 6 {
		p.slow = slow%2 == 1
		if slices.ContainsFunc(j.direct.readProgram(p), same) {
			return true
		}
	}
	return false
}

// settled waits for handlers that have begun.
func (n *notes) settled() []message {
	for end := time.Now().Add(wait); ; time.Sleep(100 * time.Microsecond) {
		n.mu.Lock()
		done := n.begun == len(n.requests)
		n.mu.Unlock()
		if done || time.Now().After(end) {
			return n.all()
		}
	}
}

// checkProgram runs a program. An error is a fault of the handler.
func (j *judge) checkProgram(p program) error {
	oracle := j.direct.readProgram(p)
	a, err := j.dial("h2")
	if err != nil {
		return err
	}
	got, err := p.perform(a, a.leave)
	records, raw, terr := j.up.take()
	if err := errors.Join(err, terr); err != nil {
		return err
	}
	if err := wellFormed(records); err != nil {
		return err
	}
	if err := j.reread(records, raw); err != nil {
		return err
	}
	if err := j.matchReplies(p, got, records); err != nil {
		return err
	}
	left := slices.Clone(oracle)
	for _, whole := range []bool{true, false} { // the cut ones may be the beginning of several
		for _, r := range records {
			if r.whole != whole || r.fields == nil {
				continue
			}
			same := func(m message) bool {
				return differs(r.message, m) == "" && trailerDiffers(r.message, m) == nil
			}
			at := slices.IndexFunc(left, same)
			if at < 0 && j.readAgain(p, same) {
				continue
			}
			if at < 0 {
				return fmt.Errorf("the upstream gets a request that net/http does not read: %s, mark %q; it reads %v", r, r.values(markField), left)
			}
			left = slices.Delete(left, at, at+1)
		}
	}
	for _, m := range oracle {
		if m.whole {
			j.sent++
		}
	}
	for _, r := range records {
		if r.whole {
			j.forwarded++
		}
	}
	if p.clean && len(left) > 0 {
		return fmt.Errorf("plain requests do not arrive: %v", left)
	}
	return nil
}

// matchReplies checks what the agent got on each stream.
func (j *judge) matchReplies(p program, got *replies, records []record) error {
	byID := make(map[string]record)
	for _, r := range records {
		byID[r.id] = r
	}
	got.mu.Lock()
	defer got.mu.Unlock()
	for stream, m := range got.by {
		if form := leaks(fmt.Sprint(m.fields, m.body, m.trailer)); form != "" {
			return fmt.Errorf("the agent gets the secret (%s) on stream %d: %v", form, stream, m.fields)
		}
		id := m.values(idField)
		if len(id) == 0 {
			if p.clean && len(m.values(":status")) > 0 {
				return fmt.Errorf("a plain request is refused on stream %d: %v %s", stream, m.fields, m.body)
			}
			continue
		}
		r, ok := byID[id[0]]
		if !ok {
			return fmt.Errorf("the answer on stream %d is for another request, or for one answered before", stream)
		}
		delete(byID, id[0])
		if marks := trimmed(r.values(markField)); !p.damaged && len(marks) == 1 && p.marks[stream] != marks[0] {
			return fmt.Errorf("stream %d, %q, gets the answer for %q", stream, p.marks[stream], marks)
		}
	}
	for id := range p.ended {
		if m := got.by[id]; p.clean && (m == nil || !m.whole) {
			return fmt.Errorf("the plain request on stream %d is not answered", id)
		} else if (m == nil || !m.whole) && !got.over {
			j.stalled++
		}
	}
	return nil
}

// The attack: header lists and bodies over HTTP/2 that become other requests, or
// more of them, when they are written in HTTP/1.1.
func TestI04_AgentStreamsAreTheRequestsThatServersRead(t *testing.T) {
	j := &judge{world: newWorld(t), direct: newGoServer(t, true), nginx: newNginx(t)}
	n := uint64(0)
	for end := time.Now().Add(*budget); n < *cases && time.Now().Before(end); n++ {
		p := streams(random(*seed, n))
		if err := j.checkProgram(p); err != nil {
			t.Fatalf("case %d: %v\n%s", n, err, frames(p.raw))
		}
		if n%200 == 10 {
			if err := j.rest(j.extra()); err != nil {
				t.Fatalf("case %d: %v", n, err)
			}
		}
	}
	t.Logf("%d cases: of %d requests that net/http reads %d were forwarded; %d waits", n, j.sent, j.forwarded, j.stalled)
	if j.forwarded < j.sent/2 {
		t.Errorf("%d of %d requests were forwarded: too few to judge by", j.forwarded, j.sent)
	}
}

// frames describes the bytes of a connection.
func frames(raw []byte) string {
	var b bytes.Buffer
	framer := http2.NewFramer(io.Discard, bytes.NewReader(raw[len(http2.ClientPreface):]))
	framer.AllowIllegalReads = true
	decoder := hpack.NewDecoder(4096, func(f hpack.HeaderField) { fmt.Fprintf(&b, "  %q: %.300q\n", f.Name, f.Value) })
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			fmt.Fprintln(&b, err)
			return b.String()
		}
		fmt.Fprintln(&b, frame)
		switch f := frame.(type) {
		case *http2.HeadersFrame:
			_, _ = decoder.Write(f.HeaderBlockFragment())
		case *http2.ContinuationFrame:
			_, _ = decoder.Write(f.HeaderBlockFragment())
		}
	}
}

// FuzzAgentStreams is TestI04_AgentStreamsAreTheRequestsThatServersRead for
// choices of the fuzzer's.
func FuzzAgentStreams(f *testing.F) {
	for n := range uint64(24) {
		f.Add(random(1, n).choices[:200])
	}
	j := &judge{world: newWorld(f), direct: newGoServer(f, true)}
	f.Fuzz(func(t *testing.T, choices []byte) {
		p := streams(&source{choices})
		if p.damaged {
			return // a connection that ends with GOAWAY takes a second to
		}
		if err := j.checkProgram(p); err != nil {
			t.Fatalf("%v\n%s", err, frames(p.raw))
		}
	})
}
