package dashboard

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// Limits of a policy's text on a page. A line can have as many parts as it is long,
// and each takes more of the page than its text.
const (
	maxListing = 5000   // lines
	maxSpans   = 50_000 // parts of them
)

// listing is a policy's text on a page.
type listing struct {
	Name   string
	Masked bool
	Lines  []listedLine
	More   int // lines that are not shown
}

type listedLine struct {
	policy.Line
	Anchor string // of what is declared here: "endpoint.https.github"; empty: nothing is
	Wrong  bool   // a diagnostic is about this line
	Lately *matched
}

// matched is where to look for what a declaration did.
type matched struct {
	Link  string // to the action log
	Label string
}

// newListing lists text. wrong are the lines that diagnostics are about.
func newListing(name, text string, wrong map[int]bool) listing {
	l := listing{Name: shown(name)}
	lines := policy.Lines(text)
	spans := 0
	for i, line := range lines {
		if spans += len(line.Spans); i >= maxListing || spans > maxSpans {
			l.More = len(lines) - i
			break
		}
		for i := range line.Spans {
			line.Spans[i].Text = spelled(line.Spans[i].Text)
		}
		l.Lines = append(l.Lines, listedLine{Line: line, Wrong: wrong[line.Number]})
	}
	return l
}

// spelled is shown for text of any length, with its tabs.
func spelled(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		if s[0] == '\t' {
			b.WriteByte('\t')
			s = s[1:]
			continue
		}
		n := 0
		for end := 0; end < maxShown && n < len(s) && s[n] != '\t'; end++ {
			_, size := utf8.DecodeRuneInString(s[n:])
			n += size
		}
		b.WriteString(shown(s[:n]))
		s = s[n:]
	}
	return b.String()
}

// counts are the figures of the last 24 hours, by endpoint.
type counts struct {
	registry.Stats
	by    map[string]registry.CountedRef
	whole bool // an endpoint that is not in by had no action
}

func newCounts(s registry.Stats) counts {
	c := counts{Stats: s, by: map[string]registry.CountedRef{}, whole: s.Ready && len(s.ByEndpoint) < maxCountedRefs}
	for _, e := range s.ByEndpoint {
		c.by[e.Ref] = e
		c.whole = c.whole && e.Ref != registry.OtherRefs
	}
	return c
}

// maxCountedRefs is how many endpoints registry.Stats returns at most.
const maxCountedRefs = 100

// endpoint says what an endpoint did lately.
func (c counts) endpoint(ref string) *matched {
	m := &matched{Link: actionsLink("endpoint", ref), Label: "its actions"}
	switch n, ok := c.by[ref]; {
	case ok:
		m.Label = plural(n.Allowed+n.Denied, "action") + " in 24 hours"
		if n.Denied > 0 {
			m.Label += ", " + plural(n.Denied, "denial")
		}
	case c.whole:
		m.Label = "no action in 24 hours"
	}
	return m
}

func actionsLink(parameter, ref string) string {
	return "/actions?" + url.Values{parameter: {ref}, "since": {"24h"}}.Encode()
}
