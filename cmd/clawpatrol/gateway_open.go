package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/dashboard"
	"github.com/clawpatrol/clawpatrol/dashboard/webhook"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
	"github.com/clawpatrol/clawpatrol/enrolment/public"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/protocols/https"
	"github.com/clawpatrol/clawpatrol/protocols/postgres"
	"github.com/clawpatrol/clawpatrol/protocols/ssh"
	"github.com/clawpatrol/clawpatrol/protocols/ssh/recording"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/ca"
	"github.com/clawpatrol/clawpatrol/proxy/dns"
	"github.com/clawpatrol/clawpatrol/proxy/egress"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
)

// ownLookupTimeout bounds how long a start or reload waits to learn what
// public_url resolves to.
const ownLookupTimeout = 3 * time.Second

// tunnelMTU, in bytes, leaves room for WireGuard over IPv6 on a path of 1500:
// 40 (IPv6) + 8 (UDP) + 32 (WireGuard).
const tunnelMTU = 1420

// gateway is the assembled process: everything open and bound, nothing served
// yet.
type gateway struct {
	file    string
	stdout  io.Writer // for the operator who started it
	log     *slog.Logger
	started time.Time
	policy  atomic.Pointer[policy.Policy]
	disk    fileState

	replaced chan struct{} // the policy file was; holds one
	own      []netip.Addr  // what public_url last resolved to; owned by openGateway, then by followPolicy

	db         *registry.DB
	ca         *ca.CA
	dialer     *egress.Dialer
	resolver   *dns.Resolver
	https      *https.Handler
	sshKeys    *ca.SSH
	ssh        *ssh.Handler
	recordings *recording.Store
	webhook    *webhook.Webhook // nil: nothing is announced
	postgres   *postgres.Handler
	proxy      *proxy.Proxy
	tunnel     *wireguard.Tunnel
	peers      *proxy.Peers
	invites    *invites.Office

	public    boundServer
	dashboard boundServer

	closers []func() error // in the order of opening
}

// boundServer is a server and the listener it will serve.
type boundServer struct {
	*http.Server
	ln  net.Listener
	TLS bool
}

