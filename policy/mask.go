package policy

import "strings"

// Mask returns text with an asterisk for each byte of what looks like a private
// key or a token: nothing of the kind belongs in a policy file, but hands paste.
// What stands where, in bytes and lines, stays. It is a guess that errs towards
// showing: a password in words is not recognised. A word with "clawpatrol" in it
// is a placeholder, a word behind an SSH key's type is public.
func Mask(text string) string {
	m := masker{text: text}
	m.privateKeys()
	m.words()
	if m.out == nil {
		return text
	}
	return string(m.out)
}

// maskURL masks all of a URL behind its host.
func maskURL(url string) string {
	scheme, rest, _ := strings.Cut(url, "://")
	host, path, ok := strings.Cut(rest, "/")
	if !ok {
		host, path, ok = strings.Cut(rest, "?")
	}
	if !ok {
		return url
	}
	kept := url[:len(scheme)+len("://")+len(host)+1]
	return kept + strings.Repeat("*", len(path))
}

type masker struct {
	text string
	out  []byte // nil: nothing has been masked
}

func (m *masker) hide(from, to int) {
	if m.out == nil {
		m.out = []byte(m.text)
	}
	for i := from; i < to; i++ {
		m.out[i] = '*'
	}
}

// maxPrivateKey bounds, in bytes, how far behind its first line a private key's
// last one is looked for.
const maxPrivateKey = 64 << 10

// privateKeys masks what stands between the first and the last line of a private
// key (RFC 7468, section 2), however it was split into strings or comments. Where
// the last line is missing, the lines that follow count as long as they hold
// little but base64.
func (m *masker) privateKeys() {
	const begin, end = "-----BEGIN", "-----END"
	for at, eol := 0, 0; ; {
		i := strings.Index(m.text[at:], begin)
		if i < 0 {
			return
		}
		at += i
		if at >= eol { // once for each line: one may have as many of these as it is long
			eol = at + len(lineOf(m.text, at))
		}
		mark := strings.Index(m.text[at:eol], privateKeyMark)
		if mark < 0 {
			at = eol
			continue
		}
		body := at + mark + len(privateKeyMark)
		// Another key's last line is not this one's.
		within := m.text[body:min(len(m.text), body+maxPrivateKey)]
		if i := strings.Index(within, begin); i >= 0 {
			within = within[:i]
		}
		stop := strings.Index(within, end)
		if stop < 0 {
			stop = whileBase64(within)
		}
		m.hideRuns(body, body+stop)
		at = body + stop
	}
}

// lineOf returns text from at to the end of that line.
func lineOf(text string, at int) string {
	line, _, _ := strings.Cut(text[at:], "\n")
	return line
}

// whileBase64 returns the length of what follows a private key's first line and
// may still be of it.
func whileBase64(text string) int {
	n := len(lineOf(text, 0))
	for n < len(text) {
		line := lineOf(text, n+1)
		word := strings.Trim(line, " \t\r\"',#/*[]")
		if len(word) < 8 || !isRun(word) {
			break
		}
		n += 1 + len(line)
	}
	return n
}

func isRun(s string) bool {
	for i := range len(s) {
		if !isRunByte(s[i]) {
			return false
		}
	}
	return true
}

// hideRuns masks the words between two offsets. Quotes, commas and the signs of
// comments stay, so that the text still reads as what it is.
func (m *masker) hideRuns(from, to int) {
	eachRun(m.text[from:to], func(a, b int) {
		if strings.Trim(m.text[from+a:from+b], "/-") != "" {
			m.hide(from+a, from+b)
		}
	})
}

// isRunByte reports whether ch may stand in a token or in base64.
func isRunByte(ch byte) bool {
	return isWordStart(ch) || isDigit(ch) || strings.IndexByte("+/=.~-", ch) >= 0
}

// eachRun calls f with the offsets of each word.
func eachRun(text string, f func(from, to int)) {
	for i := 0; i < len(text); {
		if !isRunByte(text[i]) {
			i++
			continue
		}
		from := i
		for i < len(text) && isRunByte(text[i]) {
			i++
		}
		f(from, i)
	}
}

