package ssh

import (
	"errors"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/secret"
)

// errRecording ends a session that is to be recorded and cannot be any more.
var errRecording = errors.New("the recording failed")

// startRecording begins the recording of a session where the endpoint wants one.
// An SFTP session has none: the action log has what it does.
func (s *session) startRecording(kind, text string, grant *proxy.Grant) (*recording.Session, error) {
	if !s.c.endpoint.SSH.Record || kind == "subsystem" && text == sftpSubsystem {
		return nil, nil
	}
	if s.c.handler.recorder == nil {
		return nil, errors.New("the gateway keeps no recordings")
	}
	m := recording.Meta{
		Registration: string(s.c.flow.Registration),
		Endpoint:     s.c.endpoint.Ref(),
		Credential:   grant.Credential.Ref(),
		Host:         s.c.host,
		User:         s.c.upstream.user,
		Command:      text,
	}
	if s.terminal != nil {
		m.PTY, m.Term, m.Columns, m.Rows = true, s.terminal.Term, s.terminal.Columns, s.terminal.Rows
	}
	if scrub := s.c.upstream.scrub; scrub != nil {
		m.Mask = []secret.Secret{scrub.password}
	}
	return s.c.handler.recorder.Start(m)
}

// stdout returns what records standard output; nil where nothing does.
func (x *execution) stdout() func([]byte) error {
	if x.record == nil {
		return nil
	}
	return x.record.Stdout
}

// stderr is stdout's counterpart.
func (x *execution) stderr() func([]byte) error {
	if x.record == nil {
		return nil
	}
	return x.record.Stderr
}

// resize is called by another goroutine than the one that finishes.
func (x *execution) resize(w windowChange) {
	if x == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.record != nil && !x.over {
		_ = x.record.Resize(w.Columns, w.Rows) // its error comes again with the output
	}
}

func (x *execution) finishRecording(status string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
	if x.record != nil {
		_ = x.record.Finish(status) // an error has ended the session before
	}
}

// look returns what sees one stream of output before the agent does: it takes the
// password out, and hands the rest to record; nil where nothing has to.
func (s *session) look(record func([]byte) error) func([]byte) error {
	scrub := s.c.upstream.scrub.stream()
	if scrub == nil {
		return recorded(record)
	}
	record = recorded(record)
	return func(p []byte) error {
		if record != nil { // which masks better: it may hold back what comes in pieces
			if err := record(p); err != nil {
				return err
			}
		}
		scrub.pass(p)
		return nil
	}
}

func recorded(record func([]byte) error) func([]byte) error {
	if record == nil {
		return nil
	}
	return func(p []byte) error {
		if record(p) != nil {
			return errRecording
		}
		return nil
	}
}

// ended ends the session after a relay that could not be recorded (I19).
func (s *session) ended(err error) {
	if errors.Is(err, errRecording) {
		s.c.warn("a session was ended because it can no longer be recorded")
		s.say("the recording of this session failed")
		_ = s.up.Close()
	}
}
