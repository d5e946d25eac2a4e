package framing

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// judge compares what the handler makes of an agent's HTTP/1.1 stream with what
// the oracles do.
type judge struct {
	*world
	direct *goServer
	nginx  *nginx // nil: not asked

	sent, forwarded, refused, stalled int // requests, for the record
	nginxRefused                      int
}

// check runs a stream. An error is a fault of the handler.
func (j *judge) check(s stream) error {
	oracle, open := j.direct.read(s.raw)
	var other map[int]message
	if j.nginx != nil {
		var err error
		if other, err = j.nginx.read(s.raw); err != nil {
			return err
		}
	}
	whole := 0
	for _, m := range oracle {
		if m.whole {
			whole++
		}
	}
	open = open && (whole == 0 || oracle[whole-1].target != "/sentinel")
	answers, heard, err := j.converse(s, oracle, whole, open)
	records, raw, terr := j.up.take()
	if err := errors.Join(err, terr); err != nil {
		return err
	}
	j.sent += whole
	if form := leaks(heard); form != "" {
		return fmt.Errorf("the agent gets the secret (%s) in %s", form, clip(heard))
	}
	if err := wellFormed(records); err != nil {
		return err
	}
	if err := j.reread(records, raw); err != nil {
		return err
	}
	return j.compare(s, answers, records, oracle, other)
}

// converse sends the stream, in pieces, and reads the answers.
func (j *judge) converse(s stream, oracle []message, whole int, open bool) (answers []message, heard string, err error) {
	a, err := j.dial("http/1.1")
	if err != nil {
		return nil, "", err
	}
	var tape bytes.Buffer
	var fault error
	arrived := make(chan message, 64)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(arrived)
		from := parser{bufio.NewReader(io.TeeReader(a, &tape))}
		for i := 0; ; i++ {
			m, err := from.response(func(head message) string {
				if method := head.values(methodField); method != nil {
					return method[0]
				}
				if i < len(oracle) {
					return oracle[i].method
				}
				return ""
			})
			if err != nil && (err == io.EOF || errors.Is(err, errCut) || isNetwork(err)) {
				return
			}
			if err != nil {
				fault = fmt.Errorf("answer %d is not well-formed: %w", i, err)
				return
			}
			arrived <- m
		}
	}()
	written := make(chan struct{})
	go func() {
		defer close(written)
		at := 0
		for _, cut := range append(slices.Clone(s.cuts), len(s.raw)) {
			cut = min(cut, len(s.raw))
			if cut > at {
				if _, err := a.Write(s.raw[at:cut]); err != nil {
					return
				}
				at = cut
				if s.slow {
					time.Sleep(pause / 2)
				}
			}
		}
	}()
	limit := patience
	if s.clean > 0 {
		limit = wait
	}
	enough := time.NewTimer(limit)
	defer enough.Stop()
	sent := written
	for more := true; more; {
		select {
		case m, ok := <-arrived:
			if more = ok; ok {
				answers = append(answers, m)
			}
		case <-sent:
			sent = nil
		case <-enough.C:
			if !open {
				j.stalled++
			}
			more = false
			continue
		}
		if open && sent == nil && len(answers) >= whole {
			enough.Reset(pause)
		}
	}
	err = a.leave()
	<-written
	<-read
	return answers, tape.String(), errors.Join(err, fault)
}

// wellFormed checks all that arrived upstream by itself.
func wellFormed(records []record) error {
	for _, r := range records {
		if r.err != nil && !errors.Is(r.err, errCut) {
			return fmt.Errorf("the upstream gets what is not well-formed: %w, in %s", r.err, r)
		}
		if r.method == "" || r.fields == nil {
			continue // cut in its head
		}
		if hosts := r.values("Host"); len(hosts) != 1 || hosts[0] != host {
			if r.whole || len(hosts) > 0 {
				return fmt.Errorf("the upstream gets a request for %q: %s", hosts, r)
			}
		}
		for _, f := range append(slices.Clone(r.fields), r.trailer...) {
			switch name := strings.ReplaceAll(strings.ToLower(f.name), "_", "-"); {
			case name == "proxy-authorization", name == "x-api-key", name == "authorization" && f != (field{"Authorization", "Bearer " + token}):
				return fmt.Errorf("the upstream gets the agent's %q in %s", f, r)
			case strings.Contains(f.name, "_") && (name == "transfer-encoding" || name == "content-length"):
				return fmt.Errorf("the upstream gets %q in %s", f, r)
			}
		}
		if auth := r.values("Authorization"); r.whole && len(auth) != 1 {
			return fmt.Errorf("the upstream gets %d credentials in %s", len(auth), r)
		}
		if len(valuesOf(r.trailer, "Authorization")) > 0 {
			return fmt.Errorf("the upstream gets a credential in a trailer: %s", r)
		}
	}
	return nil
}

