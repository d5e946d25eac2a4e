package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
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
)

var (
	errDown     = errors.New("asked to take the tunnel down")
	errHandOver = errors.New("the service takes over")
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
