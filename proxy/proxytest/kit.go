// Package proxytest runs a real data path inside a test: a registry in a
// temporary directory, a compiled policy, the egress rules and the Gate are the
// ones of the gateway; only the tunnel is missing. What a flow meets here it
// meets in production, so there is nothing to mock.
//
// Upstreams of tests listen on loopback: name them in the policy, as `address`
// of the endpoint or in `egress { allow = ["127.0.0.1:PORT"] }`.
package proxytest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/dns"
	"github.com/clawpatrol/clawpatrol/proxy/egress"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// wait bounds everything that a test waits for here.
const wait = 10 * time.Second

// subnets are the tunnel's.
var subnets = []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")}

// preamble is what every gateway.hcl needs and no test is about.
const preamble = `gateway {
  state_dir  = "state"
  public_url = "https://gw.example.com:8443"
}
wireguard {
  subnets = ["10.55.0.0/16", "fd55:c1a5::/48"]
}
`

// ErrRefused is the error of a connection that the proxy does not accept.
var ErrRefused = errors.New("refused")

// Kit is a data path with everything around it. Its methods fail the test where
// something goes wrong that the test is not about.
type Kit struct {
	DB       *registry.DB
	Proxy    *proxy.Proxy
	Dialer   *egress.Dialer
	Resolver *dns.Resolver

	// Handler serves the flows of Dial to endpoints. Nil: such a flow is held
	// open until it is no longer covered.
	Handler proxy.Handler

	t   testing.TB
	dir string
	log *syncBuffer

	mu      sync.Mutex
	port    uint16                           // of the last agent
	serving map[netip.AddrPort]proxy.Handler // by source, for Serve and Flow
}

// New starts a data path under the given policy: the endpoint, credential,
// profile and egress blocks of a gateway.hcl. The rest is filled in. Everything
// is stopped when the test ends.
func New(t testing.TB, hcl string) *Kit {
	t.Helper()
	return NewWith(t, hcl, registry.Config{Subnets: subnets})
}

// NewWith is New with a registry of the test's choice; its Dir and Log are filled
// in.
func NewWith(t testing.TB, hcl string, cfg registry.Config) *Kit {
	t.Helper()
	k := &Kit{t: t, dir: t.TempDir(), log: new(syncBuffer), serving: make(map[netip.AddrPort]proxy.Handler), port: 20000}
	log := slog.New(slog.NewTextHandler(k.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	pol := k.compile(hcl)

	var err error
	cfg.Dir, cfg.Log = k.stateDir(), log
	k.DB, err = registry.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("opening the registry: %v", err)
	}
	k.Dialer = egress.New(rules(pol))
	k.Resolver = dns.New(dns.Config{
		Virtual:     k.DB.VirtualAddresses,
		VirtualHost: k.DB.VirtualHost,
		Own:         func(a netip.Addr) bool { return slices.Contains(k.DB.Resolvers(), a) },
		Upstream:    func() []netip.AddrPort { return pol.DNS.Upstream },
		Check:       k.Dialer.Check,
		Dial:        k.Dialer.Dial,
		Log:         log,
	})
	k.Proxy, err = proxy.New(proxy.Config{
		Registry: k.DB,
		Policy:   pol,
		Dialer:   k.Dialer,
		Resolver: k.Resolver,
		Handlers: map[string]proxy.Handler{"https": dispatch{k}, "ssh": dispatch{k}, "postgres": dispatch{k}},
		Log:      log,
	})
	if err != nil {
		t.Fatalf("starting the proxy: %v", err)
	}
	t.Cleanup(k.close)
	return k
}

func (k *Kit) close() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // no patience: the test is over
	_ = k.Proxy.Shutdown(ctx)
	_ = k.Dialer.Close()
	if err := k.DB.Close(); err != nil {
		k.t.Errorf("closing the registry: %v", err)
	}
}

func (k *Kit) stateDir() string { return filepath.Join(k.dir, "state") }

