package ssh

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/proxy"
)

const (
	// exitPatience is how long an exit status waits for the output before it. What
	// a command left running may hold its output open for ever.
	exitPatience = 100 * time.Millisecond

	// lossPatience is how long the end of a channel may be ahead of the news that
	// the whole connection has ended.
	lossPatience = 50 * time.Millisecond

	// deniedStatus is the exit status of what was not allowed, as ssh's own for
	// what went wrong on the way.
	deniedStatus = 255

	maxExtras       = 160  // bytes of a summary for what goes with a command
	maxSignalText   = 1024 // bytes of an exit-signal's message
	sftpSubsystem   = "sftp"
	agentForwarding = "auth-agent-req@openssh.com"
)

// session is one session channel and its counterpart upstream.
//
// Two goroutines own it: one takes the agent's requests, in order, the other the
// upstream's. What both use is atomic, or closed when it is ready.
type session struct {
	c     *conversation
	agent *agentChannel
	up    xssh.Channel

	input, output, errors *stream // from the agent, and from the upstream

	// Of the goroutine with the agent's requests.
	terminal *ptyRequest
	env      []string // variables set
	refused  []string // what was asked for and not passed on

	running atomic.Pointer[execution] // the exec, shell or subsystem; a session has one
	hungUp  atomic.Bool               // the agent closed the channel
	over    chan struct{}             // closed when the agent's channel has been
	in, out atomic.Int64              // bytes from and to the agent
}

// execution is a command, a shell or a subsystem from when it is asked for.
type execution struct {
	ready   chan struct{} // closed when it runs, or failed to
	outputs chan struct{} // closed when its output has ended; nil where it failed
	grant   *proxy.Grant
	record  *recording.Session // nil: not recorded

	mu   sync.Mutex
	over bool // of the recording; guarded by mu
}

// serveSession serves one session channel until both sides have closed it. The
// upstream's is opened first: where there is none, the agent gets none.
func (c *conversation) serveSession(opened xssh.NewChannel) {
	up, upRequests, err := c.upstream.conn.OpenChannel("session", nil)
	if err != nil {
		reason, status := c.openFailed(err)
		_ = opened.Reject(reason, "clawpatrol: "+openWords[status])
		return
	}
	agent, agentRequests, err := opened.Accept()
	if err != nil {
		_ = up.Close()
		drain(upRequests)
		return
	}
	s := &session{c: c, agent: &agentChannel{Channel: agent}, up: up, over: make(chan struct{})}
	s.input, s.output, s.errors = c.inbound.follow(agent), c.upstream.outbound.follow(up), c.upstream.outbound.follow(up.Stderr())
	defer s.input.leave()
	defer s.output.leave()
	defer s.errors.leave()
	none := c.inbound.follow(agent.Stderr())
	defer none.leave()
	var both sync.WaitGroup
	both.Go(none.skim)
	both.Go(func() {
		defer c.contain()
		for r := range agentRequests {
			s.fromAgent(r)
		}
		s.hungUp.Store(true)
		_ = s.up.Close()
	})
	both.Go(func() {
		defer c.contain()
		s.followUpstream(upRequests)
	})
	both.Wait()
}

// fromAgent passes on one request, or refuses it.
func (s *session) fromAgent(r *xssh.Request) {
	switch r.Type {
	case "exec", "shell", "subsystem":
		s.start(r)
	case "pty-req":
		s.allocate(r)
	case "env":
		s.setEnv(r)
	case "window-change":
		var w windowChange
		if s.forward(r, &w) {
			s.running.Load().resize(w)
		}
	case "signal":
		var signal signalRequest
		s.forward(r, &signal)
	case "break":
		var b breakRequest
		s.forward(r, &b)
	case "eow@openssh.com": // the agent reads no more output
		s.forward(r, &struct{}{})
	case keepAliveRequest:
		s.reply(r, true)
	default: // agent forwarding, x11 and whatever else there may be
		s.refuse(r.Type[:min(len(r.Type), maxName)])
		s.reply(r, false)
	}
}

func (s *session) reply(r *xssh.Request, ok bool) {
	if r.WantReply {
		_ = r.Reply(ok, nil)
	}
}

