package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	// summaryLimit is the action log's bound on a summary, in bytes.
	summaryLimit = 512

	// denyRowWait bounds how long a refused flow waits for room on the log. It
	// is refused either way.
	denyRowWait = 5 * time.Second
)

// Gate is the only way from a connection to a secret. The zero Gate refuses.
type Gate struct {
	db  *registry.DB
	log *slog.Logger

	mu    sync.Mutex // serialises publishing a state
	state atomic.Pointer[state]
}

// current returns the present state. It is exact, not eventually so: a change
// that the registry has published is seen by the first decision after it.
func (g *Gate) current() *state {
	if st := g.state.Load(); st.snapshot == g.db.Snapshot() {
		return st
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	st := g.state.Load()
	if snapshot := g.db.Snapshot(); st.snapshot != snapshot {
		st = newState(st.policy, snapshot, st)
		g.state.Store(st)
	}
	return st
}

// setPolicy publishes a state under pol.
func (g *Gate) setPolicy(pol *policy.Policy) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.state.Store(newState(pol, g.db.Snapshot(), g.state.Load()))
}

// place is where an action goes: the flow's own target, or a jump before it.
type place struct {
	host     string
	port     uint16
	endpoint *policy.Endpoint
}

// match routes the live flow again and returns what it reaches now at the place.
// The view is nil only with a refusal.
func (g *Gate) match(st *state, l *live, at place) (*view, policy.Match, *Refusal) {
	v := st.view(l.id)
	if v == nil {
		return nil, policy.Match{}, &Refusal{Code: CodeNotApproved, Reason: "this registration is not approved"}
	}
	m, ok := v.scope().Match(at.host, at.port)
	switch {
	case !ok || m.Endpoint == nil:
		return v, policy.Match{}, &Refusal{Code: CodeNotInScope, Reason: "this registration has no credential for this destination"}
	case m.Endpoint != at.endpoint && (m.Endpoint.Ref() != at.endpoint.Ref() || m.Endpoint.Fingerprint != at.endpoint.Fingerprint):
		return v, m, &Refusal{Code: CodePolicyChanged, Reason: "the policy for this destination has changed: connect again"}
	case m.MissingProfile != "":
		return v, m, &Refusal{Code: CodeProfileMissing, Reason: fmt.Sprintf("the assigned profile %q no longer exists", m.MissingProfile)}
	case len(m.Credentials) == 0:
		return v, m, &Refusal{Code: CodeNotInScope, Reason: "this registration has no credential for this destination"}
	}
	return v, m, nil
}

// authorize decides by the present state, records, and only then grants.
func (g *Gate) authorize(ctx context.Context, l *live, at place, a Action) (*Grant, error) {
	st := g.current()
	_, m, refusal := g.match(st, l, at)
	var c *policy.Credential
	if refusal == nil {
		c, refusal = choose(m, a)
	}
	row := g.row(st, l, at, c, a.Summary)
	if refusal != nil {
		g.deny(ctx, row, refusal)
		return nil, refusal
	}

	row.Verdict = "allow"
	started := time.Now()
	released, err := g.db.Release(ctx, row)
	if err != nil {
		return nil, g.notReleased(ctx, l, at, c, row, err)
	}
	grant := &Grant{
		Credential: c,
		Version:    released.Version,
		gate:       g,
		live:       l,
		row:        released.Action,
		slots:      released.Slots,
		started:    started,
	}
	// Release may have waited for room on the log. What was decided before the
	// wait has to hold after it.
	if now := g.current(); now != st {
		if refusal := g.covers(now, l, at, c); refusal != nil {
			grant.Finish(registry.ActionResult{Status: refusal.Code})
			return nil, refusal
		}
	}
	if !l.actionBegan(grant) {
		grant.Finish(registry.ActionResult{Status: "closed"})
		return nil, &Refusal{Code: CodePolicyChanged, Reason: "the connection is no longer covered: connect again"}
	}
	return grant, nil
}

// notReleased says why the registry kept a secret to itself.
func (g *Gate) notReleased(ctx context.Context, l *live, at place, c *policy.Credential, row registry.Action, err error) error {
	if refusal := g.covers(g.current(), l, at, c); refusal != nil {
		g.deny(ctx, row, refusal) // changed since the decision
		return refusal
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	g.log.Error("a secret was not released", "registration", l.id, "credential", c.Ref(), "err", err)
	if errors.Is(err, registry.ErrLogFailed) || errors.Is(err, registry.ErrClosed) {
		return &Refusal{Code: CodeLogUnavailable, Reason: "the action could not be recorded, so it was not carried out"}
	}
	return &Refusal{
		Code:   CodeSecretMissing,
		Reason: fmt.Sprintf("what is stored for credential %s cannot be read: an operator has to store it again", c.Ref()),
	}
}

// covers reports whether c, unchanged, is still what the flow may use at the place.
func (g *Gate) covers(st *state, l *live, at place, c *policy.Credential) *Refusal {
	_, m, refusal := g.match(st, l, at)
	if refusal != nil {
		return refusal
	}
	for _, now := range m.Credentials {
		if now.Ref() == c.Ref() && now.Fingerprint == c.Fingerprint {
			return nil
		}
	}
	return &Refusal{Code: CodePolicyChanged, Reason: "the policy for this destination has changed: connect again"}
}

// choose picks the credential: the only one, or the one the action names.
func choose(m policy.Match, a Action) (*policy.Credential, *Refusal) {
	if len(m.Credentials) == 1 {
		return m.Credentials[0], nil
	}
	if a.Choose != nil {
		chosen := a.Choose(m.Credentials)
		for _, c := range m.Credentials {
			if c == chosen {
				return c, nil
			}
		}
	}
	placeholders := make([]string, len(m.Credentials))
	for i, c := range m.Credentials {
		placeholders[i] = c.Placeholder
	}
	return nil, &Refusal{
		Code:   CodePlaceholderRequired,
		Reason: "several credentials fit here; send the placeholder of one: " + strings.Join(placeholders, ", "),
	}
}

// row describes an action of the flow, its verdict left open. c is nil where no
// credential was chosen.
func (g *Gate) row(st *state, l *live, at place, c *policy.Credential, summary string) registry.Action {
	row := registry.Action{
		Time:         time.Now(),
		Registration: l.id,
		Protocol:     l.protocol,
		Summary:      cleanSummary(summary),
	}
	if at.endpoint != nil {
		row.Endpoint = at.endpoint.Ref()
	}
	v := st.view(l.id)
	if c != nil {
		row.Credential = c.Ref()
		if v != nil {
			row.Profile = v.set.profileOf[c]
		}
	}
	return row
}

// deny appends row as refused. It outlives ctx: the flow may be closing for the
// very reason that is recorded.
func (g *Gate) deny(ctx context.Context, row registry.Action, r *Refusal) {
	row.Verdict, row.Rule, row.Reason = "deny", r.Rule, cleanSummary(r.Error())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), denyRowWait)
	defer cancel()
	if _, err := g.db.Append(ctx, row); err != nil {
		g.log.Error("recording a refused action", "registration", row.Registration, "endpoint", row.Endpoint, "err", err)
	}
}

// cleanSummary makes outside input fit for the log: valid UTF-8, no control
// characters, at most summaryLimit bytes.
func cleanSummary(s string) string {
	s = s[:min(len(s), summaryLimit)] // a rune that this splits is dropped below
	if plain(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029' {
			return -1
		}
		return r
	}, s)
}

// plain reports whether s is printable ASCII, as nearly all is.
func plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
