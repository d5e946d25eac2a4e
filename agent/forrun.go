package agent

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// ErrHeld is in the chain of an error where another process holds the
// enrolment's lock; ErrNotEnrolled where there is no enrolment.
var (
	ErrHeld        = errHeld
	ErrNotEnrolled = errNotEnrolled
)

// UserStateDir is where a user's own enrolment is kept (`join --no-tunnel`): below
// $XDG_STATE_HOME, or the directory that the XDG Base Directory Specification
// names instead.
func UserStateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "clawpatrol"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) {
		return "", WithHint(errors.New("finding the state directory: this user has no home directory"), "name one with --state")
	}
	return filepath.Join(home, ".local", "state", "clawpatrol"), nil
}

// NewForRun returns the agent of an enrolment that serves `clawpatrol run` only.
// It changes nothing outside its state directory and needs no privilege: unlike
// New's, its sockets are not marked.
func NewForRun(cfg Config) *Agent {
	if cfg.Lookup == nil {
		cfg.Lookup = lookupPlain
	}
	a := New(cfg)
	a.unprivileged = true
	return a
}

// lookupPlain asks the host's resolvers, as any program does.
func lookupPlain(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for i, a := range addrs {
		addrs[i] = a.Unmap()
	}
	return addrs, nil
}

func plainDialer(netip.Addr) *net.Dialer {
	return &net.Dialer{Timeout: dialTimeout, Control: unasked.control}
}

// JoinForRun enrols with a gateway for `clawpatrol run`, waits for the approval
// and returns: no tunnel is opened and nothing of the host's changes. Where it
// was cut short, it goes on. A request that cannot be right is ErrUsage.
func (a *Agent) JoinForRun(ctx context.Context, req JoinRequest) error {
	dest, err := req.destination()
	if err != nil {
		return usage(err)
	}
	name, err := registrationName(req.Name)
	if err != nil {
		return usage(err)
	}
	if req.Service {
		return usage(errors.New("--service is for a tunnel, and --no-tunnel asks for none"))
	}
	if req.RunUsers != "" {
		return usage(errors.New("--run-users is for the users of a host that joins as a whole, and --no-tunnel enrols this user alone"))
	}
	closeState, err := a.openState()
	if errors.Is(err, errHeld) {
		return WithHint(errors.New("joining: this enrolment serves runs at the moment"), "its daemon ends two minutes after the last of them")
	}
	if err != nil {
		return err
	}
	defer closeState()
	s := newSession(dest.url, dest.pin, a.cfg.Lookup, a.cfg.Now)
	s.dialTo = plainDialer
	defer s.close()
	st, err := a.resume(ctx, s, dest)
	if errors.Is(err, errNotEnrolled) {
		st, err = a.enrol(ctx, s, dest, name)
	}
	if err == nil {
		err = a.awaitApproval(ctx, s, st)
	}
	if err != nil && ctx.Err() != nil {
		return errStoppedEarly
	}
	return err
}

// awaitApproval polls until the registration is approved, and writes what `env`
// and `run` read.
//
// The handshake before that shows the gateway the address of this host's
// datagrams, which behind a carrier's NAT is not that of its connections: it
// becomes a part of the pin.
func (a *Agent) awaitApproval(ctx context.Context, s *session, st *state) error {
	h := &holder{a: a, st: st, s: s}
	if !st.Approved {
		cfg, err := newTunnelConfig(st)
		if err != nil {
			return err
		}
		up := &Uplink{h: h, cfg: cfg}
		if err := up.Open(ctx, newMuteDevice(cfg.mtu)); err != nil {
			return err
		}
		defer h.t.close()
		if err := h.connect(ctx, time.Time{}, true); err != nil {
			return err
		}
	}
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	polls := make(chan polled)
	background.Go(func() { h.poll(ctx, polls) })
	for {
		var p polled
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case p = <-polls:
		}
		if p.err != nil || p.resp.State != stateApproved {
			if err := h.polled(ctx, p); err != nil {
				return err
			}
			continue
		}
		if err := a.writePublic(ctx, st, p.resp.Env); err != nil {
			return err
		}
		a.knowSSH(nil, st, p.resp.SSHHosts)
		st.Approved = true
		if err := saveState(a.paths, st); err != nil {
			return err
		}
		a.tell(Event{Event: EventApproved}, "approved")
		a.tell(Event{Event: EventProfiles, Profiles: printable(p.resp.Profiles)}, "profiles: %s", profileList(p.resp.Profiles))
		a.tell(Event{Event: EventReady}, "ready")
		return nil
	}
}

// LeaveForRun undoes JoinForRun: it forgets the enrolment. Its daemon has been
// asked to end.
func (a *Agent) LeaveForRun(ctx context.Context) error {
	if err := checkWay(a.paths.private()); err != nil {
		return err
	}
	unlock, err := a.awaitLock(ctx)
	switch {
	case errors.Is(err, errNotEnrolled):
		a.sayNotEnrolled("this user")
		return nil
	case errors.Is(err, errHeld):
		return WithHint(errors.New("leaving: another clawpatrol uses this enrolment"), "end the join or the runs that do")
	case err != nil:
		return fmt.Errorf("leaving: %w", err)
	}
	defer unlock()
	if _, err := os.Lstat(a.paths.journal()); !errors.Is(err, fs.ErrNotExist) {
		return WithHint(errors.New("leaving: this is the enrolment of a host that has joined as a whole"), "as root: clawpatrol leave"+a.stateFlag())
	}
	return a.forget()
}

func (a *Agent) writePublic(ctx context.Context, st *state, env map[string]string) error {
	ca, _, err := parseCA(st.Claim.CAPEM)
	if err != nil {
		return fmt.Errorf("reading the gateway's CA certificate: %w", err)
	}
	if err := a.writeBundles(ctx, ca, encodeCA(ca)); err != nil {
		return err
	}
	return a.writeEnv(st, env)
}

func encodeCA(ca *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})
}
