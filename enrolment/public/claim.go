package public

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

const (
	// keepalive is WireGuard's persistent keepalive: below the 30 s after which
	// common NATs forget a UDP mapping.
	keepalive = 25 // seconds

	// handshakeWait is how long after start an invite's approval waits for the
	// first handshake. An agent host polls when its claims are done, for which it
	// needs half of that where a family is dead; with a tunnel, it has shaken hands
	// by then.
	handshakeWait = 10 * time.Second

	retryInvited = 1  // seconds until the next poll while an invite is about to approve
	retryPending = 2  // seconds until the next poll while someone may be about to approve
	retrySettled = 15 // seconds otherwise

	// blockedReason is all that a blocked agent host is told: whoever asks may be
	// the one that it was blocked for.
	blockedReason = "its operator knows why"
)

// proven reads the body, checks the MAC, then the body, which is {} for claim
// and poll alike. On failure it has answered.
func (h *handler) proven(w http.ResponseWriter, r *http.Request) (*registry.Registration, bool) {
	body, ok := readBody(w, r)
	if !ok {
		return nil, false
	}
	reg, verdict := h.proof.verify(r, body)
	switch verdict {
	case proven:
	case tooOften:
		w.Header().Set("Retry-After", "60")
		refuse(w, http.StatusTooManyRequests, "too_many_requests", "too many requests from this registration", "poll at the pace of retry_after")
		return nil, false
	default:
		refuseUnproven(w)
		return nil, false
	}
	if h.deviates(r, reg) {
		refuseUnproven(w)
		return nil, false
	}
	if err := decode(body, &struct{}{}); err != nil {
		refuse(w, http.StatusBadRequest, "bad_request", err.Error(), "")
		return nil, false
	}
	return reg, true
}

// deviates blocks a registration whose proven request comes from outside its
// pin (I08), and reports whether that is so. Of one that is blocked already it
// notes where it is: an operator may want to pin it there.
func (h *handler) deviates(r *http.Request, reg *registry.Registration) bool {
	from := peer(r)
	outside := reg.PinSealed && !reg.Pin.Has(from)
	if r.URL.Path == enrolment.PathClaim && h.mayStillClaim(reg, from) {
		outside = false
	}
	if !outside && reg.State != registry.Blocked {
		return false
	}
	what := "a " + path.Base(r.URL.Path)
	if outside && reg.State != registry.Blocked {
		h.Log.Warn("registration blocked: a request came from outside its pin", "registration", reg.ID, logName(reg.Name), "from", from, "what", what)
	}
	// Whatever becomes of the request, this has happened.
	err := h.Registry.Deviate(context.WithoutCancel(r.Context()), reg.ID, registry.Deviation{From: from, What: what})
	if err != nil && !errors.Is(err, registry.ErrState) {
		h.Log.Error("blocking a registration", "registration", reg.ID, "err", err)
	}
	return outside && reg.State != registry.Blocked
}

// mayStillClaim reports whether an agent host that knows of no approval yet
// would claim this family: the pin was sealed before it came to that.
func (h *handler) mayStillClaim(reg *registry.Registration, from netip.Addr) bool {
	have := reg.Pin.IPv6
	if from.Is4() {
		have = reg.Pin.IPv4
	}
	return !have.IsValid() && h.Now().Sub(reg.CreatedAt) <= registry.ClaimWindow
}

// refuseUnproven is the one answer to every request that does not prove a
// registration (I10).
func refuseUnproven(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", "CP-MAC") // RFC 9110 section 11.6.1
	refuse(w, http.StatusUnauthorized, "unauthorized", "not the proof of a registration",
		"it may be unknown, expired or revoked, or this host's clock may be off by more than a minute; join again if it persists")
}

// claim records the peer's address in the pin and returns what the tunnel needs.
func (h *handler) claim(w http.ResponseWriter, r *http.Request) {
	reg, ok := h.proven(w, r)
	if !ok {
		return
	}
	reg, err := h.Registry.Claim(r.Context(), reg.ID, peer(r))
	switch {
	case errors.Is(err, registry.ErrNotFound):
		refuseUnproven(w) // revoked since the proof
		return
	case errors.Is(err, registry.ErrPinSealed):
		refuse(w, http.StatusConflict, "pin_sealed", "the pin is sealed", "leave and join again to enrol from other addresses")
		return
	case errors.Is(err, registry.ErrState):
		refuse(w, http.StatusConflict, "claim_refused", "this claim is too late, a repetition, or not from the address that started", "leave and join again")
		return
	case err != nil:
		h.Log.Error("claim failed", "err", err)
		refuse(w, http.StatusInternalServerError, "internal", "the gateway failed; its log says why", "")
		return
	}
	answer(w, http.StatusOK, enrolment.ClaimResponse{
		Pin:       enrolment.Pin{IPv4: text(reg.Pin.IPv4), IPv6: text(reg.Pin.IPv6)},
		Addresses: interfaceAddresses(reg),
		WireGuard: enrolment.ClaimWireGuard{
			PublicKey: h.pubKey,
			Endpoint:  h.WireGuardEndpoint,
			MTU:       h.MTU,
			Keepalive: keepalive,
		},
		DNS:   texts(h.Registry.Resolvers()),
		CAPEM: string(h.CAPEM),
		SSHCA: h.SSHAuthority,
		Env:   placeholders(h.Policy(), reg),
	})
}

