package postgres

import (
	"strings"

	"github.com/clawpatrol/clawpatrol/proxy"
)

// readOnlyRule is the rule that a read_only credential stands for, in the log.
const readOnlyRule = "read_only"

// inspect looks into a statement of a session whose credential is read_only.
// What cannot be decided is denied (I19).
func (s *session) inspect(sql string) *proxy.Refusal {
	denied := func(reason string) *proxy.Refusal {
		return &proxy.Refusal{Code: proxy.CodeDenied, Rule: readOnlyRule, Reason: reason + ": credential " + s.credential.Ref() + " is read_only"}
	}
	if s.handler.readOnly == nil {
		return denied("the gateway cannot look into statements")
	}
	if err := s.handler.readOnly(sql); err != nil {
		return denied(err.Error())
	}
	return nil
}

// summarize is a statement in the action log.
func (s *session) summarize(sql []byte) string {
	summary := normalise(string(sql))
	if summary == "" {
		return "(empty statement)"
	}
	return summary
}

func normalise(sql string) string {
	if f := strings.Fields(sql); len(f) > 0 {
		return f[0]
	}
	return ""
}
