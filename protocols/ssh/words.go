package ssh

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/clawpatrol/clawpatrol/proxy"
)

const (
	maxBanner  = 4 << 10 // bytes of an upstream's banners that are passed on
	maxBanners = 64      // messages that they may come in
	maxSummary = 480     // bytes of a summary, of the log's 512
)

// reasonOf is what an agent is told about an error.
func reasonOf(err error) string {
	var r *proxy.Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	if errors.Is(err, errStopping) {
		return errStopping.Error()
	}
	return "the connection is no longer covered: connect again"
}

// cause is why the conversation ended, or nil.
func (c *conversation) cause() error { return context.Cause(c.ctx) }

// visible shows outside text on one line: control characters, and what is not
// UTF-8, as escapes.
func visible(s string) string {
	plain := func(r rune) bool { return unicode.IsPrint(r) && r != utf8.RuneError }
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case plain(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r == utf8.RuneError:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// summarize shows what an action is about, where more has at most half the room.
func summarize(what, text, more string) string {
	if text == "" {
		return what + more
	}
	return what + " " + fitted(text, maxSummary-len(what)-1-len(more)) + more
}

// fitted shows outside text in room bytes: of what is longer, the beginning and
// the length. An escape takes up to six times the room of what it stands for.
func fitted(text string, room int) string {
	s := visible(text[:max(0, min(len(text), room))])
	if len(s) <= room && len(text) <= room {
		return s
	}
	note := fmt.Sprintf("... (%d bytes)", len(text))
	return strings.ToValidUTF8(s[:max(0, min(len(s), room-len(note)))], "") + note
}

// banner collects what an upstream says before it lets the gateway in.
type banner struct {
	scrub *scrubber
	n     int
	text  strings.Builder
}

var errBanners = errors.New("too many banners")

// add is an xssh.BannerCallback.
func (b *banner) add(message string) error {
	if b.n++; b.n > maxBanners {
		return errBanners
	}
	if room := maxBanner - b.text.Len(); room > 0 {
		b.text.WriteString(message[:min(len(message), room)])
	}
	return nil
}

// String is what the agent may see of it: text, without what moves a terminal's
// cursor, and without the secret.
func (b *banner) String() string {
	text := b.scrub.text(b.text.String())
	text = strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, text)
	return strings.ReplaceAll(text, "\n", "\r\n")
}
