package conformance

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
)

func streamRows() []row {
	const group = "Streams"
	return []row{
		{group: group, name: "server-sent events, each before the next is sent", run: serverSentEvents},
		{group: group, name: "response head before the body", run: func(p *pair) {
			release := make(chan struct{})
			p.script(func(w wire, _ int64, m message, _ bool) bool {
				must(p, w.writeHead(message{status: 200, fields: []field{{"content-length", "4"}}}, false))
				<-release
				return w.writeData("body") == nil && w.writeEnd(nil) == nil
			})
			agent := p.dial()
			must(p, write(agent, ask("GET", "/")))
			_, _, err := agent.readHead()
			close(release)
			must(p, err)
			body, err := readBody(agent)
			must(p, err)
			equal(p, "body", body, "body")
		}},
		{group: group, name: "request chunks, each before the next is sent", run: func(p *pair) {
			got := make(chan string, 10)
			p.script(func(w wire, _ int64, m message, _ bool) bool {
				for {
					part, err := w.readData()
					if err != nil {
						return write(w, reply("ok")) == nil
					}
					got <- part
				}
			})
			agent := p.dial()
			must(p, agent.writeHead(message{method: "POST", target: "/"}, false))
			for i := range 5 {
				part := fmt.Sprintf("part %d", i)
				must(p, agent.writeData(part))
				equal(p, "part", within(p, part, got), part)
			}
			must(p, agent.writeEnd(nil))
			answer, err := read(agent)
			must(p, err)
			equal(p, "answer", answer.body, "ok")
		}},
		{group: group, name: "full duplex", run: fullDuplex},
		{group: group, name: "response before the request has ended", run: func(p *pair) {
			// The upstream answers whole, and yet reads on.
			read1 := make(chan string, 1)
			p.script(func(w wire, _ int64, m message, _ bool) bool {
				must(p, write(w, reply("early")))
				body, _ := readBody(w)
				read1 <- body
				return false
			})
			agent := p.dial()
			must(p, agent.writeHead(message{method: "POST", target: "/"}, false))
			must(p, agent.writeData("first"))
			got, err := read(agent)
			must(p, err)
			equal(p, "body", got.body, "early")
			if body := within(p, "the upload's end upstream", read1); !strings.HasPrefix("first", body) {
				p.Errorf("upstream read %q", body)
			}
		}},
		{group: group, name: "early response stops the upload", run: earlyResponse},
		{group: group, name: "Expect: 100-continue: no body before the upstream's 100", run: expectContinue},
		{group: group, name: "Expect: 100-continue: a final status instead stops the upload", run: expectRefused},
		{group: group, name: "103 Early Hints, several", run: func(p *pair) {
			hints := []message{{status: 103, fields: []field{{"link", "</a.css>; rel=preload"}, {"link", "</b.js>"}}}, {status: 103, fields: []field{{"link", "</c>"}}}}
			answer := reply("ok", field{"link", "</final>"})
			answer.info = hints
			_, got := p.exchange(ask("GET", "/"), answer)
			if len(got.info) != 2 {
				p.Fatalf("%d informational responses, want 2", len(got.info))
			}
			for i := range hints {
				equal(p, "status", got.info[i].status, 103)
				same(p, "hints", got.info[i].fields, hints[i].fields)
			}
			same(p, "response", got.fields, answer.fields)
		}},
		{group: group, name: "103 arrives before the final response is sent", run: func(p *pair) {
			release := make(chan struct{})
			p.script(func(w wire, _ int64, _ message, _ bool) bool {
				must(p, w.writeHead(message{status: 103, fields: []field{{"link", "</a>"}}}, true))
				<-release
				return write(w, reply("ok")) == nil
			})
			agent := p.dial()
			must(p, write(agent, ask("GET", "/")))
			m, _, err := agent.readHead()
			close(release)
			must(p, err)
			equal(p, "status", m.status, 103)
			got, err := read(agent)
			must(p, err)
			equal(p, "body", got.body, "ok")
		}},
		{group: group, name: "102 and unknown 1xx", run: func(p *pair) {
			answer := reply("ok")
			answer.info = []message{{status: 102}, {status: 104, fields: []field{{"x-upload", "1"}}}, {status: 199}}
			_, got := p.exchange(message{method: "POST", target: "/", body: "x", fields: []field{{"content-length", "1"}}}, answer)
			var statuses []int
			for _, m := range got.info {
				statuses = append(statuses, m.status)
			}
			equal(p, "informational responses", fmt.Sprint(statuses), "[102 104 199]")
			equal(p, "body", got.body, "ok")
		}},
		{group: group, name: "request trailers", run: func(p *pair) {
			for _, body := range []string{"body", ""} {
				seen, _ := p.exchange(message{method: "POST", target: "/", body: body, open: true, trailer: []field{{"x-sum", "1"}}}, reply("ok"))
				equal(p, "body", seen.body, body)
				same(p, "trailer", seen.trailer, []field{{"x-sum", "1"}})
			}
		}},
		{group: group, name: "response trailers", run: func(p *pair) {
			for _, body := range []string{"body", "", strings.Repeat("long", 10_000)} {
				_, got := p.exchange(ask("GET", "/", field{"te", "trailers"}), message{status: 200, body: body, open: true, trailer: []field{{"x-sum", "1"}, {"x-late", "not announced"}}})
				equal(p, "body", len(got.body), len(body))
				same(p, "trailer", got.trailer, []field{{"x-sum", "1"}, {"x-late", "not announced"}})
			}
		}},
		{group: group, name: "1 GiB down, and 1 GiB up", run: gibibyte},
	}
}

