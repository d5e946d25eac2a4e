// Package proxy is the data path: it accepts a flow, identifies it, finds its
// endpoint, and hands it to a protocol handler or splices it.
package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/proxy/dns"
	"github.com/clawpatrol/clawpatrol/proxy/egress"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
)

// Config assembles a Proxy. All fields but Log are required.
type Config struct {
	Registry *registry.DB
	Policy   *policy.Policy // the first; SetPolicy replaces it
	Dialer   *egress.Dialer
	Resolver *dns.Resolver
	Handlers map[string]Handler // by endpoint type
	Log      *slog.Logger
}

// Proxy routes flows. Its TCP, UDP, Echo and Admit methods are what a transport
// (wireguard.Config) calls.
type Proxy struct{}

// New returns a Proxy that follows the registry's snapshots until Close.
func New(cfg Config) (*Proxy, error) { panic("proxy: not built yet") }

// SetPolicy swaps the policy; flows it no longer covers are closed within a
// second.
func (p *Proxy) SetPolicy(pol *policy.Policy) { panic("proxy: not built yet") }

// SetTunnel says through what UDP and echo answers go back. Call it before the
// first packet.
func (p *Proxy) SetTunnel(t *wireguard.Tunnel) { panic("proxy: not built yet") }

// Admit: see wireguard.Config. True for approved registrations only.
func (p *Proxy) Admit(src netip.Addr) bool { panic("proxy: not built yet") }

// TCP: see wireguard.Config.
func (p *Proxy) TCP(ctx context.Context, src, dst netip.AddrPort) (serve func(net.Conn), ok bool) {
	panic("proxy: not built yet")
}

// UDP: see wireguard.Config.
func (p *Proxy) UDP(src, dst netip.AddrPort, payload []byte) wireguard.Disposition {
	panic("proxy: not built yet")
}

// Echo: see wireguard.Config.
func (p *Proxy) Echo(e wireguard.Echo) wireguard.Disposition { panic("proxy: not built yet") }

// Shutdown stops accepting, lets running actions end until ctx does, then
// closes all flows.
func (p *Proxy) Shutdown(ctx context.Context) error { panic("proxy: not built yet") }
