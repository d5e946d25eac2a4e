package framing

import (
	"fmt"
	"slices"
	"strings"
)

// stream is what an agent sends on one connection.
type stream struct {
	raw   []byte
	cuts  []int // where it is cut into TLS records
	slow  bool  // with a pause at each
	clean int   // that many requests, nothing about any of them odd; 0: anything
}

// sentinel ends every stream: its answer ends the connection, unless its bytes
// belong to something else.
const sentinel = "GET /sentinel HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"

// smuggled is a body that must stay one.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: " + host + "\r\n" + markField + ": smuggled\r\n\r\n"

// requests makes a stream: some plain, most of them odd in a place or two, some
// damaged besides.
func requests(s *source) stream {
	var b strings.Builder
	clean := s.oneIn(4)
	n := 1 + s.below(4)
	if s.oneIn(40) {
		n = 20
	}
	for i := range n {
		writeRequest(s, &b, i, clean)
	}
	b.WriteString(sentinel)
	made := stream{raw: []byte(b.String())}
	switch {
	case clean:
		made.clean = n + 1
	case s.oneIn(3):
		made.raw = s.mutate(made.raw)
	case s.oneIn(12):
		made.raw = made.raw[:s.below(min(len(made.raw), 1<<16))]
	}
	for range s.below(4) {
		made.cuts = append(made.cuts, s.below(min(len(made.raw)+1, 1<<16)))
	}
	slices.Sort(made.cuts)
	made.slow = s.oneIn(6)
	return made
}

// rarely is in how many places of an odd request one is odd.
const rarely = 40

func writeRequest(s *source, b *strings.Builder, i int, clean bool) {
	odd := func(plain string, others ...string) string {
		if clean {
			return plain
		}
		return usually(s, rarely, plain, others...)
	}
	eol := odd("\r\n", "\n", "\r", "\r\r\n", "\n\r", " \r\n", "\r\n\r\n")
	b.WriteString(odd("", "\r\n", "\n", " ", "\r\n\r\n", "\x00", "X"))
	method := pick(s, "GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", "POST", "BREW")
	method = odd(method, "TRACE", "CONNECT", "PRI", "get", "GE T", "", "GET,", "G\x00T", "POST\t")
	target := fmt.Sprintf("/%d/%d", i, s.below(256))
	target += pick(s, "", "?a=b&c", "?", "//x", "/%20%2F", "/a;b=c", "/ü", "/~!$&'()*+,=:@")
	target = odd(target, "https://"+host+target, "https://"+host+"?x", "https://"+host, "http://"+host+target, "https://evil.example"+target, "HTTPS://API.example.com:443"+target,
		"//"+host+target, "*", "", target+" x", target+"\x00", target+"#f", target+"\tx", "/../..", "/%2e%2e/%2F", "?", host+":443", "https://u@"+host+"/", "/"+strings.Repeat("x", 9000), "/%zz", "//^\"{}")
	if !clean && s.oneIn(12) {
		target += "?early"
	}
	version := odd("HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.10", "HTTP/01.1", "HTTP/1.1 ", "HTTP/ 1.1", "", "HTTP/1,1")
	b.WriteString(method + odd(" ", "  ", "\t", "\x0b", "\r") + target + odd(" ", "  ", "\t", "") + version + eol)

	line := func(name, value string) {
		b.WriteString(odd("", " ", "\t", "\r", "\x00") + odd(name, strings.ToUpper(name), strings.ToLower(name)) + odd(":", " :", ":\t", ":\r\n ", ":\n\t", "\t:", "::", "", "\x00:") + odd(" ", "", "  ", "\x0b") +
			value + odd("", " ", "\t", "\r", "\x00", "\x7f", "\xff") + eol)
	}
	fields := []func(){
		func() { line(markField, fmt.Sprintf("mark %d", i)) },
		func() {
			line("Host", odd(host, "API.EXAMPLE.COM", host+":443", host+".", host+":", "evil.example", host+", "+host, "", host+":444", " "+host, host+"\t", host+"/x", "u@"+host, host+"\x00"))
		},
	}
	if s.oneIn(3) {
		fields = append(fields, func() {
			line(pick(s, "Authorization", "authorization", "AUTHORIZATION", "Proxy-Authorization", "X-Api-Key", "Authorization_"), "Bearer "+own)
		})
	}
	if !clean {
		for range s.below(3) {
			fields = append(fields, oddField(s, line))
		}
		if s.oneIn(100) {
			fields = append(fields, func() { line("X-Long", strings.Repeat("z", maxHead+40<<10)) })
		}
	}
	length, write := writeBody(s, clean, odd)
	if length != "" {
		fields = append(fields, func() { b.WriteString(length + eol) })
	} else if clean && (method == "POST" || method == "PUT" || method == "PATCH") {
		fields = append(fields, func() { line("Content-Length", "0") })
	}
	for len(fields) > 0 { // in any order
		at := s.below(len(fields))
		fields[at]()
		fields = append(fields[:at], fields[at+1:]...)
	}
	b.WriteString(odd(eol, "\r\n", "\n", "\r", " \r\n", ""))
	write(b)
}

