package policy

import (
	"fmt"
	"strings"
)

// didYouMean returns " Did you mean x?" for the closest of the valid names, or
// nothing where none is close. Comparing is quadratic in the length, so a name
// that no block could have (maxName) is not compared.
func didYouMean(given string, valid []string) string {
	if len(given) > maxName {
		return ""
	}
	best, bestDistance := "", len(given)/3+2 // a third of the letters, at least two, may be wrong
	for _, v := range valid {
		if d := distance(strings.ToLower(given), strings.ToLower(v)); d < bestDistance && d < len(v) {
			best, bestDistance = v, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" Did you mean %s?", best)
}

// distance is the Levenshtein distance in bytes: names are ASCII.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// orList returns `"a", "b" or "c"`.
func orList(words []string) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", w)
	}
	return b.String()
}

// clip shortens outside input for a message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
