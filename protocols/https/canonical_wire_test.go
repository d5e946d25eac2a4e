package https_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// relayedTargets are what real programs send, and what S3 keys, GitLab's project
// ids and npm's scoped packages need.
var relayedTargets = []string{
	"/", "/a/b/", "/flat/./InRelease", "//a//b", "//", "///x", "//host.example/x", "/a//",
	"/a%2Fb", "/a%2fb", "/@scope%2fname", "/group%2Fproject/files/.gitignore", "/a%5Cb", "/%61", "/%7Euser/~user", "/%E2%82%AC", "/%fc", "/a%20b", "/100%25", "/%2541",
	"/a;b=c;d", "/a;/b", "/x:y@z", "/a,b&c=d+e", "/!$'()*", "/...", "/..a/.git/b..", "/.well-known/x",
	`/a|b^c[d]{e}"<f>`, "/`", "//a|b", "//ü", "///`", "/Grüße/日本語", "/👍",
	"/?", "/x?", "/?a=1&a=2&&", "/??", "/?a;b", "/?a=%20+%2B", "/?q=/../x", `/?q=\`, "/?q=100%", "/?q=%00%zz", "/?q=ü", `/?{"x":[1|2]}`, "/?u=https://x.example/?y",
	"/" + strings.Repeat("x", 20_000) + "?" + strings.Repeat("y", 20_000),
}

// refusedTargets are what servers differ about.
var refusedTargets = []string{
	"/.", "/..", "/a/../b", "/./../x", "/a/%2e/x", "/a/..", "/../../etc/passwd", "//../a", "/%2e/", "/a/%2E%2e/b", "/.%2e", "/a/..;/b", "/a/..;x/b", "/a/%2e%2e%3b/b", "/a%2f..%2fb", "/..%5cb", "/%252e%252e/",
	`/a\b`, `/..\b`, "/a#b", "/?a#b", "/%00", "/a%0d%0ab", "/%7f", "/%", "/%2", "/%zz", "/%u002e", "/%c0%af", "/%c0%ae%c0%ae/", "/%e0%80%af", "/%f0%80%80%af",
	"/Gr\xfc\xdfe", "/?q=\xa0", "/a\u00a0b", "/a\u202eb", "*", "a", "?a", "*?",
}

// The attack: a path that policy and the log read in one way, and the upstream
// in another.
func TestI04_CanonicalTargetsReachTheUpstreamAsTheyWereSentOrNotAtAll(t *testing.T) {
	pairings(t, func(t *testing.T, p *pairing) {
		for _, target := range relayedTargets {
			status := p.ask(t, target)
			seen := p.upstream.seen()
			if status != "200" || len(seen) != 1 || seen[0].target != target {
				t.Errorf("%.100q: %s, the upstream got %.300q", target, status, fmt.Sprint(seen))
			}
			path, _, _ := strings.Cut(target, "?")
			if logged := p.Actions(p.id)[0].Summary; logged != "GET "+path && len(path) < 500 {
				t.Errorf("%.100q is %q in the log", target, logged)
			}
		}
		for _, target := range refusedTargets {
			status := p.ask(t, target)
			if seen := p.upstream.seen(); len(seen) != 0 || status != "400" && !(p.agent2 && status == "reset") {
				t.Errorf("%.100q: %s, the upstream got %.300q", target, status, fmt.Sprint(seen))
			}
		}
	})
}

// Fields of which there should be one are the upstream's business, but for those
// that say where a request goes and where it ends.
func TestCanonical_DuplicateFieldsAreRelayedInTheirOrder(t *testing.T) {
	pairings(t, func(t *testing.T, p *pairing) {
		fields := []string{
			"content-type", "a/b", "range", "bytes=0-1", "content-type", "c/d", "range", "bytes=2-", "if-match", `"x"`, "if-match", "*",
			"accept", "a/b, c/d", "accept", "*/*", "referer", "/a", "referer", "/b", "x-method-override", "DELETE", "x_y", "1", "x-y", "2",
		}
		if status := p.ask(t, "/x", fields...); status != "200" {
			t.Fatal(status)
		}
		seen := p.upstream.seen()
		if len(seen) != 1 {
			t.Fatalf("the upstream got %v", seen)
		}
		want := make(map[string][]string)
		for i := 0; i < len(fields); i += 2 {
			want[fields[i]] = append(want[fields[i]], fields[i+1])
		}
		for name, values := range want {
			if got := seen[0].values(name); !slices.Equal(got, values) {
				t.Errorf("%s: %q, want %q", name, got, values)
			}
		}
	})
}

// The attack: bytes that are one request to the gateway and two, or another, to
// the upstream. Neither they nor the request behind them get there.
func TestI04_CanonicalHeadsThatServersReadDifferentlyAreRefused(t *testing.T) {
	const next = "GET /next HTTP/1.1\r\nHost: %[1]s\r\n\r\n"
	pairings(t, func(t *testing.T, p *pairing) {
		if p.agent2 {
			return // has no such head
		}
		for name, request := range map[string]string{
			"bare line feeds":           "POST /x HTTP/1.1\nHost: %[1]s\nContent-Length: 3\n\nabc",
			"one bare line feed":        "POST /x HTTP/1.1\r\nHost: %[1]s\r\nX: y\nContent-Length: 3\r\n\r\nabc",
			"bare carriage return":      "POST /x HTTP/1.1\r\nHost: %[1]s\r\nX: y\rContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc",
			"folded":                    "POST /x HTTP/1.1\r\nHost: %[1]s\r\nX: y\r\n Content-Length: 0\r\nContent-Length: 3\r\n\r\nabc",
			"folded length":             "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length:\r\n 3\r\n\r\nabc",
			"blank before the colon":    "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length : 3\r\n\r\nabc",
			"two lengths":               "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 3\r\nContent-Length: 0\r\n\r\nabc",
			"one length twice":          "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
			"list of lengths":           "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 3, 3\r\n\r\nabc",
			"signed length":             "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: +3\r\n\r\nabc",
			"hexadecimal length":        "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 0x3\r\n\r\nabc",
			"zeros before the length":   "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 0000000003\r\n\r\nabc",
			"length that overflows":     "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 18446744073709551619\r\n\r\nabc",
			"length and chunks":         "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			"chunks and length":         "POST /x HTTP/1.1\r\nHost: %[1]s\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			"chunked twice":             "POST /x HTTP/1.1\r\nHost: %[1]s\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			"chunked and identity":      "POST /x HTTP/1.1\r\nHost: %[1]s\r\nTransfer-Encoding: identity, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			"chunked, quoted":           "POST /x HTTP/1.1\r\nHost: %[1]s\r\nTransfer-Encoding: \"chunked\"\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			"vertical tab and chunked":  "POST /x HTTP/1.1\r\nHost: %[1]s\r\nTransfer-Encoding: \vchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			"Connection lists Length":   "POST /x HTTP/1.1\r\nHost: %[1]s\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc",
			"Connection lists Encoding": "POST /x HTTP/1.1\r\nHost: %[1]s\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			"Connection lists Host":     "POST /x HTTP/1.1\r\nHost: %[1]s\r\nConnection: Host\r\nContent-Length: 3\r\n\r\nabc",
			"underscore, length":        "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent_Length: 0\r\nContent-Length: 3\r\n\r\nabc",
			"underscore, encoding":      "POST /x HTTP/1.1\r\nHost: %[1]s\r\nTransfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
			"two Hosts":                 "POST /x HTTP/1.1\r\nHost: %[1]s\r\nHost: evil.example\r\nContent-Length: 3\r\n\r\nabc",
			"field without a name":      "POST /x HTTP/1.1\r\nHost: %[1]s\r\n: x\r\nContent-Length: 3\r\n\r\nabc",
			"NUL in a field":            "POST /x HTTP/1.1\r\nHost: %[1]s\r\nX: a\x00b\r\nContent-Length: 3\r\n\r\nabc",
			"blanks in the line":        "POST  /x  HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 3\r\n\r\nabc",
			"tab in the line":           "POST\t/x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 3\r\n\r\nabc",
			"no version":                "POST /x\r\nHost: %[1]s\r\nContent-Length: 3\r\n\r\nabc",
			"odd version":               "POST /x HTTP/1.9\r\nHost: %[1]s\r\nContent-Length: 3\r\n\r\nabc",
			"too many fields":           "POST /x HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: 3\r\n" + strings.Repeat("X: y\r\n", 1200) + "\r\nabc",
		} {
			statuses := p.raw(t, fmt.Sprintf(request+next, p.host), 2)
			if seen := p.upstream.seen(); len(seen) > 0 || !slices.Equal(statuses, []string{"400", "closed"}) {
				t.Errorf("%s: %q, the upstream got %.500q", name, statuses, fmt.Sprint(seen))
			}
		}
	})
}

func TestCanonical_ChunksAreFramedAnew(t *testing.T) {
	const head = "POST /x HTTP/1.1\r\nHost: %[1]s\r\nTransfer-Encoding: chunked\r\n"
	const next = "GET /next HTTP/1.1\r\nHost: %[1]s\r\n\r\n"
	pairings(t, func(t *testing.T, p *pairing) {
		if p.agent2 {
			return // has no chunks
		}
		for name, chunks := range map[string]string{
			"plain":             "\r\n3\r\nabc\r\n0\r\n\r\n",
			"extensions":        "\r\n3;a=b;c=\"d\r\nabc\r\n0;x\r\n\r\n",
			"zeros, upper case": "\r\n00000003\r\nabc\r\n000\r\n\r\n",
			"blanks behind":     "\r\n3 \t\r\nabc\r\n0 \r\n\r\n",
			"trailer":           "Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
			"folded trailer":    "Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n Host: evil.example\r\n\r\n",
			"trailer, bare LF":  "Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\nHost: evil.example\n\n",
			"framing trailer":   "\r\n3\r\nabc\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\nHost: evil.example\r\nAuthorization: x\r\n\r\n",
		} {
			statuses := p.raw(t, fmt.Sprintf(head+chunks+next, p.host), 2)
			if statuses[0] != "200" {
				t.Errorf("%s: %q", name, statuses)
			}
			seen := p.upstream.seen()
			if len(seen) != 2 || seen[0].body != "abc" || len(seen[0].values("host")) > 1 || len(seen[0].values("content-length")) > 0 ||
				len(seen[0].values("transfer-encoding")) > 1 || !slices.Equal(seen[0].values("authorization"), []string{"Bearer " + token}) {
				t.Errorf("%s: the upstream got %.500q", name, fmt.Sprint(seen))
			}
		}
		for name, chunks := range map[string]string{
			"bare line feed behind a size":      "\r\n3\nabc\r\n0\r\n\r\n",
			"bare line feed in an extension":    "\r\n3;x\nabc\r\n0\r\n\r\n",
			"bare carriage return in one":       "\r\n3;x\ry\r\nabc\r\n0\r\n\r\n",
			"bare line feed behind data":        "\r\n3\r\nabc\n0\r\n\r\n",
			"longer than its size":              "\r\n3\r\nabcd\r\n0\r\n\r\n",
			"no size":                           "\r\n\r\nabc\r\n0\r\n\r\n",
			"sign":                              "\r\n+3\r\nabc\r\n0\r\n\r\n",
			"prefix":                            "\r\n0x3\r\nabc\r\n0\r\n\r\n",
			"blank before":                      "\r\n 3\r\nabc\r\n0\r\n\r\n",
			"size that overflows":               "\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
			"announced trailer that is framing": "Trailer: Content-Length\r\n\r\n3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n",
			"NUL in the trailer":                "Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: a\x00b\r\n\r\n",
			"carriage return in the trailer":    "Trailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: a\rHost: evil.example\r\n\r\n",
			"malformed trailer":                 "\r\n3\r\nabc\r\n0\r\nX y\r\n\r\n",
			"extensions without end":            "\r\n3;" + strings.Repeat("x", 8<<10) + "\r\nabc\r\n0\r\n\r\n",
		} {
			statuses := p.raw(t, fmt.Sprintf(head+chunks+next, p.host), 2)
			seen := p.upstream.seen()
			if len(seen) > 0 || !slices.Equal(statuses, []string{"400", "closed"}) {
				t.Errorf("%s: %q, the upstream got %.500q", name, statuses, fmt.Sprint(seen))
			}
		}
	})
}

// The attack: HTTP/2 fields that become the framing, the request line or a field
// of another name over HTTP/1.1.
func TestI04_CanonicalHTTP2RequestsAreOneRequestOrNone(t *testing.T) {
	pairings(t, func(t *testing.T, p *pairing) {
		if !p.agent2 {
			return
		}
		plain := []string{":method", "POST", ":scheme", "https", ":authority", p.host, ":path", "/x"}
		with := func(more ...string) []string { return append(slices.Clone(plain), more...) }
		instead := func(name, value string) []string {
			fields := slices.Clone(plain)
			fields[1+slices.Index(fields, name)] = value
			return fields
		}
		for name, tc := range map[string]struct {
			body   string
			want   string
			fields []string
		}{
			"plain":                   {"abc", "200", plain},
			"its length":              {"abc", "200", with("content-length", "3")},
			"no body, no length":      {"", "200", plain},
			"length 0":                {"", "200", with("content-length", "0")},
			"length too small":        {"abc", "reset", with("content-length", "2")},
			"length too large":        {"abc", "400", with("content-length", "4")},
			"length without a body":   {"", "400", with("content-length", "40")},
			"two lengths":             {"abc", "400", with("content-length", "3", "content-length", "40")},
			"one length twice":        {"abc", "400", with("content-length", "3", "content-length", "3")},
			"length that is none":     {"", "400", with("content-length", "x")},
			"signed length":           {"", "400", with("content-length", "+0")},
			"list of lengths":         {"", "400", with("content-length", "0, 0")},
			"zeros before the length": {"abc", "400", with("content-length", "03")},
			"transfer-encoding":       {"0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n", "400", with("transfer-encoding", "chunked")},
			"connection":              {"", "400", with("connection", "content-length")},
			"upgrade":                 {"", "400", with("upgrade", "h2c")},
			"keep-alive":              {"", "400", with("keep-alive", "1")},
			"te other than trailers":  {"", "400", with("te", "gzip")},
			"upper case":              {"", "reset", with("X-A", "x")},
			"upper case length":       {"abc", "reset", with("Content-Length", "3")},
			"line break in a value":   {"", "reset", with("x", "a\r\nTransfer-Encoding: chunked")},
			"line feed in a value":    {"", "reset", with("x", "a\nb")},
			"NUL in a value":          {"", "reset", with("x", "a\x00b")},
			"colon in a name":         {"", "reset", with("x: y", "z")},
			"blank in a name":         {"", "reset", with("transfer-encoding ", "chunked")},
			"line break in a name":    {"", "reset", with("x\r\ny", "z")},
			"no name":                 {"", "reset", with("", "z")},
			"pseudo-field behind":     {"", "reset", with("x", "y", ":path", "/z")},
			"two paths":               {"", "reset", with(":path", "/z")},
			"unknown pseudo-field":    {"", "reset", with(":x", "y")},
			"two hosts":               {"", "reset", with("host", "evil.example")},
			"the host twice":          {"", "200", with("host", p.host)},
			"scheme ftp":              {"", "reset", instead(":scheme", "ftp")},
			"method with a blank":     {"", "reset", instead(":method", "GET /evil HTTP/1.1\r\n")},
			"absolute path":           {"", "reset", instead(":path", "https://"+p.host+"/x")},
			"path with a line break":  {"", "reset", instead(":path", "/x HTTP/1.1\r\nX: y")},
			"path with a blank":       {"", "400", instead(":path", "/x HTTP/1.1")},
			"path with a fragment":    {"", "400", instead(":path", "/x#y")},
			"path without a slash":    {"", "reset", instead(":path", "x")},
			"empty path":              {"", "reset", instead(":path", "")},
			"userinfo":                {"", "reset", instead(":authority", "me@"+p.host)},
			"authority with a slash":  {"", "reset", instead(":authority", p.host+"/")},
			"authority with a comma":  {"", "421", instead(":authority", p.host+",evil.example")},
			"authority in Kelvin":     {"", "reset", instead(":authority", strings.Replace(p.host, "e", "\u212a", 1))},
		} {
			got := p.ask2(t, tc.body, tc.fields...)
			seen := p.upstream.seen()
			if got != tc.want {
				t.Errorf("%s: %s, want %s", name, got, tc.want)
			}
			if tc.want != "200" && len(seen) != 0 || tc.want == "200" && (len(seen) != 1 || seen[0].method+seen[0].target+seen[0].body != "POST/x"+tc.body) {
				t.Errorf("%s: the upstream got %q", name, fmt.Sprint(seen))
			}
		}
		// What comes after a length of 0 may come after the answer too: it is no part
		// of the request in any case. An agent that got a reset may have it before the
		// upstream has the request.
		got := p.ask2(t, "GET /evil HTTP/1.1\r\n\r\n", with("content-length", "0")...)
		if got != "reset" && got != "200" {
			t.Error(got)
		}
		// And nothing of it is left on the connections to the upstream.
		next := p.ask(t, "/next")
		seen := p.upstream.seen()
		if i := slices.IndexFunc(seen, func(r record) bool { return r.target == "/x" && r.body == "" }); i >= 0 {
			seen = slices.Delete(seen, i, i+1)
		}
		if next != "200" || len(seen) != 1 || seen[0].target != "/next" {
			t.Errorf("%s, the upstream got %q", next, fmt.Sprint(seen))
		}
	})
}
