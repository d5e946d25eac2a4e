package policy

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

// maxDiagnostics bounds what one compilation reports.
const maxDiagnostics = 100

// privateKeyMark stands in the first line of every private key in PEM form (RFC
// 7468, sections 10 and 11) and in OpenSSH's.
const privateKeyMark = "PRIVATE KEY"

// hideRestOfLine marks a diagnostic whose source line is shown only up to the
// end of its subject.
type hideRestOfLine struct{}

// hideLine marks one whose source line is not shown at all.
type hideLine struct{}

func (c *compiler) report(d *hcl.Diagnostic) {
	if len(c.diags) < maxDiagnostics {
		d.Detail = Mask(d.Detail) // it may quote what was pasted in the wrong place
		c.diags = append(c.diags, d)
	}
}

func (c *compiler) errorf(rng hcl.Range, summary, detail string, args ...any) {
	c.report(&hcl.Diagnostic{
		Severity: hcl.DiagError,
		Summary:  summary,
		Detail:   fmt.Sprintf(detail, args...),
		Subject:  &rng,
	})
}

// invalid reports a value that was read but makes no sense. The error's text is
// a sentence but for its capital and its full stop.
func (c *compiler) invalid(rng hcl.Range, attribute string, err error) {
	text := err.Error()
	first, _, _ := strings.Cut(text, " ")
	if strings.Trim(first, "abcdefghijklmnopqrstuvwxyz") == "" { // a word, and no address or name
		text = strings.ToUpper(text[:1]) + text[1:]
	}
	if last := text[len(text)-1]; last != '?' && last != '.' {
		text += "."
	}
	c.errorf(rng, "Invalid "+attribute, "%s", text)
}

// duplicate reports that what stands at again stood at first already.
func (c *compiler) duplicate(again, first hcl.Range, summary, detail string) {
	c.errorf(again, summary, "%s; the first is at %s:%d.", detail, first.Filename, first.Start.Line)
}

// DiagnosticsError is a policy that does not compile. Its text is every
// diagnostic with file and line, the line itself and a caret under the place.
type DiagnosticsError struct {
	Diagnostics hcl.Diagnostics
	source      []byte // through Mask
}

// NewDiagnosticsError returns the error for what Compile said about src.
func NewDiagnosticsError(diags hcl.Diagnostics, src []byte) *DiagnosticsError {
	return &DiagnosticsError{Diagnostics: diags, source: []byte(Mask(string(src)))}
}

// Summary says in one short phrase how many errors there are: "2 errors".
func (e *DiagnosticsError) Summary() string {
	n := 0
	for _, d := range e.Diagnostics {
		if d.Severity == hcl.DiagError {
			n++
		}
	}
	if n == 1 {
		return "1 error"
	}
	return fmt.Sprintf("%d errors", n)
}

func (e *DiagnosticsError) Error() string {
	var b strings.Builder
	for i, d := range e.Diagnostics {
		if i > 0 {
			b.WriteByte('\n')
		}
		e.render(&b, d)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// render writes one diagnostic:
//
//	gateway.hcl:3:3: Unknown attribute
//	  3 |   host = …
//	    |   ^^^^
//	  An "https" endpoint has no attribute "host". Did you mean "hosts"?
func (e *DiagnosticsError) render(b *strings.Builder, d *hcl.Diagnostic) {
	if d.Subject == nil {
		fmt.Fprintf(b, "%s\n", d.Summary)
	} else {
		fmt.Fprintf(b, "%s:%d:%d: %s\n", d.Subject.Filename, d.Subject.Start.Line, d.Subject.Start.Column, d.Summary)
		_, hide := d.Extra.(hideRestOfLine)
		_, secret := d.Extra.(hideLine)
		if line, caret, ok := snippet(e.source, *d.Subject, hide); ok && !secret {
			number := fmt.Sprint(d.Subject.Start.Line)
			fmt.Fprintf(b, "  %s | %s\n", number, line)
			fmt.Fprintf(b, "  %s | %s\n", strings.Repeat(" ", len(number)), caret)
		}
	}
	if d.Detail != "" {
		fmt.Fprintf(b, "  %s\n", strings.ReplaceAll(d.Detail, "\n", "\n  "))
	}
}

// snippet returns the line a range begins on and the carets under it, or false
// where that line is not to be shown. Of a long line only what surrounds the range
// is shown. Characters a terminal would obey come out as U+FFFD.
func snippet(src []byte, rng hcl.Range, hideRest bool) (line, caret string, ok bool) {
	const before, after = 60, 100 // bytes of context

	at := rng.Start.Byte
	if at < 0 || at > len(src) || len(src) == 0 {
		return "", "", false
	}
	begin := bytes.LastIndexByte(src[:at], '\n') + 1
	end := len(src)
	if i := bytes.IndexByte(src[at:], '\n'); i >= 0 {
		end = at + i
	}
	// A private key that was pasted here is not repeated into a terminal or a log,
	// whichever mistake on its line is told of.
	if bytes.Contains(src[begin:end], []byte(privateKeyMark)) {
		return "", "", false
	}
	stop := min(max(rng.End.Byte, at), end)

	prefix, marked, suffix := src[begin:at], src[at:stop], src[stop:end]
	lead, tail := "", ""
	if len(prefix) > before {
		lead, prefix = "…", prefix[len(prefix)-before:]
	}
	if len(marked) > after {
		marked, suffix, tail = marked[:after], nil, "…"
	}
	switch {
	case hideRest && len(bytes.TrimSpace(suffix)) > 0:
		suffix, tail = []byte(" = "), "…"
	case len(suffix) > after:
		suffix, tail = suffix[:after], "…"
	}

	p, m := printable(prefix), printable(marked)
	line = strings.TrimRightFunc(lead+p+m+printable(suffix)+tail, unicode.IsSpace)
	indent := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, lead+p)
	return line, indent + strings.Repeat("^", max(1, utf8.RuneCountInString(m))), true
}

func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		if r == '\r' {
			return -1
		}
		return utf8.RuneError
	}, string(b))
}