// oddField writes a field that may make somebody see the message differently.
func oddField(s *source, line func(name, value string)) func() {
	name := pick(s, "X-A", "Connection", "TE", "Trailer", "Expect", "Upgrade", "Cookie", "Host", markField, "Keep-Alive", "X A", "X\"A", "", "Transfer_Encoding", "Content_Length", "HTTP2-Settings", "X-Clawpatrol-Verdict", "Content-Length", "Transfer-Encoding")
	value := pick(s, "a", "close", "keep-alive", "Upgrade", "trailers", "Content-Length", "Transfer-Encoding, host", markField, "Authorization", "100-continue", "websocket", "h2c", "chunked", "", "0", "5", "a, b", "x\r\n y", "x\n y", "\xc3\xbc", host, "close, Upgrade", "HTTP/2.0")
	return func() { line(name, value) }
}

// writeBody returns the field lines, without the last line's end, that say how
// long a body is, and what writes the body.
func writeBody(s *source, clean bool, odd func(string, ...string) string) (length string, write func(*strings.Builder)) {
	payload := pick(s, "x", "", smuggled, "0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", strings.Repeat("0123456789", 700), "\r\n\r\n", sentinel, "\x00\xff\n", "ab")
	switch s.below(3) {
	case 0:
		return "", func(*strings.Builder) {}
	case 1:
		n := fmt.Sprint(len(payload))
		n = odd(n, fmt.Sprint(len(payload)+s.below(40)), fmt.Sprint(max(0, len(payload)-1-s.below(40))), "+"+n, "0"+n, n+" ", n+","+n, n+", "+n, "-"+n, "0x"+n, "", n+".0", "99999999999999999999", "9223372036854775807", n+"\r\nContent-Length: "+n, n+"\r\nContent-Length: 0", "0\r\nContent-Length: "+n,
			n+"\r\nTransfer-Encoding: chunked", n+"\r\nTransfer-Encoding: identity", n+"\t", "\x0b"+n, n+";", "1e1")
		return odd("Content-Length", "content-length", "CONTENT-LENGTH", "Content-Length ", "Content_Length", "Content-Length\t", "\tContent-Length") + odd(": ", ":", ":\t", ":\r\n ", " : ") + n, func(b *strings.Builder) { b.WriteString(payload) }
	}
	coding := odd("chunked", "Chunked", "CHUNKED", " chunked", "chunked ", "\tchunked", "\x0bchunked", "xchunked", "chunked, identity", "identity, chunked", "gzip, chunked", "chunked, chunked", "chunked;q=1", `"chunked"`, "chunked,", ",chunked", "identity", "",
		"chunked\r\nTransfer-Encoding: chunked", "chunked\r\nTransfer-Encoding: identity", "identity\r\nTransfer-Encoding: chunked", "chunked\r\nContent-Length: 3", "\r\n chunked", "chunked\r\n ", "chunked\x00", "chun\rked")
	length = odd("Transfer-Encoding", "transfer-encoding", "TRANSFER-ENCODING", "Transfer-Encoding ", "Transfer_Encoding", "Transfer-Encoding\x00", "Transfer-Encodinġ", " Transfer-Encoding") + odd(": ", ":", ":\t", " : ") + coding
	trailer := ""
	if s.oneIn(3) {
		trailer = markField + "-Trailer: t\r\n"
		length += "\r\nTrailer: " + markField + "-Trailer"
		if !clean && s.oneIn(2) {
			trailer += pick(s, "Authorization: Bearer "+own, "Authorization: Bearer "+own, "Content-Length: 5", "Host: evil.example", "Transfer-Encoding: chunked", markField+": trailed", " folded: x", "no colon", "X : y", "X: \x00", "Cookie: a=b") + "\r\n"
			if s.oneIn(2) {
				length += pick(s, ", Authorization", ", Authorization, Host, Cookie, X, "+markField, ", Content-Length")
			}
		}
	}
	return length, func(b *strings.Builder) {
		b.WriteString(chunked(s, payload, trailer, odd))
	}
}
