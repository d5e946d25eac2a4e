package dashboard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// The hosts of the world.
const (
	apiHost   = "api.example.com"   // wants a bearer token
	buildHost = "build.example.com" // its SSH host key is an operator's to accept
)

// world is a lab with servers and a gateway, whose dashboard the operator reaches
// as by `ssh -L`: a port here is a port of the gateway host's loopback.
type world struct {
	lab     *lab.Lab
	gateway *lab.Gateway
	api     *lab.Upstream
	key     string // of the account on buildHost
	ln      net.Listener
	base    string // of the dashboard
}

func newWorld(ctx context.Context, l *lab.Lab) (*world, error) {
	w := &world{lab: l, api: new(lab.Upstream)}
	if err := l.PKI.Trust(ctx, l.Gateway); err != nil {
		return nil, err
	}
	if err := l.ServeHTTPS(ctx, apiHost, 0, w.api); err != nil {
		return nil, err
	}
	public, private, err := lab.SSHKey()
	if err != nil {
		return nil, err
	}
	w.key = private
	if _, err := l.StartSSHD(ctx, lab.SSHDConfig{Name: buildHost, Offset: 1, Authorized: public}); err != nil {
		return nil, err
	}
	if w.ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	w.base = "http://" + w.ln.Addr().String()
	if w.gateway, err = l.StartGatewayAt(ctx, w.ln.Addr().String(), worldPolicy, nil); err != nil {
		return nil, err
	}
	go w.gateway.ForwardDashboard(w.ln) // until it is closed
	slots := map[string]any{"slots": map[string]string{"private_key": private}}
	return w, w.gateway.Operator.Do(ctx, "PUT", "/api/credentials/ssh_key/deploy", slots, nil)
}

const worldPolicy = `
endpoint "https" "api" { hosts = ["` + apiHost + `"] }
endpoint "ssh" "build" {
  hosts     = ["` + buildHost + `"]
  host_keys = "approve"
}
credential "bearer" "api" { endpoint = https.api }
credential "ssh_key" "deploy" {
  endpoint = ssh.build
  user     = "` + lab.SSHAccount + `"
}
profile "ci" {
  credentials = [bearer.api, ssh_key.deploy]
  default     = true
}
profile "readers" { credentials = [bearer.api] }
`

// ran is how a program on an agent host ended.
type ran struct {
	stdout, stderr string
	code           int
}

func (r ran) String() string {
	return fmt.Sprintf("status %d\nstdout: %q\nstderr: %q", r.code, r.stdout, r.stderr)
}

// run runs a line on an agent host, where secrets are not.
func run(t *testing.T, h *lab.Host, line string) ran {
	t.Helper()
	select {
	case r := <-begin(t, h, line):
		return r
	case <-time.After(time.Minute):
		t.Fatalf("%s: does not end", line)
		return ran{}
	}
}

// begin runs a line beside the test.
func begin(t *testing.T, h *lab.Host, line string) <-chan ran {
	t.Helper()
	ended := make(chan ran, 1)
	cmd := h.Command(t.Context(), "sh", "-c", line)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	must(t, cmd.Start())
	go func() {
		if err := cmd.Wait(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			errs.WriteString(err.Error())
		}
		ended <- ran{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
	}()
	return ended
}

// asks is the line by which an agent uses its credential at the API.
func asks(path string) string { return "curl -sS --max-time 20 https://" + apiHost + path }

// logsIn is the line by which it logs in to buildHost.
const logsIn = "ssh -o BatchMode=yes " + lab.SSHAccount + "@" + buildHost + " id -un </dev/null"

// credentialMissing makes the API's credential one that is to be set.
func (w *world) credentialMissing(t *testing.T) {
	t.Helper()
	if err := w.gateway.Operator.Do(t.Context(), "DELETE", "/api/credentials/bearer/api", nil, nil); err != nil && !strings.Contains(err.Error(), "404") {
		t.Fatal(err)
	}
}

// operator opens a tab and logs in.
func (w *world) operator(t *testing.T, s setting) *tab {
	t.Helper()
	p := chromium.open(t, w.base, s)
	p.visit("/login")
	p.logIn(w.gateway.Operator.Password)
	return p
}

// logIn fills in the form that is open.
func (p *tab) logIn(password string) {
	p.t.Helper()
	p.fill("Root password", password)
	p.click("button", "Log in")
	p.sees("navigation", "Main")
}
