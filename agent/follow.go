package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// How often the gateway is asked, whatever it says.
const (
	minPoll = 1 * time.Second
	maxPoll = 60 * time.Second
)

// The states of a registration, as poll tells them.
const (
	statePending  = "pending"
	stateApproved = "approved"
	stateBlocked  = "blocked"
	stateRevoked  = "revoked"
)

// poll asks the gateway for the registration's state until ctx ends.
func (h *holder) poll(ctx context.Context, out chan<- polled) {
	blocked := false
	for {
		resp, err := h.s.poll(ctx, h.st)
		if err == nil && resp.State == stateBlocked && !blocked {
			// From where this host is in the other family, too: an operator who wants to
			// pin it there needs both, and blocked is what it is already.
			for _, f := range h.s.where.families() {
				_, _ = h.s.pollOver(ctx, h.s.clients[f], h.st)
			}
		}
		blocked = err == nil && resp.State == stateBlocked
		select {
		case out <- polled{resp, err}:
		case <-ctx.Done():
			return
		}
		wait := min(max(time.Duration(resp.RetryAfter)*time.Second, minPoll), maxPoll)
		if err != nil {
			wait = tickEvery
		}
		if sleep(ctx, wait) != nil {
			return
		}
	}
}

// polled follows one answer. Before the approval anything but pending ends the
// join; after it the tunnel is held, closed if need be, until someone decides
// otherwise: here with down or leave, there by approving again.
func (h *holder) polled(ctx context.Context, p polled) error {
	h.mu.Lock()
	before := h.last
	if p.err != nil {
		p.resp = before.resp // the last that was known
	}
	h.last = p
	h.mu.Unlock()

	if p.err != nil {
		var away *moved
		if ctx.Err() != nil || (errors.As(p.err, &away) && h.st.Approved) {
			return nil // connect tells that
		}
		if away != nil {
			return WithHint(fmt.Errorf("the registration %s cannot be approved any more: %w", oneLine(h.st.Registration), away), "run clawpatrol join again to ask anew")
		}
		if errors.Is(p.err, errRefused) && !h.st.Approved {
			if h.a.cfg.Now().After(h.st.ExpiresAt) {
				return WithHint(fmt.Errorf("the user code %s has expired before anyone approved it", oneLine(h.st.UserCode)), "run clawpatrol join again for a new one")
			}
			return WithHint(fmt.Errorf("the gateway has refused the registration %s: an operator turned it down", oneLine(h.st.Registration)), "run clawpatrol join again to ask anew")
		}
		if before.err == nil || errors.Is(before.err, errRefused) != errors.Is(p.err, errRefused) {
			e := Event{Event: EventNote}
			if e.Hint = HintOf(p.err); errors.Is(p.err, errRefused) {
				e.Hint = "it was revoked, or this host's addresses have changed: ask an operator; clawpatrol leave undoes everything here"
			}
			h.a.tell(e, "gateway: %v", p.err)
		}
		return nil
	}
	if err := h.follow(p.resp); err != nil {
		return err
	}
	switch p.resp.State {
	case statePending:
		if before.resp.State != statePending {
			h.a.tell(Event{Event: EventWaitingForApproval}, "waiting for approval")
		}
	case stateApproved:
		if before.resp.State == stateBlocked {
			h.anew.Store(true)
			h.look()
		}
		if !h.connected {
			h.early = &p
			return nil
		}
		return h.approved(ctx, p.resp, before.resp)
	case stateBlocked, stateRevoked:
		h.early = nil
		if !h.st.Approved {
			return WithHint(fmt.Errorf("the registration %s is %s", oneLine(h.st.Registration), p.resp.State), "ask an operator to approve it again; if this host's address changes while it enrols, keep it from doing so")
		}
		if before.resp.State != p.resp.State {
			h.a.tell(Event{Event: p.resp.State, Hint: "an operator sees why in the dashboard, and can approve it again"},
				"%s: nothing leaves this host%s", p.resp.State, because(p.resp))
		}
	default:
		return fmt.Errorf("the gateway says that this registration is %q, which this program does not know", oneLine(p.resp.State))
	}
	return nil
}

