package https

import (
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxDecodings is how often a path is percent-decoded in search of what a server
// that decodes too often would find in it.
const maxDecodings = 3

// readTarget returns the path of a request as the agent wrote it, without the
// query: what the Gate is asked about, what the log shows and what goes upstream.
// reason says why the request is refused instead (docs/http.md, "Canonical
// form"); it quotes nothing.
func readTarget(r *http.Request) (path, reason string) {
	if reason := refusedTarget(r.RequestURI); reason != "" {
		return "", reason
	}
	if r.ProtoMajor == 2 {
		if reason := refusedLength(r); reason != "" {
			return "", reason
		}
	}
	if r.RequestURI == "*" {
		if r.Method != http.MethodOptions {
			return "", "the target * is for OPTIONS alone" // RFC 9112 section 3.2.4
		}
		return "*", ""
	}
	path, _, _ = strings.Cut(r.RequestURI, "?")
	if path == "" || path[0] != '/' { // absolute form
		_, rest, found := strings.Cut(path, "://")
		if !found || r.ProtoMajor == 2 { // RFC 9113 section 8.3.1: :path begins with a slash
			return "", "the request target does not begin with a slash"
		}
		path = "/"
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			path = rest[i:]
		}
	}
	if reason := refusedPath(path); reason != "" {
		return "", reason
	}
	return path, ""
}

// refusedTarget says why a whole request target is refused, or returns "".
func refusedTarget(target string) (reason string) {
	plain := true
	for i := range len(target) {
		switch b := target[i]; {
		case b <= ' ', b == 0x7f:
			// HTTP/2 carries blanks in :path, and one would end the target of an
			// HTTP/1.1 request line (RFC 9113 section 8.2.1, RFC 9112 section 3.2).
			return "the request target has a blank or a control character"
		case b == '#': // a fragment is never sent: RFC 9110 section 4.2.5
			return "the request target has a fragment"
		case b >= utf8.RuneSelf:
			plain = false
		}
	}
	if plain {
		return ""
	}
	// No URL has such bytes, but curl sends what it was given. What is no text
	// stays out: a blank by another name ends the target for some (Python's
	// http.server), and marks of direction make the log read otherwise.
	if !utf8.ValidString(target) {
		return "the request target has bytes that are not UTF-8"
	}
	for _, char := range target {
		if char >= utf8.RuneSelf && !unicode.IsPrint(char) {
			return "the request target has a blank or control character outside of ASCII"
		}
	}
	return ""
}

// refusedPath says why a path without blanks and controls is refused, or
// returns "": what servers would differ about, and no honest program sends.
func refusedPath(path string) (reason string) {
	encoded := false
	for i := 0; i < len(path); i++ {
		switch path[i] {
		case '\\':
			return "the path has a backslash"
		case '%':
			b, ok := hexByte(path, i+1)
			if !ok {
				return "the path has a % that encodes nothing"
			}
			if b < ' ' || b == 0x7f {
				return "the path has an encoded control character"
			}
			encoded = true
			i += 2
		}
	}
	for strings.Contains(path, "/./") { // apt writes it for a repository without suites
		path = strings.ReplaceAll(path, "/./", "/")
	}
	if dotted(path) {
		return reasonDots
	}
	for range maxDecodings {
		if !encoded {
			return ""
		}
		decoded := decodeQuery(path, false)
		if overlong(decoded) {
			return "the path has an overlong encoding of a character"
		}
		if dotted(decoded) {
			return reasonDots
		}
		encoded = len(decoded) < len(path)
		path = decoded
	}
	return ""
}

const reasonDots = "the path has a dot segment"

// dotted reports whether a segment of a path is "." or "..", also one that ends
// with a backslash (Windows) or has parameters behind it (servlets).
func dotted(path string) bool {
	for i := strings.IndexByte(path, '.'); i >= 0; {
		if i == 0 || isSlash(path[i-1]) {
			end := i + 1
			if end < len(path) && path[end] == '.' {
				end++
			}
			if end == len(path) || isSlash(path[end]) || path[end] == ';' {
				return true
			}
		}
		next := strings.IndexByte(path[i+1:], '.')
		if next < 0 {
			return false
		}
		i += 1 + next
	}
	return false
}

func isSlash(b byte) bool { return b == '/' || b == '\\' }

// overlong reports whether s has the begin of a UTF-8 sequence that is longer
// than its character needs, such as C0 AF for a slash: RFC 3629 section 3 forbids
// them, and some decoders take them. No valid UTF-8 has them; of older
// encodings, those with À or Á of Latin-1 do.
func overlong(s string) bool {
	for i := range len(s) {
		if s[i] < 0xc0 {
			continue
		}
		next := byte(0)
		if i+1 < len(s) {
			next = s[i+1]
		}
		tail := next&0xc0 == 0x80
		switch s[i] {
		case 0xc0, 0xc1:
			return true
		case 0xe0:
			if tail && next < 0xa0 {
				return true
			}
		case 0xf0:
			if tail && next < 0x90 {
				return true
			}
		case 0xf8: // five and six bytes: RFC 2279
			if tail && next < 0x88 {
				return true
			}
		case 0xfc:
			if tail && next < 0x84 {
				return true
			}
		}
	}
	return false
}

// refusedLength says what is wrong with the Content-Length of an HTTP/2 request,
// or returns "". net/http ends the stream where DATA disagrees with it, but
// lets one pass that is none, or comes twice, or stands on a request without
// DATA (RFC 9113 section 8.1.1).
func refusedLength(r *http.Request) (reason string) {
	values := r.Header["Content-Length"]
	switch {
	case len(values) == 0:
		return ""
	case len(values) > 1:
		return "the request has two Content-Length fields"
	case values[0] != strconv.FormatInt(r.ContentLength, 10):
		return "the Content-Length is not that of the request's body"
	}
	return ""
}

// reading returns what a path says, decoded, where all servers read the same;
// reason says why they may not. It is for rules that look at the path: they must
// refuse what has a reason, and may compare text. It does not know whether the
// server behind tells cases, Unicode's equivalent spellings, or /x and /x/
// apart.
func reading(path string) (text, reason string) {
	if reason := refusedPath(path); reason != "" {
		return "", reason
	}
	if strings.Contains(path, "//") {
		return "", "the path has an empty segment"
	}
	if strings.Contains(path, "/./") {
		return "", reasonDots
	}
	for i := 0; i < len(path); i++ {
		b := path[i]
		switch {
		case b == ';':
			return "", "the path has a ;, which begins parameters for some servers"
		case b >= utf8.RuneSelf:
			return "", "the path has characters that must be percent-encoded"
		case b == '%':
			b, _ = hexByte(path, i+1)
			i += 2
			switch {
			case strings.IndexByte(`/\;?#`, b) >= 0:
				return "", "the path has an encoded delimiter"
			case unreserved(b): // RFC 3986 section 6.2.2.2: equal, but not to servers that compare before they decode
				return "", "the path has an encoded character that needs no encoding"
			}
		}
	}
	text = decodeQuery(path, false)
	switch {
	case !utf8.ValidString(text):
		return "", "the path is not UTF-8"
	case decodeQuery(text, false) != text:
		return "", "the path is encoded twice"
	}
	return text, ""
}

// unreserved: RFC 3986 section 2.3.
func unreserved(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-' || b == '.' || b == '_' || b == '~'
}
