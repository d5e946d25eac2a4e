package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// Result is how a check came out.
type Result string

const (
	OK   Result = "ok"
	Warn Result = "warn" // it works, but not for everything, or not for long
	Fail Result = "fail"
)

// Check is one line of `clawpatrol doctor`.
type Check struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
}

// doctor looks at a host and changes nothing.
type doctor struct {
	a      *Agent
	hosts  []string // endpoint hosts to try, as the operator names them
	root   bool
	report func(Check)

	st    *state // root only
	pub   *envFile
	cfg   tunnelConfig        // addresses and dns only, if not root
	held  bool                // a process holds the tunnel
	known func() *virtualHost // cfg.discover, asked once at most
}

// Doctor examines an enrolled host and calls report for each check, in order and
// as soon as it is done. hosts are endpoint hosts of this registration, to be
// tried as well. Any user of the host may call it; what only root may know is
// left out for others. A host that is no name is ErrUsage.
func (a *Agent) Doctor(ctx context.Context, hosts []string, report func(Check)) error {
	for _, h := range hosts {
		if _, err := netip.ParseAddr(h); err == nil || !plainHost(h) {
			return usage(WithHint(fmt.Errorf("reading the arguments: %q is not the name of a host", h), "name an endpoint host of this registration, like api.github.com"))
		}
	}
	d := &doctor{a: a, hosts: hosts, root: os.Geteuid() == 0, report: report}
	if !d.enrolment() {
		return nil
	}
	d.known = sync.OnceValue(func() *virtualHost { return d.cfg.discover(ctx) })
	// A check that is cut short proves nothing: it is not reported.
	d.report = func(c Check) {
		if ctx.Err() == nil {
			report(c)
		}
	}
	d.tunnel(ctx)
	d.routes()
	d.ipv6()
	d.resolver(ctx)
	d.dns(ctx)
	served := d.gateway(ctx)
	if d.root {
		d.registration(ctx)
	}
	d.store()
	d.bundle()
	d.ssh(ctx)
	d.tools(ctx, served)
	if ctx.Err() != nil {
		return fmt.Errorf("examining this host: %w", context.Cause(ctx))
	}
	return nil
}

func (d *doctor) ok(name, format string, args ...any) {
	d.report(Check{name, OK, fmt.Sprintf(format, args...), ""})
}

func (d *doctor) warn(name, hint, format string, args ...any) {
	d.report(Check{name, Warn, fmt.Sprintf(format, args...), hint})
}

func (d *doctor) fail(name, hint, format string, args ...any) {
	d.report(Check{name, Fail, fmt.Sprintf(format, args...), hint})
}

// failed reports an error, with the hint it carries or else this one.
func (d *doctor) failed(name string, err error, hint string) {
	d.fail(name, cmp.Or(HintOf(err), hint, "put right what the error says, and run doctor again"), "%v", err)
}

const hintUp = "run clawpatrol up, which repairs it and holds the tunnel"

// enrolment loads what the other checks are about.
func (d *doctor) enrolment() bool {
	const name = "enrolment"
	var err error
	if err = checkWay(d.a.paths.private()); err != nil {
		d.failed(name, err, "")
		return false
	}
	if d.pub, err = d.a.readEnv(); err != nil && !d.root {
		d.failed(name, err, "")
		return false
	}
	claim := &d.cfg
	if d.root {
		if d.st, err = loadState(d.a.paths); err == nil && d.st.Claim == nil {
			err = errUnfinished
		}
		if err == nil {
			*claim, err = newTunnelConfig(d.st)
		}
		if err != nil {
			d.failed(name, err, "")
			return false
		}
		d.ok(name, "%s, with %s", oneLine(d.st.Registration), d.st.URL)
		return true
	}
	for _, s := range d.pub.Addresses {
		if p, err := netip.ParsePrefix(s); err == nil {
			claim.addresses = append(claim.addresses, p)
		}
	}
	for _, s := range d.pub.DNS {
		if a, err := netip.ParseAddr(s); err == nil && claim.carries(familyOf(a)) {
			claim.dns = append(claim.dns, a)
		}
	}
	if d.pub.Gateway == "" || len(claim.dns) == 0 {
		d.fail(name, "start clawpatrol up once, which writes it anew", "%s was written by an older version", d.a.paths.env())
		return false
	}
	d.ok(name, "with %s", oneLine(d.pub.Gateway))
	return true
}

// url is the gateway's, as it was given to join.
func (d *doctor) url() string {
	if d.root {
		return d.st.URL
	}
	return d.pub.Gateway
}

// tunnel asks the process that holds it; others than root see the interface.
func (d *doctor) tunnel(ctx context.Context) {
	const name = "tunnel"
	link, err := netlink.LinkByName(LinkName)
	switch {
	case errors.As(err, &netlink.LinkNotFoundError{}):
		d.fail(name, hintUp, "there is no interface %s", LinkName)
		return
	case err != nil:
		d.failed(name, err, "")
		return
	}
	d.held = link.Attrs().RawFlags&lowerUp != 0
	if !d.root {
		if !d.held {
			d.fail(name, hintUp, "no process holds %s; nothing leaves this host but to its own networks", LinkName)
			return
		}
		d.ok(name, "a process holds %s (as root, doctor knows more)", LinkName)
		return
	}
	reply, err := askHolder(ctx, d.a.paths, "status", controlTimeout)
	switch {
	case errors.Is(err, errNoHolder):
		d.fail(name, hintUp, "no process holds %s; nothing leaves this host but to its own networks", LinkName)
	case err != nil:
		d.failed(name, err, "the process that holds it hangs: end it, and run clawpatrol up")
	case reply.Status == nil || reply.Status.Tunnel.LastHandshake == nil:
		d.fail(name, "the gateway may be down, or a firewall may drop UDP to its WireGuard port", "the gateway has not answered WireGuard yet")
	default:
		t := reply.Status.Tunnel
		ago := d.a.cfg.Now().Sub(*t.LastHandshake).Round(time.Second)
		if !t.Up {
			d.fail(name, "the gateway may be down, or a firewall may drop UDP to its WireGuard port", "the last handshake with %s was %s ago", t.Endpoint, ago)
			return
		}
		d.ok(name, "%s to %s, last handshake %s ago, held by process %d", LinkName, t.Endpoint, ago, t.PID)
	}
}

