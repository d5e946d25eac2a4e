package framing

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// heard is what net/http's client makes of a script, on a connection of its own.
type heard struct {
	message
	refused error // instead of a head
}

// listen is the oracle of responses.
func listen(sc script) heard {
	conn := newReplay(sc.raw)
	t := &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableCompression:     true,
		DisableKeepAlives:      true, // it logs what comes after the response otherwise
		MaxResponseHeaderBytes: maxHead,
	}
	var h heard
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, fields textproto.MIMEHeader) error {
			h.info = append(h.info, message{status: code, fields: fieldsOf(http.Header(fields))})
			return nil
		},
	})
	req, err := http.NewRequestWithContext(ctx, sc.method, "http://"+host+"/", nil)
	if err != nil {
		return heard{refused: err}
	}
	if sc.body != "" {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(sc.body)), int64(len(sc.body))
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return heard{refused: err}
	}
	defer resp.Body.Close()
	h.status, h.fields = resp.StatusCode, fieldsOf(resp.Header)
	if h.status < 200 || h.status > 999 {
		return heard{refused: fmt.Errorf("status %d", h.status)}
	}
	body, err := io.ReadAll(resp.Body)
	h.body, h.whole = string(body), err == nil
	h.untilClose = resp.Body != http.NoBody && resp.ContentLength < 0 && len(resp.TransferEncoding) == 0
	h.trailer = fieldsOf(resp.Trailer)
	return h
}

func fieldsOf(h http.Header) []field {
	var fields []field
	for name, values := range h {
		for _, v := range values {
			fields = append(fields, field{name, v})
		}
	}
	return fields
}

// play has the upstream send the scripts.
func play(scripts []script) func(*upstreamConn, record) bool {
	return func(c *upstreamConn, r record) bool {
		k, err := strconv.Atoi(strings.TrimPrefix(r.target, "/"))
		if err != nil || k >= len(scripts) {
			return false
		}
		sc := scripts[k]
		if _, err := c.Write(sc.raw); err != nil {
			return false
		}
		switch sc.end {
		case hold:
			return true
		case finish:
			_ = c.Conn.Close()
		case abort:
			_ = c.NetConn().(upstreamEnd).SetLinger(0)
		}
		return false
	}
}

// tally counts what became of responses.
type tally struct{ whole, cut, refused int }

// checkScripts sends the requests of the scripts one after the other, and holds
// what an agent reads against the oracle.
func (w *world) checkScripts(scripts []script, h2 bool, n *tally) error {
	oracles := make([]heard, len(scripts))
	for k := range scripts {
		oracles[k] = listen(scripts[k])
		if o := oracles[k]; scripts[k].end == hold && (o.refused != nil || !o.whole || o.untilClose) {
			scripts[k].end = finish
		}
	}
	if scripts[0].clean { // the last case's connections may be dying
		if err := w.up.renew(); err != nil {
			return err
		}
	}
	w.up.setAnswer(play(scripts))
	var ear listener
	defer func() { ear.leave() }()
	var fault error
	for k, sc := range scripts {
		if ear.agent == nil {
			if err := ear.dial(w, h2); err != nil {
				return err
			}
		}
		got, text, err := ear.ask(k, sc)
		if errors.Is(err, errMalformed) {
			fault = fmt.Errorf("answer %d: %w", k, err)
			break
		}
		if fault = n.judge(k, sc, got, text, err, oracles[k]); fault != nil {
			fault = fmt.Errorf("answer %d: %w", k, fault)
			break
		}
		if err != nil || !got.whole || got.untilClose || lists(got.values("Connection"), "close") {
			if err := ear.leave(); err != nil {
				return err
			}
		}
	}
	lerr := ear.leave()
	records, _, terr := w.up.take()
	return errors.Join(fault, lerr, terr, wellFormed(records))
}

var errMalformed = errors.New("not well-formed")

// listener is an agent that asks one request after the other.
type listener struct {
	*agent
	h2   *http.Transport // nil: HTTP/1.1
	tape *bytes.Buffer
	from *bufio.Reader
}

func (l *listener) dial(w *world, h2 bool) error {
	alpn := "http/1.1"
	if h2 {
		alpn = "h2"
	}
	a, err := w.dial(alpn)
	if err != nil {
		return err
	}
	*l = listener{agent: a, tape: new(bytes.Buffer)}
	if h2 {
		dialled := false
		l.h2 = &http.Transport{
			DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
				if dialled {
					return nil, errors.New("one connection is enough")
				}
				dialled = true
				return a.Conn, nil
			},
			DisableCompression:     true,
			MaxResponseHeaderBytes: 2 * maxHead,
			Protocols:              new(http.Protocols),
		}
		l.h2.Protocols.SetHTTP2(true)
		return nil
	}
	l.from = bufio.NewReader(io.TeeReader(a.Conn, l.tape))
	return nil
}

