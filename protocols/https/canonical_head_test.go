package https

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestCanonical_HeadsThatServersReadDifferentlyAreRefused(t *testing.T) {
	const line, host = "POST /x HTTP/1.1\r\n", "Host: a.example\r\n"
	fields := func(s string) string { return line + host + s + "\r\n" }
	for reason, heads := range map[string][]string{
		"ends too early":            {"", "GET", line, line + host, line + host + "X: y", line + host + "\r"},
		"without a carriage return": {"\n", "GET / HTTP/1.1\nHost: a.example\n\n", "GET / HTTP/1.1\n" + host + "\r\n", line + "Host: a.example\n\r\n", line + host + "\n", fields("X: a\nContent-Length: 1\r\n")},
		"an empty line":             {"\r\n" + line + host + "\r\n", "\r\n\r\n"},
		"three parts":               {"GET\r\n\r\n", "GET /\r\n\r\n", "GET  / HTTP/1.1\r\n\r\n", "GET  HTTP/1.1\r\n\r\n", "/\r\n\r\n"},
		"no method":                 {" GET / HTTP/1.1\r\n\r\n", "\tGET / HTTP/1.1\r\n\r\n", "G\x00T / HTTP/1.1\r\n\r\n", "GET\t/ HTTP/1.1 x\r\n\r\n", "(GET) / HTTP/1.1\r\n\r\n", "G\xc3\x9cT / HTTP/1.1\r\n\r\n", "\xef\xbb\xbfGET / HTTP/1.1\r\n\r\n", "G\rT / HTTP/1.1\r\n\r\n"},
		"target has a control":      {"GET /\x00 HTTP/1.1\r\n\r\n", "GET /a\tb HTTP/1.1\r\n\r\n", "GET /\x7f HTTP/1.1\r\n\r\n", "GET /a\rX HTTP/1.1\r\n\r\n"},
		"does not end with HTTP": {"GET /  HTTP/1.1\r\n\r\n", "GET / HTTP/1.1 \r\n\r\n", "GET / HTTP/1.1\r\r\n\r\n", "GET /a b HTTP/1.1\r\n\r\n", "GET / \r\n\r\n", "GET / http/1.1\r\n\r\n", "GET / HTTP/1.2\r\n\r\n",
			"GET / HTTP/0.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n", "GET / HTTP/1.10\r\n\r\n", "GET / HTTP/01.1\r\n\r\n", "GET / HTTP/1\r\n\r\n", "GET / HTTP/1.1\x00\r\n\r\n", "GET / ICY/1.1\r\n\r\n"},
		"begins with a blank": {line + " " + host + "\r\n", fields("X: a\r\n b\r\n"), fields("X: a\r\n\tb\r\n"), fields(" \r\n")},
		"no colon":            {fields("X\r\n"), fields("GET / HTTP/1.1\r\n")},
		"no name":             {fields(": x\r\n"), fields(":method: GET\r\n")},
		"before its colon":    {fields("Content-Length : 1\r\n"), fields("X\t: 1\r\n"), line + "Host : a.example\r\n\r\n"},
		"name of a field":     {fields("X y: 1\r\n"), fields("X\x00: 1\r\n"), fields("X\r: 1\r\n"), fields("Ü: 1\r\n"), fields("X[0]: 1\r\n"), fields("\x0bTransfer-Encoding: chunked\r\n"), fields("\"X\": 1\r\n")},
		"has a control":       {fields("X: a\rb\r\n"), fields("X: a\x00b\r\n"), fields("X: \x0b\r\n"), fields("X: \x7f\r\n"), fields("X: a\r\r\n"), fields("Content-Length: 1\x00\r\n"), fields("Transfer-Encoding: \x0bchunked\r\n"), line + "Host: a.example\x00\r\n\r\n"},
		"no Host":             {line + "\r\n", line + "X: y\r\n\r\n", line + "X-Host: a.example\r\n\r\n"},
		"two Host":            {fields(host), fields("hOST: b.example\r\n"), "GET / HTTP/1.0\r\n" + host + host + "\r\n"},
		"Host is malformed":   {line + "Host: a.example, b.example\r\n\r\n", line + "Host: a.example b.example\r\n\r\n", line + "Host: me@a.example\r\n\r\n", line + "Host: a.example/\r\n\r\n", line + "Host: https://a.example\r\n\r\n", line + "Host: bücher.example\r\n\r\n", line + "Host: a.example#\r\n\r\n", line + "Host: a.example?\r\n\r\n", line + "Host: a\\b\r\n\r\n"},
		"two Content-Length":  {fields("Content-Length: 1\r\nContent-Length: 2\r\n"), fields("Content-Length: 1\r\nContent-Length: 1\r\n"), fields("content-length: 1\r\nX: y\r\nCONTENT-LENGTH: 0\r\n")},
		"not a number": {fields("Content-Length:\r\n"), fields("Content-Length: +1\r\n"), fields("Content-Length: -1\r\n"), fields("Content-Length: 1 2\r\n"), fields("Content-Length: 1, 1\r\n"), fields("Content-Length: 0x10\r\n"), fields("Content-Length: 1e3\r\n"), fields("Content-Length: 1.0\r\n"), fields("Content-Length: 01\r\n"),
			fields("Content-Length: 00\r\n"), fields("Content-Length: 9223372036854775808\r\n"), fields("Content-Length: 99999999999999999999999\r\n"), fields("Content-Length: 1_000\r\n"), fields("Content-Length: ١\r\n"), fields("Content-Length: \"1\"\r\n"), fields("Content-Length: 1;\r\n")},
		"two Transfer-Encoding": {fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")},
		"not chunked":           {fields("Transfer-Encoding:\r\n"), fields("Transfer-Encoding:\r\n chunked\r\n"), fields("Transfer-Encoding: identity\r\n"), fields("Transfer-Encoding: gzip, chunked\r\n"), fields("Transfer-Encoding: chunked, chunked\r\n"), fields("Transfer-Encoding: xchunked\r\n"), fields("Transfer-Encoding: chunked;q=1\r\n"), fields("Transfer-Encoding: chunked,\r\n"), fields("Transfer-Encoding: \"chunked\"\r\n"), fields("Transfer-Encoding: chunKed\r\n"), fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n")},
		"both":                  {fields("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), fields("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n")},
		"in HTTP/1.0":           {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"},
		"_ for -":               {fields("Content_Length: 1\r\n"), fields("transfer_encoding: chunked\r\n")},
		"Connection lists":      {fields("Connection: close, Content-Length\r\n"), fields("connection: transfer-encoding\r\n"), fields("Connection: x,\tHOST ,y\r\n"), fields("Connection: content_length\r\n")},
		"too many fields":       {fields(strings.Repeat("X: y\r\n", maxFields))},
		"with its empty line":   {fields("") + "x", fields("") + "\r\n"},
	} {
		for _, head := range heads {
			if got := checkHead([]byte(head)); !strings.Contains(got, reason) {
				t.Errorf("%.200q: refused because %q, want %q", head, got, reason)
			}
		}
	}
}

func TestCanonical_HeadsThatReadOneWayPass(t *testing.T) {
	for _, head := range []string{
		"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "get /x?y HTTP/1.1\r\nhost:a.example:443\r\n\r\n", "GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n\r\n", "GET https://a.example/ HTTP/1.1\r\nHost: A.Example.\r\n\r\n", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "GET / HTTP/1.1\r\nHost: a.example:+443\r\n\r\n", "GET / HTTP/1.1\r\nHost: \t a_b~c.example \t\r\n\r\n",
		"M-SEARCH /ü HTTP/1.1\r\nHost: a\r\nX:\r\nX_Y: \t\r\nX: Gr\xfc\xdfe\r\nX: \"a\tb\"\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\ncontent-length:999999999999999999 \r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tChunked \r\nTrailer: X-Sum\r\nExpect: 100-continue\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close,, TE\r\nConnection: X-Content-Length\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=0-\r\nRange: bytes=1-\r\nContent-Type: a/b\r\nContent-Type: c/d\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", maxFields-1) + "\r\n",
	} {
		if why := checkHead([]byte(head)); why != "" {
			t.Errorf("%.200q: refused because %s", head, why)
		}
	}
}

// lenient reads a head as the most forgiving of servers might: any of CR, LF and
// NUL ends a line, folded lines are joined, blanks and controls around names,
// values and parts are dropped, "_" is "-".
func lenient(head string) (line []string, fields [][2]string) {
	split := func(r rune) bool { return r == '\r' || r == '\n' || r == 0 }
	lines := strings.FieldsFunc(head, split)
	if len(lines) == 0 {
		return nil, nil
	}
	for _, l := range lines[1:] {
		if isBlank(l[0]) && len(fields) > 0 {
			fields[len(fields)-1][1] += " " + strings.TrimSpace(l)
			continue
		}
		name, value, _ := strings.Cut(l, ":")
		name = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(name)), "_", "-")
		fields = append(fields, [2]string{name, strings.Trim(value, " \t\v\f")})
	}
	return strings.FieldsFunc(lines[0], func(r rune) bool { return r <= ' ' || r == 0x7f }), fields
}

// FuzzCheckHead: what passes is one request to net/http and to a reader that
// forgives everything, with the same target, fields, host and length.
func FuzzCheckHead(f *testing.F) {
	for _, head := range realHeads(f) {
		f.Add(head)
	}
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET /\rx HTTP/1.1\nHost : a\r\n folded\r\n\r\n", "GET / HTTP/1.0\r\nContent_Length: 1\r\nconnection: host\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		before := bytes.Clone(head)
		why := checkHead(head)
		if !bytes.Equal(before, head) {
			t.Fatal("the head was changed")
		}
		if why != "" {
			return
		}
		line, fields := lenient(string(head))
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
		if err != nil {
			if len(line) == 3 && strings.HasPrefix(line[1], "/") && !strings.Contains(line[1], "%") {
				t.Fatalf("net/http refuses %q: %v", head, err)
			}
			return // what is no URL is refused later
		}
		if len(line) != 3 || r.Method != line[0] || r.RequestURI != line[1] || r.Proto != line[2] {
			t.Fatalf("%q is %q", line, []string{r.Method, r.RequestURI, r.Proto})
		}
		strict, count := r.Header, 0
		for _, values := range strict {
			count += len(values)
		}
		var hosts, lengths, codings []string
		for _, f := range fields {
			switch f[0] {
			case "host":
				hosts = append(hosts, f[1])
				continue // net/http takes it out
			case "content-length":
				lengths = append(lengths, f[1])
			case "transfer-encoding":
				codings = append(codings, f[1])
				continue
			case "trailer", "pragma", "cache-control": // edited by net/http
				continue
			}
			if !slices.ContainsFunc(strict.Values(f[0]), func(v string) bool { return v == f[1] }) && !hasUnderscore(strict, f[0]) {
				t.Fatalf("field %q of %q is not in %q", f, head, strict)
			}
		}
		if len(hosts) > 1 || len(lengths)+len(codings) > 1 || len(fields) < count {
			t.Fatalf("%q: hosts %q, lengths %q, codings %q, %d fields for %d", head, hosts, lengths, codings, len(fields), count)
		}
		want := int64(0)
		if len(codings) == 1 {
			want = -1
		} else if len(lengths) == 1 {
			want, err = strconv.ParseInt(lengths[0], 10, 64)
		}
		if err != nil || r.ContentLength != want || (want == -1) != slices.Equal(r.TransferEncoding, []string{"chunked"}) {
			t.Fatalf("%q: length %d, %q; want %d", head, r.ContentLength, r.TransferEncoding, want)
		}
		if _, err := io.Copy(io.Discard, r.Body); err == nil && want != 0 {
			t.Fatalf("%q has a body", head)
		}
	})
}

// hasUnderscore reports whether name, its dashes underscores or not, is in h.
func hasUnderscore(h http.Header, name string) bool {
	for have := range h {
		if sameField(have, name) {
			return true
		}
	}
	return false
}

func BenchmarkCheckHead(b *testing.B) {
	head := []byte("GET /repos/owner/name/issues?state=open HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: agent/1.0 (linux; x64)\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\nAuthorization: Bearer clawpatrol-token\r\nX-Request-Id: 0123456789abcdef\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		if checkHead(head) != "" {
			b.Fatal("refused")
		}
	}
}
