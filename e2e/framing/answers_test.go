package framing

import (
	"fmt"
	"strings"
)

// script is what an upstream sends for one request, whatever the request.
type script struct {
	method string // of the request
	body   string // of the request
	raw    []byte
	end    ending
	clean  bool // nothing about it is odd: it must arrive
}

// ending is what the upstream does after a script.
type ending int

const (
	hold   ending = iota // leaves the connection open, where the response needs no end
	finish               // ends it in order
	abort                // resets it
)

// answers makes the scripts for a connection's requests. Script k says k in all
// that it sends.
func answers(s *source) []script {
	scripts := make([]script, 2+s.below(3))
	clean := s.oneIn(4)
	for k := range scripts {
		sc := &scripts[k]
		sc.clean = clean
		sc.method = pick(s, "GET", "POST", "GET", "HEAD", "PUT", "DELETE")
		if sc.method == "POST" || sc.method == "PUT" {
			sc.body = pick(s, "", "hello", strings.Repeat("x", 5000))
		}
		var b strings.Builder
		writeAnswer(s, &b, k, sc)
		sc.raw = []byte(b.String())
		if !clean {
			sc.end = usually(s, 4, hold, finish, abort)
			if s.oneIn(4) {
				sc.raw = s.mutate(sc.raw)
			}
		}
	}
	return scripts
}

// answerMark is in every text of script k.
func answerMark(k int) string { return fmt.Sprintf("<of-%d>", k) }

