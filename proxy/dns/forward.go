package dns

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/miekg/dns"
)

// forwardTimeout is how long a resolver that the agent named may take; stubs
// ask again after as long (resolv.conf(5), timeout).
const forwardTimeout = 5 * time.Second

// forward passes a query to the resolver that the agent named, over the
// transport that the agent used, and its answer back: both as they are. Ids and
// names were not chosen by us, so what is checked is that the answer fits the
// query; asking again, or elsewhere, is up to the agent.
func (r *Resolver) forward(ctx context.Context, q Query, p *query) ([]byte, error) {
	if err := r.cfg.Check(q.Server); err != nil {
		return p.fail(dns.RcodeRefused, edePolicy(err.Error())), nil
	}
	if !r.limit.enter(q.Registration) {
		return r.failed(ctx, p, errBusy)
	}
	defer r.limit.leave(q.Registration)

	network := "udp"
	if q.TCP {
		network = "tcp"
	}
	asking, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	reply, err := exchange(asking, r.cfg.Dial, network, q.Server, q.Message, int(p.udpSize))
	if err == nil {
		return reply, nil
	}
	var timeout net.Error
	if ended(asking) != nil || errors.As(err, &timeout) && timeout.Timeout() {
		return nil, err // the agent's own resolver is silent: so are we
	}
	// It refused the connection or is out of reach; over UDP an agent would
	// have learnt that from ICMP.
	return p.fail(dns.RcodeServerFailure, &extendedError{dns.ExtendedErrorCodeNetworkError, "the resolver cannot be reached"}), nil
}
