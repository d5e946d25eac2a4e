package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
)

// JoinRequest is what `clawpatrol join` was asked for. URL or Invite is required.
type JoinRequest struct {
	URL           string // of the gateway's public listener: https only; "": as the invite says
	CAFingerprint string // "sha256:HEX" of the gateway's CA; "": as the invite says, or its certificate must be publicly trusted
	Invite        string // an invite's token: a secret; "": an operator approves
	Name          string // of the registration, as the operator will see it; "": the host's name
	Service       bool   // leave the tunnel to systemd once it is approved
	RunUsers      string // the group of those who may run on this host's enrolment, "all" or "none"; "": as it was
}

// otherFamilyTimeout bounds the attempt to reach the gateway over the second
// address family, which many hosts have in name only.
const otherFamilyTimeout = 5 * time.Second

// Join enrols this host, brings the tunnel up, waits for the approval, installs
// the CA and holds the tunnel until ctx ends or another process asks for `down`;
// then it undoes the tunnel and returns nil. On a host that is enrolled already
// it resumes. When it fails before that, nothing of it stays but the enrolment. A
// request that cannot be right is ErrUsage.
func (a *Agent) Join(ctx context.Context, req JoinRequest) (err error) {
	dest, err := req.destination()
	if err != nil {
		return usage(err)
	}
	name, err := registrationName(req.Name)
	if err != nil {
		return usage(err)
	}
	if err := checkRunUsers(req.RunUsers); err != nil {
		return usage(err)
	}
	if err := preflight(); err != nil {
		return fmt.Errorf("joining: %w", err)
	}
	if req.Service {
		if err := a.checkSystemd(); err != nil {
			return err
		}
	}
	closeState, err := a.openState()
	if err != nil {
		return err
	}
	defer closeState()
	j, err := openJournal(a.paths.journal(), a.cfg.checkpoint)
	if err != nil {
		return err
	}

	s := newSession(dest.url, dest.pin, a.cfg.Lookup, a.cfg.Now)
	defer s.close()
	st, err := a.resume(ctx, s, dest)
	if errors.Is(err, errNotEnrolled) {
		// What a leave that was killed, or an enrolment that is gone, left behind.
		if err := a.undo(ctx, j, scopeTunnel, scopeEnrolment); err != nil {
			return err
		}
		st, err = a.enrol(ctx, s, dest, name)
	}
	if err == nil {
		err = a.allowRuns(st, req.RunUsers)
	}
	if err != nil && ctx.Err() != nil {
		return errStoppedEarly
	}
	if err != nil {
		return err
	}
	err = a.hold(ctx, st, s, j, req.Service)
	if errors.Is(err, errHandOver) {
		closeState()
		return a.startService(ctx)
	}
	return err
}

// openState makes the state directory, or checks the one that is there, and takes
// its lock. What it returns gives the lock back, and removes a directory of which
// nothing came; it may be called twice.
func (a *Agent) openState() (closeState func(), err error) {
	if err := checkWay(a.paths.dir); err != nil {
		return nil, err
	}
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{{a.paths.dir, 0o755}, {a.paths.private(), 0o700}, {a.paths.public(), 0o755}} {
		if err := makeDir(d.path, d.mode); err != nil {
			return nil, err
		}
	}
	unlock, err := lockState(a.paths)
	if err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	closeState = sync.OnceFunc(func() {
		a.removeUnused()
		unlock()
	})
	if err := checkRoom(a.paths.dir); err != nil {
		closeState()
		return nil, fmt.Errorf("joining: %w", err)
	}
	return closeState, nil
}

// registrationName checks a name the way the gateway does, or makes one of the
// host's name.
func registrationName(name string) (string, error) {
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("asking for the host's name: %w", err)
		}
		name = strings.Map(func(r rune) rune {
			if r <= ' ' || r > '~' {
				return '-'
			}
			return r
		}, host)
		if len(name) > enrolment.MaxName {
			name = name[:enrolment.MaxName]
		}
		if name == "" {
			name = "agent"
		}
		return name, nil
	}
	printable := !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' })
	if len(name) > enrolment.MaxName || !printable || strings.TrimSpace(name) != name {
		return "", WithHint(fmt.Errorf("the name %q is not 1 to %d printable ASCII characters", name, enrolment.MaxName), "choose another with --name")
	}
	return name, nil
}

