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
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// cost is what an attack made of the gateway while it ran.
type cost struct {
	peak   int // MiB of resident memory
	before int
	slow   []time.Duration // of another registration's requests, in order
	failed int
}

func (c cost) String() string {
	if len(c.slow) == 0 {
		return fmt.Sprintf("memory %d -> %d MiB, no request of another served, %d failed", c.before, c.peak, c.failed)
	}
	return fmt.Sprintf("memory %d -> %d MiB; another's %d requests: median %v, slowest %v, %d failed",
		c.before, c.peak, len(c.slow), c.slow[len(c.slow)/2].Round(time.Millisecond), c.slow[len(c.slow)-1].Round(time.Millisecond), c.failed)
}

// during measures memory, and the latency of another registration, while what
// is done.
func during(t *testing.T, what func()) cost {
	t.Helper()
	var c cost
	pid := strconv.Itoa(gateway.PID())
	c.before = memory(t, pid, "VmRSS")
	_ = os.WriteFile("/proc/"+pid+"/clear_refs", []byte("5"), 0)
	done := make(chan struct{})
	measured := make(chan struct{})
	go func() {
		defer close(measured)
		for {
			select {
			case <-done:
				return
			case <-time.After(20 * time.Millisecond):
			}
			began := time.Now()
			if err := ask(t.Context()); err != nil {
				c.failed++
			} else {
				c.slow = append(c.slow, time.Since(began))
			}
		}
	}()
	what()
	close(done)
	<-measured
	slices.Sort(c.slow)
	c.peak = memory(t, pid, "VmHWM")
	return c
}

// ask makes a request of ops', on a connection of its own.
func ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return theLab.Agents[1].Dial(ctx, "tcp", "192.0.2.13:443")
		},
		TLSClientConfig:   careless("web.example.org"),
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, "GET", "https://web.example.org/", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func memory(t *testing.T, pid, field string) int {
	t.Helper()
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) == 3 && f[0] == field+":" {
			kib, _ := strconv.Atoi(f[1])
			return kib >> 10
		}
	}
	t.Fatalf("no %s", field)
	return 0
}

// fountain serves bytes without end, or n of them, to whoever asks.
func fountain(t *testing.T, addr string, n int64) {
	t.Helper()
	ln, err := theLab.World.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 4096))
				b := make([]byte, 64<<10)
				for left := n; n == 0 || left > 0; left -= int64(len(b)) {
					if n > 0 {
						b = b[:min(int64(len(b)), left)]
					}
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// The attack: everything that costs the attacker little and the gateway a buffer
// or a while: floods that it cannot keep up with, connections that never come
// about, answers that are never taken. Others must not notice.
func TestI16_FloodsCostTheFlooderOnly(t *testing.T) {
	fountain(t, "192.0.2.10:7000", 0)
	fountain(t, "192.0.2.10:7001", 60<<10)
	for _, line := range []string{
		"junk 203.0.113.2:51820 2s tunnel",
		"junk 203.0.113.2:51820 2s own",
		"udp 192.0.2.10:9 2s",
		"fetch 192.0.2.10:7000 2s 1300",
		"fetch 192.0.2.10:7000 2s 88",
		"zerowindow 192.0.2.10:7001 6s 6000",
		"syn 192.0.2.99:7001 2s",
	} {
		var out string
		c := during(t, func() {
			var err error
			if out, err = attack(t.Context(), ci, strings.Fields(line)...); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		})
		var sent int
		if _, err := fmt.Sscanf(out, "sent %d", &sent); err != nil || sent < 1000 {
			t.Errorf("%s was no attack: %q", line, out)
		}
		t.Logf("%s: %s; %v", line, strings.TrimSpace(out), c)
		if c.failed > 0 || len(c.slow) == 0 {
			t.Errorf("%s: another registration was not served: %v", line, c)
		}
		if c.peak-c.before > memoryLimit {
			t.Errorf("%s: more than %d MiB: %v", line, memoryLimit, c)
		}
	}
	// And the attacker is served again.
	if err := lab.Eventually(t.Context(), 20*time.Second, func() error {
		_, status, err := tryCurl(t.Context(), ci, "https://api.example.com/")
		if err == nil && status != "200" {
			err = fmt.Errorf("status %s", status)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// memoryLimit is what one flood may add to the gateway's resident memory, in MiB:
// what a registration's connections may hold, and as much garbage.
const memoryLimit = 700
