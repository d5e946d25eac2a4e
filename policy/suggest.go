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

// maxCompared bounds how many declared names one compilation compares with names
// that are not: else a file of nothing but mistakes would take minutes.
const maxCompared = 20_000

// suggest is didYouMean for the names declared so far. Once enough have been
// compared it has no suggestion any more.
func suggest[V any](c *compiler, given string, declared map[string]V) string {
	if c.compared += len(declared); c.compared > maxCompared || len(c.diags) >= maxDiagnostics {
		return ""
	}
	return didYouMean(given, sortedKeys(declared))
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
