package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// Repin shows the gateway where this host is now, so that an operator can pin it
// there. Where that is outside the pin the gateway blocks the registration, which
// is why nothing but a person's word brings it about.
func (a *Agent) Repin(ctx context.Context) error {
	if os.Geteuid() != 0 && !a.unprivileged {
		return WithHint(errors.New("asking for another pin: it needs root"), "run it with sudo")
	}
	if err := checkWay(a.paths.private()); err != nil {
		return err
	}
	reply, err := askHolder(ctx, a.paths, "repin", downTimeout)
	switch {
	case err == nil && reply.Error != "":
		return WithHint(errors.New(reply.Error), reply.Hint)
	case err == nil:
		a.sayAsked(reply.Seen)
		return nil
	case !errors.Is(err, errNoHolder):
		return err
	}
	unlock, err := lockState(a.paths)
	if err != nil {
		return fmt.Errorf("asking for another pin: %w", err)
	}
	defer unlock()
	st, s, err := a.enrolled()
	if err != nil {
		return err
	}
	defer s.close()
	if st.Claim == nil {
		return errUnfinished
	}
	seen, err := s.askRepin(ctx, st)
	if err != nil {
		return err
	}
	if st.Asking = len(seen) > 0; st.Asking {
		if err := saveState(a.paths, st); err != nil {
			return err
		}
	}
	a.sayAsked(seen)
	return nil
}

func (a *Agent) sayAsked(seen []netip.Addr) {
	if len(seen) == 0 {
		a.say("nothing to ask for: the gateway sees this host where its pin says")
		return
	}
	addrs := make([]string, len(seen))
	for i, s := range seen {
		addrs[i] = s.String()
	}
	a.tell(Event{Event: EventRepin, Hint: "an operator approves it in the dashboard, with the new addresses; until then nothing leaves this host"},
		"asked: the gateway has seen this host at %s, and blocked the registration", strings.Join(addrs, " and "))
}

// repin is Repin in the process that holds the tunnel.
func (h *holder) repin(ctx context.Context) ([]netip.Addr, error) {
	h.mu.Lock()
	st := *h.st
	h.mu.Unlock()
	seen, err := h.s.askRepin(ctx, &st)
	if err != nil || len(seen) == 0 {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.s.asking.Store(true)
	h.st.Asking = true
	return seen, saveState(h.a.paths, h.st)
}

// askRepin proves over each family where this host is, and returns the addresses
// that the gateway saw; none where all of them are in the pin.
func (s *session) askRepin(ctx context.Context, st *state) (seen []netip.Addr, err error) {
	addrs, err := s.lookup(ctx, s.url.Hostname())
	if err != nil {
		return nil, fmt.Errorf("reaching the gateway: %w", err)
	}
	var over []family
	for _, f := range families {
		at := f.of(addrs)
		if len(at) == 0 {
			continue
		}
		if err = s.bypass().lasting(at[0]); err == nil {
			_, err = s.bypass().wayTo(at[0])
		}
		if err == nil {
			over = append(over, f)
		}
	}
	if len(over) == 0 {
		return nil, fmt.Errorf("asking for another pin: %w", err)
	}
	s.close() // what is open may have the address of before
	// Twice: the gateway notes where a registration is once it has blocked it.
	blocked := false
	for range 2 {
		seen, err = seen[:0], nil
		for _, f := range over {
			info, ierr := s.info(ctx, f)
			if ierr != nil {
				err = ierr
				continue
			}
			resp, perr := s.pollOver(ctx, s.clients[f], st)
			if perr != nil {
				err = perr
				continue
			}
			blocked = resp.State == stateBlocked
			if a, perr := netip.ParseAddr(info.YourAddress); perr == nil {
				seen = append(seen, a)
			}
		}
		if !blocked {
			break
		}
	}
	switch {
	case len(seen) == 0:
		return nil, err
	case !blocked:
		return nil, nil
	}
	return seen, nil
}