// registration is what the gateway says of it.
func (d *doctor) registration(ctx context.Context) {
	const name = "registration"
	s, err := d.a.Status(ctx)
	if err != nil {
		d.failed(name, err, "see tunnel")
		return
	}
	switch {
	case s.State == "" || s.GatewayError != "":
		d.fail(name, "an operator sees it in the dashboard; it may be revoked, or this host's addresses have changed", "the gateway does not say: %s", oneLine(s.GatewayError))
	case s.State != stateApproved:
		d.fail(name, "an operator can approve it in the dashboard", "it is %s", oneLine(s.State))
	case len(s.Profiles) == 0:
		d.warn(name, "an operator can assign one in the dashboard", "it is approved, without a profile: no credential is used for it")
	default:
		d.ok(name, "approved, profiles %s", profileList(s.Profiles))
	}
}

// routes compares rules and routes with what they should be.
func (d *doctor) routes() {
	const name = "routes"
	t := &tunnel{cfg: d.cfg}
	if link, err := netlink.LinkByName(LinkName); err == nil {
		t.ifindex = link.Attrs().Index
	}
	r, err := newRouting(t)
	if err != nil {
		d.failed(name, err, "")
		return
	}
	defer r.close()
	var wrong, foreign []string
	for _, f := range families {
		if f == ipv6 && !ipv6Present() {
			continue
		}
		diff, err := r.differences(f)
		if len(diff) > 1 && !d.held && t.ifindex == 0 {
			diff = []string{fmt.Sprintf("%s: our rules and table %d are not there", f, Table)} // tunnel has told why
		}
		if err != nil {
			d.failed(name, err, "")
			return
		}
		wrong = append(wrong, diff...)
		others, err := r.before(f)
		if err != nil {
			d.failed(name, err, "")
			return
		}
		foreign = append(foreign, others...)
	}
	if len(wrong) > 0 {
		d.fail(name, hintUp, "%s", strings.Join(wrong, "; "))
		return
	}
	bypasses, err := d.cfg.bypasses(d.known)
	if err != nil {
		d.failed(name, err, "")
		return
	}
	for _, b := range bypasses {
		if b.Certain {
			wrong = append(wrong, b.String())
		} else {
			foreign = append(foreign, b.String())
		}
	}
	for _, a := range d.cfg.dns {
		if !tunnelled(a) {
			wrong = append(wrong, fmt.Sprintf("the gateway's resolver %s is not reached through %s", a, LinkName))
		}
	}
	if len(wrong) > 0 {
		d.fail(name, "ip rule and ip route show what wins: the gateway's wireguard.subnets and this host's networks must not overlap", "%s", strings.Join(append(foreign, wrong...), "; "))
		return
	}
	if len(foreign) > 0 {
		d.warn(name, "ip rule and ip route show it: what it matches does not go through the tunnel, unless it leads nowhere", "%s", strings.Join(foreign, "; "))
		return
	}
	d.ok(name, "the rules and table %d are as they should be, in both families", Table)
}

// tunnelled reports whether what this host sends to a goes through the tunnel.
func tunnelled(a netip.Addr) bool {
	link, err := netlink.LinkByName(LinkName)
	if err != nil {
		return false
	}
	routes, err := netlink.RouteGet(a.AsSlice())
	return err == nil && len(routes) > 0 && routes[0].LinkIndex == link.Attrs().Index
}

// differences says what apply would change.
func (r *routing) differences(f family) ([]string, error) {
	var out []string
	haveRoutes, err := r.routes(f)
	if err != nil {
		return nil, err
	}
	for _, w := range r.wantedRoutes(f) {
		if !slices.ContainsFunc(haveRoutes, func(h netlink.Route) bool { return sameRoute(h, w) }) {
			out = append(out, fmt.Sprintf("%s: table %d lacks a default route", f, Table))
		}
	}
	wantRules, err := r.wantedRules(f)
	if err != nil {
		return nil, err
	}
	haveRules, err := r.rules(f)
	if err != nil {
		return nil, err
	}
	for _, w := range wantRules {
		if !slices.ContainsFunc(haveRules, func(h netlink.Rule) bool { return sameRule(h, w) }) {
			out = append(out, fmt.Sprintf("%s: rule %d is missing", f, w.Priority))
		}
	}
	for _, h := range haveRules {
		if !slices.ContainsFunc(wantRules, func(w netlink.Rule) bool { return sameRule(h, w) }) {
			out = append(out, fmt.Sprintf("%s: rule %d is stale", f, h.Priority))
		}
	}
	return slices.Compact(out), nil
}

// before says which rules of others are looked at before ours.
func (r *routing) before(f family) ([]string, error) {
	all, err := r.h.RuleList(f.nl())
	if err != nil {
		return nil, fmt.Errorf("listing the rules: %w", err)
	}
	var out []string
	for _, h := range all {
		if h.Priority > 0 && h.Priority < rulePass { // 0 is the kernel's, for its own addresses
			out = append(out, fmt.Sprintf("%s: rule %d, of another program, comes before ours", f, h.Priority))
		}
	}
	return slices.Compact(out), nil
}
