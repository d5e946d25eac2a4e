// Package run runs `clawpatrol run` as an ordinary user of an agent host, with
// real programs: what it is for, and what a hostile command tries.
package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

const (
	apiToken = "ghp_REALsecretOfApiExampleCom9876543210"

	// An ordinary user of the agent host.
	userName = "dev"
	userID   = "4001"
	userHome = "/var/home/dev"
	stateDir = userHome + "/.local/state/clawpatrol"

	policyText = `
endpoint "https" "api" {
  hosts   = ["api.example.com"]
  ca_file = "lab-ca.pem"
}
credential "bearer" "api_token" {
  endpoint = https.api
  env      = "API_TOKEN"
}
profile "ci" {
  credentials = [bearer.api_token]
  default     = true
}
`
)

// The shared lab; tests leave it as they found it.
var (
	theLab   *lab.Lab
	gateway  *lab.Gateway
	host     *lab.Host // whose user is enrolled
	upstream = new(lab.Upstream)
)

// began stands before the line of an attack: one that a run refused must be told
// from one that never ran.
const began = "echo the-run-began; "

func TestMain(m *testing.M) {
	if os.Args[0] == probePath || os.Args[0] == "probe" {
		os.Exit(probe(os.Args[1:]))
	}
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e/run:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	defer cancel()
	theLab, err = lab.New(ctx, lab.Config{Bin: lab.Binary(), Agents: 2})
	if err != nil {
		return 1, err
	}
	defer func() {
		if cerr := theLab.Close(); err == nil {
			err = cerr
		}
	}()
	host = theLab.Agents[0]
	if err := theLab.ServeHTTPS(ctx, "api.example.com", 0, upstream); err != nil {
		return 1, err
	}
	if err := errors.Join(serveEchoes(), servePostgres(), serveSSH()); err != nil {
		return 1, err
	}
	gateway, err = theLab.StartGateway(ctx, policyText, map[string]string{"lab-ca.pem": string(theLab.PKI.PEM)})
	if err != nil {
		return 1, err
	}
	if err := gateway.Operator.SetCredential(ctx, "bearer", "api_token", apiToken); err != nil {
		return 1, err
	}
	for _, h := range theLab.Agents {
		if err := addUser(ctx, h); err != nil {
			return 1, err
		}
	}
	if err := installProbe(ctx); err != nil {
		return 1, err
	}
	if err := enrol(ctx, host, userID, userHome); err != nil {
		return 1, err
	}
	defer endDaemons()
	return lab.RunTests(m, func(out io.Writer) {
		log := gateway.Log.String()
		fmt.Fprintf(out, "--- the gateway's log:\n%s\n", log[max(0, len(log)-6000):])
	}), nil
}

// addUser makes the ordinary user.
func addUser(ctx context.Context, h *lab.Host) error {
	return h.Script(ctx, fmt.Sprintf(`
		mkdir -p /var/home
		useradd --uid %s --home-dir %s --create-home --shell /bin/bash %s
		mkdir -p -m 700 /run/user/%[1]s; chown %[1]s:%[1]s /run/user/%[1]s`, userID, userHome, userName))
}

// enrol joins with --no-tunnel as the user, and approves.
func enrol(ctx context.Context, h *lab.Host, uid, home string) error {
	var out lab.Output
	cmd := as(ctx, h, uid, home, "clawpatrol", "join", "https://"+lab.GatewayHost+":8443", "--ca-fingerprint", gateway.CAFingerprint, "--no-tunnel", "--name", "run-"+uid)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return err
	}
	m, err := out.Wait(ctx, 20*time.Second, `(?m)^registration: (\S+)[\s\S]*^user code: (\S+)[\s\S]*^waiting for approval`)
	if err != nil {
		return err
	}
	if err := gateway.Operator.Approve(ctx, lab.Registration{ID: m[1], UserCode: m[2]}, "ci"); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("join --no-tunnel: %w: %s", err, out.String())
	}
	return nil
}

// as returns a command that runs as a user of the host.
func as(ctx context.Context, h *lab.Host, uid, home string, args ...string) *exec.Cmd {
	return h.Command(ctx, append([]string{"setpriv", "--reuid", uid, "--regid", uid, "--clear-groups",
		"env", "-i", "-C", home, "HOME=" + home, "USER=" + userName, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "XDG_RUNTIME_DIR=/run/user/" + uid, "TERM=dumb"}, args...)...)
}

// result is how a command ended.
type result struct {
	out, errs string
	code      int
}

// dev runs a shell line as the user, outside of any sandbox.
func dev(t *testing.T, line string) result {
	t.Helper()
	return finish(t, as(t.Context(), host, userID, userHome, "sh", "-c", line))
}

// inside runs a shell line as the user in `clawpatrol run`.
func inside(t *testing.T, line string) result {
	t.Helper()
	return finish(t, as(t.Context(), host, userID, userHome, "clawpatrol", "run", "--", "sh", "-c", line))
}

func finish(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// ok fails the test unless the command ended with 0.
func (r result) ok(t *testing.T) result {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("exit status %d\nstdout: %s\nstderr: %s", r.code, r.out, r.errs)
	}
	return r
}

// daemons are the process ids of the daemons that serve runs in the lab.
func daemons() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil {
			continue
		}
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		args := strings.Split(string(cmdline), "\x00")
		if len(args) < 4 || args[1] != "run-daemon" {
			continue
		}
		// Every host of the lab has a /run of its own.
		theirs, err := os.Stat("/proc/" + e.Name() + "/root/run")
		for _, h := range theLab.Agents {
			if ours, err2 := os.Stat(h.Path("/run")); err == nil && err2 == nil && os.SameFile(ours, theirs) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func endDaemons() {
	for _, pid := range daemons() {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
}

// failsWith returns an error unless the command ended with 1 and said text.
func failsWith(r result, text string) error {
	if r.code != 1 || !strings.Contains(r.errs, text) {
		return fmt.Errorf("want a failure with %q: %+v", text, r)
	}
	return nil
}
