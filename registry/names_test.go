package registry

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// FuzzNames: whatever an agent host calls itself, what is kept is fit to show,
// and cleaning is stable.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"builder", "", "  a  b ", "evil\u202egnp.exe", "\xff\xfe", strings.Repeat("é", 100), "Ｂｕｉｌｄ", "\u1100\u1161", "e\u0301", "\u3164\u115f", "ﬃ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name := cleanName(s)
		if n := utf8.RuneCountInString(name); name == "" || n > maxNameRunes || !utf8.ValidString(name) || strings.TrimSpace(name) != name {
			t.Fatalf("%q: %q, %d runes", s, name, n)
		}
		for _, r := range name {
			if !unicode.IsPrint(r) || blank(r) {
				t.Fatalf("%q keeps %U", s, r)
			}
		}
		if again := cleanName(name); again != name {
			t.Fatalf("%q becomes %q becomes %q", s, name, again)
		}
		if skeleton(name) != skeleton(strings.ToUpper(name)) && strings.EqualFold(strings.ToUpper(name), name) {
			t.Fatalf("%q differs from itself in capitals: %q %q", name, skeleton(name), skeleton(strings.ToUpper(name)))
		}
		for _, max := range []int{0, 1, 2, 3, 7, maxSummary} {
			if text := cleanText(s, max); len(text) > max || !utf8.ValidString(text) {
				t.Fatalf("%q cut to %d: %q", s, max, text)
			}
		}
	})
}
