package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

const (
	tickEvery   = 5 * time.Second  // how often what others may have changed is looked at
	undoTimeout = 60 * time.Second // for undoing, once this process was told to stop

	// earlyLookup bounds the search for the gateway before the routes are closed.
	earlyLookup = 2 * time.Second

	minPoll = 1 * time.Second
	maxPoll = 60 * time.Second
)

var (
	errDown     = errors.New("asked to take the tunnel down")
	errHandOver = errors.New("the service takes over")
)

// The states of a registration, as poll tells them.
const (
	statePending  = "pending"
	stateApproved = "approved"
	stateBlocked  = "blocked"
	stateRevoked  = "revoked"
)

// holder is a process that holds the tunnel. All of it belongs to the goroutine
// of hold, but what status reads: last, and st once it is changed, are under mu.
type holder struct {
	a       *Agent
	st      *state
	s       *session
	j       *journal
	t       *tunnel
	r       *routing
	service bool // hand over once approved

	trusted   bool    // the CA was installed by this process
	profiled  bool    // the AppArmor profile, the same
	connected bool    // there has been a session with the gateway
	early     *polled // an approval that came before that

	// What serves runs, and where it listens. nil: nothing does.
	serveRuns func(context.Context, *net.UnixListener)
	runs      *net.UnixListener

	wake chan struct{} // has one where keepConnected is to look at once
	anew atomic.Bool   // the gateway has forgotten the session

	mu   sync.Mutex
	last polled // guarded by mu
	away *moved // nil: the host is where its pin says; guarded by mu
}

// polled is what one poll said.
type polled struct {
	resp enrolment.PollResponse
	err  error
}

// hold brings the tunnel up and keeps it until ctx ends, and undoes it then. When
// it fails, an approved host stays closed; on another it undoes the tunnel too.
func (a *Agent) hold(ctx context.Context, st *state, s *session, j *journal, service bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h := &holder{a: a, st: st, s: s, j: j, service: service, wake: make(chan struct{}, 1)}

	ctl := &control{status: h.status, down: func() { cancel(errDown) }, repin: func() ([]netip.Addr, error) { return h.repin(ctx) }}
	err := h.open(ctx, ctl)
	if err == nil {
		defer h.t.close()
		defer h.r.close()
		if h.runs != nil {
			defer h.runs.Close() // also where run has failed before it served anybody
		}
		err = h.run(ctx)
	}
	if err != nil && h.st.Approved && ctx.Err() == nil {
		// Nobody asked for the host to be opened.
		ctl.finish(a.paths, nil)
		if !errors.Is(err, errHandOver) {
			a.say("what is blocked stays blocked: clawpatrol up tries again, clawpatrol down gives the host its own way back")
		}
		return err
	}
	undone := a.undo(ctx, j, scopeTunnel)
	ctl.finish(a.paths, undone)
	if undone == nil {
		a.tell(Event{Event: EventTunnelDown}, "tunnel down")
	}
	return errors.Join(err, undone)
}

// open makes the tunnel and answers the other commands. On an error it has
// closed what it opened; the host's changes are in the journal.
func (h *holder) open(ctx context.Context, ctl *control) (err error) {
	cfg, err := newTunnelConfig(h.st)
	if err != nil {
		return err
	}
	var (
		first  netip.AddrPort
		source netip.Addr
	)
	early, stop := context.WithTimeout(ctx, earlyLookup)
	if e, err := cfg.endpoints(early, h.a.cfg.Lookup, h.s.where.families()); err == nil {
		// Otherwise connect tells, or goes on trying.
		if from, here := h.s.where.known(e[0].Addr()); here {
			first, source = e[0], from
		}
	}
	stop()
	if h.t, err = openTunnel(h.j, cfg, openAt{first, source, h.share(cfg)}); err != nil {
		return err
	}
	if h.r, err = newRouting(h.t); err != nil {
		h.t.close()
		return err
	}
	if err := ctl.listen(h.a.paths); err != nil {
		h.r.close()
		h.t.close()
		return err
	}
	h.openRuns()
	return nil
}

// errTunnelGone is returned when the interface went away under us.
var errTunnelGone = WithHint(errors.New("the tunnel's interface is gone"), "traffic stays blocked: clawpatrol up makes it anew, clawpatrol down gives it up")

