package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

type doctorReport struct {
	OK     bool `json:"ok"`
	Checks []struct {
		Name   string `json:"name"`
		Result string `json:"result"`
		Detail string `json:"detail"`
		Hint   string `json:"hint"`
	} `json:"checks"`
}

// doctor runs it on the host, by way of a shell line in which DOCTOR stands for
// the command.
func doctor(ctx context.Context, t *testing.T, h *lab.Host, line string, args ...string) (r doctorReport, results map[string]string) {
	t.Helper()
	command := theLab.Bin + " doctor --json " + strings.Join(args, " ")
	out, err := h.Run(ctx, "sh", "-c", strings.ReplaceAll(line, "DOCTOR", command))
	if jsonErr := json.Unmarshal([]byte(out), &r); jsonErr != nil {
		t.Fatalf("doctor printed %q: %v, %v", out, jsonErr, err)
	}
	results = make(map[string]string)
	for _, c := range r.Checks {
		results[c.Name] = c.Result
		if (c.Hint != "") != (c.Result != "ok") {
			t.Errorf("%s is %s with the hint %q", c.Name, c.Result, c.Hint)
		}
	}
	if r.OK != (err == nil) {
		t.Errorf("it says ok=%t and ends with %v", r.OK, err)
	}
	for _, c := range r.Checks {
		if c.Result == "fail" && (err == nil || !strings.Contains(err.Error(), c.Name)) {
			t.Errorf("%s failed, and the error is %v", c.Name, err)
		}
	}
	return r, results
}

// doctorUntil runs it on the host until the named checks are told: those of the
// network come first and are cheap, the tools' cost seconds.
func doctorUntil(ctx context.Context, t *testing.T, h *lab.Host, names []string) (results map[string]string) {
	t.Helper()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := h.Command(ctx, theLab.Bin, "doctor")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	results = make(map[string]string)
	told := func(name string) bool { return results[name] != "" }
	for lines := bufio.NewScanner(out); lines.Scan(); {
		result, check, _ := strings.Cut(lines.Text(), " ")
		name, _, _ := strings.Cut(strings.TrimSpace(check), ": ")
		results[name] = result
		if !slices.ContainsFunc(names, func(name string) bool { return !told(name) }) {
			break
		}
	}
	stop()
	_ = cmd.Wait() // cut short, or a check has failed
	return results
}

var (
	hostChecks = []string{"enrolment", "tunnel", "routes", "ipv6", "resolver", "dns", "gateway", "clock", "registration", "trust store", "bundle"}
	toolChecks = []string{"curl", "openssl", "go", "python", "node", "git", "java"}
)

func TestDoctor_AllIsWellAfterJoin(t *testing.T) {
	t.Parallel() // it changes nothing in the shared world
	for _, args := range [][]string{nil, {"api.example.com"}} {
		r, results := doctor(t.Context(), t, agent.Host, "DOCTOR", args...)
		want := append(append([]string{}, hostChecks...), toolChecks...)
		for _, h := range args {
			want = append(want, "dns "+h)
		}
		for _, name := range want {
			if results[name] != "ok" {
				t.Errorf("%s is %q", name, results[name])
			}
		}
		if t.Failed() {
			t.Fatalf("%+v", r)
		}
	}
}

// An ordinary user of the host is told less, but not the wrong thing.
func TestDoctor_WithoutRoot(t *testing.T) {
	t.Parallel() // it changes nothing in the shared world
	const line = "setpriv --reuid=65534 --regid=65534 --clear-groups env PATH=/usr/local/bin:/usr/bin:/bin HOME=/nonexistent DOCTOR"
	for _, args := range [][]string{nil, {"api.example.com"}} {
		r, results := doctor(t.Context(), t, agent.Host, line, args...)
		if _, told := results["registration"]; told {
			t.Error("it was told what the gateway says of the registration")
		}
		for _, name := range append(append([]string{}, hostChecks...), toolChecks...) {
			if name != "registration" && results[name] != "ok" {
				t.Errorf("%s is %q", name, results[name])
			}
		}
		if t.Failed() {
			t.Fatalf("%+v", r)
		}
	}
	// Its user cannot read what only root may.
	if out, err := agent.Run(t.Context(), "sh", "-c", "setpriv --reuid=65534 --regid=65534 --clear-groups cat /var/lib/clawpatrol-agent/private/state.json"); err == nil {
		t.Errorf("an ordinary user reads the join credential: %.10s", out)
	}
}

