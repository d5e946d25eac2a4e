package sftp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var (
	errNoInit    = errors.New("session does not begin with SSH_FXP_INIT")
	errNoVersion = errors.New("answer to SSH_FXP_INIT is no SSH_FXP_VERSION")
)

// passRequests passes what the agent sends, until it ends.
func (s *session) passRequests(agent io.Reader) error {
	in := newStream(agent, s.upstream)
	defer in.release()
	err := s.passInit(in)
	for err == nil {
		err = s.passRequest(in)
	}
	if err == io.EOF {
		err = in.flush(true)
	}
	return ending("from the agent", err)
}

// passInit asks the upstream for the version that is spoken here: section 4.
func (s *session) passInit(in *stream) error {
	typ, size, err := in.next()
	if err != nil {
		return err
	}
	if typ != typeInit || size < headSize || size > maxRequest {
		return errNoInit
	}
	p, err := in.body(size)
	if err != nil {
		return err
	}
	if v := binary.BigEndian.Uint32(p[1:]); v < version {
		return fmt.Errorf("version %d is not supported", v)
	}
	return in.replace(size, finish(binary.BigEndian.AppendUint32(begin(typeInit), version)))
}

// passRequest passes one, or answers it.
func (s *session) passRequest(in *stream) error {
	typ, size, err := in.next()
	if err != nil {
		return err
	}
	if size < headSize || size > maxRequest && typ != typeWrite {
		return errSize
	}
	want := size
	if typ == typeWrite {
		want = headSize // its handle was decided on when it was opened
	}
	p, err := in.body(want)
	if err != nil {
		return err
	}
	if id := binary.BigEndian.Uint32(p[1:]); !s.handles.free(id) {
		return errSameID
	}
	if typ == typeWrite {
		return in.pass(size)
	}
	r, err := s.authorize(p)
	if refused, ok := errors.AsType[refusal](err); ok {
		if err := in.skip(size); err != nil {
			return err
		}
		return s.agent.packet(status(r.id, refused.code, refused.text))
	}
	if err != nil {
		return err
	}
	if typ == typeClose {
		f := fields{rest: p[headSize:]}
		s.handles.close(f.string())
	}
	if r.packet != nil {
		return in.replace(size, r.packet)
	}
	return in.pass(size)
}

// authorize returns a request that may be sent.
func (s *session) authorize(p []byte) (request, error) {
	r, err := parse(p, &s.handles)
	if err != nil || r.action.Op == "" {
		return r, err
	}
	if s.decide == nil {
		return r, refusal{codePermissionDenied, "nothing decides what may be done"}
	}
	if err := s.decide(r.action); err != nil {
		return r, refusal{codePermissionDenied, err.Error()}
	}
	if r.opens {
		if err := s.handles.ask(r.id, r.action.Path); err != nil {
			return r, refusal{codeFailure, err.Error()}
		}
	}
	return r, nil
}

// passReplies passes what the upstream sends, until it ends.
func (s *session) passReplies(upstream io.Reader) error {
	in := newStream(upstream, s.agent)
	defer in.release()
	err := s.passVersion(in)
	for err == nil {
		err = s.passReply(in)
	}
	if err == io.EOF {
		err = in.flush(true)
	}
	return ending("from the upstream", err)
}

// passVersion passes the answer to SSH_FXP_INIT, without the extensions that
// would be refused.
func (s *session) passVersion(in *stream) error {
	typ, size, err := in.next()
	if err != nil {
		return err
	}
	if typ != typeVersion || size < headSize || size > maxRequest {
		return errNoVersion
	}
	p, err := in.body(size)
	if err != nil {
		return err
	}
	f := fields{rest: p[1:]}
	if v := f.uint32(); v != version {
		return fmt.Errorf("version %d is not supported", v)
	}
	out := binary.BigEndian.AppendUint32(begin(typeVersion), version)
	for len(f.rest) > 0 {
		name, data := f.string(), f.string()
		if _, known := extensions[string(name)]; known && f.err == nil {
			out = appendString(appendString(out, name), data)
		}
	}
	if f.err != nil {
		return f.err
	}
	return in.replace(size, finish(out))
}

// passReply passes one reply, and notes what handles are for.
func (s *session) passReply(in *stream) error {
	typ, size, err := in.next()
	if err != nil {
		return err
	}
	if size < headSize {
		return errSize
	}
	if typ == typeHandle && size > headSize+lengthSize+maxHandle {
		return errSize
	}
	if typ != typeHandle && typ != typeStatus {
		return in.pass(size)
	}
	want := headSize
	if typ == typeHandle {
		want = size
	}
	p, err := in.body(want)
	if err != nil {
		return err
	}
	f := fields{rest: p[1:]}
	id := f.uint32()
	var handle []byte
	if typ == typeHandle {
		handle = f.string()
	}
	if f.err != nil {
		return f.err
	}
	s.handles.answer(id, handle)
	return in.pass(size)
}
