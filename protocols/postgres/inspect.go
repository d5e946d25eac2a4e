package postgres

import (
	"fmt"
	"hash/maphash"
	"strings"
	"unicode"

	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
	"github.com/clawpatrol/clawpatrol/proxy"
)

// readOnlyRule is the rule that a read_only credential stands for, in the log.
const readOnlyRule = "read_only"

// maxInspected is how long a message is whose statement is looked into, in bytes:
// with room for what stands beside it in a Parse. What is longer is denied (I19).
const maxInspected = statement.MaxText + 4<<10

// lookAhead is how much of a statement is read for its row of the log, where it is
// not inspected, and of a Bind for its names, in bytes.
const lookAhead = 16 << 10

// maxLooking is how many statements of one registration are looked into, or wait
// for the parser, at a time: it takes one after the other, whosesoever they are.
const maxLooking = 2

// maxSummary is the action log's bound of a summary, in bytes.
const maxSummary = 512

// readOnly returns why a statement may not run under a read_only credential.
func readOnly(parser *statement.Parser) func(sql string) error {
	return func(sql string) error {
		// With an error come facts that say Unknown, which ReadOnly refuses.
		facts, err := parser.Facts(sql)
		if refusal := statement.ReadOnly(facts); refusal != nil {
			return refusal
		}
		return err
	}
}

// look inspects the statement of a message of n bytes, where that is to be done.
// What cannot be decided is denied (I19).
func (s *session) look(sql []byte, n int) *proxy.Refusal {
	if !s.inspects {
		return nil
	}
	if n > maxInspected {
		return s.denies(fmt.Sprintf("the credential is read-only: a statement of more than %d KiB cannot be looked into", statement.MaxText>>10))
	}
	select {
	case s.share.looking <- struct{}{}:
	case <-s.ctx.Done():
		return s.denies("the session has ended")
	}
	defer func() { <-s.share.looking }()
	if err := s.handler.readOnly(string(sql)); err != nil {
		return s.denies(err.Error())
	}
	return nil
}

// denies is a refusal under read_only.
func (s *session) denies(reason string) *proxy.Refusal {
	return &proxy.Refusal{Code: proxy.CodeDenied, Rule: readOnlyRule, Reason: reason}
}

// summarize is a statement in the action log: without literals, unless the
// endpoint's policy has them.
func (s *session) summarize(sql []byte) string {
	if summary, ok := s.summaries.find(sql); ok {
		return summary
	}
	text, summary := string(sql), ""
	if s.endpoint.Postgres.LogLiterals {
		summary = strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) {
				return ' '
			}
			return r
		}, text[:min(len(text), maxSummary)])
	} else {
		summary = statement.Normalise(text)
	}
	if summary == "" {
		summary = "(empty statement)"
	}
	s.summaries.keep(text, summary)
	return summary
}

// Bounds of the statements whose summaries a session remembers: most come again.
const (
	maxSummaries  = 16
	maxSummarized = 2 << 10 // bytes of one
)

// summaries remembers some statements of a session and what they are in the log.
type summaries struct {
	seed maphash.Seed // zero: nothing is kept yet
	kept [maxSummaries]struct{ text, summary string }
}

func (s *summaries) find(sql []byte) (summary string, ok bool) {
	if s.seed == (maphash.Seed{}) || len(sql) > maxSummarized {
		return "", false
	}
	k := &s.kept[maphash.Bytes(s.seed, sql)%maxSummaries]
	return k.summary, k.summary != "" && k.text == string(sql)
}

// keep takes the place of another statement.
func (s *summaries) keep(text, summary string) {
	if len(text) > maxSummarized {
		return
	}
	if s.seed == (maphash.Seed{}) {
		s.seed = maphash.MakeSeed()
	}
	k := &s.kept[maphash.String(s.seed, text)%maxSummaries]
	k.text, k.summary = text, summary
}
