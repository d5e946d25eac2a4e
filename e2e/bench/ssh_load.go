package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// sshWay is one way to the server, for Debian's ssh.
type sshWay struct {
	world *sshWorld
	host  *lab.Host // where ssh runs
	args  []string
	name  string // of the server
}

// command is ssh with more options, which runs a line on the server. What ssh and
// sshd would agree on between themselves takes them five times the CPU time.
func (w sshWay) command(ctx context.Context, options []string, line ...string) *exec.Cmd {
	args := append([]string{"ssh", "-F", "none", "-T", "-c", sshCipher, "-o", "KexAlgorithms=curve25519-sha256", "-o", "BatchMode=yes", "-o", "AddressFamily=inet", "-l", lab.SSHAccount}, w.args...)
	return w.host.Command(ctx, append(append(append(args, options...), w.name), line...)...)
}

// sshSession is a command that runs on the server.
type sshSession struct {
	world  *sshWorld
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	stderr *lab.Output
}

func (w sshWay) start(ctx context.Context, options []string, line ...string) (*sshSession, error) {
	s := &sshSession{world: w.world, cmd: w.command(ctx, options, line...), stderr: new(lab.Output)}
	s.cmd.Stderr = s.stderr
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if s.out, err = s.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.world.running[s.cmd.Process.Pid] = true
	return s, nil
}

// close ends it where it has not ended.
func (s *sshSession) close() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // reports the kill
	delete(s.world.running, s.cmd.Process.Pid)
}

// failed adds to an error of a session what ssh says.
func (s *sshSession) failed(err error) error { return fmt.Errorf("%w: %s", err, s.stderr) }

// sshBulk is a session that bytes are moved through, after the first warmBytes.
type sshBulk struct {
	*sshSession
	move func([]byte) (int, error)
	buf  []byte
}

const warmBytes = 16 * mib // more than the windows and the pipes on the way hold

func (w sshWay) down(ctx context.Context) (load, error) {
	s, err := w.start(ctx, nil, "cat /dev/zero")
	if err != nil {
		return nil, err
	}
	return s.bulk(s.out.Read)
}

func (w sshWay) up(ctx context.Context) (load, error) {
	s, err := w.start(ctx, nil, "cat >/dev/null")
	if err != nil {
		return nil, err
	}
	return s.bulk(s.in.Write)
}

func (s *sshSession) bulk(move func([]byte) (int, error)) (load, error) {
	b := &sshBulk{s, move, make([]byte, 256*kib)}
	for n := 0; n < warmBytes; {
		k, err := move(b.buf)
		if err != nil {
			defer s.close()
			return nil, s.failed(err)
		}
		n += k
	}
	return b, nil
}

func (b *sshBulk) run(_ context.Context, length time.Duration) (figures, error) {
	var n int64
	start := time.Now()
	for time.Since(start) < length {
		k, err := b.move(b.buf)
		if err != nil {
			return figures{}, b.failed(err)
		}
		n += int64(k)
	}
	return figures{rate: float64(n) / time.Since(start).Seconds()}, nil
}

// sshEcho is a session that answers each byte with itself.
type sshEcho struct{ *sshSession }

func (w sshWay) echo(ctx context.Context) (load, error) {
	s, err := w.start(ctx, nil, "cat")
	if err != nil {
		return nil, err
	}
	e := sshEcho{s}
	if _, err := e.run(ctx, warmUp); err != nil {
		defer s.close()
		return nil, err
	}
	return e, nil
}

func (e sshEcho) run(_ context.Context, length time.Duration) (figures, error) {
	b := []byte{'x'}
	return atOnce(1, length, func(int) error {
		if _, err := e.in.Write(b); err != nil {
			return e.failed(err)
		}
		if _, err := io.ReadFull(e.out, b); err != nil {
			return e.failed(err)
		}
		return nil
	})
}

// fresh makes a connection for each command.
func (w sshWay) fresh(ctx context.Context) (load, error) {
	return loadFunc(func(ctx context.Context, length time.Duration) (figures, error) {
		return atOnce(1, max(length, freshLength), func(int) error { return w.exec(ctx, nil) })
	}).open(ctx)
}

func (w sshWay) exec(ctx context.Context, options []string) error {
	cmd := w.command(ctx, options, "true")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ssh: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// sshMaster is ssh's ControlMaster, whose connection the commands share.
type sshMaster struct {
	*sshSession
	way    sshWay
	shared []string // ssh's options for its connection
}

func (w sshWay) shared(ctx context.Context) (load, error) {
	socket := sshDir + "/master-" + w.name
	master, err := w.start(ctx, []string{"-M", "-N", "-S", socket})
	if err != nil {
		return nil, err
	}
	l := sshMaster{master, w, []string{"-S", socket, "-o", "ControlMaster=no"}}
	if err := lab.Eventually(ctx, warmLimit, func() error {
		return w.exec(ctx, append(l.shared, "-O", "check"))
	}); err != nil {
		l.close()
		return nil, master.failed(err)
	}
	return l, nil
}

const (
	warmLimit   = 20 * time.Second
	freshLength = 2 * time.Second // of a sample of what takes some 100 ms each
)

func (l sshMaster) run(ctx context.Context, length time.Duration) (figures, error) {
	return atOnce(1, length, func(int) error { return l.way.exec(ctx, l.shared) })
}

func (l sshMaster) close() {
	// It takes its socket with it; killed, it would leave it.
	cmd := l.way.command(context.Background(), append(l.shared, "-O", "exit"))
	if err := cmd.Run(); err == nil {
		_ = l.in.Close()
		_ = l.cmd.Wait()
	}
	l.sshSession.close()
}
