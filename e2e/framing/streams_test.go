package framing

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// program is what an agent sends on an HTTP/2 connection.
type program struct {
	raw     []byte
	ended   map[uint32]bool   // streams that were sent to their end
	marks   map[uint32]string // of each stream
	damaged bool              // raw is not what it was made as
	clean   bool              // nothing about it is odd
	unended bool              // some stream is not sent to its end
	slow    bool              // is sent frame by frame
}

// part is one frame of a stream, or the HEADERS and CONTINUATION that belong
// together.
type part struct {
	stream  uint32
	fields  []hpack.HeaderField // of a header block; nil: DATA
	data    string
	padding int
	pieces  int // of the header block
	reset   bool
	end     bool
}

// streams makes a program.
func streams(s *source) program {
	p := program{ended: make(map[uint32]bool), marks: make(map[uint32]string), clean: s.oneIn(4)}
	var of [][]part
	id := uint32(1)
	for i := range 1 + s.below(4) {
		parts := streamParts(s, &p, id, i)
		of = append(of, parts)
		id += 2
		if !p.clean && s.oneIn(40) {
			id = pick(s, id+2, id-2, id+1, 0, 1)
		}
	}
	var order []part
	for i := range of { // heads in their order, what follows among others
		order = append(order, of[i][0])
		rest := of[i][1:]
		if s.oneIn(2) && i+1 < len(of) {
			of[i+1] = append(of[i+1], rest...)
			continue
		}
		order = append(order, rest...)
	}
	p.raw = encode(order)
	if !p.clean && s.oneIn(40) {
		start := len(http2.ClientPreface) + 21 // and SETTINGS
		p.raw = append(p.raw[:start:start], s.mutate(p.raw[start:])...)
		p.damaged = true
	}
	return p
}

// encode writes the connection's beginning and the parts.
func encode(parts []part) []byte {
	var raw, block bytes.Buffer
	raw.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&raw, nil)
	framer.AllowIllegalWrites = true
	encoder := hpack.NewEncoder(&block)
	// Writes to a buffer do not fail, and what is illegal is meant.
	_ = framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}, http2.Setting{ID: http2.SettingEnablePush, Val: 0})
	for _, p := range parts {
		switch {
		case p.reset:
			_ = framer.WriteRSTStream(p.stream, http2.ErrCodeCancel)
		case p.fields == nil && p.padding > 0:
			_ = framer.WriteDataPadded(p.stream, p.end, []byte(p.data), make([]byte, p.padding))
		case p.fields == nil:
			_ = framer.WriteData(p.stream, p.end, []byte(p.data))
		default:
			block.Reset()
			for _, f := range p.fields {
				_ = encoder.WriteField(f)
			}
			rest := bytes.Clone(block.Bytes())
			for i := range p.pieces {
				n := len(rest) / (p.pieces - i)
				if i == 0 {
					_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: p.stream, BlockFragment: rest[:n], EndStream: p.end, EndHeaders: p.pieces == 1})
				} else {
					_ = framer.WriteContinuation(p.stream, i == p.pieces-1, rest[:n])
				}
				rest = rest[n:]
			}
		}
	}
	return raw.Bytes()
}

