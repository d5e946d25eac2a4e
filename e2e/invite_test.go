package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	invitePolicy = `
endpoint "https" "api" {
  hosts   = ["api.invite.example.com"]
  ca_file = "lab-ca.pem"
}
credential "bearer" "api_token" {
  endpoint = https.api
  env      = "API_TOKEN"
}
profile "ci" {
  credentials = [bearer.api_token]
}
`
	inviteSecret = "ghp_REALsecretForInvitedHosts0123456789"
	gatewayState = "/var/lib/clawpatrol"
)

// inviting is a lab of its own: its gateway is stopped, killed and restored. The
// test runs beside others.
type inviting struct {
	t   *testing.T
	lab *lab.Lab
	gw  *lab.Gateway
	up  *lab.Upstream
}

func newInviting(t *testing.T) *inviting {
	t.Helper()
	t.Parallel()
	ctx := t.Context()
	l, err := lab.New(ctx, lab.Config{Bin: lab.Binary(), Agents: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	v := &inviting{t: t, lab: l, up: new(lab.Upstream)}
	if err := l.ServeHTTPS(ctx, "api.invite.example.com", 0, v.up); err != nil {
		t.Fatal(err)
	}
	if v.gw, err = l.StartGateway(ctx, invitePolicy, map[string]string{"lab-ca.pem": string(l.PKI.PEM)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", v.gw.Log.Tail(40))
		}
	})
	if err := v.gw.Operator.SetCredential(ctx, "bearer", "api_token", inviteSecret); err != nil {
		t.Fatal(err)
	}
	return v
}

// invite runs `clawpatrol invite` on the gateway's host, and returns what it
// prints on standard output, a token.
func (v *inviting) invite(args ...string) string {
	v.t.Helper()
	out, err := v.lab.Gateway.Run(v.t.Context(), append([]string{v.lab.Bin, "invite"}, args...)...)
	if err != nil {
		v.t.Fatal(err)
	}
	token, only := strings.CutSuffix(out, "\n")
	if !only || !strings.HasPrefix(token, "cpi1_") || strings.ContainsAny(token, " \n") {
		v.t.Fatalf("clawpatrol invite printed %q", out)
	}
	return token
}

// shownInvite is one of `clawpatrol invite --list --json`, the newest first.
type shownInvite struct {
	ID, State  string
	Uses, Used int
	Profiles   []string
}

func (v *inviting) list() (all []shownInvite) {
	v.t.Helper()
	out, err := v.lab.Gateway.Run(v.t.Context(), v.lab.Bin, "invite", "--list", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &all)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	return all
}

func (v *inviting) registrations() []lab.Registration {
	v.t.Helper()
	all, err := v.gw.Operator.Registrations(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	return all
}

// joined is a running `clawpatrol join -`.
type joined struct {
	v    *inviting
	host *lab.Host
	cmd  *exec.Cmd
	out  *lab.Output
	id   string // of its registration
}

// join runs `clawpatrol join -` with a token on standard input, and nothing else.
func (v *inviting) join(h *lab.Host, token string) *joined {
	v.t.Helper()
	return v.start(h, token, "-")
}

func (v *inviting) start(h *lab.Host, stdin string, args ...string) *joined {
	v.t.Helper()
	j := &joined{v: v, host: h, out: new(lab.Output)}
	j.cmd = h.Command(context.WithoutCancel(v.t.Context()), append([]string{v.lab.Bin, "join"}, args...)...)
	j.cmd.Stdin = strings.NewReader(stdin + "\n")
	j.cmd.Stdout, j.cmd.Stderr = j.out, j.out
	if err := j.cmd.Start(); err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(j.stop)
	return j
}

// ready waits until the host has joined, without anyone's doing.
func (j *joined) ready() *joined {
	j.v.t.Helper()
	if _, err := j.out.Wait(j.v.t.Context(), 30*time.Second, `(?m)^ready`); err != nil {
		j.v.t.Fatal(err)
	}
	m, err := j.out.Wait(j.v.t.Context(), time.Second, `(?m)^registration: (\S+)`)
	if err != nil {
		j.v.t.Fatal(err)
	}
	j.id = m[1]
	return j
}

// refused waits until join has failed, with these words.
func (j *joined) refused(words string) {
	j.v.t.Helper()
	err := j.wait()
	exit, failed := errors.AsType[*exec.ExitError](err)
	if out := j.out.String(); !failed || exit.ExitCode() != 1 || !strings.Contains(out, words) || !strings.Contains(out, "hint: ") || strings.Contains(out, "registration:") {
		j.v.t.Errorf("join ended with %v:\n%s", err, out)
	}
}

func (j *joined) wait() error {
	cmd := j.cmd
	if cmd == nil {
		return nil
	}
	j.cmd = nil
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("it does not end:\n%s", j.out)
	}
}

func (j *joined) stop() {
	if j.cmd != nil {
		_ = j.cmd.Process.Signal(syscall.SIGINT)
		_ = j.wait() // how an interrupted join ends is for other tests
	}
}

// leave ends the join and undoes it.
func (j *joined) leave() {
	j.v.t.Helper()
	j.stop()
	if out, err := j.host.Run(j.v.t.Context(), j.v.lab.Bin, "leave"); err != nil {
		j.v.t.Errorf("leave: %v %s", err, out)
	}
}

// works checks that a request with the placeholder is answered for the secret.
func (j *joined) works() {
	j.v.t.Helper()
	j.v.up.Forget()
	out, err := j.host.Run(j.v.t.Context(), "sh", "-c", `eval "$(`+j.v.lab.Bin+` env)"; curl -sS --max-time 10 -H "Authorization: Bearer $API_TOKEN" https://api.invite.example.com/`)
	if seen := j.v.up.Seen(); err != nil || !strings.HasPrefix(out, "ok") || len(seen) != 1 || seen[0].Header.Get("Authorization") != "Bearer "+inviteSecret {
		j.v.t.Errorf("%v %q; the upstream saw %+v", err, out, seen)
	}
}

const notTaken = "the gateway does not take this invite"

// The whole way of an invite, from an operator's command on the gateway's host
// to an agent host's first injected request, and everything it must not do.
func TestI10_InviteIsGoodForWhatItSaysAndNothingElse(t *testing.T) {
	v := newInviting(t)
	ctx := t.Context()
	one, two := v.lab.Agents[0], v.lab.Agents[1]

	token := v.invite("--profiles", "ci")
	first := v.join(one, token).ready()
	regs := v.registrations()
	if len(regs) != 1 || regs[0].ID != first.id || regs[0].State != "approved" || strings.Join(regs[0].Profiles, ",") != "ci" ||
		regs[0].Pin["ipv4"] != "198.51.100.2" || regs[0].Pin["ipv6"] != "2001:db8:100::2" {
		t.Fatalf("registrations %+v", regs)
	}
	first.works()
	made := v.list()[0]
	if made.State != "used_up" || made.Used != 1 {
		t.Errorf("%+v", made)
	}
	if log := v.gw.Log.String(); !strings.Contains(log, `msg="registration approved" registration=`+first.id) || !strings.Contains(log, "invite="+made.ID) {
		t.Error("the approval is not in the gateway's log")
	}

	t.Run("a second use is refused", func(t *testing.T) {
		v := v.in(t)
		v.join(two, token).refused(notTaken)
		// Nor does the host that used it once get a second registration of it.
		again := v.start(two, "", token) // as an argument
		again.refused(notTaken)
	})
	t.Run("a voided one is refused", func(t *testing.T) {
		v := v.in(t)
		token := v.invite("--profiles", "ci")
		if out, err := v.lab.Gateway.Run(ctx, v.lab.Bin, "invite", "--void", v.list()[0].ID); err != nil || !strings.Contains(out, "voided") {
			t.Fatalf("%v %s", err, out)
		}
		v.join(two, token).refused(notTaken)
		// The API's way.
		token = v.invite("--uses", "5")
		if err := v.gw.Operator.Do(ctx, "DELETE", "/api/invites/"+v.list()[0].ID, nil, nil); err != nil {
			t.Fatal(err)
		}
		v.join(two, token).refused(notTaken)
		// Voiding what was used already takes nothing back.
		if err := v.gw.Operator.Do(ctx, "DELETE", "/api/invites/"+made.ID, nil, nil); err != nil {
			t.Fatal(err)
		}
		if r, err := v.gw.Operator.Registration(ctx, first.id); err != nil || r.State != "approved" {
			t.Errorf("%+v %v", r, err)
		}
		first.in(v).works()
	})
	t.Run("an expired one is refused", func(t *testing.T) {
		v := v.in(t)
		token := v.invite("--ttl", "1s")
		if err := lab.Eventually(ctx, 10*time.Second, func() error {
			if s := v.list()[0].State; s != "expired" {
				return errors.New(s)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		v.join(two, token).refused(notTaken)
	})
	t.Run("from elsewhere it is refused", func(t *testing.T) {
		v := v.in(t)
		v.join(two, v.invite("--source", "198.51.100.0/24")).refused(notTaken)
		v.join(two, v.invite("--source", "2001:db8:100::/48")).refused(notTaken)
		token := v.invite("--source", "2001:db8:101::/64", "--profiles", "ci") // which it reaches the gateway from over one family only
		j := v.join(two, token).ready()
		j.works()
		j.leave()
	})
	t.Run("what is not one is not sent", func(t *testing.T) {
		v := v.in(t)
		j := v.join(two, v.invite()[:70])
		if err, out := j.wait(), j.out.String(); err == nil || !strings.Contains(out, "not a whole token") || !strings.Contains(out, "hint:") {
			t.Errorf("%v %s", err, out)
		}
	})
	t.Run("it outlives a gateway that is killed", func(t *testing.T) {
		v := v.in(t)
		token := v.invite("--profiles", "ci", "--uses", "2")
		if err := v.gw.Kill(); err != nil {
			t.Fatal(err)
		}
		v.gw.Log.Mark()
		if err := v.gw.Start(ctx); err != nil {
			t.Fatal(err)
		}
		if err := two.WriteFile("/root/token", token+"\n", 0o600); err != nil {
			t.Fatal(err)
		}
		j := v.start(two, "", "@/root/token").ready()
		j.works()
		if i := v.list()[0]; i.Used != 1 || i.State != "good" {
			t.Errorf("%+v", i)
		}
		j.leave()
	})

	t.Run("it enrols for run, without root and without a tunnel", func(t *testing.T) {
		v := v.in(t)
		const home = "/var/home/invited" // below an overlay, which ends with the lab
		if err := errors.Join(two.Script(ctx, "mkdir -p "+home+" && chown 1000:1000 "+home), two.WriteFile(home+"/token", v.invite("--profiles", "ci")+"\n", 0o644)); err != nil {
			t.Fatal(err)
		}
		out, err := two.Run(ctx, "setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "-u", "XDG_STATE_HOME", "HOME="+home,
			"timeout", "40", v.lab.Bin, "join", "--no-tunnel", "@"+home+"/token")
		if err != nil || !strings.Contains(out, "\napproved\n") {
			t.Errorf("%v %s", err, out)
		}
		_, rest, _ := strings.Cut(out, "registration: ")
		id, _, _ := strings.Cut(rest, "\n")
		if r, err := v.gw.Operator.Registration(ctx, id); err != nil || r.State != "approved" || strings.Join(r.Profiles, ",") != "ci" {
			t.Errorf("%+v %v", r, err)
		}
	})

	// I02: the token is nowhere but where it was shown.
	secret := token[5:]
	for _, name := range []string{"clawpatrol.db", "clawpatrol.db-wal"} {
		b, err := v.gw.StateFile(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if strings.Contains(string(b), secret) || strings.Contains(string(b), inviteSecret) {
			t.Errorf("%s has a token, or a secret", name)
		}
	}
	if strings.Contains(v.gw.Log.String(), secret) || strings.Contains(first.out.String(), secret) {
		t.Error("a log has the token")
	}
	if out, err := one.Run(ctx, "sh", "-c", "grep -rlF "+lab.Quote(secret)+" /var/lib/clawpatrol-agent /etc /run 2>/dev/null; true"); err != nil || out != "" {
		t.Errorf("the agent host has the token in %q, %v", out, err)
	}
}

// in is v for a subtest.
func (v *inviting) in(t *testing.T) *inviting {
	sub := *v
	sub.t = t
	return &sub
}

func (j *joined) in(v *inviting) *joined {
	sub := *j
	sub.v = v
	return &sub
}

// A backup that is older than an invite's use knows nothing of the use: until the
// invite expires it can be used once more. Its registration, and an invite that
// was made after the backup, are unknown. Voiding is what stops it.
func TestInvite_AfterARestoredBackup(t *testing.T) {
	v := newInviting(t)
	ctx := t.Context()
	one, two := v.lab.Agents[0], v.lab.Agents[1]
	used := v.invite("--profiles", "ci")
	voidedThen := v.invite("--profiles", "ci")
	stopped := func(script string) {
		t.Helper()
		if err := v.gw.Stop(); err != nil {
			t.Fatal(err)
		}
		if err := v.lab.Gateway.Script(ctx, script); err != nil {
			t.Fatal(err)
		}
		v.gw.Log.Mark()
		if err := v.gw.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	stopped("cp -a " + gatewayState + " /root/backup")
	first := v.join(one, used).ready()
	first.works()
	after := v.invite("--profiles", "ci")
	first.stop()
	stopped("rm -rf " + gatewayState + " && cp -a /root/backup " + gatewayState)

	if regs := v.registrations(); len(regs) != 0 {
		t.Errorf("registrations in the backup: %+v", regs)
	}
	v.join(two, after).refused(notTaken)
	// What docs/enrolment.md tells to do: void what is still good.
	if out, err := v.lab.Gateway.Run(ctx, v.lab.Bin, "invite", "--void", v.list()[0].ID); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	v.join(two, voidedThen).refused(notTaken)
	second := v.join(two, used).ready() // what is not voided works once more
	second.works()
	if regs := v.registrations(); len(regs) != 1 || regs[0].ID != second.id || second.id == first.id {
		t.Errorf("registrations %+v", regs)
	}
	second.leave()
	v.join(two, used).refused(notTaken)
}

// gateway.enrolment decides who may start at all, as soon as it is reloaded.
func TestI10_EnrolmentIsWhatThePolicySays(t *testing.T) {
	v := newInviting(t)
	ctx := t.Context()
	host := v.lab.Agents[0]
	url := "https://" + lab.GatewayHost + ":8443"
	token := v.invite("--profiles", "ci")
	set := func(enrolment string) {
		t.Helper()
		v.gw.Log.Mark()
		if err := v.lab.Gateway.Script(ctx, `cd /etc/clawpatrol && sed '/enrolment *=/d; s/^gateway {/&\n  enrolment = "`+enrolment+`"/' gateway.hcl >next && chmod 644 next && mv next gateway.hcl`); err != nil {
			t.Fatal(err)
		}
		if _, err := v.gw.Log.Wait(ctx, 10*time.Second, `gateway.enrolment changed.*now=`+enrolment); err != nil {
			t.Fatal(err)
		}
		if _, err := v.gw.Log.Wait(ctx, 10*time.Second, `policy reloaded`); err != nil {
			t.Fatal(err)
		}
	}
	set("closed")
	v.start(host, "", url, "--ca-fingerprint", v.gw.CAFingerprint).refused("enrols nobody at present")
	v.join(host, token).refused("enrols nobody at present")
	if out, err := v.lab.Gateway.Run(ctx, v.lab.Bin, "invite"); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("%v %s", err, out)
	}
	set("invite")
	v.start(host, "", url, "--ca-fingerprint", v.gw.CAFingerprint).refused("only who has an invite")
	v.start(host, token, url, "--ca-fingerprint", v.gw.CAFingerprint, "--invite", "-").ready().works()
	if regs := v.registrations(); len(regs) != 1 || regs[0].State != "approved" {
		t.Errorf("registrations %+v", regs)
	}
}

// The control socket is for root and the gateway's user. Nobody else gets an
// invite, whatever they know.
func TestI14_ControlSocketIsNotForOthers(t *testing.T) {
	h := theLab.Gateway
	out, err := h.Run(t.Context(), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", theLab.Bin, "invite", "--state-dir", gatewayState)
	if err == nil || !strings.Contains(err.Error(), "only root and the user it runs as") || !strings.Contains(err.Error(), "hint: ") || out != "" {
		t.Errorf("%v %q", err, out)
	}
	if out, err = h.Run(t.Context(), "stat", "-c", "%a %F", gatewayState+"/control.sock"); err != nil || out != "600 socket\n" {
		t.Errorf("%v %q", err, out)
	}
}
