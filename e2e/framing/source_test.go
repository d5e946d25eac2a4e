package framing

import (
	"math/rand/v2"
	"strings"
	"time"
)

// source is where a generator takes its choices from: random bytes, or what a
// fuzzer mutates. Where they have run out the choice is the first, which is
// always the plainest.
type source struct{ choices []byte }

// random returns the source of case n of a seed.
func random(seed, n uint64) *source {
	r := rand.New(rand.NewPCG(seed, n))
	choices := make([]byte, 600)
	for i := range choices {
		choices[i] = byte(r.Uint32())
	}
	return &source{choices}
}

func (s *source) byte() byte {
	if len(s.choices) == 0 {
		return 0
	}
	b := s.choices[0]
	s.choices = s.choices[1:]
	return b
}

// below returns a number in [0, n); n is at most 65536.
func (s *source) below(n int) int {
	if n <= 256 {
		return int(s.byte()) * n / 256
	}
	return (int(s.byte())<<8 | int(s.byte())) * n / 65536
}

// oneIn is true in one of n cases.
func (s *source) oneIn(n int) bool { return s.below(n) == n-1 }

// pick chooses among all; usually takes the first, and another in one of n cases.
func pick[T any](s *source, of ...T) T { return of[s.below(len(of))] }

func usually[T any](s *source, n int, first T, others ...T) T {
	if !s.oneIn(n) {
		return first
	}
	return pick(s, others...)
}

// mutate changes a few bytes, mostly those that delimit something.
func (s *source) mutate(raw []byte) []byte {
	for range 1 + s.below(3) {
		if len(raw) == 0 {
			return raw
		}
		at := s.below(min(len(raw), 1<<16))
		if s.oneIn(2) { // the next delimiter
			for at < len(raw)-1 && !isDelimiter(raw[at]) {
				at++
			}
		}
		odd := pick(s, "\n", "\r", " ", "\t", "\x00", ":", ",", ";", "0", "\r\n", "\r\n\r\n", "\x0b", "\x7f", "\x80", "_", "%", "\r\n ", "0\r\n\r\n")
		switch s.below(4) {
		case 0: // replace
			raw = splice(raw, at, 1, odd)
		case 1: // insert
			raw = splice(raw, at, 0, odd)
		case 2: // remove
			raw = splice(raw, at, 1+s.below(3), "")
		case 3: // repeat
			n := min(1+s.below(64), len(raw)-at)
			raw = splice(raw, at, 0, string(raw[at:at+n]))
		}
	}
	return raw
}

func isDelimiter(b byte) bool {
	return b == '\r' || b == '\n' || b == ':' || b == ' ' || b == ';' || b == ','
}

// splice returns raw with n bytes at at replaced.
func splice(raw []byte, at, n int, with string) []byte {
	out := append([]byte{}, raw[:at]...)
	out = append(out, with...)
	return append(out, raw[min(at+n, len(raw)):]...)
}

// shrink returns a smaller input that fails still, as far as it finds one in a
// few seconds.
func shrink(raw []byte, fails func([]byte) bool) []byte {
	end := time.Now().Add(5 * time.Second)
	for size := max(1, len(raw)/2); size > 0; {
		removed := false
		for at := 0; at < len(raw); {
			if time.Now().After(end) {
				return raw
			}
			if less := splice(raw, at, size, ""); fails(less) {
				raw, removed = less, true
			} else {
				at += size
			}
		}
		if !removed || size > len(raw) {
			size /= 2
		}
	}
	return raw
}

// kind is an error without what varies between inputs.
func kind(err error) string {
	if err == nil {
		return ""
	}
	words := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == ' ' || r == '\n' || r >= '0' && r <= '9' })
	return strings.Join(words[:min(5, len(words))], " ")
}