// run does hold's work. nil: it was told to stop.
func (h *holder) run(ctx context.Context) error {
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	// An enrolled host fails closed from the first moment; one that is only being
	// enrolled must not lose its network to a tunnel that cannot be.
	if h.st.Approved {
		if err := h.route(ctx); err != nil {
			return err
		}
	}
	var connected chan struct{} // an approved host may be blocked, and has to hear of it
	if h.st.Approved {
		connected = make(chan struct{})
	} else {
		if err := h.connect(ctx, time.Time{}, true); err != nil {
			return h.stopped(ctx, err)
		}
		if err := h.route(ctx); err != nil {
			return err
		}
		h.connected = true
		h.a.tell(Event{Event: EventTunnelUp}, "tunnel up")
	}

	polls := make(chan polled)
	changed := make(chan struct{}, 1)
	background.Go(func() { h.poll(ctx, polls) })
	background.Go(func() { h.keepConnected(ctx, connected) })
	if h.runs != nil {
		background.Go(func() { h.serveRuns(ctx, h.runs) })
	}
	background.Go(func() {
		if err := watchHost(ctx, changed); err != nil {
			h.a.say("%v; looking every %s instead", err, tickEvery)
		}
	})
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return h.stopped(ctx, context.Cause(ctx))
		case <-h.t.dev.Wait():
			return errors.Join(errTunnelGone, h.r.seal(h.a.cfg.checkpoint))
		case <-connected:
			if err := h.up(ctx); err != nil {
				return err
			}
		case p := <-polls:
			if err := h.polled(ctx, p); err != nil {
				return err
			}
		case <-changed:
			h.s.close() // what is open may have an address that is gone
			h.look()
			if err := sleep(ctx, settle); err != nil {
				return h.stopped(ctx, err)
			}
			h.repair(ctx)
		case <-tick.C:
			h.repair(ctx)
		}
	}
}

// errStoppedEarly is returned by a join that was told to stop too soon.
var errStoppedEarly = WithHint(errors.New("stopped before the registration was approved"), "clawpatrol join again goes on with it, clawpatrol leave gives it up")

// up follows the first session of a host that was approved before.
func (h *holder) up(ctx context.Context) error {
	h.connected = true
	h.a.tell(Event{Event: EventTunnelUp}, "tunnel up")
	if h.early == nil {
		return nil
	}
	p := *h.early
	h.early = nil
	return h.approved(ctx, p.resp, enrolment.PollResponse{})
}

// stopped turns being told to stop into success, if there was anything to stop.
func (h *holder) stopped(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if !h.st.Approved {
		return errStoppedEarly
	}
	return nil
}

// route sends the host's traffic and questions into the tunnel.
func (h *holder) route(ctx context.Context) error {
	if err := h.j.record(entry{Step: stepRouting, Scope: scopeTunnel}); err != nil {
		return err
	}
	if err := h.r.apply(h.a.cfg.checkpoint); err != nil {
		return err
	}
	return h.a.pointResolver(ctx, h.j, h.t)
}

// repair puts back what others have changed. A failure is tried again at the
// next tick.
func (h *holder) repair(ctx context.Context) {
	if err := h.r.apply(h.a.cfg.checkpoint); err != nil {
		h.a.say("repairing the routes: %v", err)
	}
	if err := h.a.reassertResolver(ctx, h.j, h.t); err != nil {
		h.a.say("repairing the resolver: %v", err)
	}
}

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

// undo undoes what the journal lists, also when ctx has ended: being told to
// stop is the usual reason.
func (a *Agent) undo(ctx context.Context, j *journal, scopes ...scope) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return j.undo(func(e entry) error {
		switch e.Step {
		case stepFile:
			return restoreHostFile(j, e)
		case stepRefresh:
			p := a.program(e.Key)
			if p == "" {
				return nil // its package is gone, and its store with it
			}
			if err := a.cfg.Run(ctx, p); err != nil {
				return err
			}
			return a.finishRefresh(ctx)
		case stepLink:
			return removeLink(e.Key)
		case stepBlock:
			return removeBlock(e)
		case stepDir:
			return removeEmptyDir(e.Key)
		case stepRouting:
			r, err := newRouting(nil)
			if err != nil {
				return err
			}
			defer r.close()
			return r.remove(a.cfg.checkpoint)
		case stepResolved:
			return a.revertResolved(ctx, e.Key)
		case stepService:
			return a.removeService(ctx, e.Key)
		case stepRunSocket:
			return removeRunSocket(e.Key)
		case stepAppArmor:
			return a.unloadProfile(ctx, e.Key)
		}
		return fmt.Errorf("unknown step %q", e.Step)
	}, scopes...)
}
