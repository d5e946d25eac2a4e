package conformance

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

func connectionRows() []row {
	const group = "Connections"
	ok := func(w wire, conn int64, m message, end bool) bool {
		if !end {
			_, _ = readBody(w)
		}
		return write(w, reply(fmt.Sprint(conn))) == nil
	}
	ask1 := func(p *pair, agent wire, m message) message {
		p.Helper()
		must(p, write(agent, m))
		got, err := read(agent)
		must(p, err)
		return got
	}
	post := message{method: "POST", target: "/", body: "body", fields: []field{{"content-length", "4"}}}
	return []row{
		{group: group, name: "both connections are reused", run: func(p *pair) {
			p.script(ok)
			agent := p.dial()
			first := ask1(p, agent, ask("GET", "/"))
			for range 10 {
				equal(p, "connection", ask1(p, agent, ask("GET", "/")).body, first.body)
				equal(p, "connection", ask1(p, agent, post).body, first.body)
			}
			equal(p, "connection, for another of the agent's", ask1(p, p.dial(), ask("GET", "/")).body, first.body)
		}},
		{group: group, name: "pipelined requests are answered in order", na: agent1Only, run: func(p *pair) {
			p.script(func(w wire, _ int64, m message, end bool) bool {
				if !end {
					_, _ = readBody(w)
				}
				return write(w, reply(m.method+m.target)) == nil
			})
			agent := p.dial()
			for i := range 10 {
				must(p, write(agent, ask("GET", fmt.Sprint("/", i))))
				must(p, write(agent, message{method: "POST", target: fmt.Sprint("/", i), body: "b", fields: []field{{"content-length", "1"}}}))
			}
			for i := range 10 {
				for _, method := range []string{"GET", "POST"} {
					got, err := read(agent)
					must(p, err)
					equal(p, "answer", got.body, fmt.Sprint(method, "/", i))
				}
			}
		}},
		{group: group, name: "streams run side by side", na: agent2Only, run: func(p *pair) {
			const n = 50
			var all sync.WaitGroup
			all.Add(n)
			p.serve(func(w http.ResponseWriter, r *http.Request) {
				all.Done()
				all.Wait() // each needs all the others
				_, _ = io.WriteString(w, r.URL.Path)
			})
			client := p.client()
			var done sync.WaitGroup
			for i := range n {
				done.Go(func() {
					resp, err := client.Get(p.url(fmt.Sprint("/", i)))
					if err != nil {
						p.Error(err)
						return
					}
					defer resp.Body.Close()
					body, err := io.ReadAll(resp.Body)
					if err != nil || string(body) != fmt.Sprint("/", i) {
						p.Errorf("%q %v", body, err)
					}
				})
			}
			done.Wait()
		}},
		{group: group, name: "the agent's Connection: close", na: agent1Only, run: func(p *pair) {
			p.script(ok)
			agent := p.dial()
			got := ask1(p, agent, ask("GET", "/", field{"connection", "close"}))
			equal(p, "Connection", got.get("connection"), "close")
			_, _, err := agent.readHead()
			equal(p, "after it", err, io.EOF)
			// The upstream's connection lives on.
			equal(p, "connection", ask1(p, p.dial(), ask("GET", "/")).body, got.body)
		}},
		{group: group, name: "the upstream's Connection: close ends only its own", na: upstream1Only, run: func(p *pair) {
			p.script(func(w wire, conn int64, m message, end bool) bool {
				must(p, write(w, reply(fmt.Sprint(conn), field{"connection", "close"})))
				return false
			})
			agent := p.dial()
			first := ask1(p, agent, ask("GET", "/"))
			equal(p, "Connection", first.get("connection"), "")
			second := ask1(p, agent, ask("GET", "/"))
			if second.body == first.body {
				p.Error("a closed connection was used")
			}
		}},
		{group: group, name: "idle connection closed by the upstream: a fresh one, for bodies too", run: func(p *pair) {
			gone := make(chan struct{}, 10)
			p.script(func(w wire, conn int64, m message, end bool) bool {
				if !end {
					body, err := readBody(w)
					if err != nil || body != "body" {
						p.Errorf("upstream: %q %v", body, err)
					}
				}
				must(p, write(w, reply(fmt.Sprint(conn))))
				must(p, w.conn().CloseWrite())
				_, _ = io.Copy(io.Discard, w.conn()) // until the gateway has noticed
				gone <- struct{}{}
				return false
			})
			agent := p.dial()
			for range 3 {
				equal(p, "status", ask1(p, agent, post).status, 200)
				within(p, "the gateway closes its end", gone)
			}
		}},
		{group: group, name: "used connection that dies under a request: only GET may be repeated", run: func(p *pair) {
			times := map[string]int{"GET": 2, "POST": 1, "DELETE": 1, "PUT": 1}
			if p.upstreamH2 {
				times["GET"] = 1 // what was not processed, HTTP/2 says
			}
			deaths(p, times)
		}},
		{group: group, name: "GOAWAY between requests: the next goes elsewhere", na: upstream2Only, run: func(p *pair) {
			p.script(func(w wire, conn int64, m message, end bool) bool {
				must(p, w.goAway(true))
				return ok(w, conn, m, end)
			})
			agent := p.dial()
			first := ask1(p, agent, post)
			if second := ask1(p, agent, post); second.body == first.body {
				p.Error("a request on a connection that had said GOAWAY")
			}
		}},
		{group: group, name: "GOAWAY over an unprocessed request: repeated on a fresh connection", na: upstream2Only, run: func(p *pair) {
			var mu sync.Mutex
			seen := make(map[int64]int)
			p.script(func(w wire, conn int64, m message, end bool) bool {
				mu.Lock()
				seen[conn]++
				n, conns := seen[conn], len(seen)
				mu.Unlock()
				if n == 2 && conns == 1 {
					must(p, w.goAway(false))
					_, _ = io.Copy(io.Discard, w.conn())
					return false
				}
				return ok(w, conn, m, end)
			})
			agent := p.dial()
			first := ask1(p, agent, ask("GET", "/"))
			second := ask1(p, agent, ask("POST", "/"))
			equal(p, "status", second.status, 200)
			if second.body == first.body {
				p.Error("answered by the connection that had said GOAWAY")
			}
		}},
		{group: group, name: "REFUSED_STREAM: repeated", na: upstream2Only, run: func(p *pair) {
			refused := false
			p.script(func(w wire, conn int64, m message, end bool) bool {
				if !refused {
					refused = true
					h2 := w.(*wire2)
					return h2.framer.WriteRSTStream(h2.stream, 7) == nil // RFC 9113 section 8.7
				}
				return ok(w, conn, m, end)
			})
			equal(p, "status", ask1(p, p.dial(), ask("POST", "/")).status, 200)
		}},
	}
}