// reread has nginx read what arrived upstream: it must find the same requests, as
// far as it takes them.
func (j *judge) reread(records []record, raw map[int]*bytes.Buffer) error {
	if j.nginx == nil {
		return nil
	}
	for _, conn := range slices.Sorted(maps.Keys(raw)) {
		var want []message
		for _, r := range records {
			if r.conn == conn {
				want = append(want, r.message)
			}
		}
		got, err := j.nginx.read(raw[conn].Bytes())
		if err != nil {
			return err
		}
		for i, m := range got {
			if i >= len(want) || !want[i].whole {
				return fmt.Errorf("nginx finds request %d in what the gateway sent, where there is none: %s\nbytes: %s", i, m, clip(raw[conn].String()))
			}
			if d := differs(m, want[i]); d != "" {
				return fmt.Errorf("nginx reads request %d otherwise than it was sent: %s\nbytes: %s", i, d, clip(raw[conn].String()))
			}
		}
		for i := range want {
			if _, ok := got[i]; !ok && want[i].whole {
				j.nginxRefused++
				if !nginxMayRefuse(want[i]) {
					return fmt.Errorf("nginx refuses what the gateway sent: %s\nbytes: %q", want[i], raw[conn].String())
				}
				break
			}
		}
	}
	return nil
}

