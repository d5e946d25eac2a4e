package postgres

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// minMasked is how long a password is that is looked for in what an upstream says
// while it lets the gateway in, in bytes: shorter ones occur by chance.
const minMasked = 4

// masker takes the password out of what an upstream says before the agent could
// say anything: it has just been sent there, possibly in clear, and might come
// back (I01). Later nothing there knows it but as a hash.
type masker struct {
	replace func(text string) string // the password is in the closure only
	inPlace func(text []byte)
}

func newMasker(password string) *masker {
	if len(password) < minMasked {
		return &masker{}
	}
	stars := strings.Repeat("*", len(password))
	return &masker{
		replace: func(text string) string { return strings.ReplaceAll(text, password, stars) },
		inPlace: func(text []byte) {
			for {
				i := bytes.Index(text, []byte(password))
				if i < 0 {
					return
				}
				copy(text[i:], stars)
				text = text[i+len(stars):]
			}
		},
	}
}

// text returns s without the password.
func (m *masker) text(s string) string {
	if m == nil || m.replace == nil {
		return s
	}
	return m.replace(s)
}

// short returns s if it has exactly n bytes that letters and digits can make up,
// else an SQLSTATE for what cannot be understood.
func (m *masker) short(s string, n int) string {
	if len(s) != n || strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'A' || r > 'Z') }) || m.text(s) != s {
		return protocolViolation
	}
	return s
}

// messages masks the bodies of whole messages, in place, and returns them.
func (m *masker) messages(told []byte) []byte {
	if m == nil || m.inPlace == nil {
		return told
	}
	for rest := told; len(rest) >= 5; {
		n := 1 + int(binary.BigEndian.Uint32(rest[1:]))
		if n < 5 || n > len(rest) {
			break
		}
		m.inPlace(rest[5:n])
		rest = rest[n:]
	}
	return told
}