// openGateway opens and binds everything that file asks for, in order, and
// undoes what it did when a step fails.
func openGateway(ctx context.Context, file string, stdout io.Writer, log *slog.Logger) (_ *gateway, err error) {
	g := &gateway{file: file, stdout: stdout, log: log, started: time.Now(), replaced: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()

	if err := checkBinary(); err != nil {
		return nil, err
	}
	if err := keepMemoryPrivate(); err != nil {
		return nil, err
	}
	g.watchPolicy() // before the first reading, so that no replacement is missed
	pol, err := loadPolicy(file)
	if err != nil {
		return nil, err
	}
	g.policy.Store(pol)
	g.disk.accept(nil)

	g.db, err = registry.Open(ctx, registry.Config{
		Dir:       pol.Gateway.StateDir,
		Subnets:   pol.WireGuard.Subnets,
		Retention: registry.Retention(pol.Gateway.ActionLog),
		Log:       log,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the registry: %w", err)
	}
	g.onClose(g.db.Close)

	if g.ca, err = ca.Open(ca.Config{Dir: pol.Gateway.StateDir + "/ca"}); err != nil {
		return nil, fmt.Errorf("opening the local CA: %w", err)
	}

	g.dialer = egress.New(g.egressRules(ctx, pol))
	g.onClose(g.dialer.Close)

	g.resolver = dns.New(dns.Config{
		Virtual:     g.db.VirtualAddresses,
		VirtualHost: g.db.VirtualHost,
		Own:         func(a netip.Addr) bool { return slices.Contains(g.db.Resolvers(), a) },
		Upstream:    func() []netip.AddrPort { return g.policy.Load().DNS.Upstream },
		Check:       g.dialer.Check,
		Dial:        g.dialer.Dial,
		Log:         log,
	})

	if g.https, err = https.New(https.Config{CA: g.ca, Dialer: g.dialer, Log: log}); err != nil {
		return nil, fmt.Errorf("preparing the HTTPS handler: %w", err)
	}
	g.onClose(func() error { g.https.Close(); return nil })

	if err := g.openSSH(ctx, pol.Gateway.StateDir); err != nil {
		return nil, err
	}

	if g.postgres, err = postgres.New(postgres.Config{CA: g.ca, Dialer: g.dialer, Log: log}); err != nil {
		return nil, fmt.Errorf("preparing the Postgres handler: %w", err)
	}
	g.onClose(func() error { g.postgres.Close(); return nil })

	g.proxy, err = proxy.New(proxy.Config{
		Registry: g.db,
		Policy:   pol,
		Dialer:   g.dialer,
		Resolver: g.resolver,
		Handlers: g.handlers(),
		Log:      log,
	})
	if err != nil {
		return nil, fmt.Errorf("preparing the data path: %w", err)
	}

	key, err := g.db.WireGuardKey(ctx)
	if err != nil {
		return nil, fmt.Errorf("opening the WireGuard key: %w", err)
	}
	g.peers = proxy.NewPeers(g.db, log)
	g.tunnel, err = wireguard.Open(wireguard.Config{
		PrivateKey: key,
		Listen:     pol.WireGuard.Listen,
		MTU:        tunnelMTU,
		Admit:      g.proxy.Admit,
		TCP:        g.proxy.TCP,
		UDP:        g.proxy.UDP,
		Echo:       g.proxy.Echo,
		Deviated:   g.peers.Deviated,
		Handshake:  g.peers.Handshake,
		Log:        log,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the tunnel: %w", portTaken(err, "wireguard.listen"))
	}
	g.onClose(g.tunnel.Close)
	g.proxy.SetTunnel(g.tunnel)

	g.invites, err = invites.New(ctx, invites.Config{Registry: g.db, Policy: g.policy.Load, CAFingerprint: g.ca.Fingerprint(), Log: log})
	if err != nil {
		return nil, err
	}
	if g.public, err = g.openPublic(ctx, pol); err != nil {
		return nil, err
	}
	if err := g.openWebhook(pol); err != nil {
		return nil, err
	}
	if g.dashboard, err = g.openDashboard(ctx, pol); err != nil {
		return nil, err
	}
	if err := g.openControl(pol.Gateway.StateDir); err != nil {
		return nil, err
	}
	return g, nil
}

// handlers are who speaks to endpoints, by type.
func (g *gateway) handlers() map[string]proxy.Handler {
	return map[string]proxy.Handler{"https": g.https, "ssh": g.ssh, "postgres": g.postgres}
}

func (g *gateway) onClose(f func() error) { g.closers = append(g.closers, f) }

// close undoes openGateway, last opened first.
func (g *gateway) close() error {
	var errs []error
	for i := len(g.closers) - 1; i >= 0; i-- {
		errs = append(errs, g.closers[i]())
	}
	g.closers = nil
	return errors.Join(errs...)
}

// openPublic binds the listener that agent hosts enrol through.
func (g *gateway) openPublic(ctx context.Context, pol *policy.Policy) (boundServer, error) {
	h, err := public.New(public.Config{
		Registry:           g.db,
		Policy:             g.policy.Load,
		Version:            version,
		CAFingerprint:      g.ca.Fingerprint(),
		CAPEM:              g.ca.CertPEM(),
		WireGuardPublicKey: g.tunnel.PublicKey(),
		WireGuardEndpoint:  pol.WireGuard.Endpoint,
		MTU:                tunnelMTU,
		SSHAuthority:       g.sshKeys.Authority(),
		KnownHost:          g.sshKeys.KnownHost,
		Invites:            g.invites,
		Log:                g.log,
	})
	if err != nil {
		return boundServer{}, fmt.Errorf("preparing the public listener: %w", err)
	}
	certificate := g.leafFor(urlHost(pol.Gateway.PublicURL))
	if pol.Gateway.TLSCertFile != "" {
		if err := checkTLSFiles(pol.Gateway); err != nil {
			return boundServer{}, err
		}
		pair, err := tls.LoadX509KeyPair(pol.Gateway.TLSCertFile, pol.Gateway.TLSKeyFile)
		if err != nil {
			return boundServer{}, fmt.Errorf("loading the certificate for %s: %w", pol.Gateway.PublicURL, err)
		}
		certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	ln, err := g.listen(ctx, "gateway.listen", pol.Gateway.Listen, certificate)
	return boundServer{public.Server(h), ln, true}, err
}

// checkTLSFiles refuses a certificate or key that others could replace, and a key
// that everyone can read: with it an agent host takes the gateway's word from
// somebody else. A group may read it, as Debian's ssl-cert does.
func checkTLSFiles(g policy.Gateway) error {
	for _, f := range []string{g.TLSCertFile, g.TLSKeyFile} {
		if err := policy.CheckFile(f); err != nil {
			return err
		}
	}
	fi, err := os.Stat(g.TLSKeyFile)
	if err != nil {
		return fmt.Errorf("checking who can read the TLS key: %w", err)
	}
	if perm := fi.Mode().Perm(); perm&0o007 != 0 {
		return &hinted{fmt.Errorf("checking who can read the TLS key: %s has mode %04o: everyone may read it", g.TLSKeyFile, perm),
			"chmod o= " + g.TLSKeyFile + ", and have the certificate issued anew if others use this machine"}
	}
	return nil
}

// openDashboard binds the operators' listener: plain HTTP on loopback only.
func (g *gateway) openDashboard(ctx context.Context, pol *policy.Policy) (boundServer, error) {
	addr := pol.Gateway.DashboardListen
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return boundServer{}, fmt.Errorf("reading dashboard.listen %q: %w", addr, err)
	}
	var certificate certificateFunc
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		certificate = g.leafFor(host)
	}
	ln, err := g.listen(ctx, "gateway.dashboard.listen", addr, certificate)
	if err != nil {
		return boundServer{}, err
	}
	h, err := dashboard.New(dashboard.Config{
		Registry:   g.db,
		Policy:     g.policy.Load,
		Invites:    g.invites,
		Recordings: g.recordings,
		Webhook:    g.webhookStatus(),
		Flows:      g.flows,
		System:     g.system,
		PolicyFile: g.policyFile,
		Listen:     addr,
		TLS:        certificate != nil,
		Log:        g.log,
	})
	if err != nil {
		return boundServer{}, fmt.Errorf("preparing the dashboard: %w", err)
	}
	return boundServer{dashboard.Server(h), ln, certificate != nil}, nil
}

// flows tells the dashboard what the data path has of a registration.
func (g *gateway) flows(id registry.ID) []dashboard.Flow {
	var list []dashboard.Flow
	for _, f := range g.proxy.Flows(id, dashboard.MaxFlows) {
		list = append(list, dashboard.Flow(f))
	}
	return list
}

type certificateFunc = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// leafFor serves a leaf of the local CA for host, or, where host is empty or
// unspecified, for the address the connection came in on.
func (g *gateway) leafFor(host string) certificateFunc {
	ip, err := netip.ParseAddr(host)
	if host != "" && (err != nil || !ip.IsUnspecified()) {
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return g.ca.Leaf(host) }
	}
	return func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		local, err := netip.ParseAddrPort(hello.Conn.LocalAddr().String())
		if err != nil {
			return nil, fmt.Errorf("reading the connection's own address: %w", err)
		}
		return g.ca.Leaf(local.Addr().Unmap().WithZone("").String())
	}
}

