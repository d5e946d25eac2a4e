package https

import "bytes"

// maxFields bounds the fields of a request: nginx's limit is 1000, Node's 2000,
// Apache's and Python's 100. maxHeaderBytes bounds their size.
const maxFields = 1000

// checkHead says why the head of an HTTP/1.x request is refused, or returns "".
// head is as it came, from the request line to the empty line, both included; it
// is not kept. The reason quotes nothing of it.
//
// It holds a head to what RFC 9112 lets a sender write, so that whoever parses
// it afterwards, by whatever leniency, finds the same fields and the same end
// (section 11.2): the answer to a reason is 400, and then the connection's end,
// because nobody knows where the next request would begin. What the target and
// the fields mean is for others to look at.
func checkHead(head []byte) (reason string) {
	line, head, reason := headLine(head)
	if reason != "" {
		return reason
	}
	version, reason := checkRequestLine(line)
	if reason != "" {
		return reason
	}
	var f framingFields
	for fields := 0; ; fields++ {
		line, head, reason = headLine(head)
		if reason != "" {
			return reason
		}
		if len(line) == 0 {
			break
		}
		if fields == maxFields {
			return "the request has too many fields"
		}
		if reason := f.check(line); reason != "" {
			return reason
		}
	}
	switch {
	case len(head) > 0:
		return "the request's head does not end with its empty line"
	case f.hosts == 0 && version == "HTTP/1.1": // RFC 9112 section 3.2
		return "the request has no Host"
	case f.hosts > 1:
		return "the request has two Host fields"
	case f.lengths > 1: // RFC 9112 section 6.3
		return "the request has two Content-Length fields"
	case f.codings > 1:
		return "the request has two Transfer-Encoding fields"
	case f.lengths > 0 && f.codings > 0: // RFC 9112 section 6.3
		return "the request has both Content-Length and Transfer-Encoding"
	case f.codings > 0 && version == "HTTP/1.0": // RFC 9112 section 6.1
		return "the request has Transfer-Encoding in HTTP/1.0"
	}
	return ""
}

// headLine cuts the first line off head.
func headLine(head []byte) (line, rest []byte, reason string) {
	i := bytes.IndexByte(head, '\n')
	switch {
	case i < 0:
		return nil, nil, "the request's head ends too early"
	case i == 0 || head[i-1] != '\r': // allowed to lenient recipients: RFC 9112 section 2.2
		return nil, nil, "a line of the request ends without a carriage return"
	}
	return head[:i-1], head[i+1:], ""
}

// checkRequestLine: RFC 9112 section 3, one blank between the parts.
func checkRequestLine(line []byte) (version, reason string) {
	method, rest, ok1 := bytes.Cut(line, []byte(" "))
	target, last, ok2 := bytes.Cut(rest, []byte(" "))
	switch {
	case len(line) == 0:
		return "", "an empty line stands before the request"
	case !ok1 || !ok2 || len(target) == 0:
		return "", "the request line has not three parts"
	case !tokenOnly(method):
		return "", "the request line begins with no method"
	}
	for _, b := range target {
		if b < ' ' || b == 0x7f {
			return "", "the request target has a control character"
		}
	}
	switch string(last) {
	case "HTTP/1.1":
		return "HTTP/1.1", ""
	case "HTTP/1.0":
		return "HTTP/1.0", ""
	}
	return "", "the request line does not end with HTTP/1.1 or HTTP/1.0"
}

// framingFields counts what says where a request goes and where it ends.
type framingFields struct {
	hosts, lengths, codings int
}

// check looks at one field line: RFC 9112 section 5.
func (f *framingFields) check(line []byte) (reason string) {
	if isBlank(line[0]) { // RFC 9112 sections 2.2 and 5.2
		return "a line of the request's fields begins with a blank"
	}
	name, value, found := bytes.Cut(line, []byte(":"))
	switch {
	case !found:
		return "a line of the request's fields has no colon"
	case len(name) == 0:
		return "a field of the request has no name"
	case isBlank(name[len(name)-1]): // RFC 9112 section 5.1
		return "a field of the request has a blank before its colon"
	case !tokenOnly(name):
		return "the name of a field is malformed"
	}
	for _, b := range value {
		if b < ' ' && b != '\t' || b == 0x7f { // RFC 9110 section 5.5
			return "a field of the request has a control character"
		}
	}
	switch len(name) { // most fields are told by their length
	case len("Host"), len("Connection"), len("Content-Length"), len("Transfer-Encoding"):
	default:
		return ""
	}
	value = bytes.Trim(value, " \t")
	switch {
	case sameField(string(name), "Host"):
		f.hosts++
		if !hostLike(value) {
			return "the request's Host is malformed"
		}
	case framesMessage(name):
		if bytes.IndexByte(name, '_') >= 0 { // a second length for CGI and its kin
			return "a field of the request has _ for - in the name of another"
		}
		if len(name) == len("Content-Length") {
			f.lengths++
			if !lengthLike(value) {
				return "the request's Content-Length is not a number"
			}
			break
		}
		f.codings++
		if !sameField(string(value), "chunked") { // as net/http and nginx; RFC 9112 section 6.1 knows more
			return "the request's Transfer-Encoding is not chunked"
		}
	case sameField(string(name), "Connection"):
		for option := range bytes.SplitSeq(value, []byte(",")) {
			option = bytes.Trim(option, " \t")
			if framesMessage(option) || sameField(string(option), "Host") { // RFC 9110 section 7.6.1
				return "the request's Connection lists a field that frames it"
			}
		}
	}
	return ""
}

// tokenByte marks what a token is made of: RFC 9110 section 5.6.2.
var tokenByte = func() (set [256]bool) {
	for b := range set {
		set[b] = isToken(string([]byte{byte(b)}))
	}
	return set
}()

func tokenOnly(name []byte) bool {
	for _, b := range name {
		if !tokenByte[b] {
			return false
		}
	}
	return len(name) > 0
}

func isBlank(b byte) bool { return b == ' ' || b == '\t' }

// framesMessage reports whether a field of that name delimits its message, for a
// server that takes "_" for "-" too.
func framesMessage(name []byte) bool {
	switch len(name) {
	case len("Content-Length"):
		return sameField(string(name), "Content-Length")
	case len("Transfer-Encoding"):
		return sameField(string(name), "Transfer-Encoding")
	}
	return false
}

// hostLike reports whether value is made of what a host and port may be (RFC 3986
// section 3.2.2, the comma left out, which would be a list); an empty one may be
// written (RFC 9112 section 3.2). Whether it names the endpoint, names says.
func hostLike(value []byte) bool {
	for _, b := range value {
		if !unreserved(b) && bytes.IndexByte([]byte(":[]%!$&'()*+;="), b) < 0 {
			return false
		}
	}
	return true
}

// lengthLike reports whether value is a Content-Length in its only spelling:
// digits without zeros in front, of a number that fits an int64.
func lengthLike(value []byte) bool {
	if len(value) == 0 || len(value) > 18 || value[0] == '0' && len(value) > 1 {
		return false
	}
	for _, b := range value {
		if b < '0' || b > '9' {
			return false
		}
	}
	return true
}
