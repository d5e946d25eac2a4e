package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// Flow is one connection from a registration to an endpoint of its scope. The
// exported fields say how it was routed; Authorize goes by what the channel
// proved and by the present policy, not by them.
type Flow struct {
	Registration registry.ID
	Conn         net.Conn       // the agent's side; peeked bytes are replayed
	Source       netip.AddrPort // the agent's tunnel address
	Destination  netip.AddrPort // where the agent thinks it goes: a claim
	Match        policy.Match   // as routed when the flow began; Authorize decides anew
	gate         *Gate
	live         *live
}

// Handler speaks one endpoint type's protocol to the agent.
type Handler interface {
	// Serve runs the flow to its end. ctx ends when the flow is no longer
	// covered (revoked, re-profiled, policy changed) or the gateway stops; the
	// proxy then closes f.Conn. The proxy closes f.Conn after Serve returns.
	Serve(ctx context.Context, f *Flow) error
}

// Action is the smallest thing that is decided: one HTTP request, one SSH command.
type Action struct {
	Summary string // for the log: "GET /repos/x", "exec make test"; no query values, no secrets; bounded to 512 bytes
	// Choose picks among several credentials of the endpoint, by placeholder. It
	// is called only where there is more than one; nil, or a result that is not
	// one of them, refuses with the list of placeholders.
	Choose func([]*policy.Credential) *policy.Credential
}

// Authorize asks the Gate: it decides, logs, and only then returns the grant.
// The error is a *Refusal, or ctx's. The zero Flow is refused.
func (f *Flow) Authorize(ctx context.Context, a Action) (*Grant, error) {
	if f == nil || f.gate == nil || f.live == nil {
		return nil, &Refusal{Code: CodeNotInScope, Reason: "this connection belongs to no registration"}
	}
	return f.gate.authorize(ctx, f.live, f.live.place(), a)
}

// AuthorizeJump is Authorize for an action at jump, one of the endpoints through
// which the flow's own is reached (policy.SSH.Jump). Its credential comes from
// the same registration's profiles (I06); any other endpoint is refused.
func (f *Flow) AuthorizeJump(ctx context.Context, jump *policy.Endpoint, a Action) (*Grant, error) {
	if f == nil || f.gate == nil || f.live == nil {
		return nil, &Refusal{Code: CodeNotInScope, Reason: "this connection belongs to no registration"}
	}
	for _, e := range jumps(f.live.endpoint) {
		if e == jump {
			return f.gate.authorize(ctx, f.live, place{host: e.Hosts[0].Name, port: e.Hosts[0].Port, endpoint: e}, a)
		}
	}
	return nil, &Refusal{Code: CodeNotInScope, Reason: "this endpoint is not on the way to the connection's own"}
}

// Current reports whether a match made now would still select the flow's
// endpoint, unchanged.
func (f *Flow) Current() bool {
	if f == nil || f.gate == nil || f.live == nil {
		return false
	}
	_, _, refusal := f.gate.match(f.gate.current(), f.live, f.live.place())
	return refusal == nil || refusal.Code == CodeProfileMissing
}

// Refuse appends a denied action that a handler refuses by itself, before or
// without a grant (a request that contradicts its endpoint: 421).
func (f *Flow) Refuse(ctx context.Context, summary string, r *Refusal) {
	if f == nil || f.gate == nil || f.live == nil || r == nil {
		return
	}
	f.gate.deny(ctx, f.gate.row(f.gate.current(), f.live, f.live.place(), nil, summary), r)
}

// Draining is closed when the gateway begins to stop: finish what is running
// and begin nothing new. A flow without a running action is closed soon after;
// one that is not finished when the operator's patience ends, then.
func (f *Flow) Draining() <-chan struct{} {
	if f == nil || f.live == nil {
		return nil
	}
	return f.live.draining
}

// Grant is permission for one action, with the credential to carry it out. The
// zero Grant has no secret.
type Grant struct {
	Credential *policy.Credential
	Version    uint64 // of the credential's secret

	gate     *Gate
	live     *live
	row      int64
	slots    map[string]secret.Secret
	started  time.Time
	finished atomic.Bool
}

// Secret returns one slot. A missing one is an error that names the slot: the
// action must then fail, never go ahead without (I21). The error is a *Refusal.
func (g *Grant) Secret(slot string) (secret.Secret, error) {
	if g == nil || g.gate == nil || g.Credential == nil {
		return secret.Secret{}, &Refusal{Code: CodeSecretMissing, Reason: "nothing was granted"}
	}
	s := g.slots[slot]
	if s.IsZero() {
		return secret.Secret{}, &Refusal{
			Code:   CodeSecretMissing,
			Reason: fmt.Sprintf("credential %s has no %s set: an operator has to store it", g.Credential.Ref(), slot),
		}
	}
	return s, nil
}

// Finish records how the action ended. The first call counts; a zero Duration
// is filled in. What is never finished is recorded as "aborted" when its flow
// ends.
func (g *Grant) Finish(r registry.ActionResult) {
	if g == nil || g.gate == nil || g.finished.Swap(true) {
		return
	}
	if r.Duration == 0 {
		r.Duration = time.Since(g.started)
	}
	g.gate.db.Finish(g.row, r)
	g.live.moved.Add(r.BytesIn + r.BytesOut)
	g.live.actionEnded(g)
}

// The codes of refusals. A handler turns them into what its protocol says.
const (
	CodeDenied              = "denied"
	CodeNotApproved         = "not_approved"         // the registration is not, or no longer, approved
	CodeNotInScope          = "not_in_scope"         // no credential for this destination
	CodePolicyChanged       = "policy_changed"       // the endpoint is not what the flow began with
	CodeProfileMissing      = "profile_missing"      // an assigned profile no longer exists
	CodePlaceholderRequired = "placeholder_required" // several credentials, none chosen
	CodeSecretMissing       = "secret_missing"       // the credential has nothing stored in a slot
	CodeLogUnavailable      = "log_unavailable"      // no row, no secret
)

// Refusal is why an action was denied or could not be carried out.
type Refusal struct {
	Code   string // "denied", "profile_missing", "secret_missing", "placeholder_required", "not_in_scope", "log_unavailable", ...
	Rule   string
	Reason string // for the agent to read: no secrets
}

func (r *Refusal) Error() string { return r.Code + ": " + r.Reason }
