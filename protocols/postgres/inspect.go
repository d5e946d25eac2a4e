package postgres

import (
	"strings"

	"github.com/clawpatrol/clawpatrol/proxy"
)

func normalise(sql string) string {
	if f := strings.Fields(sql); len(f) > 0 {
		return f[0]
	}
	return ""
}

// readOnlyRule is the rule that a read_only credential stands for, in the log.
const readOnlyRule = "read_only"

// summarize is a statement in the action log.
func (s *session) summarize(sql []byte) string { return normalise(string(sql)) }

func (s *session) inspect(sql string) *proxy.Refusal { return nil }
