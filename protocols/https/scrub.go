package https

import (
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
)

// minFragment is the shortest text derived from a secret that is looked for:
// shorter ones occur everywhere by chance.
const minFragment = 4

// maxEscapes is how many layers of percent-encoding are seen through: a URL in
// a URL in a URL.
const maxEscapes = 3

// scrubber finds a secret in text an upstream sends back: as it is, as part of
// any base64 (either alphabet, any alignment), in hexadecimal; each of these
// also percent-encoded (up to maxEscapes times), with JSON or JavaScript escapes,
// and in any case of ASCII letters. It is immutable. The zero scrubber finds nothing.
type scrubber struct {
	find func(s string, from int) (start, end int) // start is -1 where there is nothing more

	holdsName   func(name string) bool
	placeholder string
}

// newScrubber looks for in's secret and value and puts placeholder in their
// place. The needles live in closures, for the reason package secret has.
func newScrubber(in injection, placeholder string) *scrubber {
	needles := needlesOf(in)
	var starts [256]bool
	for _, n := range needles {
		starts[n[0]] = true
		if n[0] >= 'a' && n[0] <= 'z' {
			starts[n[0]-'a'+'A'] = true
		}
		if n[0] == ' ' {
			starts['+'] = true
		}
	}
	starts['%'], starts['\\'] = true, true
	return &scrubber{
		placeholder: placeholder,
		find: func(s string, from int) (int, int) {
			escapes := 0 // without an escape sign, text means what it says
			if strings.ContainsAny(s[from:], `%\+`) {
				escapes = maxEscapes
			}
			for i := from; i < len(s); i++ {
				if !starts[s[i]] {
					continue
				}
				for _, n := range needles {
					if end := matchPlain(s, i, n); end > 0 {
						return i, end
					}
					for times := 1; times <= escapes; times++ {
						if end := matchEscaped(s, i, n, times); end > 0 {
							return i, end
						}
					}
				}
			}
			return -1, -1
		},
		holdsName: func(name string) bool {
			for _, n := range needles {
				for i := range len(name) {
					if matchPlain(name, i, n) > 0 {
						return true
					}
				}
			}
			return false
		},
	}
}

// needlesOf returns what gives the secret away, folded to lower case, longest
// first so that a whole value goes before a part of it.
func needlesOf(in injection) []string {
	bare := in.bare()
	needles := []string{foldString(bare)}
	add := func(n string) {
		if len(n) >= minFragment {
			needles = append(needles, foldString(n))
		}
	}
	add(in.blob())
	add(strings.TrimRight(in.blob(), "=")) // unpadded
	add(hex.EncodeToString([]byte(bare)))
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			add(base64Core(encoding, bare, shift))
		}
	}
	slices.SortFunc(needles, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(needles)
}

// base64Core returns the characters that the base64 of any text has where s
// begins shift bytes after a multiple of three: those that depend on s alone.
func base64Core(encoding *base64.Encoding, s string, shift int) string {
	coded := encoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + s))
	first := (shift*8 + 5) / 6       // characters touched by what stands before
	last := (shift + len(s)) * 8 / 6 // whole characters
	if first >= last {
		return ""
	}
	return coded[first:last]
}

// mask replaces every occurrence of the secret in s.
func (sc *scrubber) mask(s string) (masked string, found bool) {
	if sc == nil || sc.find == nil {
		return s, false
	}
	var b strings.Builder
	at := 0
	for {
		start, end := sc.find(s, at)
		if start < 0 {
			break
		}
		b.WriteString(s[at:start])
		b.WriteString(sc.placeholder)
		at = end
	}
	if at == 0 {
		return s, false
	}
	b.WriteString(s[at:])
	return b.String(), true
}

// holds reports whether a field name holds the secret.
func (sc *scrubber) holds(name string) bool {
	return sc != nil && sc.holdsName != nil && sc.holdsName(name)
}

// matchPlain returns the end of needle, which is folded, at s[i:], or 0.
func matchPlain(s string, i int, needle string) int {
	if len(s)-i < len(needle) {
		return 0
	}
	for j := range len(needle) {
		if fold(s[i+j]) != needle[j] {
			return 0
		}
	}
	return i + len(needle)
}

// matchEscaped is matchPlain for text in which any character may be escaped, by
// percent-encoding so many times over.
func matchEscaped(s string, i int, needle string, times int) int {
	for j := range len(needle) {
		if i >= len(s) {
			return 0
		}
		b, next := unescape(s, i, times)
		if needle[j] == ' ' && b != ' ' { // a form's "+", which the first encoding leaves as it is
			if b, next = s[i], i+1; b != '+' && times > 1 {
				b, next = unescape(s, i, times-1)
			}
			if b == '+' {
				b = ' '
			}
		}
		if fold(b) != needle[j] {
			return 0
		}
		i = next
	}
	return i
}

// unescape reads one character at s[i]: %41 (%2541 where times is 2, and so
// on), \u0041, \x41, \", or itself.
func unescape(s string, i, times int) (b byte, next int) {
	switch s[i] {
	case '%':
		at := i + 1
		for range times - 1 {
			if !strings.HasPrefix(s[at:], "25") {
				return '%', i + 1
			}
			at += 2
		}
		if v, ok := hexByte(s, at); ok {
			return v, at + 2
		}
	case '\\':
		switch {
		case strings.HasPrefix(s[i+1:], "u00"):
			if v, ok := hexByte(s, i+4); ok {
				return v, i + 6
			}
		case strings.HasPrefix(s[i+1:], "x"):
			if v, ok := hexByte(s, i+2); ok {
				return v, i + 4
			}
		case i+1 < len(s):
			return s[i+1], i + 2
		}
	}
	return s[i], i + 1
}

func hexByte(s string, i int) (byte, bool) {
	if i+2 > len(s) {
		return 0, false
	}
	hi, ok1 := hexDigit(s[i])
	lo, ok2 := hexDigit(s[i+1])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(b byte) (byte, bool) {
	switch {
	case '0' <= b && b <= '9':
		return b - '0', true
	case 'a' <= b && b <= 'f':
		return b - 'a' + 10, true
	case 'A' <= b && b <= 'F':
		return b - 'A' + 10, true
	}
	return 0, false
}

func fold(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

// foldString folds ASCII only: secrets are bytes.
func foldString(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] = fold(b[i])
	}
	return string(b)
}
