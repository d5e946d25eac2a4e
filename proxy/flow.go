package proxy

import (
	"context"
	"net"
	"net/netip"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// Flow is one connection from a registration to an endpoint of its scope.
type Flow struct {
	Registration registry.ID
	Conn         net.Conn       // the agent's side; peeked bytes are replayed
	Source       netip.AddrPort // the agent's tunnel address
	Destination  netip.AddrPort // where the agent thinks it goes: a claim
	Match        policy.Match   // as routed when the flow began; Authorize decides anew
	gate         *Gate
}

// Handler speaks one endpoint type's protocol to the agent.
type Handler interface {
	// Serve runs the flow to its end. ctx ends when the flow is no longer
	// covered (revoked, re-profiled, policy changed) or the gateway stops; the
	// proxy then closes f.Conn. The proxy closes f.Conn after Serve returns.
	Serve(ctx context.Context, f *Flow) error
}

// Action is the smallest thing that is decided: one HTTP request.
type Action struct {
	Summary string // for the log: "GET /repos/x"; no query values, no secrets; bounded to 512 bytes
	// Choose picks among several credentials of the endpoint, by placeholder. It
	// is called only where there is more than one; nil, or a result that is not
	// one of them, refuses with the list of placeholders.
	Choose func([]*policy.Credential) *policy.Credential
}

// Authorize asks the Gate: it decides, logs, and only then returns the grant.
// The error is a *Refusal, or ctx's.
func (f *Flow) Authorize(ctx context.Context, a Action) (*Grant, error) {
	panic("proxy: not built yet")
}

// Current reports whether a match made now would still select the flow's
// endpoint, unchanged.
func (f *Flow) Current() bool { panic("proxy: not built yet") }

// Grant is permission for one action, with the credential to carry it out. The
// zero Grant has no secret.
type Grant struct {
	Credential *policy.Credential
	Version    uint64 // of the credential's secret
}

// Secret returns one slot. A missing one is an error that names the slot: the
// action must then fail, never go ahead without (I21).
func (g *Grant) Secret(slot string) (secret.Secret, error) { panic("proxy: not built yet") }

// Finish records how the action ended. Call it once.
func (g *Grant) Finish(r registry.ActionResult) { panic("proxy: not built yet") }

// Refuse appends a denied action that a handler refuses by itself, before or
// without a grant (a request that contradicts its endpoint: 421).
func (f *Flow) Refuse(ctx context.Context, summary string, r *Refusal) { panic("proxy: not built yet") }

// Refusal is why an action was denied or could not be carried out.
type Refusal struct {
	Code   string // "denied", "profile_missing", "secret_missing", "placeholder_required", "not_in_scope", "log_unavailable", ...
	Rule   string
	Reason string // for the agent to read: no secrets
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Reason }

// Gate is the only way from a connection to a secret.
type Gate struct{}
