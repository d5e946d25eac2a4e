package https

import (
	"iter"
	"strings"
)

// putParameter returns the query raw with pair, "name=value" encoded, as its only
// parameter of that name: where the first one stood, or at the end. "" as pair
// takes the parameter out. Every other byte stays, but for the separators beside
// what was taken out.
//
// A ";" separates too: some servers still take it so (HTML 4.01, appendix
// B.2.2), and for those that do not, pair stands between "&" only.
func putParameter(raw, name, pair string) string {
	var b strings.Builder
	b.Grow(len(raw) + len(pair) + 1)
	placed := pair == ""
	begun := false  // b holds a part, be it an empty one
	strong := false // the next separator has to be "&"
	for separator, part := range parameters(raw) {
		replaced := owns(part, name)
		if replaced && placed || raw == "" {
			strong = strong || separator == '&'
			continue
		}
		if replaced {
			part, placed, strong = pair, true, true
		}
		if begun {
			if strong {
				separator = '&'
			}
			b.WriteByte(separator)
		}
		b.WriteString(part)
		begun, strong = true, replaced
	}
	if !placed {
		if s := b.String(); begun && !strings.HasSuffix(s, "&") {
			b.WriteByte('&')
		}
		b.WriteString(pair)
	}
	return b.String()
}

// parameters yields the parts of a query, each with the separator before it.
func parameters(raw string) iter.Seq2[byte, string] {
	return func(yield func(byte, string) bool) {
		before := byte('&')
		for {
			i := strings.IndexAny(raw, "&;")
			if i < 0 {
				yield(before, raw)
				return
			}
			if !yield(before, raw[:i]) {
				return
			}
			before, raw = raw[i], raw[i+1:]
		}
	}
}

// owns reports whether a part of a query is a parameter of that name.
func owns(part, name string) bool {
	key, _, _ := strings.Cut(part, "=")
	return sameName(decodeQuery(key, true), name)
}

// holdsParameter reports whether a parameter of that name has the value, a
// placeholder. Agents may write a "+" in it as it is.
func holdsParameter(raw, name, value string) bool {
	for _, part := range parameters(raw) {
		if !owns(part, name) {
			continue
		}
		_, got, _ := strings.Cut(part, "=")
		if got == value || decodeQuery(got, true) == value || decodeQuery(got, false) == value {
			return true
		}
	}
	return false
}

// decodeQuery undoes percent-encoding, and "+" for a blank where plus is set.
// What is no encoding stands for itself, as it does for lenient servers.
func decodeQuery(s string, plus bool) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if v, ok := hexByte(s, i+1); ok {
				b = append(b, v)
				i += 2
				continue
			}
		}
		if s[i] == '+' && plus {
			b = append(b, ' ')
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

// encodeQuery percent-encodes all but the unreserved characters (RFC 3986
// section 2.3): nothing is left that a server could read in another way.
func encodeQuery(s string) string {
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(s)+8)
	for i := range len(s) {
		if ch := s[i]; unreserved(ch) {
			b = append(b, ch)
		} else {
			b = append(b, '%', digits[ch>>4], digits[ch&15])
		}
	}
	return string(b)
}
