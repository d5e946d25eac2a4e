// Package egress is the only dialer: it refuses what agents must not reach
// through the gateway (I09), in every spelling, when the socket is about to
// connect.
package egress

import (
	"context"
	"net"
	"net/netip"
)

// Rules is what may be reached. The zero Rules refuse everything that is not a
// public address.
type Rules struct {
	Allow       []netip.Prefix   // lifts the private-range refusal
	AllowExact  []netip.AddrPort // also lifts loopback, link-local, metadata, tunnel subnets, own addresses
	Tunnel      []netip.Prefix   // the tunnel's subnets
	Own         []netip.Addr     // addresses of the gateway beyond those of its interfaces (public_url's)
	DenyUnknown bool             // egress { unknown = "deny" }: DialAddr, DialHost and ListenUDP refuse everything
	Upstream    []netip.AddrPort // resolvers; empty: the host's
}

// Dialer dials. Safe for concurrent use.
type Dialer struct{}

// New returns a Dialer under rules. Close releases its watch on the host's
// addresses.
func New(rules Rules) *Dialer { panic("egress: not built yet") }

// SetRules replaces the rules; connections already open stay.
func (d *Dialer) SetRules(r Rules) { panic("egress: not built yet") }

// Refused is the error of a destination the rules forbid.
type Refused struct {
	Address netip.AddrPort
	Reason  string // e.g. "private range", "the gateway's own address"
}

func (r *Refused) Error() string { return "refused by egress: " + r.Reason }

// Check says whether an agent may reach address directly: nil or *Refused.
func (d *Dialer) Check(address netip.AddrPort) error { panic("egress: not built yet") }

// DialAddr connects to where the agent was going, at most 10 s.
func (d *Dialer) DialAddr(ctx context.Context, address netip.AddrPort) (net.Conn, error) {
	panic("egress: not built yet")
}

// DialHost resolves host and connects to the first address that the rules allow
// and that answers; every candidate is checked at connect time.
func (d *Dialer) DialHost(ctx context.Context, host string, port uint16) (net.Conn, error) {
	panic("egress: not built yet")
}

// DialEndpoint connects for an endpoint of the policy: to address where it is
// valid (a literal in the policy: exempt from every refusal, for this dial
// only), else to host, which is exempt only where it is itself an IP address.
// unknown = "deny" does not apply.
func (d *Dialer) DialEndpoint(ctx context.Context, address netip.AddrPort, host string, port uint16) (net.Conn, error) {
	panic("egress: not built yet")
}

// DialUDP returns a connected socket to where the agent was going.
func (d *Dialer) DialUDP(ctx context.Context, address netip.AddrPort) (*net.UDPConn, error) {
	panic("egress: not built yet")
}
