package dashboard

import (
	_ "embed"
	"math"
	"strings"
	"unicode"
)

// commonest are words that guessers begin with, the likeliest first.
//
//go:embed commonest.txt
var commonestText string

var commonest = func() map[string]int {
	ranks := make(map[string]int)
	for i, word := range strings.Fields(commonestText) {
		ranks[word] = i
	}
	return ranks
}()

// Bounds of what an estimate looks at.
const (
	longestCommon = 26 // of commonest, in characters
	longestRow    = 13 // of keyboardRows
	longestWord   = 9  // a longer run of letters is not taken for one word
)

// Bits that parts of a password cost a guesser who knows how people choose.
const (
	bitsWord     = 13 // one of some 8000 that people think of
	bitsSequence = 6  // where it begins, and which way it runs
	bitsRepeat   = 3  // how often
	bitsYear     = 7
	bitsJoin     = 1 // that another part follows, capitals, a digit for a letter

	// weakBits is below what a password is called guessable: the hash, stolen with
	// its key, is found within some months.
	weakBits = 41
	// offlineRate is how many passwords a second such a thief tries, with a room full
	// of graphics cards against bcrypt of BcryptCost.
	offlineRate = 100_000
)

// strength is an estimate of what a new root password costs to guess.
type strength struct {
	bits float64
	why  string // the first of its parts that a guesser begins with; empty: none is remarkable
}

// weak reports whether operators should be asked to think again.
func (s strength) weak() bool { return s.bits < weakBits }

// String says it in words that stand after "The password".
func (s strength) String() string {
	if !s.weak() {
		return "would take a thief of the gateway's state and key " + s.time() + " to guess"
	}
	said := "is guessable: a thief of the gateway's state and key would have it " + s.time()
	if s.why != "" {
		said += " (" + s.why + ")"
	}
	return said
}

// time is how long guessing takes, on average.
func (s strength) time() string {
	const day, year = 24 * 3600, 365 * 24 * 3600
	seconds := math.Exp2(s.bits-1) / offlineRate
	in := ""
	if s.weak() {
		in = "in "
	}
	switch {
	case seconds < 60:
		return "at once"
	case seconds < 3600:
		return in + plural(int(math.Ceil(seconds/60)), "minute")
	case seconds < 2*day:
		return in + plural(int(math.Ceil(seconds/3600)), "hour")
	case seconds < 2*year:
		return in + plural(int(math.Ceil(seconds/day)), "day")
	case seconds < 1000*year:
		return in + plural(int(seconds/year), "year")
	}
	return "thousands of years"
}

// GuessablePassword says in words how guessable a new root password is; empty: it
// is not. It does not quote the password, and refuses none.
func GuessablePassword(password string) string {
	if s := strengthOf(password); s.weak() {
		return "the password " + s.String()
	}
	return ""
}

// strengthOf estimates what guessing password costs: the cheapest way to put it
// together from common words, other words, sequences, repetitions, years and
// single characters. It knows few words, so it takes any short run of letters for
// one. password is not longer than maxPassword.
func strengthOf(password string) strength {
	s := []rune(password)
	plain := []rune(unleet(strings.ToLower(password)))
	if len(plain) != len(s) { // lower case of another length: compare nothing
		plain = s
	}
	best := make([]strength, len(s)+1) // best[i]: of s[:i]
	for i := 1; i <= len(s); i++ {
		best[i] = strength{bits: best[i-1].bits + bitsOf(s[i-1]), why: best[i-1].why}
		for j := range i {
			bits, why := part(s, plain, j, i)
			if j > 0 {
				bits += bitsJoin
			}
			if best[j].why != "" {
				why = best[j].why
			}
			if total := best[j].bits + bits; total < best[i].bits {
				best[i] = strength{bits: total, why: why}
			}
		}
	}
	return best[len(s)]
}

// part is what s[j:i] costs as one thing, and which; infinite: it is none.
func part(s, plain []rune, j, i int) (bits float64, why string) {
	n := i - j
	if n < 3 {
		return math.Inf(1), ""
	}
	bits = math.Inf(1)
	if n <= longestCommon {
		for _, word := range []string{string(plain[j:i]), strings.ToLower(string(s[j:i]))} {
			if rank, ok := commonest[word]; ok {
				return math.Log2(float64(rank + 2)), "part of it is among the commonest passwords"
			}
		}
	}
	if isSequence(s[j:i]) {
		return bitsSequence, "it runs along the alphabet or the keyboard"
	}
	if unit := period(s[j:i]); unit > 0 {
		if once := oneUnit(s[j : j+unit]); once+bitsRepeat < bits {
			bits, why = once+bitsRepeat, "it repeats itself"
		}
	}
	if n == 4 && (string(s[j:j+2]) == "19" || string(s[j:j+2]) == "20") && unicode.IsDigit(s[i-2]) && unicode.IsDigit(s[i-1]) {
		bits = min(bits, bitsYear)
	}
	if n <= longestWord && isLetters(s[j:i]) && (j == 0 || !unicode.IsLetter(s[j-1])) && (i == len(s) || !unicode.IsLetter(s[i])) && bitsWord < bits {
		bits, why = bitsWord, ""
	}
	return bits, why
}

// oneUnit is what a repeated unit costs the first time: character by character,
// at most what a word does.
func oneUnit(unit []rune) float64 {
	bits := 0.0
	for _, r := range unit {
		bits += bitsOf(r)
	}
	if isLetters(unit) && len(unit) <= longestWord {
		bits = min(bits, bitsWord)
	}
	return bits
}

// bitsOf is what a character costs that follows from nothing.
func bitsOf(r rune) float64 {
	switch {
	case r >= '0' && r <= '9':
		return math.Log2(10)
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
		return math.Log2(26)
	case r == ' ' || r == '-' || r == '_' || r == '.':
		return 2
	case r < 0x80:
		return math.Log2(33)
	}
	return 7
}

// period is the length of the shortest unit that s repeats at least twice, 0 if
// none.
func period(s []rune) int {
	for unit := 1; unit <= len(s)/2; unit++ {
		if len(s)%unit != 0 {
			continue
		}
		same := true
		for k := unit; k < len(s) && same; k++ {
			same = s[k] == s[k-unit]
		}
		if same {
			return unit
		}
	}
	return 0
}

var keyboardRows = []string{"`1234567890-=", "qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./", "qwertzuiop", "yxcvbnm", "azertyuiop", "qsdfghjklm"}

// isSequence reports whether s runs one way along the alphabet, the digits or a
// row of a keyboard.
func isSequence(s []rune) bool {
	up, down := true, true
	for k := 1; k < len(s); k++ {
		up, down = up && s[k] == s[k-1]+1, down && s[k] == s[k-1]-1
	}
	if up || down {
		return true
	}
	if len(s) > longestRow {
		return false
	}
	text := strings.ToLower(string(s))
	backwards := []rune(text)
	for a, b := 0, len(backwards)-1; a < b; a, b = a+1, b-1 {
		backwards[a], backwards[b] = backwards[b], backwards[a]
	}
	for _, row := range keyboardRows {
		if strings.Contains(row, text) || strings.Contains(row, string(backwards)) {
			return true
		}
	}
	return false
}

func isLetters(s []rune) bool {
	for _, r := range s {
		if !unicode.IsLetter(r) {
			return false
		}
	}
	return true
}

// unleet undoes the digits and signs that people put for letters.
func unleet(s string) string {
	return strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "@", "a", "$", "s", "!", "i").Replace(s)
}