// nginxMayRefuse reports whether nginx may refuse a request for what it means: a
// path, a method that HTTP allows and nginx does not, two expectations.
func nginxMayRefuse(m message) bool {
	return len(m.values("Expect")) > 1 || strings.ContainsAny(m.target, "%#*") || strings.Contains(m.target, "..") ||
		strings.Trim(m.method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-") != ""
}

// compare holds what arrived upstream against the oracles, request by request in
// the order of the answers.
func (j *judge) compare(s stream, answers []message, records []record, direct []message, other map[int]message) error {
	byID := make(map[string]record)
	for _, r := range records {
		byID[r.id] = r
	}
	judged := func(i int, got message) error {
		accepted := 0
		if i < len(direct) {
			accepted++
			if d := errors.Join(text(differs(got, direct[i])), trailerDiffers(got, direct[i])); d != nil {
				return fmt.Errorf("request %d differs from what net/http reads: %w", i, d)
			}
		}
		if m, ok := other[i]; ok && got.whole {
			accepted++
			if d := differs(got, m); d != "" {
				return fmt.Errorf("request %d differs from what nginx reads: %s", i, d)
			}
		}
		if accepted == 0 {
			return fmt.Errorf("request %d is none for any oracle: %s", i, got)
		}
		return nil
	}
	var open []int // requests not answered by the upstream
	for i, answer := range answers {
		id := answer.values(idField)
		if len(id) == 0 {
			if answer.status < 400 {
				return fmt.Errorf("answer %d is from nobody: %s", i, answer)
			}
			j.refused++
			open = append(open, i)
			if s.clean > 0 {
				return fmt.Errorf("a plain request is refused: answer %d is %s, for %v", i, answer, direct)
			}
			continue
		}
		r, ok := byID[id[0]]
		if !ok {
			return fmt.Errorf("answer %d is for another request, or for one answered before: %s", i, id[0])
		}
		delete(byID, id[0])
		if err := judged(i, r.message); err != nil {
			return err
		}
		if !r.whole && !isEarly(r.target) {
			return fmt.Errorf("answer %d is for a request that never ended", i)
		}
		j.forwarded++
	}
	// One more may have been on its way when the agent left, and one may have been
	// begun that was refused for how it went on.
	open = append(open, len(answers))
	for _, r := range byID {
		if r.fields == nil {
			continue // cut in its head
		}
		var faults []error
		at := slices.IndexFunc(open, func(i int) bool {
			err := judged(i, r.message)
			faults = append(faults, err)
			return err == nil && (!r.whole || i == len(answers))
		})
		if at < 0 {
			return fmt.Errorf("without an answer: %w", errors.Join(faults...))
		}
		open = slices.Delete(open, at, at+1)
	}
	if s.clean > 0 && len(answers) != s.clean {
		return fmt.Errorf("%d of %d plain requests were answered", len(answers), s.clean)
	}
	return nil
}

// trailerDiffers says what is in a trailer that was not in the agent's, or has
// gone although it may stand there.
func trailerDiffers(got, oracle message) error {
	if !got.whole {
		return nil
	}
	for _, f := range got.trailer {
		if !slices.Equal(valuesOf(got.trailer, f.name), valuesOf(oracle.trailer, f.name)) {
			return fmt.Errorf("trailer %q, not %q", got.trailer, oracle.trailer)
		}
	}
	name := markField + "-Trailer"
	if !lists(oracle.values("Trailer"), name) {
		return nil // net/http's client sends none but those announced
	}
	if len(got.trailer) == 0 && got.values("Content-Length") != nil {
		return nil // HTTP/1.1 has trailers with chunks only
	}
	if !slices.Equal(valuesOf(got.trailer, name), valuesOf(oracle.trailer, name)) {
		return fmt.Errorf("trailer %q, not %q", got.trailer, oracle.trailer)
	}
	return nil
}

func text(s string) error {
	if s == "" {
		return nil
	}
	return errors.New(s)
}

func (j *judge) extra() int {
	if j.nginx == nil {
		return 0
	}
	return int(j.nginx.conns.Load())
}

// The attack: bytes in which the gateway sees other requests than a server does.
func TestI04_AgentBytesAreTheRequestsThatServersRead(t *testing.T) {
	w := newWorld(t)
	j := &judge{world: w, direct: newGoServer(t, false), nginx: newNginx(t)}
	n := uint64(0)
	for end := time.Now().Add(*budget); n < *cases && time.Now().Before(end); n++ {
		s := requests(random(*seed, n))
		if err := j.check(s); err != nil {
			small := shrink(s.raw, func(raw []byte) bool { return kind(j.check(stream{raw: raw})) == kind(err) })
			t.Fatalf("case %d: %v\nshrunk: %v\nstream: %q\nof %q", n, err, j.check(stream{raw: small}), small, s.raw)
		}
		if n%200 == 10 || n == *cases-1 {
			if err := w.rest(j.extra()); err != nil {
				t.Fatalf("case %d: %v", n, err)
			}
		}
	}
	t.Logf("%d cases: of %d requests that net/http reads %d were forwarded, %d refused; %d waits; nginx refused %d", n, j.sent, j.forwarded, j.refused, j.stalled, j.nginxRefused)
	if j.forwarded < j.sent/2 {
		t.Errorf("%d of %d requests were forwarded: too few to judge by", j.forwarded, j.sent)
	}
}

// found are streams that a gateway on net/http's server got wrong.
var found = map[string]string{
	// The first is refused before its body is read, which that server then does
	// behind the back of the second: a panic that ended the process.
	"a refused upload before another": "POST /a HTTP/1.1\r\nHost: " + host + "\r\nTrailer: a b\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" +
		"POST /b HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 1\r\n\r\nx" + sentinel,
	// What follows a chunk that is none was taken for the next request.
	"a request behind a malformed chunk": "POST /a HTTP/1.1\r\nHost: " + host + "\r\nTransfer-Encoding: chunked\r\n\r\nq\r\n" + smuggled + sentinel,
	// The trailer of a body without a chunk got lost.
	"a trailer behind nothing": "GET /a HTTP/1.1\r\nHost: " + host + "\r\nTransfer-Encoding: chunked\r\nTrailer: " + markField + "-Trailer\r\n\r\n0\r\n" + markField + "-Trailer: t\r\n\r\n" + sentinel,
}

func TestI04_StreamsThatWereOnceMisread(t *testing.T) {
	j := &judge{world: newWorld(t), direct: newGoServer(t, false), nginx: newNginx(t)}
	for name, raw := range found {
		for range 10 {
			if err := j.check(stream{raw: []byte(raw)}); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}

// FuzzAgentStream is TestI04_AgentBytesAreTheRequestsThatServersRead for bytes of the
// fuzzer's making, against net/http.
func FuzzAgentStream(f *testing.F) {
	for n := range uint64(24) {
		s := requests(random(1, n))
		if len(s.raw) < 4<<10 {
			f.Add(s.raw, uint16(n*7))
		}
	}
	for _, raw := range found {
		f.Add([]byte(raw), uint16(0))
	}
	f.Add([]byte("POST /a HTTP/1.1\r\nHost: "+host+"\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+smuggled+sentinel), uint16(0))
	f.Add([]byte("POST /a HTTP/1.1\r\nHost: "+host+"\r\nTransfer-Encoding: chunked\r\n\r\n1;\n"+smuggled+"\r\n0\r\n\r\n"+sentinel), uint16(80))
	j := &judge{world: newWorld(f), direct: newGoServer(f, false)}
	f.Fuzz(func(t *testing.T, raw []byte, cut uint16) {
		if len(raw) > 64<<10 {
			return
		}
		if err := j.check(stream{raw: raw, cuts: []int{int(cut)}}); err != nil {
			t.Fatal(err)
		}
	})
}
