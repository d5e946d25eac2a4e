package registry

import (
	"crypto/rand"
	"crypto/subtle"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// maxNameRunes bounds a registration's name.
const maxNameRunes = 64

// unnamed stands in for a name of which nothing printable is left.
const unnamed = "unnamed"

// cleanName makes what an agent host calls itself safe to show: valid UTF-8
// without control, format, bidirectional or blank characters, single spaces, at
// most 64 runes.
func cleanName(name string) string {
	// Composing can bring forth what was to be left out, and leaving out can
	// bring together what composes.
	name = norm.NFC.String(strings.ToValidUTF8(cut(name, 4*maxNameRunes), ""))
	var b strings.Builder
	for _, word := range strings.Fields(norm.NFC.String(strings.Map(shown, name))) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(word)
	}
	runes := []rune(b.String())
	if len(runes) > maxNameRunes {
		runes = runes[:maxNameRunes]
	}
	if clean := strings.TrimSpace(string(runes)); clean != "" {
		return clean
	}
	return unnamed
}

// shown maps what does not show to nothing and every space to one.
func shown(r rune) rune {
	switch {
	case unicode.IsSpace(r):
		return ' '
	case !unicode.IsPrint(r) || blank(r):
		return -1
	}
	return r
}

// blank reports letters and symbols that Unicode counts as printable and that
// show as nothing.
func blank(r rune) bool {
	switch r {
	case 0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0:
		return true
	}
	return unicode.Is(unicode.Variation_Selector, r)
}

// skeleton maps names that look alike to one string, after the idea of Unicode
// TS 39, section 4: width and compatibility forms, case, accents, separators
// and the commonest letters of other scripts make no difference. It errs
// towards alike, which costs the operator a user code.
func skeleton(name string) string {
	var b strings.Builder
	for _, r := range norm.NFKD.String(name) { // which takes accents apart
		r = unicode.ToLower(unicode.ToUpper(r))
		if latin, ok := confusable[r]; ok {
			r = latin
		}
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			b.WriteRune(r)
		}
	}
	// m and rn, w and vv are the pairs that survive letter by letter.
	return strings.NewReplacer("rn", "m", "vv", "w").Replace(b.String())
}

var confusable = map[rune]rune{
	'0': 'o', '1': 'l', 'i': 'l', '|': 'l', '!': 'l', '5': 's', '$': 's', 'ı': 'l', 'ł': 'l', 'ø': 'o', 'đ': 'd', 'ß': 'b',
	// Cyrillic
	'а': 'a', 'в': 'b', 'с': 'c', 'ԁ': 'd', 'е': 'e', 'ё': 'e', 'һ': 'h', 'н': 'h', 'і': 'l', 'ї': 'l', 'ј': 'j',
	'к': 'k', 'м': 'm', 'п': 'n', 'о': 'o', 'р': 'p', 'ԛ': 'q', 'г': 'r', 'ѕ': 's', 'т': 't', 'у': 'y', 'ѵ': 'v', 'ԝ': 'w', 'х': 'x', 'ӏ': 'l', 'з': '3',
	// Greek
	'α': 'a', 'β': 'b', 'ε': 'e', 'η': 'n', 'ι': 'l', 'κ': 'k', 'μ': 'u', 'ν': 'v', 'ο': 'o', 'ρ': 'p', 'σ': 'o', 'τ': 't', 'υ': 'u', 'χ': 'x', 'ω': 'w', 'γ': 'y', 'ζ': 'z',
	// Armenian
	'օ': 'o', 'ս': 'u', 'հ': 'h', 'ո': 'n', 'ց': 'g', 'ա': 'w',
}

// cleanText makes text fit for the database and for a terminal: valid UTF-8
// without control characters, cut to at most max bytes between runes.
func cleanText(text string, max int) string {
	if len(text) <= max && plain(text) {
		return text
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(cut(text, max), string(utf8.RuneError)))
	return cut(text, max)
}

// plain reports whether text is printable ASCII, as nearly all is.
func plain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// cut shortens text to at most max bytes without splitting a rune.
func cut(text string, max int) string {
	if len(text) <= max {
		return text
	}
	for max > 0 && !utf8.RuneStart(text[max]) {
		max--
	}
	return text[:max]
}

// codeAlphabet is the one of RFC 8628, section 6.1: no vowels, so no words, and
// nothing to mistake for something else. 8 of 20 letters are 34 bits.
const codeAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

// newUserCode draws an XXXX-XXXX.
func newUserCode() string {
	code := make([]byte, 0, 9)
	var random [16]byte
	for {
		rand.Read(random[:])
		for _, b := range random {
			// 240 is the largest multiple of 20 in a byte: no letter is likelier.
			if b >= 240 {
				continue
			}
			if len(code) == 4 {
				code = append(code, '-')
			}
			code = append(code, codeAlphabet[int(b)%len(codeAlphabet)])
			if len(code) == cap(code) {
				return string(code)
			}
		}
	}
}

// sameCode compares what an operator typed with a code, in constant time and
// whatever the case and separators.
func sameCode(typed, code string) bool {
	letters := func(s string) []byte {
		return []byte(strings.Map(func(r rune) rune {
			if r == '-' || unicode.IsSpace(r) {
				return -1
			}
			return unicode.ToUpper(r)
		}, s))
	}
	return subtle.ConstantTimeCompare(letters(cut(typed, 64)), letters(code)) == 1
}
