package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Joined is an agent host with a running `clawpatrol join`.
type Joined struct {
	*Host
	Registration string
	UserCode     string
	Output       *Output
	Gateway      *Gateway

	lab *Lab
	cmd *exec.Cmd
}

// StartJoin runs `clawpatrol join` on the host and returns when the gateway has
// given it a registration, which is pending then.
func (l *Lab) StartJoin(ctx context.Context, h *Host, g *Gateway, args ...string) (*Joined, error) {
	j := &Joined{Host: h, Gateway: g, lab: l, Output: new(Output)}
	all := append([]string{l.Bin, "join", "https://" + GatewayHost + ":8443", "--ca-fingerprint", g.CAFingerprint}, args...)
	j.cmd = h.Command(context.WithoutCancel(ctx), all...)
	j.cmd.Stdout, j.cmd.Stderr = j.Output, j.Output
	if err := j.cmd.Start(); err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	l.onClose(j.Stop)
	m, err := j.Output.Wait(ctx, 20*time.Second, `(?m)^registration: (\S+)`)
	if err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	j.Registration = m[1]
	if m, err = j.Output.Wait(ctx, 20*time.Second, `(?m)^user code: (\S+)`); err != nil {
		return nil, fmt.Errorf("joining: %w", err)
	}
	j.UserCode = m[1]
	_, err = j.Output.Wait(ctx, 20*time.Second, `(?m)^waiting for approval`)
	return j, err
}

// Join is StartJoin, the operator's approval with these profiles, and the wait
// until the agent host says that it is ready.
func (l *Lab) Join(ctx context.Context, h *Host, g *Gateway, profiles ...string) (*Joined, error) {
	j, err := l.StartJoin(ctx, h, g)
	if err != nil {
		return nil, err
	}
	return j, j.Approve(ctx, g, profiles...)
}

// Approve approves the pending registration and waits until the agent host is
// ready.
func (j *Joined) Approve(ctx context.Context, g *Gateway, profiles ...string) error {
	if err := g.Operator.Approve(ctx, Registration{ID: j.Registration, UserCode: j.UserCode}, profiles...); err != nil {
		return err
	}
	_, err := j.Output.Wait(ctx, 30*time.Second, `(?m)^ready`)
	return err
}

// Stop ends the join as Ctrl-C would, and waits for it.
func (j *Joined) Stop() error {
	return j.end(syscall.SIGINT)
}

// Kill ends it with SIGKILL.
func (j *Joined) Kill() error { return j.end(syscall.SIGKILL) }

func (j *Joined) end(sig syscall.Signal) error {
	if j.cmd == nil {
		return nil
	}
	cmd := j.cmd
	j.cmd = nil
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil // how it ends is for the test to look at
		}
		return err
	case <-time.After(15 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("%s: join did not end within 15 s of %s:\n%s", j.Name, sig, j.Output)
	}
}

// Shell runs a line as the agent would, with what `clawpatrol env` exports.
func (j *Joined) Shell(ctx context.Context, line string) (string, error) {
	return j.Run(ctx, "sh", "-c", `eval "$(`+j.lab.Bin+` env)"; `+line)
}

func copyAndClose(dst, src net.Conn) {
	_, _ = io.Copy(dst, src) // either end may go at any time
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// StartUp runs `clawpatrol up` on a host that has joined before, whose join has
// ended, and waits for its tunnel.
func (l *Lab) StartUp(ctx context.Context, j *Joined) (*Joined, error) {
	up, err := l.BeginUp(j)
	if err != nil {
		return nil, err
	}
	_, err = up.Output.Wait(ctx, 20*time.Second, `(?m)^tunnel up`)
	return up, err
}

// BeginUp is StartUp without the wait.
func (l *Lab) BeginUp(j *Joined) (*Joined, error) {
	up := &Joined{Host: j.Host, Registration: j.Registration, UserCode: j.UserCode, Gateway: j.Gateway, Output: new(Output), lab: l}
	up.cmd = j.Host.Command(context.Background(), l.Bin, "up")
	up.cmd.Stdout, up.cmd.Stderr = up.Output, up.Output
	if err := up.cmd.Start(); err != nil {
		return nil, fmt.Errorf("bringing the tunnel up: %w", err)
	}
	l.onClose(up.Stop)
	return up, nil
}

// PID returns the process id of the running join.
func (j *Joined) PID() int { return j.cmd.Process.Pid }
