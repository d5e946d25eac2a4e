package egress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// race connects to the first of candidates that answers: each gets a head start
// of attemptDelay before the next is tried too, and a failure starts the next at
// once (RFC 8305, section 5). It returns when every attempt has ended; the
// losers are closed. candidates is not empty.
func race(ctx context.Context, candidates []netip.AddrPort, dial func(context.Context, netip.AddrPort) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	type result struct {
		conn net.Conn
		err  error
		i    int
	}
	results := make(chan result, len(candidates))
	attempt := func(i int) {
		conn, err := dial(ctx, candidates[i])
		results <- result{conn, err, i}
	}

	var (
		winner  net.Conn
		errs    = make([]error, len(candidates))
		started = 0
		running = 0
	)
	start := func() {
		go attempt(started)
		started++
		running++
	}
	start()
	next := time.NewTimer(attemptDelay)
	defer next.Stop()
	for running > 0 {
		select {
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				errs[r.i] = r.err
			case winner == nil:
				winner = r.conn
				cancel()
			default:
				r.conn.Close()
			}
			if winner == nil && started < len(candidates) && ctx.Err() == nil {
				start()
				next.Reset(attemptDelay)
			}
		case <-next.C:
			if winner == nil && started < len(candidates) && ctx.Err() == nil {
				start()
				next.Reset(attemptDelay)
			}
		}
	}
	if winner != nil {
		return winner, nil
	}
	return nil, telling(errs)
}

// telling picks the error that says most: that a family has no route here says
// nothing about the destination.
func telling(errs []error) error {
	var first error
	for _, err := range errs {
		if err == nil {
			continue
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EAFNOSUPPORT) {
			return err
		}
	}
	return first
}
