package agent

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// Status is what `clawpatrol status` tells.
type Status struct {
	Enrolled     bool          `json:"enrolled"`
	Gateway      string        `json:"gateway,omitempty"` // URL
	Registration string        `json:"registration,omitempty"`
	Name         string        `json:"name,omitempty"`
	UserCode     string        `json:"user_code,omitempty"` // while nobody has approved it
	State        string        `json:"state,omitempty"`     // from the gateway; "" while it cannot be asked
	Reason       string        `json:"reason,omitempty"`    // the gateway's, while the registration is blocked
	Profiles     []string      `json:"profiles"`
	Pin          enrolment.Pin `json:"pin"`
	GatewayError string        `json:"gateway_error,omitempty"`
	RunUsers     string        `json:"run_users,omitempty"` // who may run on this enrolment: a group, or "all"
	Tunnel       TunnelStatus  `json:"tunnel"`
}

// TunnelStatus is the tunnel's part of it.
type TunnelStatus struct {
	Up            bool       `json:"up"` // a process holds it, and has a session with the gateway
	PID           int        `json:"pid,omitempty"`
	Interface     string     `json:"interface,omitempty"`
	Addresses     []string   `json:"addresses,omitempty"`
	Endpoint      string     `json:"endpoint,omitempty"`
	LastHandshake *time.Time `json:"last_handshake,omitempty"`
	Bypasses      []Bypass   `json:"bypasses,omitempty"` // routes of the LAN's that win over the tunnel's
	BytesIn       uint64     `json:"bytes_in"`
	BytesOut      uint64     `json:"bytes_out"`
	Blocked       bool       `json:"blocked"` // it is down, and the routes keep everything in
}

// statusTimeout bounds the question to the gateway when no process holds the
// tunnel.
const statusTimeout = 8 * time.Second

// Status asks the process that holds the tunnel, or else looks for itself.
func (a *Agent) Status(ctx context.Context) (*Status, error) {
	if os.Geteuid() != 0 {
		return nil, WithHint(errors.New("asking for the status: it needs root"), "run it with sudo")
	}
	if err := checkWay(a.paths.private()); err != nil {
		return nil, err
	}
	st, s, err := a.enrolled()
	if errors.Is(err, errNotEnrolled) {
		return &Status{Profiles: []string{}}, nil
	}
	if err != nil {
		return nil, err
	}
	defer s.close()
	reply, err := askHolder(ctx, a.paths, "status", controlTimeout)
	if err == nil && reply.Status != nil {
		return reply.Status, reply.Status.Tunnel.look(ctx, st)
	}
	if err != nil && !errors.Is(err, errNoHolder) {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	resp, err := s.poll(ctx, st)
	status := newStatus(st, polled{resp, err})
	if j, err := openJournal(a.paths.journal(), a.cfg.checkpoint); err == nil {
		status.Tunnel.Blocked = j.find(stepRouting, "") != nil
	}
	return status, nil
}

// look adds what only this host's routes tell.
func (t *TunnelStatus) look(ctx context.Context, st *state) error {
	if st.Claim == nil {
		return nil
	}
	cfg, err := newTunnelConfig(st)
	if err != nil {
		return err
	}
	t.Bypasses, err = cfg.bypasses(sync.OnceValue(func() *virtualHost {
		if !t.Up {
			return nil
		}
		return cfg.discover(ctx)
	}))
	return err
}

func newStatus(st *state, p polled) *Status {
	s := &Status{
		Enrolled:     true,
		Gateway:      st.URL,
		Registration: st.Registration,
		Name:         st.Name,
		State:        p.resp.State,
		Reason:       p.resp.Reason,
		Profiles:     append([]string{}, p.resp.Profiles...),
		RunUsers:     st.RunUsers,
	}
	if !st.Approved {
		s.UserCode = st.UserCode
	}
	if st.Claim != nil {
		s.Pin = st.Claim.Pin
		s.Tunnel.Addresses = st.Claim.Addresses
	}
	if p.err != nil {
		s.GatewayError = p.err.Error()
	}
	return s
}

// status is called from the control socket's goroutines.
func (h *holder) status() *Status {
	h.mu.Lock()
	st := *h.st
	last, away := h.last, h.away
	h.mu.Unlock()
	if away != nil {
		last.err = away
	}
	s := newStatus(&st, last)
	s.Tunnel.PID = os.Getpid()
	s.Tunnel.Interface = LinkName
	t, err := h.t.stats()
	if err != nil {
		return s
	}
	s.Tunnel.Endpoint = t.endpoint
	s.Tunnel.BytesIn, s.Tunnel.BytesOut = t.bytesIn, t.bytesOut
	if !t.lastHandshake.IsZero() {
		s.Tunnel.LastHandshake = &t.lastHandshake
		s.Tunnel.Up = time.Since(t.lastHandshake) < staleAfter && away == nil && s.State != stateBlocked && s.State != stateRevoked
	}
	return s
}