// resume returns the enrolment that is there, once it has checked that it is
// this one and still good; errNotEnrolled means start anew.
func (a *Agent) resume(ctx context.Context, s *session, dest destination) (*state, error) {
	st, err := loadState(a.paths)
	if err != nil {
		return nil, err
	}
	enrolledAt, err := parseGatewayURL(st.URL)
	if err != nil {
		return nil, fmt.Errorf("reading the state file: %w", err)
	}
	if !sameGateway(enrolledAt, dest.url) || (dest.ca != nil && st.GatewayCA != dest.ca.String()) {
		return nil, WithHint(fmt.Errorf("this host is enrolled with %s, CA %s", oneLine(st.URL), oneLine(st.GatewayCA)), "run clawpatrol leave first")
	}
	if st.Claim != nil {
		s.claimed(st)
	}
	if st.Approved {
		a.sayEnrolled(st)
		return st, nil
	}
	// Nobody has approved it, so nothing is lost if it is no longer good.
	if id := dest.inviteID(); id != "" && id != st.Invite {
		a.say("the earlier registration %s was not made with this invite; enrolling anew", oneLine(st.Registration))
		return nil, a.forgetState()
	}
	if st.Claim == nil {
		err = a.claimAll(ctx, s, st)
	} else {
		_, err = s.poll(ctx, st)
	}
	var (
		refused *statusError
		away    *moved
	)
	if errors.Is(err, errRefused) || errors.As(err, &away) || (errors.As(err, &refused) && refused.status == http.StatusConflict) {
		a.say("the earlier registration %s is no longer pending; enrolling anew", oneLine(st.Registration))
		return nil, a.forgetState()
	}
	if err != nil {
		return nil, err
	}
	a.sayEnrolled(st)
	return st, nil
}

// forgetState removes the state file, and returns errNotEnrolled when it has.
func (a *Agent) forgetState() error {
	if err := os.Remove(a.paths.state()); err != nil {
		return fmt.Errorf("removing the old state file: %w", err)
	}
	return errNotEnrolled
}

func (a *Agent) sayEnrolled(st *state) {
	name, registration, code := oneLine(st.Name), oneLine(st.Registration), oneLine(st.UserCode)
	a.tell(Event{Event: EventName, Name: name}, "name: %s", name)
	a.tell(Event{Event: EventRegistration, Registration: registration}, "registration: %s", registration)
	if !st.Approved {
		a.tell(Event{Event: EventUserCode, UserCode: code, ExpiresAt: &st.ExpiresAt}, "user code: %s", code)
		if len(st.Invited) > 0 {
			a.say("the invite approves it once its tunnel is up, with the profiles: %s", oneLine(strings.Join(st.Invited, ", ")))
			return
		}
		a.say("approve it in the dashboard before %s", st.ExpiresAt.UTC().Format(time.RFC3339))
	}
}

// enrol opens a registration and claims its addresses.
func (a *Agent) enrol(ctx context.Context, s *session, dest destination, name string) (*state, error) {
	info, f, err := a.reach(ctx, s, dest)
	if err != nil {
		return nil, err
	}
	ca, err := parseFingerprint(info.CAFingerprint)
	if err != nil || (dest.ca != nil && ca != *dest.ca) {
		return nil, errors.New("reading the gateway's answer: it says that it has another CA than the one it proved")
	}
	a.tell(Event{Event: EventGateway, Gateway: dest.url.String(), CAFingerprint: ca.String()}, "gateway: %s, CA %s", dest.url, ca)
	if err := dest.checkTime(a.cfg.Now()); err != nil {
		return nil, fmt.Errorf("enrolling: %w", err)
	}
	key := newKey()
	public, err := publicKey(key)
	if err != nil {
		return nil, err
	}
	resp, err := s.start(ctx, f, enrolment.StartRequest{Name: name, WireGuardPublicKey: public, Invite: dest.token})
	if err != nil {
		return nil, fmt.Errorf("enrolling: %w", dest.explainStart(err))
	}
	cred, err := enrolment.ParseJoinCredential(resp.JoinCredential)
	if err != nil || resp.Registration == "" || resp.UserCode == "" {
		return nil, errors.New("enrolling: the gateway's answer is incomplete")
	}
	st := &state{
		URL:            dest.url.String(),
		GatewayCA:      ca.String(),
		Name:           name,
		Registration:   resp.Registration,
		UserCode:       resp.UserCode,
		ExpiresAt:      resp.ExpiresAt,
		Family:         f,
		JoinCredential: cred,
		WireGuardKey:   key,
		Invite:         dest.inviteID(),
		Invited:        dest.invite.Profiles,
	}
	if dest.pin != nil {
		st.CAFingerprint = dest.pin.String()
	}
	if err := saveState(a.paths, st); err != nil {
		return nil, err
	}
	a.cfg.checkpoint("enrolled")
	a.sayEnrolled(st)
	if err := a.claimAll(ctx, s, st); err != nil {
		return nil, fmt.Errorf("claiming this host's addresses: %w", err)
	}
	return st, nil
}

