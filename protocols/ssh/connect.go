package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// hop is one endpoint on the way, the last one being the conversation's.
type hop struct {
	endpoint *policy.Endpoint
	host     string
	port     uint16
	jump     bool
}

// link is an authenticated connection to an upstream.
type link struct {
	hop
	conn       xssh.Conn
	user       string
	credential *policy.Credential
	version    uint64 // of its secret
	scrub      *scrubber
	outbound   *ledger // of what the upstream sends
	through    *link   // the jump before it; nil: none

	once sync.Once
}

// close ends the connection, and those it leads through.
func (l *link) close() {
	l.once.Do(func() {
		_ = l.conn.Close()
		if l.through != nil {
			l.through.close()
		}
	})
}

// connect reaches the endpoint for an agent that logs in as login, through its
// jumps. Each hop is an action of its own. The error is fit for the agent.
func (c *conversation) connect(login string) (*link, error) {
	var way []hop
	for e := c.endpoint.SSH.Jump; e != nil; e = e.SSH.Jump {
		way = append(way, hop{e, e.Hosts[0].Name, e.Hosts[0].Port, true})
	}
	slices.Reverse(way)
	way = append(way, hop{c.endpoint, c.host, c.flow.Match.Port, false})
	var reached *link
	for _, h := range way {
		next, err := c.follow(h, reached, login)
		if err != nil {
			if reached != nil {
				reached.close()
			}
			return nil, err
		}
		context.AfterFunc(c.ctx, next.close)
		reached = next
	}
	return reached, nil
}

// follow asks the Gate for one hop and makes its connection.
func (c *conversation) follow(h hop, through *link, login string) (*link, error) {
	grant, err := c.authorizeHop(h, login)
	if err != nil {
		return nil, err
	}
	l, err := c.reachHop(h, through, grant, login)
	if err != nil {
		grant.Finish(registry.ActionResult{Status: statusOf(err)})
		var f *failure
		if errors.As(err, &f) {
			if c.ctx.Err() == nil {
				c.warn("an ssh endpoint could not be used", "hop", h.host, "class", f.class, "err", f.detail)
			}
			return nil, &proxy.Refusal{Code: f.class, Reason: h.host + " could not be used: " + f.reason}
		}
		return nil, err
	}
	grant.Finish(registry.ActionResult{Status: "connected"})
	return l, nil
}

// authorizeHop asks for the credential that login means at the hop.
func (c *conversation) authorizeHop(h hop, login string) (*proxy.Grant, error) {
	if h.jump {
		return c.flow.AuthorizeJump(c.ctx, h.endpoint, proxy.Action{
			Summary: "connect " + target(h.host, h.port) + " as a jump",
			Choose:  func(of []*policy.Credential) *policy.Credential { return meant(of, login) },
		})
	}
	summary := "connect " + visible(login) + "@" + target(h.host, h.port)
	if of := c.flow.Match.Credentials; len(of) > 0 {
		chosen := meant(of, login)
		user := userOf(chosen, login)
		if user == "" {
			r := &proxy.Refusal{Code: proxy.CodeDenied, Reason: "no credential here is for the user " + visible(login) + "; there is " + strings.Join(logins(of), ", ")}
			c.refuse(summary, r.Reason)
			return nil, r
		}
		summary = "connect " + user + "@" + target(h.host, h.port)
	}
	return c.flow.Authorize(c.ctx, proxy.Action{
		Summary: summary,
		Choose:  func(of []*policy.Credential) *policy.Credential { return meant(of, login) },
	})
}

// reachHop dials the hop and authenticates, once its host key is known to be
// right. A key that an operator has to accept is waited for without a connection.
func (c *conversation) reachHop(h hop, through *link, grant *proxy.Grant, login string) (*link, error) {
	auth, err := newAuthentication(&c.handler.opened, grant, login)
	if err != nil {
		return nil, err
	}
	for held := 0; ; held++ {
		l, err := c.attempt(h, through, auth)
		var unknown *unknownHostKey
		switch {
		case err == nil:
			l.credential, l.version = grant.Credential, grant.Version
			return l, nil
		case !errors.As(err, &unknown):
			return nil, err
		case held == maxHolds:
			return nil, &failure{class: unknown.status(), reason: "its host key changes all the time", detail: unknown}
		}
		if err := c.hold(h, unknown); err != nil {
			return nil, err
		}
	}
}

