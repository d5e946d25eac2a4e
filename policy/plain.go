package policy

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

// maxDepth is how deep braces and brackets may nest. The language needs three;
// HCL's parser is recursive, and a deep enough file would overflow its stack.
const maxDepth = 16

// plain reports whether src consists of blocks and plain values: no operators,
// calls, interpolation or heredocs. gateway.hcl has no use for them, every value
// can then be read without evaluating anything, and HCL's scanner and parser,
// which recurse on most of them and take quadratic time for heredocs, never see
// them. What it does not refuse is theirs to judge.
func (c *compiler) plain(filename string, src []byte) bool {
	at, why := scanPlain(src)
	if why == "" {
		return true
	}
	summary := "Syntax error"
	if why == whyOperator || why == whyInterpolate {
		summary = "Not a plain value"
	}
	c.errorf(rangeAt(filename, src, at), summary, "%s", why)
	return false
}

const (
	whyOperator    = "There are no operators, functions or heredocs in this file: only strings in quotes, true, false, lists in brackets and references."
	whyInterpolate = "There is no interpolation in this file: a string cannot hold ${ or %{."
	whyString      = "This string has no closing quote on its line."
	whyComment     = "This comment is never closed."
	whyCharacter   = "Such a character may stand only in a comment or a string."
	whyControl     = "Control characters other than tabs and line ends have no place in this file."
)

// scanPlain returns the offset of the first byte that makes src more than plain
// values, and why; or no reason. src is valid UTF-8. It agrees with HCL's
// scanner on where strings and comments end: FuzzPlain checks that.
func scanPlain(src []byte) (at int, why string) {
	depth := 0
	i := 0
	if bytes.HasPrefix(src, []byte("\ufeff")) {
		i = len("\ufeff")
	}
	for i < len(src) {
		ch := src[i]
		switch {
		case ch == ' ' || ch == '\t' || ch == '\n':
			i++
		case ch == '\r' && bytes.HasPrefix(src[i:], []byte("\r\n")):
			i += 2
		case isControl(ch):
			return i, whyControl
		case ch == '#' || bytes.HasPrefix(src[i:], []byte("//")):
			end := len(src)
			if n := bytes.IndexByte(src[i:], '\n'); n >= 0 {
				end = i + n
			}
			if n := badControl(src[i:end], src[end:]); n >= 0 {
				return i + n, whyControl
			}
			i = end
		case bytes.HasPrefix(src[i:], []byte("/*")):
			n := bytes.Index(src[i+2:], []byte("*/"))
			if n < 0 {
				return i, whyComment
			}
			i += 2 + n + 2
		case ch == '"':
			n, why := scanString(src[i:])
			if why != "" {
				return i + n, why
			}
			i += n
		case isWordStart(ch):
			for i < len(src) && (isWordStart(src[i]) || isDigit(src[i]) || src[i] == '-') {
				i++
			}
		case ch == '{' || ch == '[':
			if depth++; depth > maxDepth {
				return i, fmt.Sprintf("Braces and brackets nest at most %d deep.", maxDepth)
			}
			i++
		case ch == '}' || ch == ']':
			depth--
			i++
		case ch == '=' && !bytes.HasPrefix(src[i:], []byte("==")) && !bytes.HasPrefix(src[i:], []byte("=>")):
			i++
		case isDigit(ch): // and all that HCL may take as part of a number: a dash after it is a minus
			for i < len(src) && (isDigit(src[i]) || isWordStart(src[i]) || src[i] == '.') {
				i++
			}
		case ch == '.' || ch == ',' || ch == ':':
			i++
		case ch >= utf8.RuneSelf:
			return i, whyCharacter
		default:
			return i, whyOperator
		}
	}
	return 0, ""
}

// scanString returns the length of the string that b begins with, or the offset
// of what is wrong with it.
func scanString(b []byte) (n int, why string) {
	for i := 1; i < len(b); i++ {
		switch ch := b[i]; {
		case ch == '"':
			return i + 1, ""
		case ch == '\n' || ch == '\r':
			return 0, whyString
		case isControl(ch) && ch != '\t':
			return i, whyControl
		case (ch == '$' || ch == '%') && i+1 < len(b) && b[i+1] == '{':
			return i, whyInterpolate
		case ch == '\\':
			if i+1 < len(b) && b[i+1] != '\n' && b[i+1] != '\r' {
				i++
			}
		}
	}
	return 0, whyString
}

// badControl returns the offset of a control character in a comment's line,
// whose line end is in after; or -1.
func badControl(line, after []byte) int {
	for i, ch := range line {
		last := i == len(line)-1 && len(after) > 0
		if isControl(ch) && ch != '\t' && !(ch == '\r' && last) {
			return i
		}
	}
	return -1
}

func isControl(ch byte) bool { return ch < ' ' || ch == 0x7f }

func isDigit(ch byte) bool { return ch >= '0' && ch <= '9' }

func isWordStart(ch byte) bool {
	return ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z' || ch == '_'
}

// rangeAt returns the range of the one character at offset at.
func rangeAt(filename string, src []byte, at int) hcl.Range {
	begin := bytes.LastIndexByte(src[:at], '\n') + 1
	start := hcl.Pos{
		Line:   1 + bytes.Count(src[:at], []byte("\n")),
		Column: 1 + utf8.RuneCount(src[begin:at]),
		Byte:   at,
	}
	_, size := utf8.DecodeRune(src[at:])
	end := start
	end.Column++
	end.Byte += size
	return hcl.Range{Filename: filename, Start: start, End: end}
}

// isIdentifier reports whether s is a name as this file has them: a letter or
// underscore, then letters, digits, underscores and dashes.
func isIdentifier(s string) bool {
	return s != "" && len(s) <= maxName && isWordStart(s[0]) &&
		strings.IndexFunc(s, func(r rune) bool {
			return r >= utf8.RuneSelf || !isWordStart(byte(r)) && !isDigit(byte(r)) && r != '-'
		}) < 0
}