// because is the gateway's own word on why a registration is blocked.
func because(resp enrolment.PollResponse) string {
	if resp.Reason == "" {
		return ""
	}
	return "; " + oneLine(resp.Reason)
}

// follow takes over the pin that the gateway tells of a registration that is not
// blocked, and keeps what has been learnt about the ways there.
func (h *holder) follow(resp enrolment.PollResponse) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := *h.st
	next.Ways = h.s.where.learnt()
	if resp.State == stateApproved {
		next.Asking = false
		h.s.asking.Store(false)
	}
	if p := resp.Pin; p != nil && *p != h.st.Claim.Pin && (p.IPv4 != "" || p.IPv6 != "") {
		claim := *h.st.Claim
		claim.Pin = *p
		next.Claim = &claim
		h.s.where.repin(*p)
		next.Ways = h.s.where.learnt()
		for _, f := range h.s.where.families() {
			h.a.sayAddress(*p, f)
		}
		h.anew.Store(true)
		h.look()
	}
	if next.Claim == h.st.Claim && next.Asking == h.st.Asking && maps.EqualFunc(next.Ways, h.st.Ways, slices.Equal) {
		return nil
	}
	h.st.Claim, h.st.Asking, h.st.Ways = next.Claim, next.Asking, next.Ways
	return saveState(h.a.paths, h.st)
}

// approved installs what an approved host needs, the first time, and follows the
// changes of its profiles.
func (h *holder) approved(ctx context.Context, now, before enrolment.PollResponse) error {
	if err := h.a.writeEnv(h.st, now.Env); err != nil {
		return err
	}
	if !h.trusted {
		store, err := h.a.installTrust(ctx, h.j, h.st.Claim.CAPEM, !h.st.Approved)
		if err != nil {
			return h.stopped(ctx, err)
		}
		h.trusted = true
		if store == "" {
			h.a.tell(Event{Event: EventCANotInstalled}, "CA not installed: no system trust store that this program knows; tools find it through clawpatrol env")
		} else {
			h.a.tell(Event{Event: EventCAInstalled, Path: store}, "CA installed: %s", store)
		}
	}
	h.a.knowSSH(h.j, h.st, now.SSHHosts)
	if !h.profiled {
		h.a.installProfile(ctx, h.j)
		h.profiled = true
	}
	if before.State != stateApproved {
		h.a.tell(Event{Event: EventApproved}, "approved")
	}
	if before.State != stateApproved || !slices.Equal(before.Profiles, now.Profiles) {
		h.a.tell(Event{Event: EventProfiles, Profiles: printable(now.Profiles)}, "profiles: %s", profileList(now.Profiles))
	}
	if !h.st.Approved {
		h.mu.Lock() // status reads it
		h.st.Approved = true
		err := saveState(h.a.paths, h.st)
		h.mu.Unlock()
		if err != nil {
			return err
		}
		h.a.cfg.checkpoint("approved")
		h.a.sayNext()
	}
	if h.service {
		if err := h.a.installService(ctx, h.j); err != nil {
			return err
		}
		return errHandOver
	}
	if before.State != stateApproved {
		h.a.tell(Event{Event: EventReady}, "ready")
	}
	return nil
}

func profileList(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(printable(names), ", ")
}

func printable(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = oneLine(n)
	}
	return out
}

func (a *Agent) sayNext() {
	a.say("this host's traffic goes through the gateway now")
	a.say("next, in each shell that starts an agent:")
	a.say("  eval \"$(clawpatrol env%s)\"", a.stateFlag())
}

// stateFlag is what commands need to find a state directory that is not the
// default one.
func (a *Agent) stateFlag() string {
	if a.paths.dir == DefaultStateDir {
		return ""
	}
	return " --state " + shellQuote(a.paths.dir)
}
