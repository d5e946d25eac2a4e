package postgres

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/clawpatrol/clawpatrol/proxy"
)

// fromAgent passes what the agent sends, until it has gone or the session has
// ended.
func (s *session) fromAgent() {
	in := newStream(s.conn, s.up.conn)
	err := s.takeRequests(in)
	var f *fatal
	var w *writeError
	switch {
	case errors.As(err, &f):
		s.end(f)
		s.drain()
	case errors.Is(err, errShort), errors.Is(err, errLong):
		s.end(&fatal{code: protocolViolation, message: "invalid message length"})
		s.drain()
	case errors.As(err, &w), errors.Is(err, errEnded): // fromUpstream says why
		_ = s.up.conn.SetReadDeadline(time.Now().Add(goodbyePatience))
		s.drain()
	default:
		s.left.Store(true)
		_ = s.flow.Conn.SetWriteDeadline(time.Now().Add(goodbyePatience))
		if err != nil && in.whole() {
			s.sayGoodbye()
		}
		s.up.close()
	}
}

// drain takes what the agent still sends: a close with unread input would be a
// reset, and take with it what the agent has been told.
func (s *session) drain() {
	_ = s.flow.Conn.SetReadDeadline(time.Now().Add(goodbyePatience))
	_, _ = io.Copy(io.Discard, s.conn)
}

// takeRequests passes messages until there are no more: nil after a Terminate.
func (s *session) takeRequests(in *stream) error {
	skipping := false  // until a Sync: something was denied
	var extended int64 // bytes of what belongs to the next Execute
	for {
		kind, n, err := in.next()
		if err != nil {
			return err
		}
		if skipping && kind != 'S' && kind != 'X' {
			if err := in.remove(n, nil); err != nil {
				return err
			}
			continue
		}
		var denied *proxy.Refusal
		ignored := false // by the upstream, after an error
		switch kind {
		case 'Q', 'P', 'B', 'E', 'F', 'C':
			ignored = s.names.settle(s.pending.answered())
		}
		switch kind {
		case 'Q':
			err = s.query(in, n)
		case 'P':
			denied, err = s.parse(in, n, ignored)
		case 'B':
			err = s.bind(in, n, ignored)
		case 'E':
			denied, err = s.execute(in, n, extended)
			extended = -int64(headSize + n)
		case 'F':
			err = s.call(in, n)
		case 'C':
			err = s.forget(in, n, ignored)
		case 'S':
			skipping = false
			err = s.push(in, request{kind: asksSync})
			s.names.boundary()
			in.pass(n)
		case 'c', 'f': // CopyDone, CopyFail
			s.pending.add(int64(headSize + n))
			err = s.push(in, request{kind: endsCopyData})
			in.pass(n)
		case 'd': // CopyData
			s.pending.add(int64(headSize + n))
			in.pass(n)
		case 'D', 'H': // Describe, Flush
			in.pass(n)
		case 'X': // Terminate
			s.left.Store(true) // first: its answer is the end of the connection
			in.pass(n)
			return in.flush()
		default:
			return &fatal{code: protocolViolation, message: fmt.Sprintf("invalid frontend message type %d", kind)}
		}
		if err != nil {
			return err
		}
		if kind == 'Q' || kind == 'F' {
			s.names.boundary()
		}
		extended += int64(headSize + n)
		skipping = skipping || denied != nil
	}
}

// push adds a request to what is pending. What has been passed is on its way
// before it waits for room.
func (s *session) push(in *stream, r request) error {
	if !s.pending.push(r, func() { _ = in.flush() }) {
		return errEnded
	}
	return nil
}

var errEnded = errors.New("the session has ended")

// query decides on a simple query.
func (s *session) query(in *stream, n int) error {
	text, err := s.text(in, n)
	if err != nil {
		return err
	}
	statement, _, ended := cutString(text)
	if s.inspects && !ended && n <= maxInspected {
		return errMalformed
	}
	summary := s.summarize(statement)
	refusal := s.look(statement, n)
	if refusal != nil {
		s.flow.Refuse(s.ctx, summary, refusal)
		return s.denyQuery(in, n, refusal)
	}
	grant, refusal := s.authorize(summary)
	if refusal != nil {
		return s.denyQuery(in, n, refusal)
	}
	if err := s.push(in, request{kind: asksQuery, grant: grant, sent: int64(headSize + n)}); err != nil {
		return err
	}
	in.pass(n)
	return nil
}

// denyQuery puts a statement that fails in the place of one that is denied. So
// the upstream itself says when, and a transaction is aborted as if it had denied
// the statement; fromUpstream exchanges the error.
func (s *session) denyQuery(in *stream, n int, r *proxy.Refusal) error {
	if err := s.push(in, request{kind: asksQuery, denied: r}); err != nil {
		return err
	}
	failing, err := (&pgproto3.Query{String: s.mark}).Encode(nil)
	if err != nil {
		return err
	}
	return in.remove(n, failing)
}

