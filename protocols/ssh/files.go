package ssh

import (
	"errors"
	"io"
	"sync/atomic"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/sftp"
)

// counted counts what is read from a side of an SFTP session, and looks through
// it.
type counted struct {
	io.Reader
	io.Writer
	count *atomic.Int64
	see   func([]byte) error // may be nil
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.see != nil && n > 0 {
		if err := c.see(p[:n]); err != nil {
			return 0, err
		}
	}
	c.count.Add(int64(n))
	return n, err
}

func (c *counted) CloseWrite() error {
	return c.Writer.(interface{ CloseWrite() error }).CloseWrite()
}

// relayFiles passes an SFTP session, and asks the Gate before each request that
// opens or changes something.
func (s *session) relayFiles(x *execution) {
	s.relayOutput(x, func() {
		agent := &counted{Reader: s.input, Writer: s.agent, count: &s.in}
		upstream := &counted{Reader: s.output, Writer: s.up, count: &s.out, see: s.look(nil)}
		if err := sftp.Relay(agent, upstream, s.decideFile); err != nil && !s.hungUp.Load() {
			if s.c.ctx.Err() == nil {
				s.c.warn("an sftp session ended", "err", err)
				s.say("the SFTP session could not be followed")
			}
			_ = s.up.Close()
		}
	})
}

// maxTarget is what the second path of a request may have of its row: the first
// has more.
const maxTarget = 200

// decideFile asks the Gate about one request. Programs that only look around make
// thousands of those: they are covered by the subsystem's row for as long as the
// flow is.
func (s *session) decideFile(a sftp.Action) error {
	if a.Op.Looks() {
		if !s.c.flow.Current() {
			return errors.New("clawpatrol: this connection is no longer covered: connect again")
		}
		return nil
	}
	more := ""
	if a.Target != "" {
		more = " to " + fitted(a.Target, maxTarget)
	}
	grant, err := s.c.authorize(summarize(sftpSubsystem+" "+string(a.Op), a.Path, more))
	if err != nil {
		return errors.New("clawpatrol: " + reasonOf(err))
	}
	grant.Finish(actionResult("passed on", 0, 0))
	return nil
}
