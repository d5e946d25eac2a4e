package policy

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Line is one line of a policy's text, in parts.
type Line struct {
	Number int // from 1
	Spans  []Span
}

// Span is a part of a line, all of one kind. A line's spans make up the line,
// without its end.
type Span struct {
	Kind string // "block", "attribute", "string", "number", "word", "reference", "comment"; "": nothing in particular
	Text string
}

// Lines cuts a policy's text into lines and says what stands in them. Text that
// Compile would not let HCL's scanner see comes in lines of one span.
func Lines(text string) []Line {
	w := &lineWriter{text: text, lines: []Line{{Number: 1}}}
	src := []byte(text)
	if _, why := scanPlain(src); why != "" || !utf8.Valid(src) || len(src) > MaxFile {
		w.write("", len(text))
		return w.lines
	}
	tokens, _ := hclsyntax.LexConfig(src, "", hcl.InitialPos)
	first := true
	for i, t := range tokens {
		from, to := t.Range.Start.Byte, t.Range.End.Byte
		if from < w.at || to > len(src) {
			continue
		}
		w.write("", from)
		w.write(kindOf(tokens, i, first), to)
		// What a block or an attribute begins with stands first on its line or
		// behind a brace.
		switch t.Type {
		case hclsyntax.TokenNewline, hclsyntax.TokenComment, hclsyntax.TokenOBrace:
			first = true
		default:
			first = false
		}
	}
	w.write("", len(text))
	return w.lines
}

func kindOf(tokens hclsyntax.Tokens, i int, first bool) string {
	switch t := tokens[i]; t.Type {
	case hclsyntax.TokenComment:
		return "comment"
	case hclsyntax.TokenOQuote, hclsyntax.TokenQuotedLit, hclsyntax.TokenCQuote:
		return "string"
	case hclsyntax.TokenNumberLit:
		return "number"
	case hclsyntax.TokenDot:
		return "reference"
	case hclsyntax.TokenIdent:
		switch {
		case i+1 < len(tokens) && tokens[i+1].Type == hclsyntax.TokenEqual:
			return "attribute"
		case first:
			return "block"
		case bytes.Equal(t.Bytes, []byte("true")) || bytes.Equal(t.Bytes, []byte("false")):
			return "word"
		}
		return "reference"
	}
	return ""
}

// lineWriter cuts text into lines. What it is told comes without gaps.
type lineWriter struct {
	text  string
	at    int // of text, what has been written
	lines []Line

	from int // where the last span of the last line begins
}

// write says of what kind the text up to an offset is.
func (w *lineWriter) write(kind string, to int) {
	for {
		end, after := to, to
		if i := strings.IndexByte(w.text[w.at:to], '\n'); i >= 0 {
			end, after = w.at+i, w.at+i+1
			if end > w.at && w.text[end-1] == '\r' {
				end--
			}
		}
		last := &w.lines[len(w.lines)-1]
		if n := len(last.Spans); n > 0 && last.Spans[n-1].Kind == kind {
			last.Spans[n-1].Text = w.text[w.from:end]
		} else if end > w.at {
			w.from = w.at
			last.Spans = append(last.Spans, Span{kind, w.text[w.from:end]})
		}
		w.at = after
		if after == end {
			return
		}
		w.lines = append(w.lines, Line{Number: last.Number + 1})
	}
}