// denyExtended does the same in the extended protocol, where the upstream then
// skips everything until a Sync, and so does takeRequests. A Parse that fails
// drops the unnamed statement where it has no name (exec_parse_message in
// src/backend/tcop/postgres.c), and nothing where it has.
func (s *session) denyExtended(in *stream, n int, name string, r *proxy.Refusal) error {
	if err := s.push(in, request{kind: asksNothing, denied: r}); err != nil {
		return err
	}
	failing, err := (&pgproto3.Parse{Name: name, Query: s.mark}).Encode(nil)
	if err != nil {
		return err
	}
	return in.remove(n, failing)
}

// parse decides on a statement that is prepared. Preparing is no action; each
// Execute is one.
func (s *session) parse(in *stream, n int, ignored bool) (denied *proxy.Refusal, err error) {
	body, err := s.text(in, n)
	if err != nil {
		return nil, err
	}
	name, rest, named := cutString(body)
	statement, _, ended := cutString(rest)
	if s.inspects && !(named && ended) && n <= maxInspected {
		return nil, errMalformed
	}
	summary := s.summarize(statement)
	if refusal := s.look(statement, n); refusal != nil {
		s.flow.Refuse(s.ctx, summary, refusal)
		if len(name) > 0 {
			return refusal, s.denyExtended(in, n, s.mark, refusal)
		}
		s.names.prepared(nil, "")
		return refusal, s.denyExtended(in, n, "", refusal)
	}
	if !named {
		summary = "" // the upstream cuts the name
	}
	if !ignored {
		s.names.prepared(name, summary)
	}
	in.pass(n)
	return nil, nil
}

// bind remembers what a portal stands for.
func (s *session) bind(in *stream, n int, ignored bool) error {
	body, err := in.body(min(n, lookAhead))
	if err != nil {
		return err
	}
	portal, rest, _ := cutString(body)
	statement, _, ok := cutString(rest)
	if !ok && len(statement) < nameLength { // its end is not in sight
		statement = nil
	}
	if !ignored {
		s.names.bound(portal, statement)
	}
	in.pass(n)
	return nil
}

// execute decides on one execution of a portal.
func (s *session) execute(in *stream, n int, before int64) (denied *proxy.Refusal, err error) {
	body, err := in.body(min(n, lookAhead))
	if err != nil {
		return nil, err
	}
	portal, _, _ := cutString(body)
	grant, refusal := s.authorize(s.names.summary(portal))
	if refusal != nil {
		return refusal, s.denyExtended(in, n, s.mark, refusal)
	}
	if err := s.push(in, request{kind: asksExecute, grant: grant, sent: before + int64(headSize+n)}); err != nil {
		return nil, err
	}
	in.pass(n)
	return nil, nil
}

// call decides on a function call by number, as libpq makes for large objects.
func (s *session) call(in *stream, n int) error {
	body, err := in.body(min(n, 4))
	if err != nil {
		return err
	}
	summary := "function call"
	if len(body) == 4 {
		summary = fmt.Sprintf("function call %d", binary.BigEndian.Uint32(body))
	}
	if s.inspects {
		refusal := s.denies("the credential is read-only: a function called by its number cannot be looked into")
		s.flow.Refuse(s.ctx, summary, refusal)
		return s.denyQuery(in, n, refusal)
	}
	grant, refusal := s.authorize(summary)
	if refusal != nil {
		return s.denyQuery(in, n, refusal)
	}
	if err := s.push(in, request{kind: asksCall, grant: grant, sent: int64(headSize + n)}); err != nil {
		return err
	}
	in.pass(n)
	return nil
}

// forget takes out a statement or portal that is closed.
func (s *session) forget(in *stream, n int, ignored bool) error {
	body, err := in.body(min(n, lookAhead))
	if err != nil {
		return err
	}
	if len(body) > 0 && !ignored {
		name, _, _ := cutString(body[1:])
		s.names.closed(body[0], name)
	}
	in.pass(n)
	return nil
}

// text returns as much of a message with a statement as is looked at: all of it
// where statements are inspected and it is not too long, else its beginning.
func (s *session) text(in *stream, n int) ([]byte, error) {
	if s.inspects && n <= maxInspected {
		return in.body(n)
	}
	return in.body(min(n, lookAhead))
}

var errMalformed = &fatal{code: protocolViolation, message: "invalid string in message"}

// cutString cuts a string off a message. Where its end is missing, it is all there
// is.
func cutString(body []byte) (text, rest []byte, ok bool) { return bytes.Cut(body, []byte{0}) }
