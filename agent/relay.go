package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// relay passes connections to a port of loopback on to one server, byte for
// byte. Programs that cannot be told to leave the tunnel reach the gateway's
// public listener through it.
type relay struct {
	ln    net.Listener
	dial  func(context.Context) (net.Conn, error)
	ctx   context.Context
	stop  context.CancelFunc
	conns sync.WaitGroup
}

func startRelay(dial func(context.Context) (net.Conn, error)) (*relay, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("opening a port on loopback: %w", err)
	}
	r := &relay{ln: ln, dial: dial}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.conns.Go(r.accept)
	return r, nil
}

func (r *relay) addr() string { return r.ln.Addr().String() }

func (r *relay) port() string {
	_, port, _ := net.SplitHostPort(r.addr()) // the kernel's own words
	return port
}

// close ends all connections and waits for them.
func (r *relay) close() {
	r.stop()
	r.ln.Close()
	r.conns.Wait()
}

func (r *relay) accept() {
	slots := make(chan struct{}, maxRelayed)
	for {
		near, err := r.ln.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			near.Close()
			continue
		}
		r.conns.Go(func() {
			defer func() { <-slots }()
			r.splice(near)
		})
	}
}

func (r *relay) splice(near net.Conn) {
	defer near.Close()
	far, err := r.dial(r.ctx)
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(r.ctx, func() { near.Close(); far.Close() })()
	var both sync.WaitGroup
	both.Go(func() { pass(far, near) })
	both.Go(func() { pass(near, far) })
	both.Wait()
}

// pass copies until from ends, and ends to's side then.
func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if c, ok := to.(*net.TCPConn); ok && !errors.Is(err, net.ErrClosed) {
		_ = c.CloseWrite()
	}
}
