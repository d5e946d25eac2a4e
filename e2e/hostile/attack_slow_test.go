package hostile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// slowness is what a connection does instead of getting on.
type slowness struct {
	name  string
	host  string
	conns int
	// begin runs on each connection, drip again and again while the attack lasts.
	begin func(ctx context.Context, conn net.Conn, host string) (drip func() error, err error)
	runs  int64 // requests that the target must be busy with then, at least
}

const slowTime = 500 * time.Millisecond

var slow = []slowness{
	{name: "handshakes that stop halfway", host: "target.example.com", conns: 400,
		begin: func(_ context.Context, conn net.Conn, _ string) (func() error, error) {
			_, err := conn.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}) // a ClientHello of 508 bytes
			return func() error { return nil }, err
		}},
	{name: "HTTP/1.1 heads, byte by byte", host: "target.example.com", conns: 300,
		begin: slow1("GET / HTTP/1.1\r\nHost: target.example.com\r\n", "X-Slow: x\r\n")},
	{name: "HTTP/1.1 bodies, byte by byte", host: "target.example.com", conns: 300, runs: 200,
		begin: slow1("POST /swallow HTTP/1.1\r\nHost: target.example.com\r\nContent-Length: 1000000\r\n\r\n", "x")},
	{name: "HTTP/1.1 chunks, byte by byte", host: "target1.example.com", conns: 300, runs: 200,
		begin: slow1("POST /swallow HTTP/1.1\r\nHost: target1.example.com\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n")},
	{name: "HTTP/1.1 answers never read", host: "target1.example.com", conns: 300, runs: 200,
		begin: slow1("GET /endless HTTP/1.1\r\nHost: target1.example.com\r\n\r\n", "")},
	{name: "HTTP/2 heads that never end", host: "target.example.com", conns: 200,
		begin: slow2(1, func(c *framed) error {
			return c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
		}, func(c *framed) error { return c.WriteContinuation(1, false, []byte{0x87}) })},
	{name: "HTTP/2 bodies, byte by byte", host: "target.example.com", conns: 8, runs: 700,
		begin: slow2(100, func(c *framed) error {
			_, err := c.open(false, c.request("POST", "/swallow"))
			return err
		}, func(c *framed) error {
			var errs error
			for id := uint32(1); id < c.next; id += 2 {
				errs = errors.Join(errs, c.WriteData(id, false, []byte("x")))
			}
			return errs
		})},
	{name: "HTTP/2 answers without a window", host: "target.example.com", conns: 4, runs: 900,
		begin: slow2(240, func(c *framed) error {
			_, err := c.open(true, c.request("GET", "/endless"))
			return err
		}, func(*framed) error { return nil })},
	{name: "HTTP/2 answers without a window, upstream HTTP/1.1", host: "target1.example.com", conns: 4, runs: 900,
		begin: slow2(240, func(c *framed) error {
			_, err := c.open(true, c.request("GET", "/endless"))
			return err
		}, func(*framed) error { return nil })},
	{name: "HTTP/2 bodies that the upstream does not take", host: "target.example.com", conns: 100, runs: 70, // some share a connection to the target that takes no more
		begin: slow2(1, func(c *framed) error {
			id, err := c.open(false, c.request("POST", "/hold"))
			for range 63 { // 1 MiB is the connection's window
				err = errors.Join(err, c.WriteData(id, false, make([]byte, 16<<10)))
			}
			return err
		}, func(*framed) error { return nil })},
}

// slow1 says head, then drop again and again.
func slow1(head, drop string) func(context.Context, net.Conn, string) (func() error, error) {
	return func(ctx context.Context, conn net.Conn, host string) (func() error, error) {
		secure, err := handshake(ctx, conn, host, "http/1.1")
		if err != nil {
			return nil, err
		}
		_, err = io.WriteString(secure, head)
		i := 0
		return func() error {
			if drop == "" {
				return nil
			}
			_, err := io.WriteString(secure, drop[i%len(drop):i%len(drop)+1])
			i++
			return err
		}, err
	}
}

