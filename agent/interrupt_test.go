package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// A join that is told to stop between any two of its changes, as by Ctrl-C, ends
// in time, with the host as it was but for the CA; leave takes that back too.
func TestInterrupt_JoinAtAnyPoint(t *testing.T) {
	root := newRoot(t)
	g := newTestGateway(t, nil, "127.0.0.1")
	g.setApprove(true)
	before := snapshot(t, root)
	points := 0
	for n := 1; ; n++ {
		a, out := newAgent(t, g, root)
		ctx, stop := context.WithCancel(t.Context())
		var mu sync.Mutex
		seen, at := 0, ""
		a.cfg.checkpoint = func(name string) {
			mu.Lock()
			defer mu.Unlock()
			if seen++; seen == n {
				at = name
				stop()
			}
		}
		done := make(chan error, 1)
		go func() { done <- a.Join(ctx, request(g)) }()
		whole := false
		eventually(t, "its end", func() bool {
			select {
			case err := <-done:
				done <- err
				return true
			default:
			}
			if strings.Contains(out.String(), "\nready\n") {
				mu.Lock()
				whole = at == ""
				mu.Unlock()
				stop()
			}
			return false
		})
		err := <-done
		if err != nil && (HintOf(err) == "" || strings.Contains(err.Error(), "\n")) {
			t.Errorf("stopped at %s, it ended with %q, hint %q", at, err, HintOf(err))
		}
		now := snapshot(t, root)
		for _, trace := range []string{LinkName, fmt.Sprintf("proto %d", protocolTag), fmt.Sprintf("table %d", Table)} {
			if strings.Contains(now, trace) {
				t.Fatalf("stopped at %s, it leaves %q behind:\n%s\n%s", at, trace, now, out)
			}
		}
		if !strings.Contains(now, fmt.Sprintf("%q", testResolvConf)) {
			t.Fatalf("stopped at %s, it leaves the resolver behind:\n%s\n%s", at, now, out)
		}
		if err := a.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := snapshot(t, root); after != before {
			t.Fatalf("stopped at %s\nbefore:\n%s\nafter leave:\n%s", at, before, after)
		}
		if whole {
			break
		}
		points++
	}
	if points < 20 {
		t.Errorf("only %d points: the checkpoints do not cover a join", points)
	}
}

// Two leaves and a down at once: each ends well, and nothing stays.
func TestInterrupt_AllAtOnce(t *testing.T) {
	g := newTestGateway(t, nil, "127.0.0.1")
	root := newRoot(t)
	before := snapshot(t, root)
	r := join(t, g, root)
	var all sync.WaitGroup
	for _, f := range []func(context.Context) error{r.Leave, r.Leave, r.Down, r.Leave} {
		all.Go(func() {
			if err := f(t.Context()); err != nil && !errors.Is(err, errHeld) && !errors.Is(err, errNotEnrolled) {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	if err := r.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, err := os.Stat(r.paths.dir); err == nil {
		t.Error("the state directory stays")
	}
}

// A lock file that a leave has removed is nobody's lock.
func TestLock_OfARemovedFileIsRefused(t *testing.T) {
	p := paths{t.TempDir()}
	if err := os.Mkdir(p.private(), 0o700); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockState(p)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockState(p); !errors.Is(err, errHeld) {
		t.Errorf("a second lock: %v", err)
	}
	// Opened before the holder removes the file, locked after.
	f, err := os.Open(p.lock())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(p.lock()); err != nil {
		t.Fatal(err)
	}
	if err := checkLock(p, f); err == nil {
		t.Error("a lock on a removed file is taken for one")
	}
	unlock()
	again, err := lockState(p)
	if err != nil {
		t.Fatal(err)
	}
	defer again()
}

// A holder that stands still is named, so that it can be ended.
func TestControl_AHangingHolderIsNamed(t *testing.T) {
	p := paths{t.TempDir()}
	if err := os.Mkdir(p.private(), 0o700); err != nil {
		t.Fatal(err)
	}
	hang := make(chan struct{})
	c := &control{status: func() *Status { <-hang; return &Status{} }, down: func() {}}
	if err := c.listen(p); err != nil {
		t.Fatal(err)
	}
	defer c.finish(p, nil)
	defer close(hang)
	_, err := askHolder(t.Context(), p, "status", 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(HintOf(err), fmt.Sprintf("kill -9 %d,", os.Getpid())) {
		t.Errorf("%v, hint %q", err, HintOf(err))
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := askHolder(ctx, p, "status", time.Minute); !errors.Is(err, context.Canceled) || errors.Is(err, errNoHolder) {
		t.Errorf("interrupted: %v", err)
	}
}