func streamParts(s *source, p *program, id uint32, i int) []part {
	odd := func(plain string, others ...string) string {
		if p.clean {
			return plain
		}
		return usually(s, 40, plain, others...)
	}
	injected := "/x HTTP/1.1\r\nHost: " + host + "\r\n\r\nGET /smuggled"
	method := pick(s, "GET", "POST", "PUT", "HEAD", "DELETE", "POST", "OPTIONS", "BREW")
	method = odd(method, "", "get", "GE T", "TRACE", "CONNECT", "PRI", "GET / HTTP/1.1\r\nX: y\r\n\r\nGET", "G\x00T", "GET ", "G:T")
	path := fmt.Sprintf("/%d/%d", i, s.below(256)) + pick(s, "", "?a=b&c", "?", "/a;b=c", "/~!$&'()*+,=:@")
	path = odd(path, "", "*", path+" ", path+" HTTP/1.1", injected, path+"\x00", path+"\r\n", path+"\n", path+"\t", "x", "https://"+host+path, "https://evil.example"+path, "//evil.example"+path, path+"#f", "/ü", "/\x80", "/../x", "?x", "/"+strings.Repeat("x", 20000))
	pseudo := []hpack.HeaderField{
		{Name: ":method", Value: method},
		{Name: ":scheme", Value: odd("https", "http", "", "HTTPS", "ftp", "https\r\nx: y", "wss")},
		{Name: ":authority", Value: odd(host, "API.Example.COM", host+":443", host+":444", "evil.example", "", host+"\r\nX: y", "u@"+host, host+" ", host+",evil.example", host+"/x", host+".", "["+host+"]", host+"\x00")},
		{Name: ":path", Value: path},
	}
	switch {
	case p.clean || !s.oneIn(20):
	case s.oneIn(2): // twice
		pseudo = append(pseudo, pick(s, pseudo...))
	case s.oneIn(2): // missing
		at := s.below(len(pseudo))
		pseudo = append(pseudo[:at:at], pseudo[at+1:]...)
	default:
		pseudo = append(pseudo, hpack.HeaderField{Name: pick(s, ":foo", ":protocol", ":status", ":", ":Method", ": path"), Value: pick(s, "x", "websocket", "200", "")})
	}
	if _, again := p.marks[id]; again {
		p.damaged = true
	}
	mark := fmt.Sprintf("mark %d", i)
	mark = odd(mark, mark+" ", " "+mark, mark+"\r\nTransfer-Encoding: chunked", mark+"\n", mark+"\x00", mark+"\t", mark+"\x7f", mark+"\xff")
	p.marks[id] = strings.Trim(mark, " \t")
	fields := []hpack.HeaderField{{Name: odd("x-mark", "X-Mark", "x-mark ", " x-mark", "x mark", "x-mark:", "x-mark\r\nx", "x_mark"), Value: mark}}
	if s.oneIn(3) {
		fields = append(fields, hpack.HeaderField{Name: pick(s, "authorization", "proxy-authorization", "x-api-key", "authorization_"), Value: "Bearer " + own})
	}
	for range s.below(3) {
		if !p.clean && s.oneIn(3) {
			fields = append(fields, oddHeader(s))
		}
	}
	payload := pick(s, "x", "", smuggled, "0\r\n\r\n"+smuggled, "5\r\nhello\r\n0\r\n\r\n", strings.Repeat("0123456789", 700), "\r\n\r\n", "ab")
	kind := s.below(4)
	if kind == 0 {
		payload = ""
	}
	if s.oneIn(2) {
		n := fmt.Sprint(len(payload))
		fields = append(fields, hpack.HeaderField{Name: "content-length", Value: odd(n, fmt.Sprint(len(payload)+1+s.below(30)), fmt.Sprint(max(0, len(payload)-1-s.below(30))), "+"+n, "0"+n, n+" ", n+", "+n, "-"+n, "", "0x"+n, "99999999999999999999", n+"\r\nX: y")})
	}
	if kind == 3 {
		fields = append(fields, hpack.HeaderField{Name: "trailer", Value: odd("x-mark-trailer", "x-mark-trailer, authorization", "authorization, host, x-mark", "content-length", "x-mark-trailer, host", "x y", "")})
	}
	head := part{stream: id, fields: append(pseudo, fields...), pieces: 1 + s.below(3), end: kind == 0}
	if !p.clean && s.oneIn(30) { // a pseudo-header field among or after the others
		at, to := s.below(len(pseudo)), len(pseudo)+s.below(len(fields)+1)
		moved := head.fields[at]
		head.fields = append(head.fields[:at:at], head.fields[at+1:]...)
		to = min(to, len(head.fields))
		head.fields = append(head.fields[:to:to], append([]hpack.HeaderField{moved}, head.fields[to:]...)...)
	}
	parts := []part{head}
	if kind != 0 {
		for payload != "" {
			n := len(payload) - s.below(len(payload))
			parts = append(parts, part{stream: id, data: payload[:n], padding: s.below(3) * s.below(60)})
			payload = payload[n:]
		}
		last := part{stream: id, end: true}
		if kind == 3 {
			last.fields, last.pieces = []hpack.HeaderField{{Name: "x-mark-trailer", Value: "t"}}, 1
			if !p.clean && s.oneIn(3) {
				last.fields = append(last.fields, pick(s, hpack.HeaderField{Name: "authorization", Value: "Bearer " + own}, hpack.HeaderField{Name: ":path", Value: "/x"}, hpack.HeaderField{Name: "content-length", Value: "5"},
					hpack.HeaderField{Name: "host", Value: "evil.example"}, hpack.HeaderField{Name: "x-mark", Value: "trailed"}, hpack.HeaderField{Name: "X", Value: "y"}, hpack.HeaderField{Name: "x", Value: "y\r\n\r\nGET /smuggled HTTP/1.1"}, hpack.HeaderField{Name: "transfer-encoding", Value: "chunked"}))
			}
		}
		parts = append(parts, last)
	}
	p.ended[id] = true
	switch {
	case p.clean || !s.oneIn(12):
	case s.oneIn(2): // cut off
		parts = append(parts[:len(parts)-1], part{stream: id, reset: true})
		delete(p.ended, id)
		p.unended = true
	case s.oneIn(2): // never ended
		parts[len(parts)-1].end = false
		delete(p.ended, id)
		p.unended = true
	default: // goes on after its end
		parts = append(parts, part{stream: id, data: smuggled, end: true})
	}
	return parts
}

// oddHeader is a field that may make somebody see the message differently.
func oddHeader(s *source) hpack.HeaderField {
	return hpack.HeaderField{
		Name: pick(s, "x-a", "connection", "te", "trailer", "expect", "upgrade", "cookie", "cookie", "host", "host", "keep-alive", "proxy-connection", "transfer-encoding", "transfer_encoding", "content_length", "content-length", "x a", "x\"a", "", "x:a", "x\r\na", "X-A", "x-clawpatrol-verdict", "http2-settings", "user-agent"),
		Value: pick(s, "a", "close", "trailers", "gzip", "100-continue", "a=b", "a=b; c=d", host, "evil.example", host+":443", "chunked", "identity", "0", "5", "x\r\nHost: evil.example", "x\ny", "x\x00", " x ", "", "websocket", "h2c",
			"x-mark", "authorization", "\xff", strings.Repeat("y", 9000)),
	}
}