// leave closes the connection, if there is one.
func (l *listener) leave() error {
	if l.agent == nil {
		return nil
	}
	if l.h2 != nil {
		l.h2.CloseIdleConnections()
	}
	err := l.agent.leave()
	l.agent = nil
	return err
}

// ask sends request k. text is all that the agent read for it. An error that is
// not errMalformed is that of a connection or stream cut off.
func (l *listener) ask(k int, sc script) (m message, text string, err error) {
	if l.h2 != nil {
		return l.askH2(k, sc)
	}
	l.tape.Reset()
	end := time.Now().Add(wait)
	_ = l.pipe.SetDeadline(end)
	length := ""
	if sc.body != "" || sc.method == "POST" {
		length = fmt.Sprintf("Content-Length: %d\r\n", len(sc.body))
	}
	if _, err := fmt.Fprintf(l, "%s /%d HTTP/1.1\r\nHost: %s\r\n%s\r\n%s", sc.method, k, host, length, sc.body); err != nil {
		return m, "", err
	}
	m, err = parser{l.from}.response(func(message) string { return sc.method })
	if err != nil && time.Now().After(end) {
		err = context.DeadlineExceeded
	} else if err == nil && l.from.Buffered() > 0 && !m.untilClose {
		err = fmt.Errorf("%w: %d bytes follow the response", errMalformed, l.from.Buffered())
	} else if err != nil && err != io.EOF && !errors.Is(err, errCut) && !isNetwork(err) {
		err = fmt.Errorf("%w: %w", errMalformed, err)
	}
	return m, l.tape.String(), err
}

func (l *listener) askH2(k int, sc script) (m message, text string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, sc.method, fmt.Sprintf("https://%s/%d", host, k), nil)
	if err != nil {
		return m, "", err
	}
	if sc.body != "" {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(sc.body)), int64(len(sc.body))
	}
	resp, err := l.h2.RoundTrip(req)
	if err != nil {
		return m, "", err
	}
	defer resp.Body.Close()
	m.status, m.fields = resp.StatusCode, fieldsOf(resp.Header)
	body, err := io.ReadAll(resp.Body)
	if m.status == http.StatusNotModified {
		err = nil // this client misses the body that the length speaks of: RFC 9113 section 8.1.1
	}
	m.body, m.whole, m.trailer = string(body), err == nil, fieldsOf(resp.Trailer)
	return m, fmt.Sprint(m.fields, m.body, m.trailer), err
}

// judge holds what an agent read against what the oracle did.
func (n *tally) judge(k int, sc script, got message, text string, err error, oracle heard) error {
	if form := leaks(headOf(got, text)); form != "" {
		return fmt.Errorf("the agent gets the secret (%s) in %s", form, clip(text))
	}
	for other := range 8 {
		if mark := answerMark(other); other != k && strings.Contains(text, mark) && !bytes.Contains(sc.raw, []byte(mark)) {
			return fmt.Errorf("it holds bytes of answer %d: %s", other, clip(text))
		}
	}
	refusal := got.status == http.StatusBadGateway && len(got.values("X-Clawpatrol-Verdict")) > 0
	if refusal && strings.Contains(fmt.Sprint(got.fields, got.body), "<of-") {
		return fmt.Errorf("the refusal quotes the upstream: %s", clip(text))
	}
	if (refusal || err != nil) && sc.clean {
		return fmt.Errorf("a plain response does not arrive: %s, %w", got, errors.Join(err))
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the agent waits for more than %s, where net/http's client has %s", got, oracle)
	}
	switch {
	case refusal:
		n.refused++
		return nil
	case got.status == 0:
		n.cut++
		return nil
	case oracle.refused != nil:
		return fmt.Errorf("the agent gets %s where net/http's client fails with: %w", got, oracle.refused)
	case got.status != oracle.status:
		return fmt.Errorf("status %d, not %d", got.status, oracle.status)
	case got.whole && (got.body != oracle.body || !oracle.whole), !strings.HasPrefix(oracle.body, got.body):
		return fmt.Errorf("body %s, not %s (whole: %v, %v)", clip(got.body), clip(oracle.body), got.whole, oracle.whole)
	case got.whole && sc.end == abort && oracle.untilClose:
		return errors.New("a response that was reset before its end is whole")
	}
	if d := fieldsDiffer(got.fields, oracle.fields); d != nil {
		return d
	}
	if got.whole {
		for _, f := range got.trailer {
			if d := fieldDiffers(f.name, got.trailer, oracle.trailer); d != nil {
				return fmt.Errorf("trailer: %w", d)
			}
		}
		if d := fieldDiffers(markField+"-Trailer", got.trailer, oracle.trailer); d != nil {
			return fmt.Errorf("trailer: %w", d)
		}
	}
	at := 0
	for _, early := range got.info {
		i := slices.IndexFunc(oracle.info[at:], func(m message) bool { return m.status == early.status })
		if i < 0 {
			return fmt.Errorf("informational %d was not sent", early.status)
		}
		at += i + 1
	}
	if got.whole {
		n.whole++
	} else {
		n.cut++
	}
	return nil
}

