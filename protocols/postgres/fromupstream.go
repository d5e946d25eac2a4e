package postgres

import (
	"bytes"
	"errors"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
	"github.com/clawpatrol/clawpatrol/proxy"
)

const (
	maxTag       = 64      // bytes of a command tag that are looked at
	maxErrorSeen = 8 << 10 // bytes of an error, likewise
	maxParameter = 1 << 10 // bytes of a parameter that is reported, likewise
)

// fromUpstream passes what the upstream sends, until it has gone or the agent has.
func (s *session) fromUpstream() {
	out := newStream(s.up.source, s.conn)
	ended, err := s.takeAnswers(out)
	var w *writeError
	if errors.As(err, &w) || s.left.Load() {
		s.pending.abandon("agent_gone")
		return
	}
	s.pending.abandon("upstream_lost")
	_ = s.flow.Conn.SetWriteDeadline(time.Now().Add(goodbyePatience))
	if !ended && out.whole() {
		_, _ = s.conn.Write(s.reason(err).response())
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

// takeAnswers passes messages until there are no more. ended reports whether the
// upstream's last word was that the session has ended.
func (s *session) takeAnswers(out *stream) (ended bool, err error) {
	var got int64 // bytes since the last answer
	for {
		kind, n, err := out.next()
		if err != nil {
			return ended, err
		}
		got += int64(headSize + n)
		switch kind {
		case 'C': // CommandComplete
			tag, err := out.body(min(n, maxTag))
			if err != nil {
				return ended, err
			}
			s.pending.completed(tagOf(tag), got)
			got = 0
		case 'I': // EmptyQueryResponse
			s.pending.completed("EMPTY", got)
			got = 0
		case 's': // PortalSuspended
			s.pending.completed("SUSPENDED", got)
			got = 0
		case 'G', 'W': // CopyInResponse, CopyBothResponse
			s.pending.copying()
		case 'E': // ErrorResponse
			body, err := out.body(min(n, maxErrorSeen))
			if err != nil {
				return ended, err
			}
			severity, state := errorFields(body)
			ended = severity == "FATAL" || severity == "PANIC"
			refusal := s.pending.failed(state, bytes.Contains(body, []byte(s.mark)), got)
			got = 0
			if refusal != nil {
				if err := out.remove(n, denial(refusal)); err != nil {
					return ended, err
				}
				continue
			}
		case '1', '2', '3': // ParseComplete, BindComplete, CloseComplete
			s.pending.acks.Add(1)
		case 'Z': // ReadyForQuery
			body, err := out.body(min(n, 1))
			if err != nil {
				return ended, err
			}
			idle := len(body) == 1 && body[0] == 'I'
			s.idle.Store(idle)
			if s.pending.ready(got) && idle && s.draining() {
				out.pass(n)
				_ = out.flush()
				s.end(stopping)
				return ended, nil
			}
			got = 0
		case 'S': // ParameterStatus
			if s.inspects {
				body, err := out.body(min(n, maxParameter))
				if err != nil {
					return ended, err
				}
				s.reported(body)
			}
		}
		out.pass(n)
	}
}

// denial is what the agent reads in place of the upstream's error.
func denial(r *proxy.Refusal) []byte {
	detail := ""
	if r.Rule != "" {
		detail = "rule: " + r.Rule
	}
	return errorResponse("ERROR", stateOf(r), "denied by the gateway: "+r.Reason, detail, "")
}

// reported takes note of a parameter, and ends the session where statements could
// no longer be looked into, or it is no longer read-only.
func (s *session) reported(body []byte) {
	name, rest, ok := cutString(body)
	if !ok {
		return
	}
	value, _, _ := cutString(rest)
	if string(name) == readOnlySetting && string(value) != readOnlySettingOn {
		s.end(&fatal{code: insufficientPrivilege, message: "terminating connection: " + readOnlySetting + " was turned off, and the credential is read_only"})
	}
	if statement.ChangesReading(string(name), string(value)) {
		s.end(&fatal{code: insufficientPrivilege, message: "terminating connection: under this " + string(name) + " statements cannot be looked into, and the credential is read_only"})
	}
}

// tagOf is a command tag for the log.
func tagOf(body []byte) string {
	tag, _, _ := cutString(body)
	switch string(tag) { // no allocation for the most frequent
	case "SELECT 1":
		return "SELECT 1"
	case "BEGIN":
		return "BEGIN"
	case "COMMIT":
		return "COMMIT"
	}
	return strings.ToValidUTF8(string(tag), "?")
}

// errorFields returns the severity and the SQLSTATE of an ErrorResponse.
func errorFields(body []byte) (severity, state string) {
	state = "unknown"
	for len(body) > 1 {
		kind := body[0]
		value, rest, ok := cutString(body[1:])
		if !ok {
			break
		}
		switch kind {
		case 'V', 'S':
			if severity == "" || kind == 'V' { // not localized
				severity = string(value)
			}
		case 'C':
			if len(value) == 5 {
				state = string(value)
			}
		}
		body = rest
	}
	return severity, state
}
