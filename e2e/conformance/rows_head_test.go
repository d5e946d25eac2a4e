package conformance

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ask is the plainest request.
func ask(method, target string, fields ...field) message {
	return message{method: method, target: target, fields: fields}
}

// reply is a response with a body of known length.
func reply(body string, fields ...field) message {
	return message{status: 200, body: body, fields: append([]field{{"content-length", fmt.Sprint(len(body))}}, fields...)}
}

func same(p *pair, what string, got, want []field) {
	p.Helper()
	if got, want := sorted(got), sorted(want); !slices.Equal(got, want) {
		p.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func equal[T comparable](p *pair, what string, got, want T) {
	p.Helper()
	if got != want {
		p.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// injected is what every request carries upstream.
var injected = field{"authorization", "Bearer " + token}

func headRows() []row {
	const group = "Messages"
	return []row{
		{group: group, name: "HEAD keeps Content-Length", run: func(p *pair) {
			seen, got := p.exchange(ask("HEAD", "/"), message{status: 200, fields: []field{{"content-length", "12345"}, {"etag", `"x"`}}})
			equal(p, "method", seen.method, "HEAD")
			same(p, "response", got.fields, []field{{"content-length", "12345"}, {"etag", `"x"`}})
		}},
		{group: group, name: "HEAD without a length stays without", run: func(p *pair) {
			_, got := p.exchange(ask("HEAD", "/"), message{status: 200, fields: []field{{"etag", `"x"`}}})
			same(p, "response", got.fields, []field{{"etag", `"x"`}})
		}},
		{group: group, name: "204 has no body and no length", run: func(p *pair) {
			_, got := p.exchange(ask("DELETE", "/x"), message{status: 204})
			equal(p, "status", got.status, 204)
			same(p, "response", got.fields, nil)
		}},
		{group: group, name: "205 with Content-Length: 0", run: func(p *pair) {
			_, got := p.exchange(ask("GET", "/x"), message{status: 205, fields: []field{{"content-length", "0"}}})
			equal(p, "status", got.status, 205)
			same(p, "response", got.fields, []field{{"content-length", "0"}})
		}},
		{group: group, name: "304 with its validators", run: func(p *pair) {
			fields := []field{{"cache-control", "max-age=5"}, {"etag", `"x"`}, {"last-modified", "Fri, 20 Nov 2026 09:00:00 GMT"}}
			seen, got := p.exchange(ask("GET", "/x", field{"if-none-match", `"x", W/"y"`}), message{status: 304, fields: fields})
			equal(p, "If-None-Match", seen.get("if-none-match"), `"x", W/"y"`)
			equal(p, "status", got.status, 304)
			same(p, "response", got.fields, fields)
		}},
		{group: group, name: "206 with Range and If-Range", run: func(p *pair) {
			answer := reply("cd", field{"content-range", "bytes 2-3/10"}, field{"etag", `"x"`})
			answer.status = 206
			seen, got := p.exchange(ask("GET", "/x", field{"range", "bytes=2-3"}, field{"if-range", `"x"`}), answer)
			same(p, "request", seen.fields, []field{injected, {"range", "bytes=2-3"}, {"if-range", `"x"`}})
			equal(p, "status", got.status, 206)
			equal(p, "body", got.body, "cd")
			same(p, "response", got.fields, answer.fields)
		}},
		{group: group, name: "206 multipart/byteranges byte for byte, 416", run: func(p *pair) {
			body := "--b\r\nContent-Range: bytes 0-0/10\r\n\r\na\r\n--b\r\nContent-Range: bytes 9-9/10\r\n\r\nj\r\n--b--\r\n"
			answer := reply(body, field{"content-type", "multipart/byteranges; boundary=b"})
			answer.status = 206
			_, got := p.exchange(ask("GET", "/x", field{"range", "bytes=0-0,-1"}), answer)
			equal(p, "body", got.body, body)
			answer = message{status: 416, fields: []field{{"content-length", "0"}, {"content-range", "bytes */10"}}}
			_, got = p.exchange(ask("GET", "/x", field{"range", "bytes=99-"}), answer)
			equal(p, "status", got.status, 416)
			same(p, "response", got.fields, answer.fields)
		}},
		{group: group, name: "response with Content-Length: 0 keeps it", run: func(p *pair) {
			_, got := p.exchange(ask("GET", "/x"), message{status: 200, fields: []field{{"content-length", "0"}}})
			same(p, "response", got.fields, []field{{"content-length", "0"}})
		}},
		{group: group, name: "request with Content-Length: 0 keeps it", run: func(p *pair) {
			for _, method := range []string{"POST", "PUT", "PATCH"} {
				seen, _ := p.exchange(ask(method, "/x", field{"content-length", "0"}), reply(""))
				same(p, method, seen.fields, []field{injected, {"content-length", "0"}})
			}
		}},
		{group: group, name: "POST without a body has none upstream", run: func(p *pair) {
			seen, got := p.exchange(ask("POST", "/x"), reply("ok"))
			equal(p, "body", seen.body, "")
			equal(p, "Transfer-Encoding", seen.get("transfer-encoding"), "")
			if length := seen.get("content-length"); length != "" && length != "0" {
				p.Errorf("Content-Length: %s", length)
			}
			equal(p, "answer", got.body, "ok")
		}},
		{group: group, name: "GET without a body says nothing about one", run: func(p *pair) {
			for _, method := range []string{"GET", "HEAD", "OPTIONS", "DELETE"} {
				seen, _ := p.exchange(ask(method, "/x"), message{status: 204})
				same(p, method, seen.fields, []field{injected})
			}
		}},
		{group: group, name: "GET and DELETE with a body", run: func(p *pair) {
			for _, method := range []string{"GET", "DELETE"} {
				seen, _ := p.exchange(message{method: method, target: "/x", body: "why", fields: []field{{"content-length", "3"}}}, reply("ok"))
				equal(p, method, seen.body, "why")
				same(p, method, seen.fields, []field{injected, {"content-length", "3"}})
			}
		}},
		{group: group, name: "bodies of unknown length stay so", run: func(p *pair) {
			seen, got := p.exchange(message{method: "PUT", target: "/x", body: "up"}, message{status: 200, body: strings.Repeat("down", 5000)})
			same(p, "request", seen.fields, []field{injected})
			equal(p, "request body", seen.body, "up")
			same(p, "response", got.fields, nil)
			equal(p, "response body", len(got.body), 20000)
		}},
		{group: group, name: "empty body of unknown length", run: func(p *pair) {
			seen, got := p.exchange(message{method: "POST", target: "/x", open: true}, message{status: 200, open: true})
			equal(p, "request body", seen.body, "")
			equal(p, "status", got.status, 200)
			equal(p, "response body", got.body, "")
		}},
		{group: group, name: "framing that servers read differently is refused", na: agent1Only, run: func(p *pair) {
			p.script(func(_ wire, _ int64, m message, _ bool) bool {
				p.Errorf("the upstream got %+v", m)
				return false
			})
			for _, fields := range []string{
				"Content-Length: 1\r\nContent-Length: 2", "Content-Length: +1", "Content-Length: 1, 1", "Content-Length: 0x1", "Content-Length:", "Content-Length : 1",
				"Transfer-Encoding: xchunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "Transfer-Encoding: \vchunked",
				"Host: " + p.host, ": x", "X: a\rContent-Length: 1", "X: a\x00b",
			} {
				agent := p.dial()
				_, err := fmt.Fprintf(agent.conn(), "POST / HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", p.host, fields)
				must(p, err)
				got, err := read(agent)
				if err != nil || got.status != 400 && got.status != 501 {
					p.Errorf("%q: %d, %v", fields, got.status, err)
				}
			}
		}},
		{group: group, name: "a length that disagrees with the body is refused", na: agent2Only, run: func(p *pair) {
			p.script(func(w wire, _ int64, m message, end bool) bool {
				if !end {
					if _, err := readBody(w); err != nil {
						return false
					}
				}
				p.Errorf("the upstream got %+v", m)
				return false
			})
			for _, length := range []string{"2", "4", "+3", "03", "3, 3", "x"} {
				agent := p.dial()
				must(p, write(agent, message{method: "POST", target: "/", body: "abc", fields: []field{{"content-length", length}}}))
				if got, err := read(agent); !errors.Is(err, errReset) && (err != nil || got.status < 400) {
					p.Errorf("%s: %d, %v", length, got.status, err)
				}
			}
		}},
		{group: group, name: "response that ends with the connection", na: upstream1Only, run: func(p *pair) {
			p.script(func(w wire, _ int64, _ message, _ bool) bool {
				_, err := w.conn().Write([]byte("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end"))
				must(p, err)
				return false
			})
			agent := p.dial()
			for range 2 { // the agent's connection lives on
				must(p, write(agent, ask("GET", "/")))
				got, err := read(agent)
				must(p, err)
				equal(p, "body", got.body, "to the end")
			}
		}},
		{group: group, name: "HTTP/1.0 agent", na: agent1Only, run: func(p *pair) {
			request := ask("GET", "/")
			request.version = "HTTP/1.0"
			seen, got := p.exchange(request, message{status: 200, body: strings.Repeat("x", 100_000), info: []message{{status: 103, fields: []field{{"link", "</a>"}}}}})
			same(p, "request", seen.fields, []field{injected})
			equal(p, "body", len(got.body), 100_000)
			equal(p, "informational responses", len(got.info), 0)
			equal(p, "Transfer-Encoding", got.get("transfer-encoding"), "")
		}},
		{group: group, name: "HTTP/1.0 agent with keep-alive", na: agent1Only, run: func(p *pair) {
			p.script(func(w wire, _ int64, _ message, _ bool) bool { return write(w, reply("ok")) == nil })
			agent := p.dial()
			for range 2 {
				request := ask("GET", "/", field{"connection", "keep-alive"})
				request.version = "HTTP/1.0"
				must(p, write(agent, request))
				got, err := read(agent)
				must(p, err)
				equal(p, "body", got.body, "ok")
				equal(p, "Connection", got.get("connection"), "keep-alive")
			}
		}},
		{group: group, name: "any method and any status", run: func(p *pair) {
			for i, method := range []string{"PROPFIND", "M-SEARCH", "PURGE", "get", "QUERY", "X"} {
				answer := reply("ok")
				answer.status = []int{200, 207, 299, 418, 499, 599}[i]
				seen, got := p.exchange(ask(method, "/x"), answer)
				equal(p, "method", seen.method, method)
				equal(p, "status", got.status, answer.status)
			}
		}},
		{group: group, name: "redirects are the agent's business", run: func(p *pair) {
			answer := message{status: 307, fields: []field{{"content-length", "0"}, {"location", "https://elsewhere.example.net/a/../b?x#y"}}}
			_, got := p.exchange(ask("POST", "/x"), answer)
			equal(p, "status", got.status, 307)
			same(p, "response", got.fields, answer.fields)
		}},
		{group: group, name: "compressed bodies byte for byte", run: func(p *pair) {
			body := "\x1f\x8b\x08\x00 not even gzip"
			seen, got := p.exchange(
				message{method: "POST", target: "/x", body: body, fields: []field{{"content-length", fmt.Sprint(len(body))}, {"content-encoding", "gzip"}, {"accept-encoding", "zstd, br;q=0.5"}}},
				reply(body, field{"content-encoding", "gzip"}, field{"vary", "accept-encoding"}))
			equal(p, "request body", seen.body, body)
			equal(p, "Accept-Encoding", seen.get("accept-encoding"), "zstd, br;q=0.5")
			equal(p, "response body", got.body, body)
			equal(p, "Content-Encoding", got.get("content-encoding"), "gzip")
		}},
	}
}
