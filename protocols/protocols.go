// Package protocols holds what the protocol handlers share.
//
// A protocol handler is a [proxy.Handler] for one endpoint type: HTTPS, SSH,
// Postgres. The proxy has already established who is speaking and which
// endpoint of their scope the flow goes to; the handler speaks that endpoint's
// protocol to both sides. Its contract with the proxy:
//
//   - Serve owns the flow until it returns. When its context ends the proxy
//     closes the agent's connection; Serve then ends everything it began.
//   - What is decided is one action: an HTTP request, a SQL statement. Before
//     each one the handler calls Flow.Authorize, once, and does nothing upstream
//     without the Grant. The Grant is the only source of a secret, and Finish is
//     called on every path.
//   - A secret goes only to an upstream whose identity was verified against the
//     host of Flow.Match (I04). Whatever else names a host, the agent's
//     destination address included, is a claim: it is compared, never used.
//   - An action that should carry a credential and cannot fails with its reason;
//     it never goes ahead without (I21).
//   - What comes back does not show the secret (I01), and neither do errors and
//     logs (I02).
//   - Whatever either side sends costs its own flow at most (I16): every length
//     and wait has a bound, and panics stop at the flow.
//   - Upstream connections are never shared between registrations, endpoints,
//     credentials or versions of a credential's secret.
package protocols

import (
	"crypto/tls"

	"github.com/clawpatrol/clawpatrol/policy"
)

// UpstreamTLS returns the configuration for connecting to host, one of the
// hosts of endpoint: its certificate must be valid for host and chain to the
// endpoint's roots, over TLS 1.2 or later. protocols are offered by ALPN, none
// if empty. Sessions are resumed from a cache of sessions entries that belongs
// to this configuration alone, so that a session never serves two pools; none
// if it is 0.
func UpstreamTLS(endpoint *policy.Endpoint, host string, sessions int, protocols ...string) *tls.Config {
	config := &tls.Config{
		RootCAs:    endpoint.RootCAs, // nil: the system's
		ServerName: host,             // an IP address is verified and not sent as SNI (RFC 6066 section 3)
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
	}
	if sessions > 0 {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(sessions)
	}
	return config
}