// attempt makes one connection to the hop.
func (c *conversation) attempt(h hop, through *link, auth *authentication) (*link, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.handler.patience.upstream)
	defer cancel()
	var conn net.Conn
	var err error
	if through == nil {
		conn, err = c.handler.dial(ctx, h.endpoint, h.host, h.port)
	} else {
		conn, err = through.dial(ctx, h)
	}
	if err != nil {
		return nil, explain(ctx, err)
	}
	check := &hostKeyCheck{endpoint: h.endpoint, host: h.host, port: h.port, approvals: c.handler.approvals}
	config := auth.clientConfig(c.handler.algorithms(), check)
	banner := &banner{scrub: auth.scrub}
	config.BannerCallback = banner.add
	stop := context.AfterFunc(ctx, func() {
		_ = conn.Close()
		if through != nil {
			through.close() // a jump need not answer the end of a channel
		}
	})
	outbound := &ledger{share: c.share, over: func() { c.end(errTooMuchWaits) }}
	socket := &wire{Conn: conn}
	if !h.jump {
		socket.tally = outbound.received
	}
	cc, channels, requests, err := xssh.NewClientConn(socket, check.address(), config)
	if err == nil { // until it is closed: the library waits for whoever takes these
		c.run(func() { answerUpstream(requests) })
		c.run(func() { refuseChannels(channels) })
	}
	if !stop() && err == nil {
		_ = cc.Close()
		err = ctx.Err()
	}
	if text := banner.String(); text != "" {
		c.notify(text)
	}
	switch {
	case check.failure() != nil:
		return nil, check.failure()
	case err != nil:
		return nil, auth.explain(ctx, err)
	case !auth.used:
		_ = cc.Close()
		return nil, errUnasked // I21
	}
	socket.joinFor(cc)
	return &link{hop: h, conn: cc, user: auth.user, scrub: auth.scrub, outbound: outbound, through: through}, nil
}

// dial opens a connection to a hop from the jump l (RFC 4254, section 7.2).
func (l *link) dial(ctx context.Context, h hop) (net.Conn, error) {
	host, port := h.host, h.port
	if a := h.endpoint.Address; a.IsValid() {
		host, port = a.Addr().String(), a.Port()
	}
	type opened struct {
		channel  xssh.Channel
		requests <-chan *xssh.Request
		err      error
	}
	done := make(chan opened, 1)
	go func() {
		channel, requests, err := l.conn.OpenChannel("direct-tcpip", xssh.Marshal(forwardRequest{host, uint32(port), "127.0.0.1", 0}))
		done <- opened{channel, requests, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return nil, &failure{class: "jump", reason: "the jump " + l.host + " could not reach it", detail: o.err}
		}
		go xssh.DiscardRequests(o.requests)
		go func() { _, _ = io.Copy(io.Discard, o.channel.Stderr()) }() // nobody else reads it
		return &channelConn{Channel: o.channel, remote: &net.TCPAddr{Port: int(port)}}, nil
	case <-ctx.Done():
		l.close() // there is no taking back an open
		return nil, ctx.Err()
	}
}

// meant returns the credential that an agent means that logs in as login: the one
// with this placeholder, or with this user; nil where that is none or several.
func meant(of []*policy.Credential, login string) *policy.Credential {
	if len(of) == 1 {
		return of[0]
	}
	var found *policy.Credential
	for _, c := range of {
		if c.Placeholder == login {
			return c
		}
		if c.User == login || slices.Contains(c.Users, login) {
			if found != nil {
				return nil
			}
			found = c
		}
	}
	return found
}

// userOf returns whom the agent becomes upstream; empty where nothing says so.
func userOf(c *policy.Credential, login string) string {
	switch {
	case c == nil:
		return ""
	case c.User != "":
		return c.User
	case slices.Contains(c.Users, login):
		return login
	case len(c.Users) == 1:
		return c.Users[0]
	}
	return ""
}

// logins lists what an agent may log in as, for people.
func logins(of []*policy.Credential) []string {
	var names []string
	for _, c := range of {
		own := c.Users
		if c.User != "" {
			own = []string{c.User}
		}
		for _, name := range own {
			if meant(of, name) != c {
				name = c.Placeholder // several have this user
			}
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// target joins a host and a port, without the one that SSH has anyway.
func target(host string, port uint16) string {
	if port == 22 {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// failure is why an upstream could not be used.
type failure struct {
	class  string // for the log and for programs
	reason string // for the agent: nothing that the upstream said
	detail error  // for the operator; nothing secret
}

func (f *failure) Error() string { return fmt.Sprintf("%s: %s", f.class, f.reason) }
func (f *failure) Unwrap() error { return f.detail }

// statusOf is how an action that failed ended.
func statusOf(err error) string {
	var f *failure
	var r *proxy.Refusal
	switch {
	case errors.As(err, &f):
		return f.class
	case errors.As(err, &r):
		return r.Code
	}
	return "aborted"
}
