package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Up brings the tunnel of an enrolled host up and holds it as Join does. It
// repairs what a killed process left behind.
func (a *Agent) Up(ctx context.Context) error {
	if err := preflight(); err != nil {
		return fmt.Errorf("bringing the tunnel up: %w", err)
	}
	if err := checkWay(a.paths.private()); err != nil {
		return err
	}
	unlock, err := lockState(a.paths)
	if err != nil {
		return fmt.Errorf("bringing the tunnel up: %w", err)
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
	j, err := openJournal(a.paths.journal(), a.cfg.checkpoint)
	if err != nil {
		return err
	}
	a.sayEnrolled(st)
	return a.hold(ctx, st, s, j, false)
}

// enrolled loads the state and prepares to talk to the gateway.
func (a *Agent) enrolled() (*state, *session, error) {
	st, err := loadState(a.paths)
	if err != nil {
		return nil, nil, err
	}
	u, err := parseGatewayURL(st.URL)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the state file: %w", err)
	}
	var pin *fingerprint
	if st.CAFingerprint != "" {
		f, err := parseFingerprint(st.CAFingerprint)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the state file: %w", err)
		}
		pin = &f
	}
	s := newSession(u, pin, a.cfg.Lookup, a.cfg.Now)
	if a.unprivileged {
		s.dialTo = plainDialer
	}
	if st.Claim != nil {
		s.claimed(st)
	}
	return st, s, nil
}

// Down takes the tunnel down, in whichever process holds it, and keeps the
// enrolment and the CA. On a host where it is not up it repairs what a killed
// process left.
func (a *Agent) Down(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return WithHint(errors.New("taking the tunnel down: it needs root"), "run it with sudo")
	}
	unlock, err := a.takeOver(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	j, err := openJournal(a.paths.journal(), a.cfg.checkpoint)
	if err != nil {
		return err
	}
	if err := a.undo(ctx, j, scopeTunnel); err != nil {
		return fmt.Errorf("taking the tunnel down: %w", err)
	}
	a.tell(Event{Event: EventTunnelDown}, "tunnel down")
	return nil
}

// takeOver has the process that holds the tunnel take it down, if there is one,
// and returns with the lock taken.
func (a *Agent) takeOver(ctx context.Context) (unlock func(), err error) {
	if err := checkWay(a.paths.private()); err != nil {
		return nil, err
	}
	reply, err := askHolder(ctx, a.paths, "down", downTimeout)
	switch {
	case errors.Is(err, errNoHolder):
		return lockState(a.paths)
	case err != nil:
		return nil, err
	case reply.Error != "":
		return nil, WithHint(fmt.Errorf("taking the tunnel down: %s", reply.Error), reply.Hint)
	}
	return a.awaitLock(ctx)
}

// awaitLock takes the lock of a process that is about to end.
func (a *Agent) awaitLock(ctx context.Context) (unlock func(), err error) {
	for deadline := time.Now().Add(controlTimeout); ; {
		unlock, err := lockState(a.paths)
		if !errors.Is(err, errHeld) || time.Now().After(deadline) {
			return unlock, err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// Leave undoes everything that Join changed on this host, and forgets the
// enrolment. The gateway keeps its row until an operator revokes it.
func (a *Agent) Leave(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return WithHint(errors.New("leaving: it needs root"), "run it with sudo; what join --no-tunnel enrolled leaves with clawpatrol leave --no-tunnel")
	}
	unlock, err := a.takeOver(ctx)
	if errors.Is(err, errNotEnrolled) {
		a.sayNotEnrolled("this host")
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	j, err := openJournal(a.paths.journal(), a.cfg.checkpoint)
	if err != nil {
		return err
	}
	if err := a.undo(ctx, j, scopeTunnel, scopeEnrolment); err != nil {
		return WithHint(fmt.Errorf("leaving: %w", err), "what is left is in "+a.paths.journal()+"; run clawpatrol leave again once it is put right")
	}
	return a.forget()
}

// sayNotEnrolled ends a leave that has nothing to do.
func (a *Agent) sayNotEnrolled(who string) {
	a.removeDirs() // of a leave that was killed at its very end
	a.tell(Event{Event: EventNotEnrolled}, "%s is not enrolled; nothing to undo", who)
}

// forget is the end of leaving, when all else is undone.
func (a *Agent) forget() error {
	st, stateErr := loadState(a.paths)
	if err := a.removeState(); err != nil {
		return fmt.Errorf("removing the state: %w", err)
	}
	left := Event{Event: EventLeft}
	if stateErr == nil {
		left.Registration, left.Name = oneLine(st.Registration), oneLine(st.Name)
	}
	a.tell(left, "left: everything join changed on this host is undone")
	if stateErr == nil {
		a.say("the gateway still lists %s (%s): an operator can revoke it in the dashboard", left.Registration, left.Name)
	}
	return nil
}

// removeState removes the state directory. The lock goes last of what is in
// private: until then no other process can begin there. One that begins right
// after has made a lock of its own, and keeps its directory.
func (a *Agent) removeState() error {
	if err := os.RemoveAll(a.paths.public()); err != nil {
		return err
	}
	a.cfg.checkpoint("removed " + a.paths.public())
	inside, err := os.ReadDir(a.paths.private())
	if err != nil {
		return err
	}
	for _, e := range inside {
		path := filepath.Join(a.paths.private(), e.Name())
		if path == a.paths.lock() {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		a.cfg.checkpoint("removed " + path)
	}
	if err := os.Remove(a.paths.lock()); err != nil {
		return err
	}
	a.cfg.checkpoint("removed " + a.paths.lock())
	a.removeDirs()
	return nil
}

// removeDirs removes the state's directories, unless something is in them. One
// that was never a state directory stays, empty or not.
func (a *Agent) removeDirs() {
	private, public := os.Remove(a.paths.private()), os.Remove(a.paths.public())
	if private == nil || public == nil {
		_ = os.Remove(a.paths.dir)
	}
}
