package ssh

import (
	"bytes"
	"math/rand/v2"
	"strings"

	"github.com/clawpatrol/clawpatrol/secret"
)

// minScrubbed is how long a password is that is looked for in the output of
// commands, in bytes. There an agent can print guesses and see which one is taken
// out, as fast as the connection goes: whoever has a short password is better off
// without.
const minScrubbed = 12

// scrubber takes a password out of what an upstream sends. A private key is never
// sent, so nothing can send it back. A nil scrubber finds nothing.
type scrubber struct {
	password secret.Secret
	base     uint64 // of the rolling hash: odd, and nobody's guess
	hash     uint64 // of the password
	top      uint64 // base to the power of its length
}

func newScrubber(password secret.Secret) *scrubber {
	s := &scrubber{password: password, base: rand.Uint64() | 1, top: 1}
	for _, b := range password.Reveal() {
		s.hash = s.hash*s.base + uint64(b) + 1
		s.top *= s.base
	}
	return s
}

// text replaces the password in what was said before the agent could say
// anything.
func (s *scrubber) text(t string) string {
	if s == nil || len(s.password.Reveal()) == 0 {
		return t
	}
	p := string(s.password.Reveal())
	return strings.ReplaceAll(t, p, strings.Repeat("*", len(p)))
}

// stream returns what looks for the password in one stream; nil where it is not
// to be looked for.
func (s *scrubber) stream() *scrubbedStream {
	if s == nil || len(s.password.Reveal()) < minScrubbed {
		return nil
	}
	n := len(s.password.Reveal())
	x := &scrubbedStream{scrubber: s, last: make([]byte, n)}
	for range n { // of zeros
		x.roll = x.roll*s.base + 1
	}
	return x
}

// scrubbedStream is one stream that is looked through as it passes.
//
// Nothing is held back and nothing takes longer because it resembles the
// password: either would tell an agent that prints guesses how far each is right,
// and so the password character by character. What it sees is one password, whole
// or not there. Of one that comes in pieces the pieces before the last have
// passed already.
type scrubbedStream struct {
	*scrubber
	last []byte // the latest bytes, a ring
	at   int    // where the oldest of them is
	roll uint64 // their hash
}

// pass overwrites the password in p with asterisks.
func (s *scrubbedStream) pass(p []byte) {
	if s == nil {
		return
	}
	n := len(s.last)
	for i, b := range p {
		old := s.last[s.at]
		s.last[s.at] = b
		if s.at++; s.at == n {
			s.at = 0
		}
		s.roll = s.roll*s.base + uint64(b) + 1 - s.top*(uint64(old)+1)
		if s.roll == s.hash && s.whole() {
			for j := max(0, i-n+1); j <= i; j++ {
				p[j] = '*'
			}
		}
	}
}

// whole reports whether the latest bytes are the password.
func (s *scrubbedStream) whole() bool {
	p := s.password.Reveal()
	n := len(s.last) - s.at
	return bytes.Equal(s.last[s.at:], p[:n]) && bytes.Equal(s.last[:s.at], p[n:])
}
