package hostile

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// latencies are those of another registration's requests, in order.
type latencies []time.Duration

func (l latencies) at(percent int) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return l[(len(l)-1)*percent/100]
}

// toll is what an attack made of the gateway, and of another registration,
// beside what was before it.
type toll struct {
	quiet, loud   latencies
	failed        []error
	memory, peak  int // MiB of resident memory, before and at most
	files, opened int // file descriptors, before and at most
	rows          int64
	cpu           time.Duration // the gateway's
	took          time.Duration
}

func (c toll) String() string {
	ratio := func(p int) float64 { return float64(c.loud.at(p)) / float64(max(c.quiet.at(p), 1)) }
	round := func(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
	return fmt.Sprintf("memory %d -> %d MiB, files %d -> %d, CPU %v in %v, %d log rows; another's %d requests: median %v -> %v (x%.1f), p99 %v -> %v (x%.1f), %d failed",
		c.memory, c.peak, c.files, c.opened, c.cpu.Round(10*time.Millisecond), c.took.Round(10*time.Millisecond), c.rows, len(c.loud),
		round(c.quiet.at(50)), round(c.loud.at(50)), ratio(50), round(c.quiet.at(99)), round(c.loud.at(99)), ratio(99), len(c.failed))
}

const (
	quietRequests = 30 // that a baseline takes
	pause         = 5 * time.Millisecond

	// mostMemory is what one attack may add to the gateway's resident memory, in
	// MiB: far from what the machine has, and above what collecting garbage late
	// costs.
	mostMemory = 400
)

// unharmed runs an attack of ci's and fails the test where ops, at its own
// endpoint, is not served as before, or the gateway takes more than it may.
func unharmed(t *testing.T, attack func(ctx context.Context)) toll {
	t.Helper()
	var c toll
	pid := strconv.Itoa(gateway.PID())
	by := newBystander()
	defer by.close()
	for range quietRequests {
		d, err := by.ask(t.Context())
		if err != nil {
			t.Fatalf("another registration, before the attack: %v", err)
		}
		c.quiet = append(c.quiet, d)
	}
	c.memory = memory(t, pid, "VmRSS")
	c.files = files(t, pid)
	before, cpu := logRows(t), cpuTime(t, pid)
	_ = os.WriteFile("/proc/"+pid+"/clear_refs", []byte("5"), 0) // VmHWM from here on
	began := time.Now()

	ctx, cancel := context.WithCancel(t.Context())
	measured := make(chan struct{})
	go func() {
		defer close(measured)
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			d, err := by.ask(t.Context())
			if err != nil {
				c.failed = append(c.failed, err)
			} else {
				c.loud = append(c.loud, d)
			}
			if n%20 == 0 {
				c.opened = max(c.opened, files(t, pid))
			}
		}
	}()
	attack(ctx)
	cancel()
	<-measured
	c.took = time.Since(began)
	c.cpu = cpuTime(t, pid) - cpu
	c.rows = logRows(t) - before - int64(len(c.loud))
	c.peak = memory(t, pid, "VmHWM")
	slices.Sort(c.quiet)
	slices.Sort(c.loud)
	if len(c.failed) > 0 || len(c.loud) == 0 {
		t.Errorf("another registration was not served: %v: %v", c, c.failed)
	}
	if c.peak-c.memory > mostMemory {
		t.Errorf("more than %d MiB: %v", mostMemory, c)
	}
	return c
}

// bystander is ops, who uses its endpoint as always: in turns on a connection
// that it keeps and on a new one.
type bystander struct {
	kept, fresh *http.Transport
	turn        int
}

func newBystander() *bystander {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return reach(ctx, ops, "ops.example.com") }
	return &bystander{
		kept:  &http.Transport{DialContext: dial, TLSClientConfig: careless("ops.example.com"), ForceAttemptHTTP2: true},
		fresh: &http.Transport{DialContext: dial, TLSClientConfig: careless("ops.example.com"), DisableKeepAlives: true},
	}
}

func (b *bystander) close() { b.kept.CloseIdleConnections() }

func (b *bystander) ask(ctx context.Context) (time.Duration, error) {
	// Long enough for anything but not being served at all.
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	transport := b.kept
	if b.turn++; b.turn%2 == 0 {
		transport = b.fresh
	}
	req, err := http.NewRequestWithContext(ctx, "GET", "https://ops.example.com/bystander", nil)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errStatus(resp.Status)
	}
	return time.Since(began), err
}

func files(t *testing.T, pid string) int {
	list, err := os.ReadDir("/proc/" + pid + "/fd")
	if err != nil {
		t.Errorf("counting the gateway's files: %v", err)
	}
	return len(list)
}

// cpuTime is what the gateway has used so far: proc(5), utime and stime, in
// hundredths of a second.
func cpuTime(t *testing.T, pid string) time.Duration {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	var skip string
	var user, system int64
	dest := []any{&skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &skip, &user, &system}
	if _, err := fmt.Sscan(string(b), dest...); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// logRows is how many rows the action log has.
func logRows(t *testing.T) int64 {
	t.Helper()
	var list struct {
		Items []struct {
			ID int64 `json:"id"`
		}
	}
	if err := gateway.Operator.Do(t.Context(), "GET", "/api/actions?limit=1", nil, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) == 0 {
		return 0
	}
	return list.Items[0].ID
}
