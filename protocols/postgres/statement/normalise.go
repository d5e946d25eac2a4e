package statement

import (
	"strings"
	"unicode/utf8"
)

const (
	// maxNormalised bounds what Normalise returns, in bytes.
	maxNormalised = 512

	// maxNormalisedInput bounds how much of a statement Normalise looks at:
	// what is behind a megabyte of comments is not worth a row.
	maxNormalisedInput = 64 << 10

	// cut stands for what was left out.
	cut = "…"
)

// Normalise returns sql in the form that may be stored: every literal and
// number is ?, comments are gone, white space is one space, and it is at most
// 512 bytes of valid UTF-8 without control characters. No byte of a literal
// survives, also where the text ends inside of one; where a literal's end
// depends on the session's settings, or bytes are not UTF-8, nothing behind it
// is kept. What Normalise returns it returns unchanged when given it.
func Normalise(sql string) string {
	whole := true
	if len(sql) > maxNormalisedInput {
		sql, whole = sql[:maxNormalisedInput], false
	}
	if n := cleanLength(sql); n < len(sql) {
		sql, whole = sql[:n], false
	}

	var b strings.Builder
	b.Grow(min(len(sql)+len(" "+cut), maxNormalised)) // no token becomes longer
	spaced := false
	for l := (lexer{rest: sql}); ; {
		t, more := l.next()
		if !more {
			break
		}
		if t.kind == gap {
			spaced = b.Len() > 0
			continue
		}
		text := t.text
		if t.kind == literal || t.kind == number || t.open {
			text = "?"
		}
		if text != "?" && !whole && l.rest == "" {
			break // perhaps half a word
		}
		if b.Len()+len(" ")+len(text)+len(" "+cut) > maxNormalised {
			whole = false
			break
		}
		if spaced {
			b.WriteByte(' ')
			spaced = false
		}
		b.WriteString(text)
		if t.doubtful {
			whole = whole && l.rest == ""
			break
		}
	}
	if !whole {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(cut)
	}
	return b.String()
}

// cleanLength returns how much of s is UTF-8 without control characters other
// than white space. A control character in a quoted name ends what is kept.
func cleanLength(s string) int {
	for n := 0; n < len(s); {
		if ' ' <= s[n] && s[n] < 0x7f { // as nearly all are
			n++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[n:])
		switch {
		case r == utf8.RuneError && size <= 1:
			return n
		case r < ' ' && !isSpace(byte(r)), 0x7f <= r && r < 0xa0:
			return n
		}
		n += size
	}
	return len(s)
}
