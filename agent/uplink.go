package agent

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// Uplink is the tunnel of an enrolment for `run`: userspace WireGuard whose
// packets come from and go to a tun.Device of the caller's, over UDP sockets
// that need no privilege. It holds the enrolment's lock.
type Uplink struct {
	Addresses []netip.Prefix // this registration's ranges, the first address in each
	DNS       []netip.Addr   // the gateway's resolvers, reached through the tunnel
	MTU       int            // bytes of a packet

	h      *holder
	cfg    tunnelConfig
	unlock func()
}

// LoadUplink reads the enrolment and takes its lock. Errors: ErrNotEnrolled,
// ErrHeld.
func (a *Agent) LoadUplink() (*Uplink, error) {
	if err := checkWay(a.paths.private()); err != nil {
		return nil, err
	}
	unlock, err := lockState(a.paths)
	if err != nil {
		return nil, err
	}
	st, s, err := a.enrolled()
	if err != nil {
		unlock()
		return nil, err
	}
	if st.Claim == nil || !st.Approved {
		unlock()
		return nil, WithHint(errors.New("nobody has approved this enrolment yet"), "run clawpatrol join --no-tunnel again, and have an operator approve it")
	}
	cfg, err := newTunnelConfig(st)
	if err != nil {
		unlock()
		return nil, err
	}
	return &Uplink{cfg.addresses, cfg.dns, cfg.mtu, &holder{a: a, st: st, s: s}, cfg, unlock}, nil
}

// Close releases the lock. Serve must have returned.
func (u *Uplink) Close() {
	u.h.s.close()
	u.unlock()
}

// PrivateDir is where the secrets of the enrolment are.
func (a *Agent) PrivateDir() string { return a.paths.private() }

// PublicDir holds what every program may read.
func (a *Agent) PublicDir() string { return a.paths.public() }

// Open starts WireGuard on dev, which it closes in the end. It must come before
// Serve and Ready.
func (u *Uplink) Open(ctx context.Context, dev tun.Device) error {
	var first netip.AddrPort
	bind := newPinnedBind(unasked)
	early, stop := context.WithTimeout(ctx, earlyLookup)
	if e, err := u.cfg.endpoints(early, u.h.a.cfg.Lookup, u.h.s.where.families()); err == nil {
		// Otherwise Serve goes on trying.
		if source, here := u.h.s.where.known(e[0].Addr()); here {
			first = e[0]
			bind.setSource(familyOf(first.Addr()), source)
		}
	}
	stop()
	wg := device.NewDevice(dev, bind, device.NewLogger(device.LogLevelSilent, ""))
	// No mark: that takes a privilege, and no route of ours is in the way.
	if err := wg.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\n%s", hex.EncodeToString(u.cfg.privateKey.Reveal()), u.port(), u.cfg.peer(first))); err != nil {
		wg.Close()
		return fmt.Errorf("configuring WireGuard: %w", err)
	}
	err := wg.Up()
	if errors.Is(err, unix.EADDRINUSE) {
		err = errors.Join(wg.IpcSet("listen_port=0\n"), wg.Up())
	}
	if err != nil {
		wg.Close()
		return fmt.Errorf("starting WireGuard: %w", err)
	}
	u.h.t = &tunnel{dev: wg, bind: bind, cfg: u.cfg}
	return nil
}

// Where port looks: above the ports of well-known services, and below those that
// Linux gives to sockets without one (ip_local_port_range).
const (
	firstPort = 20000
	lastPort  = 32767
)

// port is the same UDP port each time. A gateway that has restarted calls the
// agent where it was last seen, and so finds a tunnel that has been opened anew
// meanwhile.
func (u *Uplink) port() int {
	sum := sha256.Sum256([]byte(u.h.st.Registration))
	return firstPort + int(binary.BigEndian.Uint32(sum[:])%(lastPort-firstPort+1))
}