// headOf is the text of a message without its body, in which nothing is masked.
func headOf(m message, text string) string {
	if m.body == "" {
		return text
	}
	return fmt.Sprint(m.fields, m.trailer, m.info)
}

// fieldsDiffer says which field the agent has that the upstream did not send so.
func fieldsDiffer(got, oracle []field) error {
	for _, f := range got {
		switch strings.ToLower(f.name) {
		case "connection", "transfer-encoding", "content-length", "trailer": // of this connection
			continue
		}
		if d := fieldDiffers(f.name, got, oracle); d != nil {
			return d
		}
	}
	if len(valuesOf(got, markField)) == 0 && lists(valuesOf(oracle, "Connection"), markField) {
		return nil
	}
	return fieldDiffers(markField, got, oracle)
}

// fieldDiffers compares one field, but for the secret, which is masked.
func fieldDiffers(name string, got, oracle []field) error {
	a, b := trimmed(valuesOf(got, name)), trimmed(valuesOf(oracle, name))
	for i := range b {
		b[i] = strings.ReplaceAll(b[i], token, "clawpatrol-token")
	}
	if !slices.Equal(a, b) {
		return fmt.Errorf("%s: %q, not %q", name, a, b)
	}
	return nil
}

// The attack: an upstream whose answers the gateway delimits otherwise than
// clients do, so that one answer is taken for another.
func TestI16_UpstreamBytesAreTheResponsesThatClientsRead(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		name := "h1"
		if h2 {
			name = "h2"
		}
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var count tally
			n := uint64(0)
			for end := time.Now().Add(*budget / 2); n < *cases && time.Now().Before(end); n++ {
				scripts := answers(random(*seed, n))
				if err := w.checkScripts(scripts, h2, &count); err != nil {
					t.Fatalf("case %d: %v\n%s", n, err, w.smaller(scripts, h2, err))
				}
				if n%200 == 10 {
					if err := w.rest(0); err != nil {
						t.Fatalf("case %d: %v", n, err)
					}
				}
			}
			t.Logf("%d cases: %+v", n, count)
			if count.whole < (count.cut+count.refused)/3 {
				t.Error("too few responses arrived to judge by")
			}
		})
	}
}

// smaller describes scripts that fail like the given ones, and less of them.
func (w *world) smaller(scripts []script, h2 bool, err error) string {
	fails := func(try []script) bool {
		return kind(w.checkScripts(slices.Clone(try), h2, new(tally))) == kind(err)
	}
	for k := range scripts {
		scripts[k].clean = false
		scripts[k].raw = shrink(scripts[k].raw, func(raw []byte) bool {
			try := slices.Clone(scripts)
			try[k].raw = raw
			return fails(try)
		})
	}
	var b strings.Builder
	for k, sc := range scripts {
		fmt.Fprintf(&b, "%d: %s, body of %d, end %d: %q\n", k, sc.method, len(sc.body), sc.end, sc.raw)
	}
	return b.String()
}

// FuzzUpstreamStream is TestI16_UpstreamBytesAreTheResponsesThatClientsRead for
// bytes of the fuzzer's making: two requests, the first answered with them.
func FuzzUpstreamStream(f *testing.F) {
	methods := []string{"GET", "HEAD", "POST", "DELETE"}
	for n := range uint64(24) {
		for _, sc := range answers(random(1, n)) {
			if len(sc.raw) < 2<<10 {
				f.Add(sc.raw, uint8(slices.Index(methods, sc.method)&3), uint8(sc.end), n%2 == 1)
			}
		}
	}
	w := newWorld(f)
	next := fmt.Sprintf("HTTP/1.1 200 OK\r\n%s: %s\r\nContent-Length: 6\r\n\r\n%s", markField, answerMark(1), answerMark(1))
	f.Fuzz(func(t *testing.T, raw []byte, method, end uint8, h2 bool) {
		if len(raw) > 64<<10 || bytes.Contains(raw, []byte(answerMark(1))) {
			return
		}
		scripts := []script{
			{method: methods[method%4], raw: raw, end: ending(end % 3)},
			{method: "GET", raw: []byte(next)},
		}
		if err := w.checkScripts(scripts, h2, new(tally)); err != nil {
			t.Fatal(err)
		}
	})
}
