package ssh

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/policy"
)

// serveForward serves a direct-tcpip channel: to where the policy lets one lead,
// and dialled by the upstream.
func (c *conversation) serveForward(opened xssh.NewChannel) {
	var asked forwardRequest
	if parse(opened.ExtraData(), maxRequest, &asked) != nil || asked.Port > 0xffff || strings.IndexByte(asked.Host, 0) >= 0 {
		c.refuse("forward", errMalformed.Error())
		_ = opened.Reject(xssh.ConnectionFailed, "clawpatrol: "+errMalformed.Error())
		return
	}
	to := canonicalHost(asked)
	summary := "forward " + fitted(asked.Host, maxSummary-len("forward :65535")) + ":" + strconv.Itoa(int(asked.Port))
	if !slices.Contains(c.endpoint.SSH.Forward, to) {
		c.refuse(summary, "the endpoint's forward does not list this target")
		_ = opened.Reject(xssh.Prohibited, "clawpatrol: the policy does not allow forwarding to this target")
		return
	}
	grant, err := c.authorize(summary)
	if err != nil {
		_ = opened.Reject(xssh.Prohibited, "clawpatrol: "+reasonOf(err))
		return
	}
	status := "closed"
	var in, out atomic.Int64
	defer func() { grant.Finish(actionResult(status, in.Load(), out.Load())) }()

	// Where the agent's own connection comes from is nobody's business upstream.
	up, upRequests, err := c.upstream.conn.OpenChannel("direct-tcpip", xssh.Marshal(forwardRequest{to.Name, uint32(to.Port), "127.0.0.1", 0}))
	if err != nil {
		var reason xssh.RejectionReason
		reason, status = c.openFailed(err)
		_ = opened.Reject(reason, "clawpatrol: "+openWords[status])
		return
	}
	agent, agentRequests, err := opened.Accept()
	if err != nil {
		_ = up.Close()
		drain(upRequests)
		status = "aborted"
		return
	}
	fromAgent, fromUpstream := c.inbound.follow(agent), c.upstream.outbound.follow(up)
	defer fromAgent.leave()
	defer fromUpstream.leave()
	var streams, both sync.WaitGroup
	for _, none := range []*stream{c.inbound.follow(agent.Stderr()), c.upstream.outbound.follow(up.Stderr())} {
		defer none.leave()
		both.Go(none.skim)
	}
	streams.Go(func() {
		defer c.contain()
		_ = relay(up, fromAgent, &in, nil)
		_ = up.CloseWrite()
	})
	streams.Go(func() {
		defer c.contain()
		_ = relay(agent, fromUpstream, &out, nil)
		_ = agent.CloseWrite()
	})
	both.Go(func() { drain(agentRequests); _ = up.Close() })
	both.Go(func() { drain(upRequests); _ = agent.Close() })
	streams.Wait()
	_, _ = up.Close(), agent.Close()
	both.Wait()
}

// canonicalHost writes a target as the policy does.
func canonicalHost(r forwardRequest) policy.Host {
	name := strings.TrimSuffix(strings.ToLower(r.Host), ".")
	if a, err := netip.ParseAddr(name); err == nil {
		name = a.Unmap().String()
	}
	return policy.Host{Name: name, Port: uint16(r.Port)}
}

// What an agent is told when the upstream does not open a channel, by status.
var openWords = map[string]string{
	"upstream_refused":  "the upstream does not allow it",
	"upstream_failed":   "the upstream could not connect there",
	"upstream_shortage": "the upstream has no room for it",
	"upstream_lost":     "the connection to the upstream was lost",
}

// openFailed turns the error of opening a channel upstream into what the agent's
// is answered with, and a status.
func (c *conversation) openFailed(err error) (xssh.RejectionReason, string) {
	var open *xssh.OpenChannelError
	if !errors.As(err, &open) {
		return xssh.ConnectionFailed, "upstream_lost"
	}
	switch open.Reason {
	case xssh.ConnectionFailed:
		return open.Reason, "upstream_failed"
	case xssh.ResourceShortage:
		return open.Reason, "upstream_shortage"
	}
	return xssh.Prohibited, "upstream_refused"
}

// drain refuses what is asked on a channel until its other side has closed it.
func drain(requests <-chan *xssh.Request) {
	for r := range requests {
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
}