// deaths has the upstream cut each method's second request off unanswered, on a
// connection that served one before, and counts how often it comes.
func deaths(p *pair, want map[string]int) {
	for method, times := range want {
		var mu sync.Mutex
		came := 0
		p.script(func(w wire, conn int64, m message, end bool) bool {
			if !end {
				_, _ = readBody(w)
			}
			mu.Lock()
			defer mu.Unlock()
			if m.target == "/second" {
				if came++; came == 1 {
					return false
				}
			}
			return write(w, reply("ok")) == nil
		})
		p.id = p.world.Approve(p.Name()+method, "ci")
		agent := p.dial()
		m := message{method: method, target: "/first"}
		must(p, write(agent, ask("GET", "/first")))
		_, err := read(agent)
		must(p, err)
		m.target = "/second"
		if method == "POST" || method == "PUT" {
			m.body, m.fields = "body", []field{{"content-length", "4"}}
		}
		must(p, write(agent, m))
		got, err := read(agent)
		must(p, err)
		mu.Lock()
		equal(p, method+" came upstream", came, times)
		mu.Unlock()
		equal(p, method+" status", got.status, map[int]int{1: 502, 2: 200}[times])
	}
}

func faultRows() []row {
	const group = "Streams cut off"
	abort := func(fields ...field) func(p *pair) {
		return func(p *pair) {
			p.script(func(w wire, _ int64, m message, _ bool) bool {
				must(p, w.writeHead(message{status: 200, fields: fields}, false))
				must(p, w.writeData("some"))
				must(p, w.abort())
				return false
			})
			agent := p.dial()
			must(p, write(agent, ask("GET", "/")))
			m, _, err := agent.readHead()
			must(p, err)
			equal(p, "status", m.status, 200)
			body, err := readBody(agent)
			if !errors.Is(err, errReset) || body != "some" && body != "" {
				p.Errorf("the agent read %q and then %v", body, err)
			}
		}
	}
	return []row{
		{group: group, name: "the upstream's reset is a reset for the agent, known length", run: abort(field{"content-length", "1000"})},
		{group: group, name: "the upstream's reset is a reset for the agent, unknown length", run: abort()},
		{group: group, name: "the upstream's close in the middle is a reset for the agent", run: func(p *pair) {
			p.script(func(w wire, _ int64, m message, _ bool) bool {
				must(p, w.writeHead(message{status: 200}, false))
				must(p, w.writeData("some"))
				return false // close_notify, FIN
			})
			agent := p.dial()
			must(p, write(agent, ask("GET", "/")))
			_, _, err := agent.readHead()
			must(p, err)
			body, err := readBody(agent)
			if !errors.Is(err, errReset) || body != "some" {
				p.Errorf("the agent read %q and then %v", body, err)
			}
		}},
		{group: group, name: "the agent's reset in an upload is a reset upstream", run: func(p *pair) {
			for _, fields := range [][]field{{{"content-length", "1000"}}, nil} {
				ended := make(chan error, 1)
				started := make(chan struct{})
				p.script(func(w wire, _ int64, m message, _ bool) bool {
					close(started)
					_, err := readBody(w)
					ended <- err
					return false
				})
				agent := p.dial()
				must(p, agent.writeHead(message{method: "PUT", target: "/", fields: fields}, false))
				must(p, agent.writeData("some"))
				within(p, "the upload", started)
				must(p, agent.abort())
				if err := within(p, "its end", ended); !errors.Is(err, errReset) {
					p.Errorf("upstream: %v", err)
				}
			}
		}},
		{group: group, name: "the agent that leaves ends the download upstream", run: func(p *pair) {
			gone := make(chan struct{})
			p.serve(func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
				close(gone)
			})
			agent := p.dial()
			must(p, write(agent, ask("GET", "/")))
			_, _, err := agent.readHead()
			must(p, err)
			must(p, agent.abort())
			within(p, "the end upstream", gone)
		}},
		{group: group, name: "an upstream that hangs up unanswered is a 502", run: func(p *pair) {
			p.script(func(wire, int64, message, bool) bool { return false })
			agent := p.dial()
			for range 2 {
				must(p, write(agent, ask("GET", "/")))
				got, err := read(agent)
				must(p, err)
				equal(p, "status", got.status, 502)
				equal(p, "Content-Type", got.get("content-type"), "application/problem+json")
			}
		}},
	}
}
