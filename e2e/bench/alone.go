package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync/atomic"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols/https"
	"github.com/clawpatrol/clawpatrol/protocols/postgres"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/dns"
	"github.com/clawpatrol/clawpatrol/proxy/egress"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// runHandlerAlone is the gateway without its tunnel: registry, policy, Gate,
// action log and handlers are the gateway's; every connection to a plain
// TCP listener is a flow of one registration to the listener's endpoint.
// Arguments: directory, which holds gateway.hcl; host and address to listen on,
// for each endpoint.
func runHandlerAlone(ctx context.Context, args []string) (err error) {
	if len(args) < 3 || len(args)%2 == 0 {
		return errors.New("handler-alone: wants a directory, and a host and an address for each endpoint")
	}
	dir := args[0]
	pol, err := policy.Load(filepath.Join(dir, "gateway.hcl"), policy.Options{})
	if err != nil {
		return err
	}
	db, err := registry.Open(ctx, registry.Config{Dir: filepath.Join(dir, "state"), Subnets: pol.WireGuard.Subnets})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	authority, err := ca.Open(ca.Config{Dir: filepath.Join(dir, "ca")})
	if err != nil {
		return err
	}
	dialer := egress.New(egress.Rules{Tunnel: pol.WireGuard.Subnets})
	defer func() { err = errors.Join(err, dialer.Close()) }()
	handler, err := https.New(https.Config{CA: authority, Dialer: dialer})
	if err != nil {
		return err
	}
	defer handler.Close()
	databases, err := postgres.New(postgres.Config{CA: authority, Dialer: dialer})
	if err != nil {
		return err
	}
	defer databases.Close()
	p, err := proxy.New(proxy.Config{
		Registry: db,
		Policy:   pol,
		Dialer:   dialer,
		Resolver: dns.New(dns.Config{
			Virtual:     db.VirtualAddresses,
			VirtualHost: db.VirtualHost,
			Own:         func(netip.Addr) bool { return false }, // nobody asks
			Upstream:    func() []netip.AddrPort { return nil },
			Check:       dialer.Check,
			Dial:        dialer.Dial,
		}),
		Handlers: map[string]proxy.Handler{"https": handler, "postgres": databases},
	})
	if err != nil {
		return err
	}
	id, err := enrolAlone(ctx, db)
	if err != nil {
		return err
	}
	var flows atomic.Uint32
	for hosts := args[1:]; len(hosts) > 0; hosts = hosts[2:] {
		virtual, _, err := db.VirtualAddresses(ctx, id, hosts[0])
		if err != nil {
			return err
		}
		ln, err := net.Listen("tcp", hosts[1])
		if err != nil {
			return err
		}
		defer ln.Close()
		go acceptAll(ln, func(c net.Conn) {
			defer c.Close()
			reg, _ := db.Snapshot().ByID(id)
			// No two flows that live at once have the same source.
			src := netip.AddrPortFrom(reg.Prefix4.Addr().Next(), uint16(1024+flows.Add(1)%60000))
			port := uint16(443)
			if hosts[0] == databaseHost {
				port = 5432
			}
			if serve, ok := p.TCP(ctx, src, netip.AddrPortFrom(virtual, port)); ok {
				serve(c)
			}
		})
	}
	fmt.Println("ready")
	<-ctx.Done()
	return p.Shutdown(ctx)
}

// enrolAlone adds an approved registration and its credentials.
func enrolAlone(ctx context.Context, db *registry.DB) (registry.ID, error) {
	n := registry.NewRegistration{
		Name:         "bench",
		MACKey:       secret.New(randomKey()),
		PresharedKey: secret.New(randomKey()),
		Source:       netip.MustParseAddr("198.51.100.1"),
	}
	copy(n.PublicKey[:], randomKey())
	reg, err := db.Enrol(ctx, n)
	if err != nil {
		return "", err
	}
	err = db.Approve(ctx, reg.ID, []string{"bench"}, reg.UserCode)
	for _, c := range []string{"bearer.api", "bearer.go"} {
		err = errors.Join(err, db.SetCredential(ctx, c, map[string]secret.Secret{"secret": secret.New([]byte(token))}))
	}
	for _, c := range []string{"postgres.bench", "postgres.bench_ro"} {
		err = errors.Join(err, db.SetCredential(ctx, c, map[string]secret.Secret{"password": secret.New([]byte(benchPassword))}))
	}
	return reg.ID, err
}

func randomKey() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return b
}
