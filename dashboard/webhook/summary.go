package webhook

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// summary makes an agent's words fit to be passed on: what does not print, or
// would reorder what does, becomes U+FFFD, and no more than maxSummary bytes stay.
func summary(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
	if len(s) <= maxSummary {
		return s
	}
	end := maxSummary - len("…")
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
