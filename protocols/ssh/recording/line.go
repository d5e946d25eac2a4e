package recording

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	maxCommand = 4096 // bytes of it that are recorded
	maxName    = 256  // bytes of any other text of the head
	maxHow     = 256
	maxHead    = 64 << 10 // JSON may take six bytes for one
)

// header is the first line of both kinds: of an asciicast, what its format asks
// for, and what is ours below one key.
type header struct {
	Version    int               `json:"version,omitempty"`    // of an asciicast
	Transcript int               `json:"transcript,omitempty"` // version of a transcript
	Width      uint32            `json:"width,omitempty"`
	Height     uint32            `json:"height,omitempty"`
	Timestamp  int64             `json:"timestamp"` // UNIX seconds
	Title      string            `json:"title,omitempty"`
	Command    string            `json:"command,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	Ours       headerOurs        `json:"clawpatrol"`
}

type headerOurs struct {
	ID           string `json:"id"`
	Registration string `json:"registration"`
	Endpoint     string `json:"endpoint"`
	Credential   string `json:"credential"`
	Host         string `json:"host"`
	User         string `json:"user"`
	Input        bool   `json:"input"`
}

func head(n name, m Meta, hide mask) []byte {
	text := func(s string, limit int) string {
		out, rest := hide.apply([]byte(s))
		return cut(string(append(out, rest...)), limit)
	}
	h := header{
		Timestamp: n.time.Unix(), Command: text(m.Command, maxCommand), Title: text(m.User+"@"+m.Host, maxName),
		Ours: headerOurs{n.id(), m.Registration, text(m.Endpoint, maxName), text(m.Credential, maxName), text(m.Host, maxName), text(m.User, maxName), m.Input},
	}
	if m.PTY {
		h.Version, h.Width, h.Height = 2, m.Columns, m.Rows
		h.Env = map[string]string{"TERM": text(m.Term, maxName)}
	} else {
		h.Transcript = 1
	}
	return line(h)
}

// readHead reads it back; what cannot be read is empty.
func readHead(r io.Reader) Meta {
	first, err := bufio.NewReaderSize(r, maxHead).ReadSlice('\n')
	var h header
	if err != nil || json.Unmarshal(first, &h) != nil {
		return Meta{}
	}
	return Meta{
		Endpoint: h.Ours.Endpoint, Credential: h.Ours.Credential, Host: h.Ours.Host, User: h.Ours.User, Command: h.Command,
		Term: h.Env["TERM"], Columns: h.Width, Rows: h.Height, Input: h.Ours.Input,
	}
}

// seconds is a duration as asciicasts have it.
type seconds time.Duration

func (s seconds) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%.6f", time.Duration(s).Seconds()), nil
}

// castEvent is an event of an asciicast.
func castEvent(at time.Duration, code, data string) []byte {
	return line([3]any{seconds(at), code, data})
}

// transcriptEvent has text where the data is UTF-8, else base64.
func transcriptEvent(at time.Duration, stream string, p []byte) []byte {
	e := struct {
		At     seconds `json:"t"`
		Stream string  `json:"stream"`
		Text   string  `json:"text,omitempty"`
		Base64 string  `json:"base64,omitempty"`
	}{At: seconds(at), Stream: stream}
	if utf8.Valid(p) {
		e.Text = string(p)
	} else {
		e.Base64 = base64.StdEncoding.EncodeToString(p)
	}
	return line(e)
}

func transcriptMark(at time.Duration, text string) []byte {
	return line(struct {
		At   seconds `json:"t"`
		Mark string  `json:"mark"`
	}{seconds(at), text})
}

func size(columns, rows uint32) string { return fmt.Sprintf("%dx%d", columns, rows) }

// line returns v as one line of JSON. Bytes that are not UTF-8 become U+FFFD.
func line(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // these types have nothing that cannot be encoded
	}
	return b.Bytes()
}

// cut returns at most limit bytes of s, and says where something is missing.
func cut(s string, limit int) string {
	const more = "…"
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-len(more)], "") + more
}
