package framing

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// maxLine bounds a line that this package reads.
const maxLine = 1 << 20

// field is one header field as it stands on the wire.
type field struct{ name, value string }

// message is a request or a response as one party understood it.
type message struct {
	method, target string // of a request
	status         int    // of a response
	fields         []field
	body           string
	trailer        []field
	length         int       // an oracle's: of the body, as it was announced; -1 where it was not
	whole          bool      // read to its end; else it was cut off
	untilClose     bool      // a response delimited by the end of its connection
	info           []message // the 1xx responses before it
}

// values returns those of the field called name, in any case.
func (m message) values(name string) []string { return valuesOf(m.fields, name) }

func valuesOf(fields []field, name string) []string {
	var values []string
	for _, f := range fields {
		if strings.EqualFold(f.name, name) {
			values = append(values, f.value)
		}
	}
	return values
}

func (m message) String() string {
	if m.status != 0 {
		return fmt.Sprintf("%d body %s trailer %q whole %v", m.status, clip(m.body), m.trailer, m.whole)
	}
	return fmt.Sprintf("%s %s body %s trailer %q whole %v", m.method, clip(m.target), clip(m.body), m.trailer, m.whole)
}

// clip quotes the beginning of s.
func clip(s string) string {
	if len(s) > 200 {
		return fmt.Sprintf("%q… (%d bytes)", s[:200], len(s))
	}
	return strconv.Quote(s)
}

// errCut is the end of the stream in the middle of a message. What parser
// returns otherwise, but for io.EOF between messages, says what is not well-formed.
var errCut = errors.New("cut off")

// parser reads messages and takes nothing but what RFC 9112 lets a sender
// produce: no obs-fold, no bare LF or CR, no control characters, one way to
// delimit a body.
type parser struct{ r *bufio.Reader }

// line reads to the next CR LF.
func (p parser) line() (string, error) {
	var line []byte
	for {
		part, err := p.r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			if len(line) == 0 && err == io.EOF {
				return "", io.EOF
			}
			return string(line), errCut
		}
		if len(line) > maxLine {
			return "", errors.New("a line without an end")
		}
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok {
		return "", fmt.Errorf("a bare LF ends %s", clip(string(line)))
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
		return "", fmt.Errorf("a control character in %s", clip(text))
	}
	return text, nil
}

// fields reads field lines up to the empty line.
func (p parser) fields() ([]field, error) {
	var fields []field
	for {
		line, err := p.line()
		if err != nil {
			return fields, inside(err)
		}
		if line == "" {
			return fields, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) { // also where the line is folded
			return fields, fmt.Errorf("no field line: %s", clip(line))
		}
		fields = append(fields, field{name, strings.Trim(value, " \t")})
	}
}

func inside(err error) error {
	if err == io.EOF {
		return errCut
	}
	return err
}

// request reads one; early is called with its head before the body is read. At
// errCut what was read is returned.
func (p parser) request(early func(message)) (message, error) {
	line, err := p.line()
	if err != nil {
		return message{}, err
	}
	var m message
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !isToken(parts[0]) || parts[1] == "" || parts[2] != "HTTP/1.1" {
		return m, fmt.Errorf("no request line: %s", clip(line))
	}
	m.method, m.target = parts[0], parts[1]
	if m.target[0] != '/' && m.target != "*" {
		return m, fmt.Errorf("not origin form: %s", clip(m.target))
	}
	if m.fields, err = p.fields(); err != nil {
		return m, err
	}
	if early != nil {
		early(m)
	}
	length, chunked, err := delimiter(m.fields)
	if err != nil {
		return m, err
	}
	switch {
	case chunked:
		err = p.chunks(&m)
	case length > 0:
		err = p.content(&m, length)
	}
	m.whole = err == nil
	return m, err
}

// response reads an answer, 1xx before it included. methodOf says for its head
// which method it answers.
func (p parser) response(methodOf func(message) string) (message, error) {
	var info []message
	for {
		m, err := p.head()
		m.info = info
		if err != nil {
			return m, err
		}
		if m.status < 200 && m.status != 101 {
			if m.values("Content-Length") != nil || m.values("Transfer-Encoding") != nil {
				return m, errors.New("an informational response with a length")
			}
			info = append(info, m)
			continue
		}
		method := methodOf(m)
		length, chunked, err := delimiter(m.fields)
		switch {
		case err != nil:
			return m, err
		case m.status == 101, method == "HEAD", m.status == 204, m.status == 304:
			if m.status == 204 && (length >= 0 || chunked) || chunked && method != "HEAD" {
				return m, fmt.Errorf("a %d with a body", m.status)
			}
		case chunked:
			err = p.chunks(&m)
		case length >= 0:
			err = p.content(&m, length)
		default:
			m.untilClose = true
			var body []byte
			body, err = io.ReadAll(p.r)
			m.body = string(body)
			err = cutIf(err)
		}
		m.whole = err == nil
		return m, err
	}
}