func serverSentEvents(p *pair) {
	next := make(chan struct{})
	p.serve(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			_ = http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
			fmt.Fprintf(w, "id: %d\ndata: x\n\n", i)
		}
	})
	resp, err := p.client().Get(p.url("/events"))
	must(p, err)
	defer resp.Body.Close()
	br := bufio.NewReader(resp.Body)
	for i := range 5 {
		next <- struct{}{}
		for _, want := range []string{fmt.Sprintf("id: %d\n", i), "data: x\n", "\n"} {
			line, err := br.ReadString('\n')
			must(p, err)
			equal(p, "line", line, want)
		}
	}
	_, err = br.ReadByte()
	equal(p, "the end", err, io.EOF)
}

func fullDuplex(p *pair) {
	p.serve(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(bytes.ToUpper(buf[:n]))
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	})
	pr, pw := io.Pipe()
	req, err := http.NewRequest("POST", p.url("/"), pr)
	must(p, err)
	resp, err := p.client().Do(req)
	must(p, err)
	defer resp.Body.Close()
	br := bufio.NewReader(resp.Body)
	for i := range 20 {
		_, err := fmt.Fprintf(pw, "line %d\n", i)
		must(p, err)
		got, err := br.ReadString('\n')
		must(p, err)
		equal(p, "echo", got, fmt.Sprintf("LINE %d\n", i))
	}
	must(p, pw.Close())
	rest, err := io.ReadAll(br)
	must(p, err)
	equal(p, "rest", string(rest), "")
}

