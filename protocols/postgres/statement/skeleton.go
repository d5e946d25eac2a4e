package statement

import "strings"

// maxConstant is the longest number that a skeleton leaves out: every one of so
// many digits fits an int4, and the grammar tells those from longer ones.
const maxConstant = 9

// skeleton returns sql without the values of its string literals and small
// whole numbers, so that a statement that comes again and again with other
// values is parsed once. Statements with one skeleton have one parse tree but
// for those values. It returns false where that is not beyond doubt: for
// escapes, dollar quotes, prefixes, comments and whatever is not ASCII outside
// of a literal.
func skeleton(sql string) (string, bool) {
	if len(sql) > maxCachedText {
		return "", false
	}
	var b strings.Builder
	b.Grow(len(sql) + 1)
	b.WriteByte(0) // no statement has one: a skeleton is no statement's text
	for l := (lexer{rest: sql}); ; {
		t, more := l.next()
		if !more {
			return b.String(), true
		}
		switch {
		case t.open, t.doubtful:
			return "", false
		case t.kind == literal && (t.text[0] != '\'' || strings.IndexByte(t.text, '\\') >= 0):
			return "", false
		case t.kind == word && strings.EqualFold(t.text, "uescape"):
			return "", false // the literal behind it changes names
		case t.kind == literal:
			b.WriteString("'\x00'")
		case t.kind == number && len(t.text) <= maxConstant && onlyDigits(t.text):
			b.WriteString("0")
			b.WriteByte(0)
		case !plain(t):
			return "", false
		default:
			b.WriteString(t.text)
		}
	}
}

// plain reports whether a token is one about which no version of PostgreSQL and
// no encoding could be of another mind.
func plain(t token) bool {
	for i := range len(t.text) {
		c := t.text[i]
		if c == 0 || c >= 0x80 || c == '\\' {
			return false
		}
		if t.kind == gap && !isSpace(c) {
			return false
		}
	}
	return t.kind != punct || t.text != "$"
}

func onlyDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return true
}