// refuse remembers for the log what was not passed on.
func (s *session) refuse(what string) {
	if len(s.refused) < maxEnv && !slices.Contains(s.refused, what) {
		s.refused = append(s.refused, what)
	}
}

// forward passes on a request whose payload has the form of v.
func (s *session) forward(r *xssh.Request, v any) bool {
	if len(r.Payload) > 0 || r.Type != "eow@openssh.com" {
		if parse(r.Payload, maxRequest, v) != nil {
			s.reply(r, false)
			return false
		}
	}
	ok, err := s.up.SendRequest(r.Type, r.WantReply, r.Payload)
	s.reply(r, ok && err == nil)
	return err == nil && (ok || !r.WantReply)
}

// allocate asks the upstream for a terminal.
func (s *session) allocate(r *xssh.Request) {
	var pty ptyRequest
	if s.running.Load() != nil || s.terminal != nil || parse(r.Payload, maxRequest, &pty) != nil || len(pty.Term) > maxName {
		s.reply(r, false)
		return
	}
	if s.forward(r, &pty) {
		s.terminal = &pty
	}
}

// setEnv passes on a variable that agents may set.
func (s *session) setEnv(r *xssh.Request) {
	e, err := parseEnv(r.Payload)
	if err != nil || s.running.Load() != nil || len(s.env) == maxEnv {
		s.reply(r, false)
		return
	}
	if !mayEnv(s.c.endpoint.SSH.Env, e.Name) {
		s.refuse("env " + e.Name)
		s.reply(r, false)
		return
	}
	if s.forward(r, &envRequest{}) {
		s.env = append(s.env, e.Name)
	}
}

// start begins what the session is for, once the Gate has allowed it.
func (s *session) start(r *xssh.Request) {
	if s.running.Load() != nil {
		s.reply(r, false)
		return
	}
	text := ""
	if r.Type != "shell" {
		var err error
		if text, err = parseCommand(r.Payload); err != nil {
			s.c.refuse(r.Type, err.Error())
			s.deny(r, err.Error())
			return
		}
	}
	if s.c.draining() {
		s.deny(r, errStopping.Error())
		return
	}
	grant, err := s.c.authorize(summarize(r.Type, text, s.extras()))
	if err != nil {
		s.deny(r, reasonOf(err))
		return
	}
	record, err := s.startRecording(r.Type, text, grant)
	if err != nil {
		grant.Finish(actionResult("not_recorded", 0, 0))
		s.c.warn("a session was refused because it cannot be recorded", "err", err)
		s.deny(r, "sessions here are recorded, and this one cannot be")
		return
	}
	x := &execution{ready: make(chan struct{}), grant: grant, record: record}
	s.running.Store(x)
	defer close(x.ready)
	var payload []byte
	if r.Type != "shell" {
		payload = xssh.Marshal(execRequest{text})
	}
	if ok, err := s.up.SendRequest(r.Type, true, payload); err != nil || !ok {
		grant.Finish(actionResult("upstream_refused", 0, 0))
		s.reply(r, false)
		return
	}
	s.reply(r, true)
	x.outputs = make(chan struct{})
	if r.Type == "subsystem" && text == sftpSubsystem {
		s.relayFiles(x)
	} else {
		s.relayStreams(x)
	}
}

// relayStreams passes what goes in and what comes out, as it comes.
func (s *session) relayStreams(x *execution) {
	s.c.run(func() {
		if relay(s.up, s.input, &s.in, nil) == nil && !s.hungUp.Load() {
			_ = s.up.CloseWrite()
		}
	})
	s.relayOutput(x, func() {
		s.ended(relay(s.agent, s.output, &s.out, s.look(x.stdout())))
	})
}

// relayOutput passes standard error, and by main the rest, and closes x.outputs.
func (s *session) relayOutput(x *execution, main func()) {
	var streams sync.WaitGroup
	streams.Go(func() {
		defer s.c.contain()
		main()
	})
	streams.Go(func() {
		defer s.c.contain()
		s.ended(relay(errWriter{s.agent}, s.errors, &s.out, s.look(x.stderr())))
	})
	s.c.run(func() {
		streams.Wait()
		close(x.outputs)
		// Nothing can be said any more once the end has been sent, and the end of
		// output may be that of the whole connection.
		select {
		case <-s.over:
		case <-s.c.lost:
		case <-time.After(lossPatience):
			_ = s.agent.CloseWrite()
		}
	})
}