// The upstream refuses after the first bytes; an agent that sends without end
// gets the answer and has to stop.
func earlyResponse(p *pair) {
	p.script(func(w wire, _ int64, m message, _ bool) bool {
		if _, err := w.readData(); err != nil {
			p.Errorf("upstream: %v", err)
		}
		must(p, write(w, message{status: 413, body: "too much", fields: []field{{"content-length", "8"}}}))
		if h2, ok := w.(*wire2); ok { // RFC 9113 section 8.1
			_ = h2.framer.WriteRSTStream(h2.stream, http2.ErrCodeNo)
		}
		// A server that hangs up at once may lose its answer to a reset.
		_, _ = readBody(w)
		return false
	})
	var sent atomic.Int64
	body := readerFunc(func(b []byte) (int, error) {
		if sent.Add(int64(len(b))) > 4<<30 {
			return 0, errors.New("nobody stopped the upload")
		}
		clear(b)
		return len(b), nil
	})
	resp, err := p.client().Post(p.url("/"), "text/x", body)
	must(p, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(p, err)
	equal(p, "status", resp.StatusCode, 413)
	equal(p, "body", string(text), "too much")
}

func expectContinue(p *pair) {
	var asked atomic.Bool
	body := make(chan string, 1)
	p.script(func(w wire, _ int64, m message, _ bool) bool {
		equal(p, "Expect", m.get("expect"), "100-continue")
		asked.Store(true)
		must(p, w.writeHead(message{status: 100}, true))
		text, err := readBody(w)
		if err != nil {
			p.Errorf("upstream: %v", err)
		}
		body <- text
		return write(w, reply("ok")) == nil
	})
	agent := p.dial()
	must(p, agent.writeHead(message{method: "PUT", target: "/", fields: []field{{"expect", "100-continue"}, {"content-length", "4"}}}, false))
	m, _, err := agent.readHead()
	must(p, err)
	equal(p, "status", m.status, 100)
	equal(p, "the upstream has asked", asked.Load(), true)
	must(p, agent.writeData("body"))
	must(p, agent.writeEnd(nil))
	equal(p, "body", within(p, "the body", body), "body")
	got, err := read(agent)
	must(p, err)
	equal(p, "answer", got.body, "ok")
	equal(p, "informational responses", len(got.info), 0)
}

func expectRefused(p *pair) {
	rest := make(chan string, 1)
	p.script(func(w wire, _ int64, m message, _ bool) bool {
		must(p, write(w, message{status: 417, body: "no", fields: []field{{"content-length", "2"}}}))
		text, _ := readBody(w)
		rest <- text
		return false
	})
	agent := p.dial()
	must(p, agent.writeHead(message{method: "PUT", target: "/", fields: []field{{"expect", "100-continue"}, {"content-length", "4"}}}, false))
	got, err := read(agent)
	must(p, err)
	equal(p, "status", got.status, 417)
	equal(p, "body", got.body, "no")
	equal(p, "informational responses", len(got.info), 0)
	equal(p, "body upstream", within(p, "the end upstream", rest), "")
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// gibibyte streams what no buffer holds, less where -short says so.
func gibibyte(p *pair) {
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	p.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			_, _ = io.CopyN(w, &counter{}, size)
			return
		}
		n, err := io.Copy(&counter{}, r.Body)
		fmt.Fprintf(w, "%d %v", n, err)
	})
	client := p.client()
	client.Timeout = 0
	resp, err := client.Get(p.url("/"))
	must(p, err)
	n, err := io.Copy(&counter{}, resp.Body)
	must(p, err)
	equal(p, "bytes down", n, size)
	resp.Body.Close()
	resp, err = client.Post(p.url("/"), "text/x", io.LimitReader(&counter{}, size))
	must(p, err)
	text, err := io.ReadAll(resp.Body)
	must(p, err)
	resp.Body.Close()
	equal(p, "bytes up", string(text), fmt.Sprintf("%d <nil>", size))
}

// counter is an endless stream in which each byte says where it is; what is
// written to one must be that stream.
type counter struct{ at int64 }

// wheel is a period of the stream.
var wheel = func() []byte {
	b := make([]byte, 251*512)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}()

func (c *counter) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		k := copy(p[n:], wheel[c.at%int64(len(wheel)):])
		n += k
		c.at += int64(k)
	}
	return len(p), nil
}

func (c *counter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		want := wheel[c.at%int64(len(wheel)):]
		want = want[:min(len(want), len(p)-n)]
		if !bytes.Equal(p[n:n+len(want)], want) {
			return n, fmt.Errorf("the stream differs after %d bytes", c.at)
		}
		n += len(want)
		c.at += int64(len(want))
	}
	return len(p), nil
}
