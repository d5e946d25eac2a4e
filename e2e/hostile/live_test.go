package hostile

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

type errStatus string

func (s errStatus) Error() string { return "status " + string(s) }

// live is one TLS connection that an agent keeps open, through openssl.
type live struct {
	host  string
	in    io.WriteCloser
	lines chan string // closed when the connection ends
	cmd   *exec.Cmd
}

func startLive(t *testing.T, agent *lab.Joined, host string) *live {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cmd := agent.Command(ctx, "openssl", "s_client", "-quiet", "-ign_eof", "-connect", host+":443", "-servername", host)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	l := &live{host: host, in: in, lines: make(chan string, 1000), cmd: cmd}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(l.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			l.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = cmd.Wait() // killed, or ended by the peer
	})
	return l
}

// request sends one request and returns the status line.
func (l *live) request(t *testing.T) string {
	t.Helper()
	if _, err := fmt.Fprintf(l.in, "GET /live HTTP/1.1\r\nHost: %s\r\n\r\n", l.host); err != nil {
		return err.Error()
	}
	for {
		select {
		case s, ok := <-l.lines:
			if !ok {
				return "connection ended"
			}
			if len(s) > 5 && s[:5] == "HTTP/" {
				return s
			}
		case <-time.After(10 * time.Second):
			return "no answer"
		}
	}
}

// ended waits for the connection to be closed by the gateway.
func (l *live) ended(t *testing.T) error {
	t.Helper()
	limit := time.After(5 * time.Second)
	for {
		select {
		case _, ok := <-l.lines:
			if !ok {
				return nil
			}
		case <-limit:
			return fmt.Errorf("it is still open")
		}
	}
}
