package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/clawpatrol/clawpatrol/agent"
)

const (
	// maxUserRuns is how many of a host's places one user has at most: others find
	// one when he has all that he may.
	maxUserRuns = maxRuns - 4

	// maxUserConns is how many of his connections are heard, those that are told that
	// there is no place included: others find one of maxConns, too.
	maxUserConns = maxUserRuns + 6
)

// guests are the users who run on a host's enrolment. The mode of the socket says
// who may; this counts.
type guests struct {
	mu   sync.Mutex
	here map[uint32]int // guarded by mu: connections of a user
}

// enter is a leaser's.
func (g *guests) enter(peer *unix.Ucred) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.here[peer.Uid] >= maxUserConns {
		return nil, nil
	}
	if g.here[peer.Uid] >= maxUserRuns {
		err = agent.WithHint(errors.New("this user has as many runs as one may have"), fmt.Sprintf("one user has room for %d on this host at once: wait for one to end", maxUserRuns))
	}
	g.here[peer.Uid]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.here[peer.Uid]--; g.here[peer.Uid] == 0 {
			delete(g.here, peer.Uid)
		}
	}, err
}

// ServeHost is agent.Config's Runs: the process that holds a host's tunnel serves
// the runs of the host's users too. A run gets packets carried whose source is its
// own address, and nothing else: no descriptor goes either way.
func ServeHost(host tun.Device, t agent.Shared) (tun.Device, func(context.Context, *net.UnixListener), error) {
	pool, err := newAddressPool(t.Addresses)
	if err != nil {
		return nil, nil, err
	}
	pool.keep(t.Addresses)
	l := &leaser{
		enter: (&guests{here: make(map[uint32]int)}).enter,
		ready: t.Ready,
		pool:  pool,
		mux:   newHostMux(host, t.MTU, pool.reserved),
		offer: lease{DNS: t.DNS, MTU: t.MTU},
	}
	return l.mux, func(ctx context.Context, ln *net.UnixListener) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.serve(ctx, ln)
			l.conns.Wait()
		}()
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		// A run may hold up whoever hears it, see receiveRequest. The host gets its own
		// way back all the same.
		select {
		case <-ended:
		case <-time.After(messageTimeout):
		}
	}, nil
}
