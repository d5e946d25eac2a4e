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

func TestDoctor_FindsFaults(t *testing.T) {
	w := ownWorld(t)
	ctx := t.Context()
	j := w.joinSecond(t)
	eventually := func(what, line string, args []string, named map[string]string) {
		t.Helper()
		var r doctorReport
		err := lab.Eventually(ctx, 60*time.Second, func() error {
			var results map[string]string
			r, results = doctor(ctx, t, j.Host, line, args...)
			for name, want := range named {
				if results[name] != want {
					return &faultError{name, results[name], want}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v\n%+v", what, err, r)
		}
	}
	allWell := map[string]string{}
	for _, name := range append(append([]string{}, hostChecks...), toolChecks...) {
		allWell[name] = "ok"
	}
	eventually("before", "DOCTOR", nil, allWell)

	// The process that holds the tunnel puts resolv.conf back: the question comes
	// right behind.
	eventually("resolv.conf overwritten", "printf 'nameserver "+lab.NamesIPv4.String()+"\n' >/etc/resolv.conf; DOCTOR", nil,
		map[string]string{"resolver": "fail", "tunnel": "ok", "routes": "ok", "trust store": "ok"})
	eventually("resolv.conf put back", "DOCTOR", nil, allWell)

	const crt = "/usr/local/share/ca-certificates/clawpatrol.crt"
	eventually("CA removed from the store", "mv "+crt+" /root/; update-ca-certificates >/dev/null 2>&1; DOCTOR", nil,
		map[string]string{"trust store": "fail", "tunnel": "ok", "resolver": "ok", "curl": "warn", "git": "warn", "openssl": "warn"})
	eventually("the store not rebuilt", "mv /root/clawpatrol.crt "+crt+"; DOCTOR", nil, map[string]string{"trust store": "fail"})
	eventually("CA back", "update-ca-certificates >/dev/null 2>&1; DOCTOR", nil, allWell)

	eventually("a host that is no endpoint's", "DOCTOR", []string{"web.example.org"}, map[string]string{"dns web.example.org": "fail", "tools": "fail"})
	if err := syscall.Kill(j.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually("a rule removed, the holder asleep", "ip rule del priority 5130 2>/dev/null; DOCTOR", nil, map[string]string{"routes": "fail", "tunnel": "fail"})
	if err := syscall.Kill(j.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually("the holder awake", "DOCTOR", nil, allWell)

	if err := j.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually("tunnel stopped", "DOCTOR", nil, map[string]string{"tunnel": "fail", "dns": "fail", "gateway": "ok", "clock": "ok", "trust store": "ok"})
	eventually("an ordinary user sees it too", "setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent PATH=/usr/bin DOCTOR", nil, map[string]string{"tunnel": "fail", "dns": "fail"})
	if out, err := j.Run(ctx, w.lab.Bin, "down"); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	eventually("down", "DOCTOR", nil, map[string]string{"tunnel": "fail", "routes": "fail", "resolver": "fail", "gateway": "ok"})
}

type faultError struct{ name, got, want string }

func (e *faultError) Error() string { return e.name + " is " + e.got + ", not " + e.want }