// Serve keeps the tunnel connected and follows the registration's state until
// ctx ends, and closes the tunnel then.
func (u *Uplink) Serve(ctx context.Context) {
	defer u.h.t.close()
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	polls := make(chan polled)
	background.Go(func() { u.h.poll(ctx, polls) })
	background.Go(func() {
		if u.h.connect(ctx, time.Time{}, false) == nil {
			u.h.keepConnected(ctx, nil)
		}
	})
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.h.t.dev.Wait():
			return
		case p := <-polls:
			if p.err == nil {
				if err := u.h.follow(p.resp); err != nil {
					u.h.a.say("%v", err)
				}
			}
			if p.err == nil && p.resp.State == stateApproved {
				if err := u.h.a.writeEnv(u.h.st, p.resp.Env); err != nil {
					u.h.a.say("%v", err)
				}
				u.h.a.knowSSH(nil, u.h.st, p.resp.SSHHosts)
			}
			u.learn(p)
		}
	}
}

// learn takes one answer. A registration that is approved again has no session
// with the gateway any more, and this end would find out by itself only after
// silentFor.
func (u *Uplink) learn(p polled) {
	u.h.mu.Lock()
	before := u.h.last
	if p.err != nil {
		p.resp = before.resp // the last that was known
	}
	u.h.last = p
	u.h.mu.Unlock()
	if stands(before) || !stands(p) {
		return
	}
	if s, err := u.h.t.stats(); err == nil {
		if to, err := netip.ParseAddrPort(s.endpoint); err == nil {
			_ = u.h.t.dial(to) // keepConnected goes on trying
		}
	}
}

// stands reports whether nothing is known against the registration.
func stands(p polled) bool {
	return !errors.Is(p.err, errRefused) && (p.resp.State == "" || p.resp.State == stateApproved)
}

func (u *Uplink) last() polled {
	u.h.mu.Lock()
	defer u.h.mu.Unlock()
	return u.h.last
}

// Ready returns nil once there is a session with the gateway and it is not known
// to have blocked the registration; it waits until ctx ends.
func (u *Uplink) Ready(ctx context.Context) error {
	if !stands(u.last()) {
		// An operator may have approved it again since.
		resp, err := u.h.s.poll(ctx, u.h.st)
		if ctx.Err() == nil {
			u.learn(polled{resp, err})
		}
	}
	err := u.h.ready(ctx)
	if errors.Is(err, errNoAnswer) && HostTunnel() {
		return WithHint(err, "this host has joined as a whole, and cannot carry this tunnel inside its own")
	}
	return err
}

// errNoAnswer is returned where there is no session with the gateway.
var errNoAnswer = errors.New("the gateway does not answer WireGuard")

// ready returns nil once there is a session with the gateway and nothing is known
// against the registration; it waits until ctx ends.
func (h *holder) ready(ctx context.Context) error {
	for {
		h.mu.Lock()
		last, away := h.last, h.away
		h.mu.Unlock()
		switch {
		case away != nil:
			return away
		case errors.Is(last.err, errRefused):
			return WithHint(errors.New("the gateway does not know this registration any more: it was revoked, or this host's addresses have changed"), "ask an operator, or enrol anew")
		case last.resp.State != "" && last.resp.State != stateApproved:
			return WithHint(fmt.Errorf("the registration is %s: nothing leaves", oneLine(last.resp.State)), "this host's addresses may have changed; an operator can approve it again in the dashboard")
		}
		s, err := h.t.stats()
		if err != nil {
			return err
		}
		if !s.lastHandshake.IsZero() && h.a.cfg.Now().Sub(s.lastHandshake) < staleAfter {
			return nil
		}
		if sleep(ctx, 5*time.Millisecond) != nil {
			return WithHint(errNoAnswer, "is it running, and is its UDP port (wireguard.listen) open from here?")
		}
	}
}

// HostTunnel reports whether the host as a whole has joined (as root) and its
// tunnel's interface is there: then every program's traffic goes through it.
func HostTunnel() bool {
	_, err := net.InterfaceByName(LinkName)
	return err == nil
}
