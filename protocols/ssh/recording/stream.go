package recording

import (
	"bytes"
	"iter"
	"slices"
	"unicode/utf8"

	"github.com/clawpatrol/clawpatrol/secret"
)

// pieceSize bounds what one line holds, before it is written as JSON.
const pieceSize = 32 << 10

// masked is written in a secret's place.
const masked = "[masked]"

// stream is one direction of a session, which comes in pieces that may end within
// a secret or a character.
type stream struct {
	mask mask
	kept []byte // the end of what came: perhaps the beginning of a secret or a character
}

// pieces returns what can be written now that p has come; all of it at the end.
// They are good until the next one.
func (s *stream) pieces(p []byte, end bool) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for first := true; first || len(p) > 0; first = false {
			n := min(len(p), pieceSize)
			piece := s.piece(p[:n], end)
			p = p[n:]
			if len(piece) > 0 && !yield(piece) {
				return
			}
		}
	}
}

func (s *stream) piece(p []byte, end bool) []byte {
	whole := append(s.kept, p...)
	out, rest := s.mask.apply(whole)
	if end {
		s.kept = nil
		return append(out, rest...)
	}
	if len(rest) == 0 {
		n := partialRune(out)
		out, rest = out[:len(out)-n], out[len(out)-n:]
	}
	s.kept = slices.Clone(rest)
	return out
}

// partialRune returns how many bytes at the end begin a character that is not
// complete.
func partialRune(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		last := p[len(p)-n:]
		if utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}

// mask finds secrets. Their bytes stay behind the closures of package secret.
type mask []secret.Secret

// newMask leaves out secrets without a byte.
func newMask(secrets []secret.Secret) mask {
	return slices.DeleteFunc(slices.Clone(secrets), func(s secret.Secret) bool { return len(s.Reveal()) == 0 })
}

// apply masks the secrets in p. rest is the end of p where one may begin.
func (m mask) apply(p []byte) (out, rest []byte) {
	for {
		at, n := m.first(p)
		if n == 0 {
			break
		}
		out = append(append(out, p[:at]...), masked...)
		p = p[at+n:]
	}
	begun := 0
	for _, s := range m {
		begun = max(begun, overlap(p, s.Reveal()))
	}
	return append(out, p[:len(p)-begun]...), p[len(p)-begun:]
}

// first returns where the first secret is, and the longest that is there.
func (m mask) first(p []byte) (at, n int) {
	for _, s := range m {
		value := s.Reveal()
		i := bytes.Index(p, value)
		if i >= 0 && (n == 0 || i < at || i == at && len(value) > n) {
			at, n = i, len(value)
		}
	}
	return at, n
}

// overlap returns the longest end of p that value begins with, shorter than
// value.
func overlap(p, value []byte) int {
	for n := min(len(p), len(value)-1); n > 0; n-- {
		if bytes.HasPrefix(value, p[len(p)-n:]) {
			return n
		}
	}
	return 0
}
