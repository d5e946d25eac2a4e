// Package dns is the resolver inside the tunnel.
package dns

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// Config assembles a Resolver. All fields but Log are required.
type Config struct {
	// Virtual returns the address pair that stands for host towards id:
	// registry.DB.VirtualAddresses.
	Virtual func(ctx context.Context, id registry.ID, host string) (v4, v6 netip.Addr, err error)
	// Own reports whether an address is the gateway's resolver in the tunnel.
	Own func(netip.Addr) bool
	// Upstream returns the resolvers for names out of scope; it is read for
	// every query, so that a reload takes effect.
	Upstream func() []netip.AddrPort
	// Exchange sends one query to a resolver the agent named itself, under the
	// egress rules, and returns its answer unchanged.
	Check func(netip.AddrPort) error
	Log   *slog.Logger
}

// Resolver answers the agents' queries. Safe for concurrent use.
type Resolver struct{}

// New returns a Resolver.
func New(cfg Config) *Resolver { panic("dns: not built yet") }

// Query is one question, as it came out of the tunnel.
type Query struct {
	Registration registry.ID
	Scope        *policy.Scope
	Server       netip.AddrPort // whom the agent asked
	TCP          bool
	Message      []byte // wire format, RFC 1035
}

// Answer returns the reply in wire format, truncated to what the transport
// carries (TC set). An error means that no reply is sent: the message could not
// be read, or ctx ended.
func (r *Resolver) Answer(ctx context.Context, q Query) ([]byte, error) {
	panic("dns: not built yet")
}