// followUpstream passes on what the upstream says of its channel, and its end.
func (s *session) followUpstream(requests <-chan *xssh.Request) {
	status := ""
	for r := range requests {
		x := s.running.Load()
		if x == nil || status != "" && r.Type != "eow@openssh.com" {
			s.reply(r, r.Type == keepAliveRequest)
			continue
		}
		<-x.ready
		switch r.Type {
		case "exit-status", "exit-signal":
			status = s.exit(x, r)
		case "xon-xoff", "eow@openssh.com":
			if len(r.Payload) <= maxName {
				_, _ = s.agent.SendRequest(r.Type, false, r.Payload)
			}
			s.reply(r, false)
		default:
			s.reply(r, r.Type == keepAliveRequest)
		}
	}
	x := s.running.Load()
	if x != nil {
		<-x.ready
		if x.outputs != nil {
			<-x.outputs
		}
	}
	if status == "" {
		status = s.endedWithout()
	}
	if x != nil {
		x.grant.Finish(actionResult(status, s.in.Load(), s.out.Load()))
		x.finishRecording(status)
	}
	close(s.over)
	_ = s.agent.CloseWrite()
	_ = s.agent.Close()
}

// exit passes on how the command ended, behind its output, and returns that for
// the log.
func (s *session) exit(x *execution, r *xssh.Request) (status string) {
	payload := r.Payload
	var code exitStatus
	var signal exitSignal
	switch {
	case r.Type == "exit-status" && parse(payload, maxRequest, &code) == nil:
		status = "exit " + strconv.FormatUint(uint64(code.Status), 10)
	case r.Type == "exit-signal" && parse(payload, maxRequest, &signal) == nil:
		signal.Name = visible(signal.Name[:min(len(signal.Name), maxName)])
		signal.Message = visible(s.c.upstream.scrub.text(signal.Message[:min(len(signal.Message), maxSignalText)]))
		signal.Language = ""
		payload = xssh.Marshal(signal)
		status = "signal " + signal.Name
	default:
		s.reply(r, false)
		return ""
	}
	if x.outputs != nil {
		select {
		case <-x.outputs:
		case <-time.After(exitPatience):
		}
	}
	_, _ = s.agent.SendRequest(r.Type, false, payload)
	s.reply(r, true)
	return status
}

// endedWithout says, also to the agent, how a channel ended without a status.
func (s *session) endedWithout() string {
	if s.hungUp.Load() {
		return "hung up"
	}
	select {
	case <-s.c.lost:
	case <-s.c.ctx.Done():
	case <-time.After(lossPatience):
		return "closed"
	}
	s.say(s.c.why())
	return "upstream_lost"
}

// say writes a line of the gateway's own to the agent's standard error.
func (s *session) say(text string) {
	_, _ = io.WriteString(errWriter{s.agent}, "clawpatrol: "+text+"\r\n")
}

// deny ends the session with a reason where its command would have run. The
// connection stays.
func (s *session) deny(r *xssh.Request, reason string) {
	s.running.Store(deniedExecution)
	s.reply(r, true) // a request that fails has no room for a reason
	s.say(reason)
	_, _ = s.agent.SendRequest("exit-status", false, xssh.Marshal(exitStatus{deniedStatus}))
	_ = s.agent.CloseWrite()
	_ = s.agent.Close()
}

// deniedExecution stands for one that never was.
var deniedExecution = func() *execution {
	x := &execution{ready: make(chan struct{})}
	close(x.ready)
	return x
}()

// extras tells for the log what was asked for with a command.
func (s *session) extras() string {
	var parts []string
	if s.terminal != nil {
		parts = append(parts, "pty "+visible(s.terminal.Term))
	}
	if len(s.env) > 0 {
		parts = append(parts, "env "+visible(strings.Join(s.env, " ")))
	}
	if len(s.refused) > 0 {
		parts = append(parts, "refused "+visible(strings.Join(s.refused, ", ")))
	}
	if len(parts) == 0 {
		return ""
	}
	text := strings.Join(parts, "; ")
	if len(text) > maxExtras {
		text = text[:maxExtras] + "..."
	}
	return fmt.Sprintf(" (%s)", text)
}
