package statement

import "strings"

// kind is what a token is to those who read one: the words of the grammar
// itself belong to the parser.
type kind uint8

const (
	word       kind = iota // an identifier or keyword, as written
	quotedWord             // "…", with its quotes
	literal                // a string or bit string, with prefix and quotes
	number                 // and whatever letters are glued to it
	param                  // $1
	punct                  // one byte
	gap                    // white space and comments
)

// token is a piece of a statement. The pieces of a statement, in order, are
// the statement.
type token struct {
	kind kind
	text string

	// open says that the text ended inside the token.
	open bool

	// doubtful says that where a literal ends depends on the session's
	// standard_conforming_strings: it holds a backslash before a quote.
	doubtful bool
}

// lexer cuts a statement into tokens as PostgreSQL's scan.l does with
// standard_conforming_strings on. It does not allocate.
type lexer struct {
	rest string
}

// next returns the next token, or false at the end.
func (l *lexer) next() (token, bool) {
	if l.rest == "" {
		return token{}, false
	}
	t := scan(l.rest)
	l.rest = l.rest[len(t.text):]
	return t, true
}

// scan returns the token that s, which is not empty, starts with.
func scan(s string) token {
	if n := gapLength(s); n > 0 {
		return token{kind: gap, text: s[:n]}
	}
	switch c := s[0]; {
	case c == '\'':
		return quoted(s, 0, false)
	case c == '"':
		n, open := untilQuote(s, 1, '"')
		return token{kind: quotedWord, text: s[:n], open: open}
	case c == '$':
		return dollar(s)
	case isDigit(c), c == '.' && len(s) > 1 && isDigit(s[1]):
		return token{kind: number, text: s[:numberLength(s)]}
	case isWordStart(c):
		return prefixed(s)
	}
	return token{kind: punct, text: s[:1]}
}

// prefixed returns the word that s starts with, or the literal whose prefix
// that word is: E'…', B'…', X'…', N'…', U&'…'.
func prefixed(s string) token {
	if len(s) > 1 && s[1] == '\'' {
		switch s[0] {
		case 'e', 'E':
			return quoted(s, 1, true)
		case 'b', 'B', 'x', 'X', 'n', 'N':
			return quoted(s, 1, false)
		}
	}
	if len(s) > 2 && (s[0] == 'u' || s[0] == 'U') && s[1] == '&' && s[2] == '\'' {
		return quoted(s, 2, false)
	}
	n := 1
	for n < len(s) && isWordPart(s[n]) {
		n++
	}
	return token{kind: word, text: s[:n]}
}

// quoted returns the literal whose first quote is at start. Segments that only
// white space with a newline in it separates are one literal, read all in the
// way of the first.
func quoted(s string, start int, escapes bool) token {
	t := token{kind: literal}
	for n := start; ; {
		end, open, backslash := segment(s, n+1, escapes)
		t.doubtful = t.doubtful || backslash
		if open {
			t.text, t.open = s, true
			return t
		}
		next := continuation(s[end:])
		if next == 0 {
			t.text = s[:end]
			return t
		}
		n = end + next
	}
}

// segment returns where the part of a literal that begins at n, behind its
// quote, ends, whether the text ends first, and whether a backslash stands
// before a quote though it does not escape.
func segment(s string, n int, escapes bool) (end int, open, backslash bool) {
	for n < len(s) {
		switch {
		case s[n] == '\\' && escapes:
			n += 2
		case s[n] == '\\':
			backslash = backslash || n+1 < len(s) && s[n+1] == '\''
			n++
		case s[n] != '\'':
			n++
		case n+1 < len(s) && s[n+1] == '\'':
			n += 2
		default:
			return n + 1, false, backslash
		}
	}
	return len(s), true, backslash
}

// continuation returns how far the quote is that continues a literal that has
// just ended, or 0 (scan.l, quotecontinue: white space and -- comments with a
// newline before the first of anything but horizontal space and one comment).
func continuation(s string) int {
	newline := false
	for n := 0; n < len(s); {
		switch c := s[n]; {
		case c == '\n' || c == '\r':
			newline = true
			n++
		case isSpace(c):
			n++
		case strings.HasPrefix(s[n:], "--"):
			n += lineLength(s[n:])
		case c == '\'' && newline:
			return n
		default:
			return 0
		}
	}
	return 0
}

// dollar returns the parameter, the dollar-quoted literal or the lone dollar
// that s starts with.
func dollar(s string) token {
	n := 1
	if n < len(s) && isDigit(s[n]) {
		for n < len(s) && isDigit(s[n]) {
			n++
		}
		return token{kind: param, text: s[:n]}
	}
	if n < len(s) && isWordStart(s[n]) {
		for n < len(s) && isWordPart(s[n]) && s[n] != '$' {
			n++
		}
	}
	if n >= len(s) || s[n] != '$' {
		return token{kind: punct, text: s[:1]}
	}
	tag := s[:n+1]
	if end := strings.Index(s[len(tag):], tag); end >= 0 {
		return token{kind: literal, text: s[:len(tag)+end+len(tag)]}
	}
	return token{kind: literal, text: s, open: true}
}

// gapLength returns how much white space and how many comments s starts with.
func gapLength(s string) int {
	n := 0
	for n < len(s) {
		switch {
		case isSpace(s[n]):
			n++
		case strings.HasPrefix(s[n:], "--"):
			n += lineLength(s[n:])
		case strings.HasPrefix(s[n:], "/*"):
			n += commentLength(s[n:])
		default:
			return n
		}
	}
	return n
}

// lineLength returns how far the line is that s starts with.
func lineLength(s string) int {
	if n := strings.IndexAny(s, "\r\n"); n >= 0 {
		return n
	}
	return len(s)
}

// commentLength returns the length of the comment, which may hold others, that
// s starts with.
func commentLength(s string) int {
	depth := 0
	for n := 0; n+1 < len(s); {
		switch s[n : n+2] {
		case "/*":
			depth++
			n += 2
		case "*/":
			depth--
			n += 2
			if depth == 0 {
				return n
			}
		default:
			n++
		}
	}
	return len(s)
}

// numberLength takes what is glued to a number as part of it: newer servers
// refuse it, and no older one reads a literal that way.
func numberLength(s string) int {
	n := 1
	for n < len(s) && (isDigit(s[n]) || s[n] == '.' || isWordStart(s[n])) {
		n++
	}
	return n
}

// untilQuote returns where what began before n ends: behind the next quote that
// is not doubled.
func untilQuote(s string, n int, quote byte) (end int, open bool) {
	for n < len(s) {
		switch {
		case s[n] != quote:
			n++
		case n+1 < len(s) && s[n+1] == quote:
			n += 2
		default:
			return n + 1, false
		}
	}
	return len(s), true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isWordStart is scan.l's ident_start.
func isWordStart(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

// isWordPart is scan.l's ident_cont.
func isWordPart(c byte) bool { return isWordStart(c) || isDigit(c) || c == '$' }

// isSpace is scan.l's space.
func isSpace(c byte) bool {
	return c == ' ' || '\t' <= c && c <= '\r'
}
