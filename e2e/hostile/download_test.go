package hostile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// download is a transfer that would take minutes at the rate curl is held to.
type download struct{ got atomic.Int64 }

func (d *download) Write(p []byte) (int, error) {
	d.got.Add(int64(len(p)))
	return len(p), nil
}

func startDownload(t *testing.T, agent *lab.Joined) (*download, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	d := new(download)
	cmd := agent.Command(ctx, "curl", "-4sS", "--limit-rate", "2M", "https://web.example.org/bytes/1000000000")
	cmd.Stdout, cmd.Stderr = d, io.Discard
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	return d, lab.Eventually(ctx, 15*time.Second, func() error {
		if d.got.Load() < 1<<20 {
			return errors.New("the download has not begun")
		}
		return nil
	})
}

// stalls waits until no byte has come for a second.
func (d *download) stalls(t *testing.T) error {
	t.Helper()
	last, since := d.got.Load(), time.Now()
	return lab.Eventually(t.Context(), 10*time.Second, func() error {
		if now := d.got.Load(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < time.Second {
			return fmt.Errorf("bytes still arrive: %d", last)
		}
		return nil
	})
}