func writeAnswer(s *source, b *strings.Builder, k int, sc *script) {
	odd := func(plain string, others ...string) string {
		if sc.clean {
			return plain
		}
		return usually(s, 30, plain, others...)
	}
	mark := answerMark(k)
	eol := odd("\r\n", "\n", "\r", "\r\r\n", "\r\n\r\n", " \r\n")
	b.WriteString(odd("", "\r\n", "\n", " ", "\x00", "HTTP/1.1 100 Continue\r\n\r\n", "garbage "))
	for range s.below(3) {
		if s.oneIn(3) {
			fmt.Fprintf(b, "HTTP/1.1 %s\r\nLink: </%s?t=%s>; rel=preload\r\n%s\r\n", odd(pick(s, "103 Early Hints", "102 Processing", "103 Early Hints", "199 Odd", "100 Continue"), "101 Switching Protocols", "1000 X", "099 X"), mark, pick(s, "", token),
				odd("", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "Connection: close\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\n"))
		}
	}
	status := pick(s, "200 OK", "201 Created", "204 No Content", "304 Not Modified", "404 Not Found", "500 Internal Server Error", "205 Reset Content", "206 Partial Content", "299 Odd "+mark, "200 ")
	status = odd(status, "200", "101 Switching Protocols", "000 X", "099 X", "1000 X", "2000 OK", "20 OK", "-200 OK", "+20 OK", "abc", "", "600 X", "999 X", "200 O\x00K", " 200 OK", "200\tOK", "200 OK\r")
	b.WriteString(odd("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "http/1.1", "HTTP/1.10", "HTTP/11", "ICY", "HTTP/1.1 HTTP/1.1", "", " HTTP/1.1") + odd(" ", "  ", "\t", "") + status + eol)

	line := func(name, value string) {
		b.WriteString(odd("", " ", "\t", "\x00") + name + odd(":", " :", ":\r\n ", ":\n\t", "", "::") + odd(" ", "", "\t", "\x0b") + value + odd("", " ", "\t", "\r", "\x00", "\x7f", "\xff") + eol)
	}
	fields := []func(){func() { line(markField, mark) }}
	for range s.below(3) {
		name := pick(s, "X-A", "Set-Cookie", "Server", "Date", "Location", "ETag", "X-Echo", "Alt-Svc", "Content-Type")
		if !sc.clean {
			name = pick(s, name, "Connection", "Connection", "Keep-Alive", "Trailer", "Upgrade", "Transfer_Encoding", "Content_Length", "Content-Length", "Transfer-Encoding", "X A", "", "Proxy-Authenticate", "X-Clawpatrol-Verdict", "Content-Encoding", "Host", "X\"Y")
		}
		value := pick(s, mark, "a"+mark, "https://"+host+"/?t="+token, "Bearer "+token)
		if !sc.clean {
			value = pick(s, value, odd("close", strings.Repeat("z", maxHead+40<<10)), "close", "keep-alive", "Upgrade", "chunked", "0", "5", "websocket", "", "x\r\n y"+mark, "gzip", "Content-Length", markField, "h2c")
		}
		fields = append(fields, func() { line(name, value) })
	}

	payload := pick(s, "body "+mark, "", mark, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"+markField+": "+mark+"\r\n\r\nabc", "0\r\n\r\n"+mark, strings.Repeat(mark, 2000), "5\r\nhello\r\n0\r\n\r\n"+mark)
	bodiless := sc.method == "HEAD" || strings.HasPrefix(status, "1") || strings.HasPrefix(status, "204") || strings.HasPrefix(status, "304")
	if strings.HasPrefix(status, "205") {
		payload = ""
	}
	length, body := "", payload
	switch kind := s.below(3); {
	case strings.HasPrefix(status, "204"):
		length = odd("", "Content-Length: 5", "Content-Length: 0", "Transfer-Encoding: chunked")
	case kind == 0 && !sc.clean && !bodiless: // until the connection ends
		sc.end = finish
	case kind == 2 && !bodiless:
		coding := odd("chunked", "Chunked", " chunked", "xchunked", "chunked, identity", "identity, chunked", "gzip, chunked", "identity", "", "chunked\r\nTransfer-Encoding: chunked", "chunked\r\nTransfer-Encoding: identity", "chunked\r\nContent-Length: 3", "\r\n chunked", "chunked\x00", "\x0bchunked")
		length = odd("Transfer-Encoding", "transfer-encoding", "Transfer-Encoding ", "Transfer_Encoding", " Transfer-Encoding") + odd(": ", ":", ":\t", " : ") + coding
		trailer := ""
		if s.oneIn(2) {
			trailer = markField + "-Trailer: " + mark + "\r\n"
			length += odd("\r\nTrailer: "+markField+"-Trailer", "")
			if !sc.clean {
				trailer += odd("", "Content-Length: 5\r\n", "X: "+token+"\r\n", " folded\r\n", "no colon\r\n", "Set-Cookie: a=b\r\n", "X : y\r\n", "Transfer-Encoding: chunked\r\n")
			}
		}
		body = chunked(s, payload, trailer, odd)
	default:
		n := fmt.Sprint(len(payload))
		n = odd(n, fmt.Sprint(len(payload)+1+s.below(40)), fmt.Sprint(max(0, len(payload)-1-s.below(40))), "+"+n, "0"+n, n+" ", n+","+n, "-"+n, "0x"+n, "", "99999999999999999999", "9223372036854775807", n+"\r\nContent-Length: "+n, n+"\r\nContent-Length: 0", n+"\r\nTransfer-Encoding: chunked", n+"\r\nTransfer-Encoding: identity", "\r\n "+n, n+";", "\x0b"+n)
		length = odd("Content-Length", "content-length", "Content-Length ", "Content_Length", " Content-Length") + odd(": ", ":", ":\t", " : ") + n
	}
	if length != "" {
		fields = append(fields, func() { b.WriteString(length + eol) })
	}
	for len(fields) > 0 {
		at := s.below(len(fields))
		fields[at]()
		fields = append(fields[:at], fields[at+1:]...)
	}
	b.WriteString(odd(eol, "\n", "\r", "", " \r\n"))
	if bodiless {
		body = odd("", body, body) // what nobody may read
	}
	b.WriteString(body)
	// What no request was sent for.
	b.WriteString(odd("", "\r\n", "\n", "x", "HTTP/1.1 200 OK\r\n"+markField+": "+mark+"\r\nContent-Length: 5\r\n\r\nstray", "HTTP/1.1 ", "HTTP/1.1 100 Continue\r\n\r\n"))
}

// chunked is payload in chunks, some of them odd.
func chunked(s *source, payload, trailer string, odd func(string, ...string) string) string {
	var b strings.Builder
	for payload != "" {
		n := len(payload) - s.below(len(payload))
		size := fmt.Sprintf("%x", n)
		size = odd(size, strings.ToUpper(size), "0"+size, "000000000000000000"+size, size+";ext", size+";a=\"\r\n\"", size+" ", " "+size, "0x"+size, "+"+size, "-"+size, size+"\t;x", size+";\n", fmt.Sprintf("%x", n+1), fmt.Sprintf("%x", n-1), "ffffffffffffffff", "10000000000000000"+size, "", "g", size+"\n;", size+";"+strings.Repeat("e", 5000))
		b.WriteString(size + odd("\r\n", "\n", "\r", "\r\r\n", "", "\r\n\r\n", "\rX") + payload[:n] + odd("\r\n", "\n", "", "\r", "XY", "\r\n\r\n", "\n\r"))
		payload = payload[n:]
	}
	b.WriteString(odd("0", "00", "000000000000000000000", "0;ext", "", "-0", "0x0", "0 ") + odd("\r\n", "\n", "\r") + trailer + odd("\r\n", "\n", "", "\r", "\r\n\r\n"))
	return b.String()
}
