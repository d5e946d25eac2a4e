package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols/postgres/statement"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// session is an agent that has been let in, and its connection upstream.
//
// Two goroutines own it: one reads the agent, decides and writes upstream, the
// other reads the upstream and writes to the agent. What is in flight between
// them is in pending.
type session struct {
	*conversation
	credential *policy.Credential
	version    uint64 // of its secret
	up         *upstream
	key        cancelKey // that the agent was told
	inspects   bool      // statements are looked into
	mark       string    // that stands in what is sent upstream for what is denied
	pending    pending
	idle       atomic.Bool // the last the upstream said is that it is ready, outside a transaction
	left       atomic.Bool // the agent has gone by itself

	names     names     // of the agent's goroutine
	summaries summaries // likewise

	choose func([]*policy.Credential) *policy.Credential // same, bound once

	mu  sync.Mutex
	why *fatal // why the gateway ends the session; guarded by mu
}

func newSession(c *conversation, up *upstream, grant *proxy.Grant) *session {
	s := &session{conversation: c, credential: grant.Credential, version: grant.Version, up: up, inspects: grant.Credential.ReadOnly}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	s.mark = "clawpatrol_denied_" + hex.EncodeToString(random[:])
	s.choose = s.same
	s.pending.init()
	s.idle.Store(up.status == 'I')
	return s
}

// run passes what both sides send until one of them has gone.
func (s *session) run() {
	defer s.handler.keys.remove(s)
	defer context.AfterFunc(s.ctx, func() {
		s.end(&fatal{code: adminShutdown, message: "terminating connection: the gateway is stopping, or no longer lets this session go on"})
	})()
	ended := make(chan struct{})
	var tasks sync.WaitGroup
	tasks.Go(func() {
		defer s.contain()
		s.watchDrain(ended)
	})
	tasks.Go(func() {
		defer s.contain()
		s.fromAgent()
	})
	func() {
		defer s.contain()
		s.fromUpstream()
	}()
	close(ended)
	s.up.close()
	s.pending.close()
	_ = s.flow.Conn.SetReadDeadline(time.Now().Add(goodbyePatience)) // for the agent to take the last, and close
	tasks.Wait()
	_ = s.conn.Close()
	s.pending.abandon("lost")
}

// contain is deferred where a goroutine of the session begins.
func (s *session) contain() {
	if r := recover(); r != nil {
		s.panicked(r)
	}
}

// end ends the session from the gateway's side; the agent is told why, as far as
// it listens. The first reason counts.
func (s *session) end(why *fatal) {
	s.mu.Lock()
	if s.why == nil {
		s.why = why
	}
	s.mu.Unlock()
	_ = s.flow.Conn.SetWriteDeadline(time.Now().Add(goodbyePatience))
	s.up.close()
	s.pending.close()
}

// reason is why the session has ended, for the agent. err is what the upstream's
// side met.
func (s *session) reason(err error) *fatal {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.why != nil:
		return s.why
	case errors.Is(err, errShort), errors.Is(err, errLong):
		return &fatal{code: protocolViolation, message: s.host + " sent what is no message of PostgreSQL's protocol"}
	}
	return &fatal{code: connectionFailure, message: "the connection to " + s.host + " was lost"}
}

// watchDrain ends an idle session when the gateway begins to stop; one that is
// busy ends when it is ready again (fromUpstream).
func (s *session) watchDrain(ended <-chan struct{}) {
	select {
	case <-s.flow.Draining():
		if s.idle.Load() && s.pending.empty() {
			s.end(stopping)
		}
	case <-ended:
	}
}

var stopping = &fatal{code: adminShutdown, message: "terminating connection: the gateway is stopping"}

// same chooses the session's own credential again.
func (s *session) same(of []*policy.Credential) *policy.Credential {
	for _, c := range of {
		if c.Ref() == s.credential.Ref() {
			return c
		}
	}
	return nil
}

// covers reports whether a grant is for what the session logged in with.
func (s *session) covers(g *proxy.Grant) bool {
	same := g.Credential == s.credential || g.Credential.Ref() == s.credential.Ref() && g.Credential.Fingerprint == s.credential.Fingerprint
	return same && g.Version == s.version
}

// readable reports whether statements mean to the server what they mean to a
// reader of their bytes, by what it reported of its session.
func (s *session) readable() bool {
	for _, name := range [...]string{"client_encoding", "standard_conforming_strings"} { // not reported is not known
		if statement.ChangesReading(name, s.up.server[name]) {
			return false
		}
	}
	return true
}

// readOnlySetting is what keeps a session from writing. A server reports it since
// PostgreSQL 14 (GUC_REPORT in src/backend/utils/misc/guc.c).
const (
	readOnlySetting   = "default_transaction_read_only"
	reportsItSince    = 14
	readOnlySettingOn = "on"
)

// readOnlyUpstream reports whether the session is read-only there, as far as the
// server says: a pooler may have dropped the startup parameter.
func (s *session) readOnlyUpstream() bool {
	value, reported := s.up.server[readOnlySetting]
	if reported {
		return value == readOnlySettingOn
	}
	version := s.up.server["server_version"]
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(version)
	}
	major, err := strconv.Atoi(version[:end])
	return err == nil && major < reportsItSince
}

// authorize asks the Gate for one statement.
func (s *session) authorize(summary string) (*proxy.Grant, *proxy.Refusal) {
	grant, err := s.flow.Authorize(s.ctx, proxy.Action{Summary: summary, Choose: s.choose})
	if err != nil {
		var r *proxy.Refusal
		if errors.As(err, &r) {
			return nil, r
		}
		return nil, &proxy.Refusal{Code: proxy.CodePolicyChanged, Reason: "the session is no longer covered: connect again"}
	}
	if !s.covers(grant) {
		grant.Finish(registry.ActionResult{Status: proxy.CodePolicyChanged})
		r := &proxy.Refusal{Code: proxy.CodePolicyChanged, Reason: "the credential has changed: connect again"}
		s.end(&fatal{code: adminShutdown, message: "terminating connection: " + r.Reason})
		return nil, r
	}
	return grant, nil
}

// sayGoodbye tells the upstream that the agent has gone.
func (s *session) sayGoodbye() {
	_ = s.up.conn.SetWriteDeadline(time.Now().Add(goodbyePatience))
	_, _ = s.up.conn.Write([]byte{'X', 0, 0, 0, 4})
}