// poll tells where the registration stands.
func (h *handler) poll(w http.ResponseWriter, r *http.Request) {
	reg, ok := h.proven(w, r)
	if !ok {
		return
	}
	reg = h.approveInvited(r.Context(), reg)
	resp := enrolment.PollResponse{
		State:      string(reg.State),
		Profiles:   append([]string{}, reg.Profiles...),
		SSHHosts:   h.knownHosts(reg),
		Env:        placeholders(h.Policy(), reg),
		RetryAfter: retrySettled,
	}
	switch reg.State {
	case registry.Pending:
		resp.RetryAfter = retryPending
		if len(reg.Invited) > 0 && h.Now().Sub(reg.CreatedAt) <= registry.ClaimWindow {
			resp.RetryAfter = retryInvited
		}
	case registry.Blocked:
		resp.RetryAfter, resp.Reason = retryPending, blockedReason
	}
	if reg.State != registry.Blocked {
		resp.Pin = &enrolment.Pin{IPv4: text(reg.Pin.IPv4), IPv6: text(reg.Pin.IPv6)}
	}
	answer(w, http.StatusOK, resp)
}

// approveInvited approves a registration that an invite approves in advance,
// once its pin is complete: a handshake has sealed it, and so it has the address
// of the host's datagrams too; or the host has had time for its claims, and makes
// no tunnel yet. It returns the registration as it is then. Where the policy does
// not have one of the profiles, the registration waits for an operator.
func (h *handler) approveInvited(ctx context.Context, reg *registry.Registration) *registry.Registration {
	if reg.State != registry.Pending || len(reg.Invited) == 0 || !reg.PinSealed && h.Now().Sub(reg.CreatedAt) <= handshakeWait {
		return reg
	}
	if _, ok := invites.Unknown(h.Policy(), reg.Invited); !ok {
		return reg
	}
	err := h.Registry.ApproveInvited(context.WithoutCancel(ctx), reg.ID)
	switch {
	case errors.Is(err, registry.ErrState) || errors.Is(err, registry.ErrNotFound): // an operator was faster
	case err != nil:
		h.Log.Error("approving a registration by its invite", "registration", reg.ID, "err", err)
		return reg
	default:
		h.Log.Info("registration approved", "registration", reg.ID, "profiles", reg.Invited, "was", reg.State, "pin", reg.Pin.Addrs(), "invite", reg.Invite)
	}
	if now, ok := h.Registry.Snapshot().ByID(reg.ID); ok {
		return now
	}
	return reg
}

// placeholders maps the environment variables of an approved registration's
// credentials to their placeholders. Where two credentials name one variable the
// first in file order has it.
func placeholders(p *policy.Policy, reg *registry.Registration) map[string]string {
	if reg.State != registry.Approved || p == nil {
		return nil
	}
	env := make(map[string]string)
	for _, profile := range p.Profiles {
		if !slices.Contains(reg.Profiles, profile.Name) {
			continue
		}
		for _, c := range profile.Credentials {
			if _, taken := env[c.Env]; c.Env != "" && !taken {
				env[c.Env] = c.Placeholder
			}
		}
	}
	return env
}

// knownHosts returns the lines of known_hosts for every SSH host that an approved
// registration's profiles reach, in file order. Wildcards have none: a program
// that needs such lines knows no patterns, and the CA covers the others.
func (h *handler) knownHosts(reg *registry.Registration) []string {
	lines := []string{}
	p := h.Policy()
	if reg.State != registry.Approved || p == nil || h.KnownHost == nil {
		return lines
	}
	scope := p.Scope(reg.Profiles)
	for _, e := range p.Endpoints {
		if e.SSH == nil {
			continue
		}
		for _, host := range e.Hosts {
			m, ok := scope.Match(host.Name, host.Port) // a wildcard is no host, and matches nothing
			if !ok || len(m.Credentials) == 0 {
				continue
			}
			if len(lines) == enrolment.MaxSSHHosts {
				return lines
			}
			if line := h.KnownHost(e.Ref(), host.Name, host.Port); line != "" {
				lines = append(lines, line)
			}
		}
	}
	return lines
}

// interfaceAddresses are the agent's own: the first of each of its ranges, with
// the range's length.
func interfaceAddresses(reg *registry.Registration) []string {
	var out []string
	for _, p := range []netip.Prefix{reg.Prefix4, reg.Prefix6} {
		if p.IsValid() {
			out = append(out, netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits()).String())
		}
	}
	return out
}

// text is empty for a zero address.
func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func texts(addrs []netip.Addr) []string {
	out := make([]string, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}