// examined is a host that is joined for a test, and what doctor should say of it.
type examined struct {
	t *testing.T
	j *lab.Joined
}

// eventually runs doctor until it says so of the named checks.
func (e examined) eventually(what, line string, args []string, named map[string]string) {
	e.t.Helper()
	began := time.Now()
	var r doctorReport
	err := lab.Eventually(e.t.Context(), 60*time.Second, func() error {
		var results map[string]string
		r, results = doctor(e.t.Context(), e.t, e.j.Host, line, args...)
		for name, want := range named {
			if results[name] != want {
				return &faultError{name, results[name], want}
			}
		}
		return nil
	})
	if err != nil {
		e.t.Fatalf("%s: %v\n%+v", what, err, r)
	}
	e.t.Logf("%s: found in %v", what, time.Since(began).Round(10*time.Millisecond))
}

func (e examined) allWell(when string) {
	e.t.Helper()
	named := map[string]string{}
	for _, name := range append(append([]string{}, hostChecks...), toolChecks...) {
		named[name] = "ok"
	}
	e.eventually(when, "DOCTOR", nil, named)
}

func TestDoctor_FindsFaultsOfNamesAndTrust(t *testing.T) {
	e := examined{t, ownWorld(t).joinSecond(t)}
	e.allWell("before")

	// The process that holds the tunnel puts resolv.conf back: the question comes
	// right behind.
	e.eventually("resolv.conf overwritten", "printf 'nameserver "+lab.NamesIPv4.String()+"\n' >/etc/resolv.conf; DOCTOR", nil,
		map[string]string{"resolver": "fail", "tunnel": "ok", "routes": "ok", "trust store": "ok"})
	e.allWell("resolv.conf put back")

	const crt = "/usr/local/share/ca-certificates/clawpatrol.crt"
	e.eventually("CA removed from the store", "mv "+crt+" /root/; update-ca-certificates >/dev/null 2>&1; DOCTOR", nil,
		map[string]string{"trust store": "fail", "tunnel": "ok", "resolver": "ok", "curl": "warn", "git": "warn", "openssl": "warn"})
	e.eventually("the store not rebuilt", "mv /root/clawpatrol.crt "+crt+"; DOCTOR", nil, map[string]string{"trust store": "fail"})
	if err := e.j.Script(t.Context(), "update-ca-certificates >/dev/null 2>&1"); err != nil {
		t.Fatal(err)
	}
	e.allWell("CA back")

	e.eventually("a host that is no endpoint's", "DOCTOR", []string{"web.example.org"}, map[string]string{"dns web.example.org": "fail", "tools": "fail"})
}

func TestDoctor_FindsARuleRemoved(t *testing.T) {
	e := examined{t, ownWorld(t).joinSecond(t)}
	if err := syscall.Kill(e.j.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	e.eventually("a rule removed, the holder asleep", "ip rule del priority 5130 2>/dev/null; DOCTOR", nil, map[string]string{"routes": "fail", "tunnel": "fail"})
	if err := syscall.Kill(e.j.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	e.allWell("the holder awake")
}

func TestDoctor_FindsATunnelThatNobodyHolds(t *testing.T) {
	w := ownWorld(t)
	e := examined{t, w.joinSecond(t)}
	if err := e.j.Kill(); err != nil {
		t.Fatal(err)
	}
	e.eventually("tunnel stopped", "DOCTOR", nil, map[string]string{"tunnel": "fail", "dns": "fail", "gateway": "ok", "clock": "ok", "trust store": "ok"})
	e.eventually("an ordinary user sees it too", "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent PATH=/usr/bin DOCTOR", nil, map[string]string{"tunnel": "fail", "dns": "fail"})
	if out, err := e.j.Run(t.Context(), w.lab.Bin, "down"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	e.eventually("down", "DOCTOR", nil, map[string]string{"tunnel": "fail", "routes": "fail", "resolver": "fail", "gateway": "ok"})
}

type faultError struct{ name, got, want string }

func (e *faultError) Error() string { return e.name + " is " + e.got + ", not " + e.want }
