package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	policyFile     = "/etc/clawpatrol/gateway.hcl"
	stateDir       = "/var/lib/clawpatrol"
	operatorSecret = "correct horse battery staple"
)

// Gateway is the gateway process on the lab's gateway host.
type Gateway struct {
	Operator      *Operator
	CAFingerprint string
	Log           *Output

	lab *Lab
	cmd *exec.Cmd
}

// GatewayBlock is the part of a gateway.hcl that fits the lab; tests append
// their endpoints, credentials and profiles.
func (l *Lab) GatewayBlock(dashboard string) string {
	return fmt.Sprintf(`
gateway {
  state_dir  = %q
  listen     = ":8443"
  public_url = "https://%s:8443"
  dashboard { listen = %q }
}
dns { upstream = ["%s:53"] }
`, stateDir, GatewayHost, dashboard, NamesIPv4)
}

// StartGateway writes the policy, sets the root password and starts the gateway.
// rest is appended to GatewayBlock; files are written beside the policy.
func (l *Lab) StartGateway(ctx context.Context, rest string, files map[string]string) (*Gateway, error) {
	return l.StartGatewayAt(ctx, "127.0.0.1:8080", rest, files)
}

// StartGatewayAt is StartGateway with the dashboard at addr, a literal.
func (l *Lab) StartGatewayAt(ctx context.Context, dashboard, rest string, files map[string]string) (*Gateway, error) {
	g := &Gateway{lab: l, Log: new(Output), Operator: newOperator(l.Gateway, dashboard, operatorSecret)}
	if err := l.Gateway.Script(ctx, "mkdir -p /etc/clawpatrol"); err != nil {
		return nil, err
	}
	for name, content := range files {
		if err := l.Gateway.WriteFile("/etc/clawpatrol/"+name, content, 0o644); err != nil {
			return nil, err
		}
	}
	if err := g.writePolicy(l.GatewayBlock(dashboard) + rest); err != nil {
		return nil, err
	}
	set := l.Gateway.Command(ctx, l.Bin, "gateway", "--set-dashboard-password", "-", policyFile)
	set.Stdin = strings.NewReader(operatorSecret + "\n")
	if out, err := set.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("setting the password: %w: %s", err, out)
	}
	l.onClose(g.Stop)
	if err := g.Start(ctx); err != nil {
		return nil, err
	}
	return g, g.Operator.startSession(ctx)
}

// Start runs the process and waits until it serves.
func (g *Gateway) Start(ctx context.Context) error {
	g.cmd = g.lab.Gateway.Command(context.WithoutCancel(ctx), g.lab.Bin, "gateway", "--debug", policyFile)
	g.cmd.Stdout, g.cmd.Stderr = g.Log, g.Log
	if err := g.cmd.Start(); err != nil {
		return fmt.Errorf("starting the gateway: %w", err)
	}
	m, err := g.Log.Wait(ctx, 20*time.Second, `gateway started.*ca_fingerprint=(sha256:[0-9a-f]{64})`)
	if err != nil {
		return fmt.Errorf("starting the gateway: %w", err)
	}
	g.CAFingerprint = m[1]
	return nil
}

// PID returns the gateway's process id.
func (g *Gateway) PID() int { return g.cmd.Process.Pid }

// Stop ends the process with SIGTERM and waits for it.
func (g *Gateway) Stop() error { return g.end(syscall.SIGTERM) }

// Kill ends it with SIGKILL.
func (g *Gateway) Kill() error { return g.end(syscall.SIGKILL) }

func (g *Gateway) end(sig syscall.Signal) error {
	if g.cmd == nil || g.cmd.Process == nil {
		return nil
	}
	if err := g.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := g.cmd.Wait()
	g.cmd = nil
	var exit *exec.ExitError
	if sig == syscall.SIGKILL && errors.As(err, &exit) {
		return nil
	}
	return err
}

// ReplacePolicy replaces gateway.hcl by an atomic rename and waits until the
// gateway has said what it made of it: reloaded is false where it kept the old
// one.
func (g *Gateway) ReplacePolicy(ctx context.Context, rest string) (reloaded bool, err error) {
	g.Log.Mark()
	if err := g.writePolicy(g.lab.GatewayBlock(strings.TrimPrefix(g.Operator.base, "http://")) + rest); err != nil {
		return false, err
	}
	m, err := g.Log.Wait(ctx, 10*time.Second, `msg="policy (reloaded|not reloaded)`)
	return err == nil && m[1] == "reloaded", err
}

func (g *Gateway) writePolicy(src string) error {
	next := policyFile + ".next"
	if err := g.lab.Gateway.WriteFile(next, src, 0o644); err != nil {
		return err
	}
	return os.Rename(g.lab.Gateway.Path(next), g.lab.Gateway.Path(policyFile))
}

// StateFile reads a file of the gateway's state directory.
func (g *Gateway) StateFile(name string) ([]byte, error) {
	return os.ReadFile(g.lab.Gateway.Path(stateDir + "/" + name))
}

// ForwardDashboard serves the dashboard on ln, a listener of this process.
func (g *Gateway) ForwardDashboard(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go g.forward(c)
	}
}

func (g *Gateway) forward(c net.Conn) {
	defer c.Close()
	up, err := g.lab.Gateway.Dial(context.Background(), "tcp", strings.TrimPrefix(g.Operator.base, "http://"))
	if err != nil {
		return
	}
	defer up.Close()
	var wg sync.WaitGroup
	wg.Go(func() { copyAndClose(up, c) })
	wg.Go(func() { copyAndClose(c, up) })
	wg.Wait()
}

// Output collects what a process prints, for others to wait for.
type Output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	mark int
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// String returns all that was printed.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Tail returns the last n lines but for those of level DEBUG.
func (o *Output) Tail(n int) string {
	var lines []string
	for line := range strings.Lines(o.String()) {
		if !strings.Contains(line, "level=DEBUG") {
			lines = append(lines, strings.TrimSuffix(line, "\n")+"\n")
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// Mark makes Wait look only at what is printed from here on.
func (o *Output) Mark() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mark = o.buf.Len()
}

// Wait returns the first match of pattern since Mark, with its submatches.
func (o *Output) Wait(ctx context.Context, limit time.Duration, pattern string) ([]string, error) {
	re := regexp.MustCompile(pattern)
	var m []string
	err := Eventually(ctx, limit, func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if m = re.FindStringSubmatch(string(o.buf.Bytes()[o.mark:])); m == nil {
			return fmt.Errorf("no %q in:\n%s", pattern, o.buf.Bytes()[o.mark:])
		}
		return nil
	})
	return m, err
}