func (k *Kit) compile(hcl string) *policy.Policy {
	k.t.Helper()
	src := []byte(preamble + hcl)
	pol, diags := policy.Compile(filepath.Join(k.dir, "gateway.hcl"), src, policy.Options{})
	if diags.HasErrors() {
		k.t.Fatalf("compiling the policy: %v", policy.NewDiagnosticsError(diags, src))
	}
	return pol
}

func rules(pol *policy.Policy) egress.Rules {
	return egress.Rules{
		Allow:       pol.Egress.Allow,
		AllowExact:  pol.Egress.AllowExact,
		Tunnel:      pol.WireGuard.Subnets,
		DenyUnknown: pol.Egress.DenyUnknown,
		Upstream:    pol.DNS.Upstream,
	}
}

// Reload replaces the policy, as the gateway does.
func (k *Kit) Reload(hcl string) {
	k.t.Helper()
	pol := k.compile(hcl)
	k.Dialer.SetRules(rules(pol))
	k.Proxy.SetPolicy(pol)
}

// Enrol adds a pending registration.
func (k *Kit) Enrol(name string) registry.ID {
	k.t.Helper()
	n := registry.NewRegistration{
		Name:         name,
		MACKey:       randomSecret(),
		PresharedKey: randomSecret(),
		Source:       netip.AddrFrom4([4]byte(append([]byte{198}, randomBytes(3)...))),
	}
	copy(n.PublicKey[:], randomBytes(32))
	reg, err := k.DB.Enrol(k.t.Context(), n)
	if err != nil {
		k.t.Fatalf("enrolling %s: %v", name, err)
	}
	return reg.ID
}

// Approve enrols a registration and approves it with these profiles.
func (k *Kit) Approve(name string, profiles ...string) registry.ID {
	k.t.Helper()
	id := k.Enrol(name)
	reg, _ := k.DB.Snapshot().ByID(id)
	if err := k.DB.Approve(k.t.Context(), id, profiles, reg.UserCode); err != nil {
		k.t.Fatalf("approving %s: %v", name, err)
	}
	return id
}

// SetSecret stores one slot of a credential.
func (k *Kit) SetSecret(ref, slot, value string) {
	k.t.Helper()
	err := k.DB.SetCredential(k.t.Context(), ref, map[string]secret.Secret{slot: secret.New([]byte(value))})
	if err != nil {
		k.t.Fatalf("storing %s of %s: %v", slot, ref, err)
	}
}

// Source returns a tunnel address of the registration with a port not used
// before. six picks the family.
func (k *Kit) Source(id registry.ID, six bool) netip.AddrPort {
	k.t.Helper()
	reg, ok := k.DB.Snapshot().ByID(id)
	if !ok {
		k.t.Fatalf("no registration %s", id)
	}
	a := reg.Prefix4.Addr().Next()
	if six {
		a = reg.Prefix6.Addr().Next()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.port++
	return netip.AddrPortFrom(a, k.port)
}

// Virtual returns where an agent of the registration finds host.
func (k *Kit) Virtual(id registry.ID, host string, port uint16) netip.AddrPort {
	k.t.Helper()
	v4, _, err := k.DB.VirtualAddresses(k.t.Context(), id, host)
	if err != nil {
		k.t.Fatalf("allocating a virtual address for %s: %v", host, err)
	}
	return netip.AddrPortFrom(v4, port)
}

// Dial connects as an agent of the registration would. The error is ErrRefused
// where the agent would be refused. The connection is one of loopback TCP.
func (k *Kit) Dial(id registry.ID, dst netip.AddrPort) (*net.TCPConn, error) {
	k.t.Helper()
	return k.dial(k.Source(id, dst.Addr().Is6()), dst)
}

func (k *Kit) dial(src, dst netip.AddrPort) (*net.TCPConn, error) {
	k.t.Helper()
	agent, gateway := k.pair()
	if err := k.accept(src, dst, gateway); err != nil {
		_ = agent.Close()
		_ = gateway.Close()
		return nil, err
	}
	return agent, nil
}

// accept passes conn to the proxy, as a tunnel does.
func (k *Kit) accept(src, dst netip.AddrPort, conn net.Conn) error {
	serve, ok := k.Proxy.TCP(k.t.Context(), src, dst)
	if !ok {
		return ErrRefused
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(conn)
	}()
	k.t.Cleanup(func() {
		_ = conn.Close()
		select {
		case <-done:
		case <-time.After(wait):
			k.t.Error("a flow outlives its connection")
		}
	})
	return nil
}

// pair returns the two ends of a loopback TCP connection. Both are closed when
// the test ends.
func (k *Kit) pair() (agent, gateway *net.TCPConn) {
	k.t.Helper()
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		k.t.Fatalf("listening: %v", err)
	}
	defer ln.Close()
	_ = ln.SetDeadline(time.Now().Add(wait))
	if agent, err = net.DialTCP("tcp4", nil, ln.Addr().(*net.TCPAddr)); err != nil {
		k.t.Fatalf("connecting: %v", err)
	}
	if gateway, err = ln.AcceptTCP(); err != nil {
		k.t.Fatalf("accepting: %v", err)
	}
	k.t.Cleanup(func() { _ = agent.Close() })
	return agent, gateway
}

