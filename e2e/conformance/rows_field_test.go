package conformance

import (
	"errors"
	"fmt"
	"strings"
)

func fieldRows() []row {
	const group = "Header fields"
	big := func() (fields []field) {
		for i := range 20 {
			fields = append(fields, field{fmt.Sprintf("x-big-%d", i), strings.Repeat(string(rune('a'+i)), 10_000)})
		}
		return fields
	}
	usual := []field{
		{"user-agent", "curl/8"}, {"accept", "*/*"}, {"accept-encoding", "br"}, {"accept-language", "de"}, {"cookie", "a=b; c=d"},
		{"origin", "https://x.example"}, {"referer", "https://x.example/?y"}, {"cache-control", "no-cache"}, {"x-forwarded-for", "1.2.3.4"},
		{"via", "1.1 mine"}, {"forwarded", "for=1.2.3.4"}, {"idempotency-key", "k"}, {"traceparent", "00-1-2-03"},
	}
	return []row{
		{group: group, name: "nothing is added to a request", run: func(p *pair) {
			seen, _ := p.exchange(ask("GET", "/"), reply("ok"))
			same(p, "bare", seen.fields, []field{injected})
			seen, _ = p.exchange(ask("GET", "/", usual...), reply("ok"))
			same(p, "usual", seen.fields, append([]field{injected}, usual...))
		}},
		{group: group, name: "nothing is added to a response", run: func(p *pair) {
			_, got := p.exchange(ask("GET", "/"), reply("<html>"))
			same(p, "bare", got.fields, []field{{"content-length", "6"}})
			fields := []field{
				{"date", "Thu, 01 Jan 1970 00:00:00 GMT"}, {"server", "x"}, {"content-type", "text/x"}, {"vary", "*"}, {"age", "1"}, {"via", "1.1 x"},
				{"strict-transport-security", "max-age=1"}, {"x-powered-by", "y"}, {"content-disposition", `attachment; filename="a b"`},
			}
			_, got = p.exchange(ask("GET", "/"), reply("<html>", fields...))
			same(p, "usual", got.fields, append([]field{{"content-length", "6"}}, fields...))
		}},
		{group: group, name: "duplicate fields, in their order", run: func(p *pair) {
			up := []field{{"x-a", "1"}, {"x-b", "b"}, {"x-a", "2, 3"}, {"x-a", "1"}, {"accept", "text/x"}, {"accept", "*/*"}}
			down := []field{{"link", "</1>"}, {"vary", "a"}, {"link", "</2>, </3>"}, {"link", "</1>"}, {"vary", "b"}}
			seen, got := p.exchange(ask("GET", "/", up...), reply("ok", down...))
			same(p, "request", seen.fields, append([]field{injected}, up...))
			same(p, "response", got.fields, append([]field{{"content-length", "2"}}, down...))
		}},
		{group: group, name: "several of a field of which there should be one", run: func(p *pair) {
			up := []field{{"content-type", "a/b"}, {"range", "bytes=0-1"}, {"content-type", "c/d"}, {"range", "bytes=2-"}, {"if-match", "x"}, {"if-match", "*"}, {"referer", "/a"}, {"referer", "/b"}}
			seen, _ := p.exchange(ask("GET", "/", up...), reply("ok"))
			same(p, "request", seen.fields, append([]field{injected}, up...))
		}},
		{group: group, name: "field values as they are", run: func(p *pair) {
			fields := []field{{"x-empty", ""}, {"x-quoted", `"a, \"b\"" ; c`}, {"x-utf8", "Grüße"}, {"x-latin1", "Gr\xfc\xdfe"}, {"x-spaces", "a  b\tc"}, {"x-json", `{"a":[1,2]}`}, {"x-percent", "%00%0d%0a"}}
			seen, got := p.exchange(ask("GET", "/", fields...), reply("", fields...))
			same(p, "request", seen.fields, append([]field{injected}, fields...))
			same(p, "response", got.fields, append([]field{{"content-length", "0"}}, fields...))
		}},
		{group: group, name: "200 KB of request fields", run: func(p *pair) {
			seen, got := p.exchange(ask("GET", "/", big()...), reply("ok"))
			same(p, "request", seen.fields, append([]field{injected}, big()...))
			equal(p, "body", got.body, "ok")
		}},
		{group: group, name: "200 KB of response fields", run: func(p *pair) {
			_, got := p.exchange(ask("GET", "/"), reply("ok", big()...))
			same(p, "response", got.fields, append([]field{{"content-length", "2"}}, big()...))
		}},
		{group: group, name: "one field of 200 KB each way", run: func(p *pair) {
			one := []field{{"x-one", strings.Repeat("v", 200_000)}}
			seen, got := p.exchange(ask("GET", "/", one...), reply("", one...))
			same(p, "request", seen.fields, append([]field{injected}, one...))
			same(p, "response", got.fields, append([]field{{"content-length", "0"}}, one...))
		}},
		{group: group, name: "cookie crumbs are one Cookie field", na: agent2Only, run: func(p *pair) {
			seen, _ := p.exchange(ask("GET", "/", field{"cookie", "a=1"}, field{"cookie", "b=2"}), reply("ok"))
			equal(p, "Cookie", seen.get("cookie"), "a=1; b=2")
		}},
		{group: group, name: "Set-Cookie is dropped where a credential was injected", run: func(p *pair) {
			_, got := p.exchange(ask("GET", "/"), reply("ok", field{"set-cookie", "session=1; Path=/"}, field{"set-cookie", "b=2"}, field{"x-kept", "y"}))
			same(p, "response", got.fields, []field{{"content-length", "2"}, {"x-kept", "y"}})
		}},
		{group: group, name: `Set-Cookie is passed under cookies = "pass"`, run: func(p *pair) {
			cookies := []field{{"set-cookie", "a=1; Expires=Fri, 20 Nov 2026 09:00:00 GMT"}, {"set-cookie", "b=2"}}
			answer := reply("ok", cookies...)
			answer.target = "cookies"
			_, got := p.exchange(ask("GET", "/"), answer)
			same(p, "response", got.fields, append([]field{{"content-length", "2"}}, cookies...))
		}},
		{group: group, name: "WWW-Authenticate and Authentication-Info are passed", run: func(p *pair) {
			fields := []field{{"www-authenticate", `Basic realm="a, b"`}, {"www-authenticate", "Negotiate"}, {"authentication-info", "x=y"}, {"content-length", "2"}}
			_, got := p.exchange(ask("GET", "/"), message{status: 401, fields: fields, body: "no"})
			equal(p, "status", got.status, 401)
			same(p, "response", got.fields, fields)
		}},
		{group: group, name: "TE: trailers reaches the upstream", run: func(p *pair) {
			fields := []field{{"te", "trailers"}}
			if !p.agentH2 {
				fields = append(fields, field{"connection", "TE"})
			}
			seen, _ := p.exchange(ask("GET", "/", fields...), reply("ok"))
			equal(p, "TE", seen.get("te"), "trailers")
		}},
		{group: group, name: "hop-by-hop fields end at the gateway", run: func(p *pair) {
			var up []field
			if !p.agentH2 { // HTTP/2 has none: RFC 9113 section 8.2.2
				up = []field{{"connection", "keep-alive, x-hop"}, {"x-hop", "1"}, {"keep-alive", "timeout=5"}, {"proxy-connection", "close"}}
			}
			answer := reply("ok", field{"x-kept", "y"})
			if !p.upstreamH2 {
				answer.fields = append(answer.fields, field{"connection", "x-hop"}, field{"x-hop", "1"}, field{"keep-alive", "timeout=5"})
			}
			seen, got := p.exchange(ask("GET", "/", up...), answer)
			same(p, "request", seen.fields, []field{injected})
			same(p, "response", got.fields, []field{{"content-length", "2"}, {"x-kept", "y"}})
		}},
	}
}