// reach finds the first address family over which the gateway proves its
// identity, among those that the invite can be used over.
func (a *Agent) reach(ctx context.Context, s *session, dest destination) (enrolment.Info, family, error) {
	addrs, err := a.cfg.Lookup(ctx, s.url.Hostname())
	if err != nil {
		return enrolment.Info{}, "", WithHint(fmt.Errorf("reaching the gateway: %w", err), "check the name, and that this host can resolve it")
	}
	var first error
	for _, f := range dest.families() {
		if len(f.of(addrs)) == 0 {
			continue
		}
		info, err := s.info(ctx, f)
		if err == nil {
			err = s.bypass().lasting(f.of(addrs)[0])
		}
		if err == nil {
			return info, f, nil
		}
		// Of two failures the one that says more than "unreachable" is told.
		if first == nil || (unreachable(first) && !unreachable(err)) {
			first = err
		}
	}
	if first == nil {
		first = fmt.Errorf("reaching the gateway: %s has no address", s.url.Hostname())
	}
	return enrolment.Info{}, "", first
}

// claimAll proves this host's address in each family over which the gateway is
// reachable, the one of start first, and saves what the tunnel needs.
func (a *Agent) claimAll(ctx context.Context, s *session, st *state) error {
	claim, err := s.claim(ctx, st.Family, st)
	if err != nil {
		return err
	}
	if err := checkClaim(claim, st); err != nil {
		return err
	}
	a.sayAddress(claim.Pin, st.Family)
	addrs, err := a.cfg.Lookup(ctx, s.url.Hostname())
	if err != nil {
		return fmt.Errorf("reaching the gateway: %w", err)
	}
	for _, f := range families {
		if f == st.Family || len(f.of(addrs)) == 0 {
			continue
		}
		other, err := a.claimOther(ctx, s, f, f.of(addrs)[0], st)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			a.tell(Event{Event: EventNote, Hint: HintOf(err)}, "%s is not pinned: %v", f, err)
			continue
		}
		if other.WireGuard.PublicKey != claim.WireGuard.PublicKey {
			return fmt.Errorf("the gateway that answers over %s is another one than over %s", f, st.Family)
		}
		claim = other
		a.sayAddress(claim.Pin, f)
	}
	st.Claim = claim
	cfg, err := newTunnelConfig(st)
	if err != nil {
		st.Claim = nil
		return err
	}
	if at, err := a.cfg.Lookup(ctx, cfg.host); err == nil {
		addrs = append(addrs, at...)
	}
	st.Ways = s.bypass().waysTo(addrs)
	s.claimed(st)
	return saveState(a.paths, st)
}

func (a *Agent) claimOther(ctx context.Context, s *session, f family, at netip.Addr, st *state) (*enrolment.ClaimResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, otherFamilyTimeout)
	defer cancel()
	if err := s.bypass().lasting(at); err != nil {
		return nil, err
	}
	claim, err := s.claim(ctx, f, st)
	if err != nil {
		return nil, err
	}
	return claim, checkClaim(claim, st)
}

// checkClaim refuses a CA certificate other than the one that was verified.
func checkClaim(c *enrolment.ClaimResponse, st *state) error {
	_, f, err := parseCA(c.CAPEM)
	if err != nil {
		return fmt.Errorf("reading the gateway's CA certificate: %w", err)
	}
	if f.String() != st.GatewayCA {
		return fmt.Errorf("the gateway sent the CA certificate %s, but proved to have %s", f, oneLine(st.GatewayCA))
	}
	return checkSSHCA(c.SSHCA)
}

func (a *Agent) sayAddress(p enrolment.Pin, f family) {
	addr := oneLine(pinOf(p, f))
	a.tell(Event{Event: EventAddress, Address: addr}, "address: %s", addr)
}

func pinOf(p enrolment.Pin, f family) string {
	if f == ipv4 {
		return p.IPv4
	}
	return p.IPv6
}

// removeUnused removes the state directory where nothing came of it.
func (a *Agent) removeUnused() {
	if _, err := os.Stat(a.paths.state()); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	if _, err := os.Stat(a.paths.journal()); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	_ = os.Remove(a.paths.lock())
	a.removeDirs()
}
