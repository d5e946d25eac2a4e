package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// ownAddressRefresh is how often public_url is resolved again.
const ownAddressRefresh = 5 * time.Minute

// checkBinary refuses to run a program that others could replace (I22).
func checkBinary() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program's file: %w", err)
	}
	return policy.CheckFile(self)
}

// loadPolicy reads a policy that nobody but its owner can change (I22), the
// files it names included.
func loadPolicy(file string) (*policy.Policy, error) {
	if err := policy.CheckFile(file); err != nil {
		return nil, err
	}
	pol, err := policy.Load(file, policy.Options{})
	if err != nil {
		return nil, fmt.Errorf("loading the policy: %w", err)
	}
	for _, f := range pol.Files() {
		if err := policy.CheckFile(f); err != nil {
			return nil, err
		}
	}
	return pol, nil
}

// watchPolicy notes replacements of the policy file until the gateway is closed.
func (g *gateway) watchPolicy() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := policy.Watch(ctx, g.file, func() {
			select {
			case g.replaced <- struct{}{}:
			default: // a reload is due already
			}
		})
		if err != nil {
			g.log.Error("a replaced policy file will not be noticed: send SIGHUP to reload", "err", err)
		}
	}()
	g.onClose(func() error {
		stop()
		<-done
		return nil
	})
}

// followPolicy reloads the policy on SIGHUP and when its file is replaced, and
// keeps the gateway's own addresses current.
func (g *gateway) followPolicy(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	refresh := time.NewTicker(ownAddressRefresh)
	defer refresh.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hup:
			g.reload(ctx)
		case <-g.replaced:
			g.reload(ctx)
		case <-refresh.C:
			g.dialer.SetRules(g.egressRules(ctx, g.policy.Load()))
		}
	}
}

// reload puts a changed policy file in force. One that does not compile changes
// nothing (I18).
func (g *gateway) reload(ctx context.Context) {
	next, err := loadPolicy(g.file)
	if err != nil {
		g.disk.refuse(err)
		g.log.Error("policy not reloaded: the old one stays in force", "err", err)
		return
	}
	now := g.policy.Load()
	if enrolling := next.Gateway.Enrolment; enrolling != now.Gateway.Enrolment {
		g.log.Info("gateway.enrolment changed", "now", enrolling, "was", now.Gateway.Enrolment)
		kept := *now
		kept.Gateway.Enrolment = enrolling
		now = &kept
	}
	atStart := policy.Compare(now, next).AtStart
	if len(atStart) > 0 {
		g.log.Warn("the gateway and wireguard blocks take effect at the next start only")
		// What is bound and enrolled stays described by what is in force.
		next.Gateway, next.WireGuard = now.Gateway, now.WireGuard
	}
	g.tellMoved(ctx, now, next)
	g.dialer.SetRules(g.egressRules(ctx, next))
	g.policy.Store(next)
	g.disk.accept(atStart)
	g.proxy.SetPolicy(next)
	g.log.Info("policy reloaded", "endpoints", len(next.Endpoints), "credentials", len(next.Credentials), "profiles", len(next.Profiles))
}

// tellMoved logs each stored secret that goes to other hosts, or proves them
// otherwise, under next than under now. A secret follows its credential: whoever
// may write the policy decides where secrets go. But an edit that was not meant
// to move one should not do so silently.
func (g *gateway) tellMoved(ctx context.Context, now, next *policy.Policy) {
	stored, err := g.db.Credentials(ctx)
	if err != nil {
		g.log.Error("which stored secrets the new policy moves is not known", "err", err)
		return
	}
	for _, c := range policy.Moved(now, next) {
		if slices.ContainsFunc(stored, func(s registry.CredentialStatus) bool { return s.Ref == c.Ref() && len(s.Slots) > 0 }) {
			g.log.Warn("a stored secret now goes to another endpoint, or to one that has changed: clear it in the dashboard if that was not meant",
				"credential", c.Ref(), "endpoint", c.Endpoint.Ref(), "hosts", c.Endpoint.Hosts)
		}
	}
}
