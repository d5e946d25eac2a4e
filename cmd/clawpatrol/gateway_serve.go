package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clawpatrol/clawpatrol/policy"
)

// drainTime bounds how long SIGTERM waits for running actions: under systemd's
// default TimeoutStopSec of 90 s.
const drainTime = 30 * time.Second

// Serve runs the gateway until ctx ends, drains it, and closes it.
func (g *gateway) Serve(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group, work := errgroup.WithContext(work)

	group.Go(func() error { return g.peers.Sync(work, g.tunnel) })
	group.Go(func() error { return g.followPolicy(work) })
	group.Go(func() error { return g.runWebhook(work) })
	for _, s := range []boundServer{g.public, g.dashboard} {
		group.Go(func() error { return s.serve() })
	}

	g.log.Info("gateway started", "version", version,
		"public", g.public.ln.Addr().String(), "dashboard", g.dashboard.ln.Addr().String(),
		"wireguard_port", g.tunnel.ListenPort(), "ca_fingerprint", g.ca.Fingerprint())

	g.announce()

	select {
	case <-ctx.Done():
	case <-work.Done(): // something failed
	}

	g.log.Info("gateway stopping")
	drain, stop := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer stop()
	errs := []error{
		g.public.Shutdown(drain),
		g.dashboard.Shutdown(drain),
		g.proxy.Shutdown(drain),
	}
	cancel()
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, g.close())...)
}

// announce tells the operator at the terminal what to do next.
func (g *gateway) announce() {
	pol := g.policy.Load()
	join := "sudo clawpatrol join " + pol.Gateway.PublicURL
	if pol.Gateway.TLSCertFile == "" {
		join += " --ca-fingerprint " + g.ca.Fingerprint()
	}
	switch pol.Gateway.Enrolment {
	case policy.EnrolmentInvite:
		join = joinWithToken + ", with a token of: sudo clawpatrol invite " + g.file
	case policy.EnrolmentClosed:
		join = "(gateway.enrolment is closed)"
	}
	scheme := "http"
	if g.dashboard.TLS {
		scheme = "https"
	}
	fmt.Fprintf(g.stdout, "dashboard: %s://%s\non an agent host: %s\n", scheme, g.dashboard.ln.Addr(), join)
}

func (s boundServer) serve() error {
	if err := s.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s: %w", s.ln.Addr(), err)
	}
	return nil
}
