package https

import (
	"iter"
	"strings"
)

// putCookie returns one Cookie field (RFC 6265 section 5.4) that holds pair,
// "name=value", first, and then the agent's cookies as they are but for those of
// that name. "" as pair takes the cookie out; the result may be empty.
//
// It stands first so that a cookie before it cannot reach into it, such as one
// that opens a quote.
func putCookie(lines []string, name, pair string) string {
	var b strings.Builder
	b.WriteString(pair)
	for cookie := range cookies(lines) {
		if isCookie(cookie, name) || hidesCookie(cookie, name) {
			continue
		}
		if b.Len() > 0 {
			b.WriteString("; ") // RFC 9113 section 8.2.3 joins the same way
		}
		b.WriteString(cookie)
	}
	return b.String()
}

// cookies yields the pairs of all Cookie fields. A ";" ends a pair, within double
// quotes too, as RFC 6265 has it.
func cookies(lines []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for pair := range strings.SplitSeq(line, ";") {
				if pair = strings.Trim(pair, " \t"); pair != "" && !yield(pair) {
					return
				}
			}
		}
	}
}

// isCookie reports whether a pair is a cookie of that name. One without "=" is
// its name to some servers and its value to others.
func isCookie(pair, name string) bool {
	key, _, _ := strings.Cut(strings.TrimLeft(pair, "= \t"), "=")
	return sameName(strings.Trim(key, " \t\""), name)
}

// hidesCookie reports whether within the pair's value a cookie of that name
// begins for a server that also separates cookies by commas or blanks (RFC 2965
// section 3.3.4; Python's http.cookies).
func hidesCookie(pair, name string) bool {
	for rest := pair; ; {
		i := strings.IndexByte(rest, '=')
		if i < 0 {
			return false
		}
		before := strings.TrimRight(rest[:i], " \t")
		if at := strings.LastIndexAny(before, " \t,\""); at >= 0 && sameName(before[at+1:], name) {
			return true
		}
		rest = rest[i+1:]
	}
}

// holdsCookie reports whether a cookie of that name has the value, a placeholder,
// quoted or not, percent-encoded or not.
func holdsCookie(lines []string, name, value string) bool {
	for pair := range cookies(lines) {
		if !isCookie(pair, name) {
			continue
		}
		_, got, _ := strings.Cut(strings.TrimLeft(pair, "= \t"), "=")
		got = strings.Trim(got, " \t")
		if len(got) > 1 && got[0] == '"' && got[len(got)-1] == '"' {
			got = got[1 : len(got)-1]
		}
		if got == value || decodeQuery(got, false) == value {
			return true
		}
	}
	return false
}