// words masks what looks like a token.
func (m *masker) words() {
	eachRun(m.text, func(from, to int) {
		m.eachPart(from, to, "=", m.word) // NAME=VALUE, as environments have it
	})
}

func (m *masker) word(from, to int) {
	word := m.text[from:to]
	if len(word) < minToken || strings.Contains(strings.ToLower(word), "clawpatrol") || isPublic(m.text[:from]) {
		return
	}
	if hasTokenPrefix(word) {
		m.hide(from, to)
		return
	}
	apart := "." // a host name's labels are
	if from > 0 && m.text[from-1] == ':' {
		apart = "./" // and what is between the slashes of a URL
	} else if word[0] == '/' && strings.Count(word, "/") > 1 { // a path
		return
	}
	m.eachPart(from, to, apart, func(from, to int) {
		if looksRandom(m.text[from:to]) {
			m.hide(from, to)
		}
	})
}

// eachPart calls f with the offsets of each part of a word.
func (m *masker) eachPart(from, to int, separators string, f func(from, to int)) {
	for at := from; at < to; at++ {
		end := to
		if i := strings.IndexAny(m.text[at:to], separators); i >= 0 {
			end = at + i
		}
		f(at, end)
		at = end
	}
}

const (
	minToken  = 16 // bytes
	minRandom = 24 // bytes of a token without a prefix that is known
)

// publicBefore are the words behind which a public key or a fingerprint stands.
var publicBefore = []string{
	"ssh-ed25519", "ssh-rsa", "ssh-dss", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
	"sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com", "-cert-v01@openssh.com", "SHA256:", "sha256:",
}

func isPublic(before string) bool {
	const enough = 64 // bytes to look at
	before = strings.TrimRight(before[max(0, len(before)-enough):], " \t")
	for _, p := range publicBefore {
		if strings.HasSuffix(before, p) {
			return true
		}
	}
	return false
}

// tokenPrefixes are what widely used services begin their tokens with.
var tokenPrefixes = []string{
	"ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-", "sk_", "rk_", "whsec_", "xoxb-", "xoxp-", "xoxa-", "xoxs-", "xapp-",
	"AIza", "ya29.", "npm_", "pypi-", "hf_", "dop_v1_", "shpat_", "SG.", "eyJ", "AGE-SECRET-KEY-", "cpi1_",
}

// hasTokenPrefix reports whether word begins like a token and goes on as no name
// does: with letters of both cases, or with several digits.
func hasTokenPrefix(word string) bool {
	const accessKey = 20 // characters of an AWS access key's ID
	if len(word) == accessKey && (strings.HasPrefix(word, "AKIA") || strings.HasPrefix(word, "ASIA")) && strings.ToUpper(word) == word {
		return true
	}
	for _, p := range tokenPrefixes {
		if rest, ok := strings.CutPrefix(word, p); ok {
			lower, upper, digits, _ := census(rest)
			return lower > 0 && upper > 0 || digits >= 4 && distinct(rest) >= 8
		}
	}
	return false
}

// looksRandom reports whether a word is one that nobody would choose as a name:
// long and of letters of both cases and digits, or of hexadecimal digits only.
func looksRandom(word string) bool {
	if len(word) < minRandom || distinct(word) < 10 {
		return false
	}
	lower, upper, digits, hex := census(word)
	return lower > 0 && upper > 0 && digits >= 2 || hex && digits >= 4 && lower+upper >= 4 && len(word) >= 32
}

func census(s string) (lower, upper, digits int, hex bool) {
	hex = true
	for i := range len(s) {
		switch ch := s[i]; {
		case isDigit(ch):
			digits++
		case ch >= 'a' && ch <= 'z':
			lower++
			hex = hex && ch <= 'f'
		case ch >= 'A' && ch <= 'Z':
			upper++
			hex = hex && ch <= 'F'
		default:
			hex = false
		}
	}
	return lower, upper, digits, hex
}

// distinct counts the different bytes of s.
func distinct(s string) int {
	var seen [256]bool
	n := 0
	for i := range len(s) {
		if !seen[s[i]] {
			seen[s[i]] = true
			n++
		}
	}
	return n
}
