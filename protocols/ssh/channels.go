package ssh

import (
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
)

const (
	// keepAliveEvery is how often the upstream is asked whether it is there;
	// one that leaves maxMissed of them without an answer is not.
	keepAliveEvery = 30 * time.Second
	maxMissed      = 2

	keepAliveRequest = "keepalive@openssh.com"
)

// takeChannels serves the channels that the agent opens.
func (c *conversation) takeChannels() {
	for opened := range c.opened {
		if c.ctx.Err() != nil {
			_ = opened.Reject(xssh.ResourceShortage, "clawpatrol: "+c.why())
			continue
		}
		if reason, text := c.admitChannel(opened); text != "" {
			_ = opened.Reject(reason, "clawpatrol: "+text)
			continue
		}
		if !c.beginChannel() {
			c.leaveChannel()
			_ = opened.Reject(xssh.ResourceShortage, "clawpatrol: "+c.why())
			continue
		}
		c.run(func() {
			defer c.sessions.Done()
			defer c.leaveChannel()
			if opened.ChannelType() == "session" {
				c.serveSession(opened)
			} else {
				c.serveForward(opened)
			}
		})
	}
}

// admitChannel decides whether a channel may be, and takes its place; a text says
// why not. leaveChannel gives the place back, once both sides have closed the
// channel: until then it holds memory.
func (c *conversation) admitChannel(opened xssh.NewChannel) (xssh.RejectionReason, string) {
	switch kind := opened.ChannelType(); {
	case kind != "session" && kind != "direct-tcpip":
		// direct-streamlocal@openssh.com, tun@openssh.com, x11, auth-agent, ...
		kind = visible(kind[:min(len(kind), maxName)])
		c.refuse("open "+kind, "channels of this kind are not passed on")
		return xssh.UnknownChannelType, "channels of type " + kind + " are not passed on"
	case c.draining():
		return xssh.ResourceShortage, errStopping.Error()
	}
	if err := c.share.opens.Wait(c.ctx); err != nil {
		return xssh.ResourceShortage, c.why()
	}
	if !c.channels.Take(maxChannels) {
		return xssh.ResourceShortage, "too many channels on this connection"
	}
	if !c.share.channels.Take(maxAllChannels) {
		c.channels.Give()
		return xssh.ResourceShortage, "too many channels at once"
	}
	return 0, ""
}

func (c *conversation) leaveChannel() {
	c.share.channels.Give()
	c.channels.Give()
}

// takeRequests answers what the agent asks of the connection as a whole. Nothing
// of it goes upstream: what there is would open ports or sockets for others.
func (c *conversation) takeRequests() {
	for r := range c.asked {
		switch r.Type {
		case keepAliveRequest:
			_ = r.Reply(true, nil)
			continue
		case "no-more-sessions@openssh.com", "hostkeys-prove-00@openssh.com":
		default:
			c.refuse("request "+visible(r.Type[:min(len(r.Type), maxName)]), "requests of this kind are not passed on")
		}
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
}

// answerUpstream answers what an upstream asks of the connection.
func answerUpstream(requests <-chan *xssh.Request) {
	for r := range requests {
		if r.WantReply {
			_ = r.Reply(r.Type == keepAliveRequest, nil)
		}
	}
}

// refuseChannels refuses what an upstream opens: forwarded-tcpip, auth-agent, x11.
// Nobody asked for any.
func refuseChannels(opened <-chan xssh.NewChannel) {
	for channel := range opened {
		_ = channel.Reject(xssh.Prohibited, "not passed on")
	}
}

// keepAlive ends the conversation when its upstream no longer answers.
func (c *conversation) keepAlive() {
	tick := time.NewTicker(c.handler.patience.keepAlive)
	defer tick.Stop()
	answered := make(chan struct{}, 1)
	answered <- struct{}{}
	missed := 0
	for {
		select {
		case <-c.lost:
			return
		case <-tick.C:
		}
		select {
		case <-answered:
			missed = 0
			c.run(func() {
				_, _, _ = c.upstream.conn.SendRequest(keepAliveRequest, true, nil)
				answered <- struct{}{}
			})
		default:
			if missed++; missed == maxMissed {
				c.end(errLost)
				return
			}
		}
	}
}

// authorize asks the Gate for one action, with the credential that the connection
// was made with: another one, or its secret's successor, takes a new connection.
func (c *conversation) authorize(summary string) (*proxy.Grant, error) {
	grant, err := c.flow.Authorize(c.ctx, proxy.Action{
		Summary: summary,
		Choose: func(of []*policy.Credential) *policy.Credential {
			for _, candidate := range of {
				if candidate.Ref() == c.upstream.credential.Ref() {
					return candidate
				}
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	if grant.Credential.Ref() != c.upstream.credential.Ref() || grant.Credential.Fingerprint != c.upstream.credential.Fingerprint || grant.Version != c.upstream.version {
		grant.Finish(actionResult(proxy.CodePolicyChanged, 0, 0))
		return nil, &proxy.Refusal{Code: proxy.CodePolicyChanged, Reason: "the credential of this connection has changed: connect again"}
	}
	return grant, nil
}
