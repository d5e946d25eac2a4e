package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"reflect"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
)

const (
	// drainTime bounds how long SIGTERM waits for running actions: under
	// systemd's default TimeoutStopSec of 90 s.
	drainTime = 30 * time.Second
	// ownAddressRefresh is how often public_url is resolved again.
	ownAddressRefresh = 5 * time.Minute
)

// Serve runs the gateway until ctx ends, drains it, and closes it.
func (g *gateway) Serve(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	group, work := errgroup.WithContext(work)

	group.Go(func() error { return proxy.SyncPeers(work, g.db, g.tunnel, g.log) })
	group.Go(func() error { return g.followPolicy(work) })
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

// followPolicy reloads the policy on SIGHUP and when its file is replaced, and
// keeps the gateway's own addresses current.
func (g *gateway) followPolicy(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	replaced := make(chan struct{}, 1)
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		policy.Watch(watching, g.file, func() {
			select {
			case replaced <- struct{}{}:
			default: // a reload is due already
			}
		})
	}()
	defer func() { stop(); <-watched }()

	refresh := time.NewTicker(ownAddressRefresh)
	defer refresh.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hup:
			g.reload(ctx)
		case <-replaced:
			g.reload(ctx)
		case <-refresh.C:
			g.dialer.SetRules(g.egressRules(ctx, g.policy.Load()))
		}
	}
}

// reload puts a changed policy file in force. One that does not compile changes
// nothing (I18).
func (g *gateway) reload(ctx context.Context) {
	err := policy.CheckFile(g.file)
	var next *policy.Policy
	if err == nil {
		next, err = policy.Load(g.file, policy.Options{})
	}
	if err != nil {
		g.log.Error("policy not reloaded: the old one stays in force", "err", err)
		return
	}
	now := g.policy.Load()
	if !reflect.DeepEqual(now.Gateway, next.Gateway) || !reflect.DeepEqual(now.WireGuard, next.WireGuard) {
		g.log.Warn("the gateway and wireguard blocks take effect at the next start only")
		// What is bound and enrolled stays described by what is in force.
		next.Gateway, next.WireGuard = now.Gateway, now.WireGuard
	}
	g.dialer.SetRules(g.egressRules(ctx, next))
	g.policy.Store(next)
	g.proxy.SetPolicy(next)
	g.log.Info("policy reloaded", "endpoints", len(next.Endpoints), "credentials", len(next.Credentials), "profiles", len(next.Profiles))
}