// slow2 opens so many streams, whose windows are zero, and reads nothing.
func slow2(streams int, open, drip func(*framed) error) func(context.Context, net.Conn, string) (func() error, error) {
	return func(ctx context.Context, conn net.Conn, host string) (func() error, error) {
		c, err := frames(ctx, conn, host, false, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for i := 0; err == nil && i < streams; i++ {
			err = open(c)
		}
		return func() error { return drip(c) }, err
	}
}

// The attack: agents that take all the time in the world, by the hundreds.
func TestI16_SlowReadersAndWritersCostThemselvesOnly(t *testing.T) {
	needRoom(t, 400)
	for _, s := range slow {
		t.Run(s.name, func(t *testing.T) {
			var busy int64
			var opened atomic.Int64
			c := unharmed(t, func(ctx context.Context) {
				until := time.Now().Add(slowTime)
				enough := make(chan struct{})
				var wg sync.WaitGroup
				for range s.conns {
					wg.Go(func() {
						if err := s.run(ctx, enough); err != nil {
							t.Logf("%v", err)
							return
						}
						opened.Add(1)
					})
				}
				if err := lab.Eventually(ctx, 20*time.Second, func() error {
					if busy = max(busy, theTarget.running.Load()); busy < s.runs {
						return fmt.Errorf("the target is busy with %d", busy)
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Until(until)) // the length of the attack
				close(enough)
				wg.Wait()
			})
			t.Logf("%d connections, %d requests at the target; %v", opened.Load(), busy, c)
			if int(opened.Load()) < s.conns {
				t.Errorf("%d of %d connections", opened.Load(), s.conns)
			}
			if err := nothingLeft(t.Context(), 150*time.Second); err != nil {
				t.Error(err)
			}
		})
	}
	needAnswer(t, "target.example.com")
}

func (s slowness) run(ctx context.Context, enough <-chan struct{}) error {
	conn, err := reach(ctx, ci, s.host)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	drip, err := s.begin(ctx, conn, s.host)
	if err != nil {
		return fmt.Errorf("beginning: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := drip(); err != nil {
			return fmt.Errorf("going on: %w", err)
		}
		select {
		case <-enough:
			return nil
		case <-tick.C:
		}
	}
}

// The attack: ten thousand requests at once, by a registration that may have
// 1024 of them running.
func TestI16_RequestsInFlightAreBoundedPerRegistration(t *testing.T) {
	const conns, streams, limit = 42, 240, 1024
	theTarget.most.Store(0)
	status := map[string]int{}
	c := unharmed(t, func(ctx context.Context) {
		var all []*framed
		defer func() {
			for _, c := range all {
				c.close(true)
			}
		}()
		for range conns {
			conn, err := reach(ctx, ci, "target.example.com")
			if err != nil {
				t.Error(err)
				return
			}
			c, err := frames(ctx, conn, "target.example.com", true)
			if err != nil {
				t.Error(err)
				return
			}
			all = append(all, c)
			for range streams {
				if _, err := c.open(true, c.request("GET", "/hold")); err != nil {
					t.Error(err)
					return
				}
			}
		}
		// Those in flight are held, all others refused.
		if err := lab.Eventually(ctx, 20*time.Second, func() error {
			var refused uint32
			for _, c := range all {
				refused += c.done.Load()
			}
			if refused < conns*streams-limit {
				return fmt.Errorf("%d are refused, %d at the target", refused, theTarget.running.Load())
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		for _, c := range all {
			answers, _, _ := c.result()
			for _, a := range answers {
				status[a.status]++
			}
		}
	})
	t.Logf("%d streams: at most %d at the target, answers %v; %v", conns*streams, theTarget.most.Load(), status, c)
	if most := theTarget.most.Load(); most > limit || most < limit/2 {
		t.Errorf("%d requests were in flight, the limit is %d", most, limit)
	}
	if status["503"] < conns*streams-limit || len(status) > 1 {
		t.Errorf("answers %v, want 503 alone", status)
	}
	needAnswer(t, "target.example.com")
}

// The attack: as many connections as the agent host can open.
func TestI16_FlowsAreBoundedPerRegistration(t *testing.T) {
	const limit, tries = 4096, 4600
	needRoom(t, 400)
	var open, refused atomic.Int64
	c := unharmed(t, func(ctx context.Context) {
		addr, err := addressOf(ctx, ci, "target.example.com")
		if err != nil {
			t.Fatal(err)
		}
		conns := make(chan net.Conn, tries)
		var wg sync.WaitGroup
		todo := make(chan struct{}, tries)
		for range tries {
			todo <- struct{}{}
		}
		close(todo)
		for range 64 {
			wg.Go(func() {
				for range todo {
					ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
					conn, err := ci.Dial(ctx, "tcp", addr+":443")
					cancel()
					if err != nil {
						refused.Add(1)
						continue
					}
					open.Add(1)
					conns <- conn
				}
			})
		}
		wg.Wait()
		close(conns)
		for conn := range conns {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	})
	t.Logf("%d connections, %d refused; %v", open.Load(), refused.Load(), c)
	if n := open.Load(); n > limit || n < limit/2 {
		t.Errorf("%d connections, the limit is %d", n, limit)
	}
	needAnswer(t, "target.example.com")
}

// needRoom waits until ci can open n connections, as many at once as any attack
// does: an attack before may have left some to the gateway, open or in the
// making, which gives them up one after the other.
func needRoom(t *testing.T, n int) {
	t.Helper()
	if err := lab.Eventually(t.Context(), 2*time.Minute, func() error {
		conns, errs := make([]net.Conn, n), make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { conns[i], errs[i] = reach(t.Context(), ci, "target.example.com") })
		}
		wg.Wait()
		var failed error
		for i, conn := range conns {
			if errs[i] == nil {
				_ = conn.Close()
			} else {
				failed = errs[i]
			}
		}
		return failed
	}); err != nil {
		t.Fatal(err)
	}
}