// Serve runs h on a flow of the registration to an endpoint at host and port,
// and returns the agent's side, a loopback TCP connection. The flow ends, and
// h's context with it, as any flow does.
func (k *Kit) Serve(h proxy.Handler, id registry.ID, host string, port uint16) *net.TCPConn {
	k.t.Helper()
	agent, gateway := k.pair()
	k.serve(h, id, host, port, gateway)
	return agent
}

// Flow begins a flow of the registration to an endpoint at host and port, with
// conn as the agent's side. It lasts until conn is closed by the proxy or the
// test ends.
func (k *Kit) Flow(id registry.ID, host string, port uint16, conn net.Conn) *proxy.Flow {
	k.t.Helper()
	begun := make(chan *proxy.Flow, 1)
	k.serve(handlerFunc(func(ctx context.Context, f *proxy.Flow) error {
		begun <- f
		<-ctx.Done()
		return ctx.Err()
	}), id, host, port, conn)
	select {
	case f := <-begun:
		return f
	case <-time.After(wait):
		k.t.Fatalf("the flow to %s does not reach a handler", host)
		return nil
	}
}

func (k *Kit) serve(h proxy.Handler, id registry.ID, host string, port uint16, conn net.Conn) {
	k.t.Helper()
	dst, src := k.Virtual(id, host, port), k.Source(id, false)
	k.mu.Lock()
	k.serving[src] = h
	k.mu.Unlock()
	if err := k.accept(src, dst, conn); err != nil {
		k.t.Fatalf("a flow to %s:%d is refused", host, port)
	}
}

// Actions returns what the log holds about the registration, newest first.
func (k *Kit) Actions(id registry.ID) []registry.LoggedAction {
	k.t.Helper()
	if err := k.DB.Sync(k.t.Context()); err != nil {
		k.t.Fatalf("syncing the action log: %v", err)
	}
	rows, err := k.DB.Actions(k.t.Context(), registry.ActionFilter{Registration: id, Limit: 500})
	if err != nil {
		k.t.Fatalf("reading the action log: %v", err)
	}
	return rows
}

// Log returns everything logged so far.
func (k *Kit) Log() string { return k.log.String() }

// Eventually fails the test unless ok returns true within the given time.
func (k *Kit) Eventually(within time.Duration, what string, ok func() bool) {
	k.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(end) {
			k.t.Fatalf("not within %v: %s", within, what)
		}
	}
}

type handlerFunc func(context.Context, *proxy.Flow) error

func (h handlerFunc) Serve(ctx context.Context, f *proxy.Flow) error { return h(ctx, f) }

// dispatch is the proxy's handler: it finds whom the test wants to serve a flow.
type dispatch struct{ k *Kit }

func (d dispatch) Serve(ctx context.Context, f *proxy.Flow) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.k.t.Context(), cancel)() // a flow ends with its test
	d.k.mu.Lock()
	h := d.k.serving[f.Source]
	if h == nil {
		h = d.k.Handler
	}
	d.k.mu.Unlock()
	if h == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return h.Serve(ctx, f)
}

// syncBuffer collects a log.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func randomSecret() secret.Secret { return secret.New(randomBytes(32)) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