// listen binds addr, the policy's attribute, with TLS where certificate is given.
func (g *gateway) listen(ctx context.Context, attribute, addr string, certificate certificateFunc) (net.Listener, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("binding %s: %w", attribute, portTaken(err, attribute))
	}
	if certificate != nil {
		ln = tls.NewListener(ln, &tls.Config{
			MinVersion:     tls.VersionTLS12,
			NextProtos:     []string{"h2", "http/1.1"},
			GetCertificate: certificate,
		})
	}
	g.onClose(func() error {
		if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return ln, nil
}

// egressRules derives what the dialer may reach. The addresses that public_url
// resolves to are the gateway's own, even where NAT hides them from its
// interfaces. They stay its own while the name does not resolve: agents must not
// gain by a name server that fails (I09).
func (g *gateway) egressRules(ctx context.Context, pol *policy.Policy) egress.Rules {
	host := urlHost(pol.Gateway.PublicURL)
	ctx, cancel := context.WithTimeout(ctx, ownLookupTimeout)
	defer cancel()
	own, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	switch {
	case err == nil:
		g.own = own
	case len(g.own) > 0:
		g.log.Warn("public_url does not resolve here at present: its last addresses stay the gateway's own", "host", host, "addresses", g.own, "err", err)
	default:
		g.log.Warn("public_url does not resolve here: agents are kept from the gateway's interface addresses only", "host", host, "err", err)
	}
	return egress.Rules{
		Allow:       pol.Egress.Allow,
		AllowExact:  pol.Egress.AllowExact,
		Tunnel:      pol.WireGuard.Subnets,
		Own:         g.own,
		DenyUnknown: pol.Egress.DenyUnknown,
		Upstream:    pol.DNS.Upstream,
	}
}

func urlHost(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