func (p parser) head() (message, error) {
	line, err := p.line()
	if err != nil {
		return message{}, err
	}
	version, code, _ := strings.Cut(line, " ")
	if version != "HTTP/1.1" && version != "HTTP/1.0" || len(code) < 4 || code[3] != ' ' {
		return message{}, fmt.Errorf("no status line: %s", clip(line))
	}
	status, err := strconv.Atoi(code[:3])
	if err != nil || status < 100 {
		return message{}, fmt.Errorf("no status: %s", clip(line))
	}
	m := message{status: status}
	m.fields, err = p.fields()
	return m, err
}

// delimiter returns how a message says that its body ends: length is -1 where it
// says nothing.
func delimiter(fields []field) (length int64, chunked bool, err error) {
	lengths, codings := valuesOf(fields, "Content-Length"), valuesOf(fields, "Transfer-Encoding")
	switch {
	case len(lengths)+len(codings) > 1:
		return 0, false, fmt.Errorf("delimited more than once: lengths %q, codings %q", lengths, codings)
	case len(codings) == 1:
		if codings[0] != "chunked" {
			return 0, false, fmt.Errorf("transfer coding %q", codings[0])
		}
		return -1, true, nil
	case len(lengths) == 1:
		if lengths[0] == "" || strings.Trim(lengths[0], "0123456789") != "" { // RFC 9110 section 8.6
			return 0, false, fmt.Errorf("content length %q", lengths[0])
		}
		length, err := strconv.ParseInt(lengths[0], 10, 64)
		return length, false, err
	}
	return -1, false, nil
}

func (p parser) content(m *message, length int64) error {
	var body strings.Builder
	_, err := io.CopyN(&body, p.r, length)
	m.body += body.String()
	return cutIf(err)
}

// cutIf is errCut for any error: a connection that ends in the middle.
func cutIf(err error) error {
	if err != nil {
		return errCut
	}
	return nil
}

func (p parser) chunks(m *message) error {
	for {
		line, err := p.line()
		if err != nil {
			return inside(err)
		}
		if line == "" || strings.Trim(line, "0123456789abcdefABCDEF") != "" {
			return fmt.Errorf("no chunk size: %s", clip(line))
		}
		size, err := strconv.ParseInt(line, 16, 64)
		if err != nil {
			return fmt.Errorf("chunk size %s: %w", clip(line), err)
		}
		if size == 0 {
			m.trailer, err = p.fields()
			return err
		}
		if err := p.content(m, size); err != nil {
			return err
		}
		if line, err = p.line(); err != nil {
			return inside(err)
		}
		if line != "" {
			return fmt.Errorf("a chunk goes on after its end: %s", clip(line))
		}
	}
}

// isToken: RFC 9110 section 5.6.2.
func isToken(s string) bool {
	const marks = "!#$%&'*+-.^_`|~"
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune(marks, r))
	})
}

// originForm is the target of a request as it goes to an origin server.
func originForm(target string) string {
	_, rest, ok := strings.Cut(target, "://")
	if !ok || target[0] == '/' {
		return target
	}
	i := strings.IndexAny(rest, "/?#")
	if i < 0 {
		return "/"
	}
	if rest[i] != '/' {
		return "/" + rest[i:]
	}
	return rest[i:]
}

// differs says how got, which went upstream, is not the request that an oracle
// read, or returns "". What the gateway takes away is no difference; what it
// changes is: docs/http.md.
func differs(got, oracle message) string {
	switch {
	case got.method != oracle.method:
		return fmt.Sprintf("method %q, not %q", got.method, oracle.method)
	case !sameTarget(got.target, originForm(oracle.target)):
		return fmt.Sprintf("target %s, not %s", clip(got.target), clip(originForm(oracle.target)))
	case got.whole && oracle.whole && got.body != oracle.body,
		!strings.HasPrefix(oracle.body, got.body):
		return fmt.Sprintf("body %s, not %s", clip(got.body), clip(oracle.body))
	case got.whole && !oracle.whole && !(got.body == oracle.body && oracle.length == len(oracle.body)): // whole but for the stream's end
		return fmt.Sprintf("made whole: body %s", clip(got.body))
	}
	marks, want := trimmed(got.values(markField)), trimmed(oracle.values(markField))
	if !slices.Equal(marks, want) && !(len(marks) == 0 && lists(oracle.values("Connection"), markField)) {
		return fmt.Sprintf("marks %q, not %q", marks, want)
	}
	return ""
}

// trimmed takes blanks off the ends, which belong to no value and which net/http
// leaves where an obs-fold was.
func trimmed(values []string) []string {
	var out []string
	for _, v := range values {
		out = append(out, strings.Trim(v, " \t"))
	}
	return out
}

// sameTarget allows what docs/http.md does: a path that begins with "//" may have
// had characters percent-encoded.
func sameTarget(got, want string) bool {
	return got == want || strings.HasPrefix(want, "//") && strings.HasPrefix(got, "//") && unescaped(got) == unescaped(want)
}

func unescaped(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// lists reports whether a comma-separated field has a member.
func lists(values []string, member string) bool {
	for _, value := range values {
		for m := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(m), member) {
				return true
			}
		}
	}
	return false
}
