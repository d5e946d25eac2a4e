package sandbox

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/agent"
)

const (
	maxConns       = 4 * maxRuns      // runs that are beginning, or wait for an address
	messageTimeout = 10 * time.Second // for one message to be written or come
	readyTimeout   = 10 * time.Second // for the gateway to answer
)

// leaser answers runs on a socket: each connection is one run, and has one place
// of the registration's addresses for as long as it lasts.
type leaser struct {
	// enter counts whoever connects. An error is what he is told, and without leave
	// he is not even that.
	enter func(*unix.Ucred) (leave func(), err error)
	link  func(*net.UnixConn) (link, error) // what the run's packets come by; nil: the connection itself, see relayLink
	end   func() error                      // ends all of it, where nobody is served; nil: that is not for those who connect
	ready func(context.Context) error       // nil error: the tunnel is there, and the registration stands
	pool  *addressPool
	mux   *mux
	offer lease // without addresses

	conns sync.WaitGroup
}

// serve accepts runs until ln is closed, which it is when ctx ends.
func (l *leaser) serve(ctx context.Context, ln *net.UnixListener) {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	slots := make(chan struct{}, maxConns)
	for {
		c, err := ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: some will be closed
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-ctx.Done():
				return
			}
		}
		peer, err := agent.PeerOf(c)
		if err != nil {
			c.Close()
			continue
		}
		leave, refused := l.enter(peer)
		if leave == nil {
			c.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			leave()
			c.Close()
			continue
		}
		l.conns.Go(func() {
			defer func() { <-slots }()
			defer leave()
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			if err := l.run(ctx, c, refused); err != nil && ctx.Err() == nil {
				_ = c.SetWriteDeadline(time.Now().Add(messageTimeout))
				_ = send(c, failure(err), -1) // it may be gone
			}
		})
	}
}

// run is one run, from its first message to its end. refused is what it is told
// instead of getting a place.
func (l *leaser) run(ctx context.Context, c *net.UnixConn, refused error) error {
	_ = c.SetDeadline(time.Now().Add(messageTimeout))
	// Also of one that is refused: an answer before the question is lost, as a
	// connection that is closed with something unread is reset.
	m, err := receiveRequest(c)
	switch {
	case err == nil && m.End && l.end != nil:
		return l.end()
	case err != nil || !m.Run:
		return errors.New("not a run's first message")
	case refused != nil:
		return refused
	}
	addrs, release, err := l.pool.take()
	if err != nil {
		return err
	}
	defer release()
	ready, cancel := context.WithTimeout(ctx, readyTimeout)
	err = l.ready(ready)
	cancel()
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(2 * messageTimeout)) // the namespaces are being made
	offer := l.offer
	offer.Addresses, offer.Relay = addrs, l.link == nil
	if err := send(c, message{Lease: &offer}, -1); err != nil {
		return err
	}
	if l.link == nil {
		return l.relay(c, addrs)
	}
	link, err := l.link(c)
	if err != nil {
		return err
	}
	detach, _ := l.mux.attach(link, addrs)
	defer detach()
	if err := send(c, message{Linked: true}, -1); err != nil {
		return err
	}
	_ = c.SetDeadline(time.Time{})
	// The connection says nothing more: its end is the run's.
	if _, err := receiveRequest(c); err == nil {
		return errors.New("a run has nothing more to say")
	}
	return nil
}

// relay is the rest of a run whose packets come and go on its connection.
func (l *leaser) relay(c *net.UnixConn, addrs []netip.Addr) error {
	if m, err := receiveRequest(c); err != nil || m.Link != linkRelay {
		return errors.New("not a run's readiness for packets")
	}
	if err := send(c, message{Linked: true}, -1); err != nil {
		return err
	}
	_ = c.SetDeadline(time.Time{})
	p, err := newRelayLink(c, false)
	if err != nil {
		return err
	}
	detach, gone := l.mux.attach(p, addrs)
	<-gone // also when c is closed for the end of all
	detach()
	return nil
}