func targetRows() []row {
	const group = "Request target"
	fidelity := func(targets ...string) func(p *pair) {
		return func(p *pair) {
			for _, target := range targets {
				seen, _ := p.exchange(ask("GET", target), reply("ok"))
				equal(p, "target", seen.target, target)
			}
		}
	}
	refused := func(targets ...string) func(p *pair) {
		return func(p *pair) {
			p.script(func(_ wire, _ int64, m message, _ bool) bool {
				p.Errorf("the upstream got %q", m.target)
				return false
			})
			for _, target := range targets {
				agent := p.dial()
				must(p, write(agent, ask("GET", target)))
				got, err := read(agent)
				if !(err == nil && got.status == 400 || p.agentH2 && errors.Is(err, errReset)) {
					p.Errorf("%q: %d, %v", target, got.status, err)
				}
			}
		}
	}
	return []row{
		{group: group, name: "dot segments are refused", run: refused("/a/../b", "/./../x", "/%2e/x", "/a/.", "/a/..", "/../../etc/passwd", "/a/%2e%2e/b", "/a/..;x/b", "/a/..%2fb", "/..%5cb", "/%252e%252e/")},
		{group: group, name: "a plain . between slashes, and names with dots", run: fidelity("/flat/./InRelease", "/./x", "/...", "/.git", "/..a/b..", "/.well-known/x", "/group%2Fproject/.gitignore")},
		{group: group, name: "doubled slashes", run: fidelity("//a//b", "/a//", "//", "///x", "//host.example/x")},
		{group: group, name: "percent-encoding", run: fidelity("/a%2Fb", "/a%2fb", "/%61", "/%7Euser", "/%E2%82%AC", "/%fc", "/a%20b", "/%25", "/%2541", "/@scope%2fname", "/a%5Cb")},
		{group: group, name: "semicolons and other delimiters", run: fidelity("/a;b=c;d", "/a;/b", "/x:y@z", "/a,b&c=d+e", "/!$'()*", "/a=b")},
		{group: group, name: "queries, the empty one too", run: fidelity("/?", "/x?", "/?a=1&a=2&&", "/??", "/?a;b", "/?a=%20+%2B", "/?q=/../x", "/?u=https://x.example/?y")},
		{group: group, name: "characters outside of any URL", run: fidelity(`/a|b`, `/a"b<c>`, "/{id}^`", "/[x]'`", `/?{"x":[1|2]}`, `/?a\b`, "/?100%")},
		{group: group, name: "what servers read differently is refused", run: refused(`/a\b`, "/a#b", "/?a#b", "/%00", "/a%0d%0ab", "/%", "/%zz", "/%c0%af", "/Gr\xfc\xdfe", "/a\u00a0b")},
		{group: group, name: "UTF-8 unencoded", run: fidelity("/Grüße", "/?q=ü")},
		{group: group, name: "long (100 KB)", run: fidelity("/" + strings.Repeat("x", 100_000) + "?" + strings.Repeat("y", 10_000))},
		{group: group, name: "OPTIONS *", run: func(p *pair) {
			seen, _ := p.exchange(ask("OPTIONS", "*"), reply("ok"))
			equal(p, "target", seen.target, "*")
		}},
		{group: group, name: "absolute form becomes origin form", na: agent1Only, run: func(p *pair) {
			seen, _ := p.exchange(ask("GET", "https://"+hostOf("raw", p.upstreamH2)+"/a/b|c?"), reply("ok"))
			equal(p, "target", seen.target, "/a/b|c?")
		}},
	}
}
