package recording

import (
	"crypto/rand"
	"errors"
	"strings"
	"time"
)

// name is what a file's name says: when, whose, and of which kind.
//
//	20261120t155203.000000042_r_abcd_2f4kx7qy.cast
//
// Names sort by time. The last part keeps two of one instant apart.
type name struct {
	time         time.Time // in UTC
	registration string
	nonce        string
	pty          bool
}

const (
	timeLayout = "20060102t150405.000000000"
	dayLayout  = "2006-01-02"

	castSuffix       = ".cast"
	transcriptSuffix = ".jsonl"

	nonceSize       = 8
	maxRegistration = 64
)

var errRegistration = errors.New("a registration's id has other characters than letters, digits and _, or too many")

func newName(at time.Time, registration string, pty bool) (name, error) {
	if !isWord(registration) || len(registration) > maxRegistration {
		return name{}, errRegistration
	}
	return name{at.UTC(), registration, strings.ToLower(rand.Text())[:nonceSize], pty}, nil
}

func (n name) id() string {
	return n.time.Format(timeLayout) + "_" + n.registration + "_" + n.nonce
}

func (n name) day() string { return n.time.Format(dayLayout) }

func (n name) path() string {
	if n.pty {
		return n.day() + "/" + n.id() + castSuffix
	}
	return n.day() + "/" + n.id() + transcriptSuffix
}

// parseFile reads a file's name, without its directory.
func parseFile(base string) (name, bool) {
	if id, ok := strings.CutSuffix(base, castSuffix); ok {
		n, ok := parseID(id)
		n.pty = true
		return n, ok
	}
	id, ok := strings.CutSuffix(base, transcriptSuffix)
	if !ok {
		return name{}, false
	}
	return parseID(id)
}

// parseID reads an id, which does not say of which kind the recording is.
func parseID(id string) (name, bool) {
	at, rest, _ := strings.Cut(id, "_")
	last := strings.LastIndexByte(rest, '_')
	if last < 1 || last > maxRegistration || len(rest)-last-1 != nonceSize || !isWord(rest) {
		return name{}, false
	}
	t, err := time.Parse(timeLayout, at)
	n := name{time: t, registration: rest[:last], nonce: rest[last+1:]}
	return n, err == nil && n.id() == id
}

func isWord(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}
