package dashboard

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxShown bounds outside text on a page, in characters.
const maxShown = 512

// shown makes outside text safe to look at: what does not print, or would
// reorder what does (control and bidirectional characters, invalid UTF-8), is
// spelled out. Escaping for HTML is html/template's.
func shown(s string) string { return shownUpTo(s, maxShown) }

// blanks are letters and symbols that look like nothing at all.
const blanks = "\u115f\u1160\u2800\u3164\uffa0\U0001d159"

// shownUpTo is shown for what may be longer.
func shownUpTo(s string, most int) string {
	var b strings.Builder
	n := 0
	for i, r := range s {
		if n++; n > most {
			b.WriteString("…")
			break
		}
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == ' ' || unicode.IsPrint(r) && !unicode.Is(unicode.Mn, r) && !strings.ContainsRune(blanks, r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u{%04x}`, r)
		}
	}
	return b.String()
}

// utc is how pages show an instant; empty for none.
func utc(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// ago says roughly how long before now t was.
func ago(now time.Time, t *time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	switch d := now.Sub(*t); {
	case d < time.Minute:
		return "just now"
	case d < time.Hour:
		return plural(int(d/time.Minute), "minute") + " ago"
	case d < 48*time.Hour:
		return plural(int(d/time.Hour), "hour") + " ago"
	default:
		return plural(int(d/(24*time.Hour)), "day") + " ago"
	}
}

func plural(n int, unit string) string {
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

// size shows a number of bytes.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
}

// bytesText is size for a count.
func bytesText(n uint64) string { return size(int64(min(n, math.MaxInt64))) }

// at is utc for an instant that is always there.
func at(t time.Time) string { return utc(&t) }

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// seconds shows an instant of a recording: minutes, seconds and tenths.
func seconds(s float64) string {
	tenths := int64(min(max(s, 0), 1e9) * 10)
	return fmt.Sprintf("%d:%02d.%d", tenths/600, tenths/10%60, tenths%10)
}
