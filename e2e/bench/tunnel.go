package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

func (s *stage) commands() []*exec.Cmd {
	return []*exec.Cmd{s.plainPeer, s.plainAgent, s.splicer, s.spliceAgent}
}

// tunnelRows compares the tunnel with a plain WireGuard link between the same
// hosts, to a server on the gateway host: no netstack, no proxy.
func (m *meter) tunnelRows(ctx context.Context) error {
	s := m.stage
	for port, serve := range map[string]func(net.Conn){"9000": serveBulk, "9001": serveEcho} {
		ln, err := s.lab.Gateway.Listen(":" + port)
		if err != nil {
			return err
		}
		defer ln.Close()
		go acceptAll(ln, serve)
	}
	limit := func(run func(h *lab.Host, host string) func(context.Context, time.Duration) (float64, error)) contender {
		return contender{"WireGuard alone", []int{s.plainPeer.Process.Pid}, run(s.plain, "10.77.0.1")}
	}
	ours := func(run func(h *lab.Host, host string) func(context.Context, time.Duration) (float64, error)) contender {
		return contender{"ours", []int{s.gateway.PID()}, run(s.joined.Host, lab.GatewayIPv4.String())}
	}
	return errors.Join(
		m.row(ctx, "tunnel, one TCP flow down", "B/s", "0.90", limit(bulk('d')), ours(bulk('d'))),
		m.row(ctx, "tunnel, one TCP flow up", "B/s", "0.95", limit(bulk('u')), ours(bulk('u'))),
		m.row(ctx, "tunnel, TCP connects, 32 at once", "/s", "0.9", limit(connects), ours(connects)),
		m.added(ctx, "tunnel, added echo p50", "+35 µs", limit(echoP50), ours(echoP50)),
	)
}

func acceptAll(ln net.Listener, serve func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go serve(c)
	}
}

// serveBulk sends or takes bytes until the other end closes: its first byte says
// which.
func serveBulk(c net.Conn) {
	defer c.Close()
	var mode [1]byte
	if _, err := io.ReadFull(c, mode[:]); err != nil {
		return
	}
	buf := make([]byte, 256<<10)
	for {
		var err error
		if mode[0] == 'd' {
			_, err = c.Write(buf)
		} else {
			_, err = c.Read(buf)
		}
		if err != nil {
			return
		}
	}
}

func serveEcho(c net.Conn) {
	defer c.Close()
	_, _ = io.Copy(c, c) // until the other end closes
}

func bulk(mode byte) func(*lab.Host, string) func(context.Context, time.Duration) (float64, error) {
	return func(h *lab.Host, host string) func(context.Context, time.Duration) (float64, error) {
		return func(ctx context.Context, length time.Duration) (float64, error) {
			c, err := h.Dial(ctx, "tcp", net.JoinHostPort(host, "9000"))
			if err != nil {
				return 0, err
			}
			defer c.Close()
			if _, err := c.Write([]byte{mode}); err != nil {
				return 0, err
			}
			buf := make([]byte, 256<<10)
			var n int64
			start := time.Now()
			for time.Since(start) < length {
				var k int
				if mode == 'd' {
					k, err = c.Read(buf)
				} else {
					k, err = c.Write(buf)
				}
				if err != nil {
					return 0, err
				}
				n += int64(k)
			}
			return float64(n) / time.Since(start).Seconds(), nil
		}
	}
}

func connects(h *lab.Host, host string) func(context.Context, time.Duration) (float64, error) {
	return func(ctx context.Context, length time.Duration) (float64, error) {
		return atOnce(32, length, func() error {
			c, err := h.Dial(ctx, "tcp", net.JoinHostPort(host, "9001"))
			if err != nil {
				return err
			}
			// Closed with RST, so that the ports do not run out in TIME_WAIT.
			return errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close())
		})
	}
}

// atOnce runs f in n goroutines for a time and returns how often a second it
// succeeded.
func atOnce(n int, length time.Duration, f func() error) (float64, error) {
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	start := time.Now()
	for range n {
		wg.Go(func() {
			for time.Since(start) < length && failed.Load() == nil {
				if err := f(); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / time.Since(start).Seconds(), nil
}

func echoP50(h *lab.Host, host string) func(context.Context, time.Duration) (float64, error) {
	return func(ctx context.Context, length time.Duration) (float64, error) {
		c, err := h.Dial(ctx, "tcp", net.JoinHostPort(host, "9001"))
		if err != nil {
			return 0, err
		}
		defer c.Close()
		return p50(length, func() error {
			b := []byte{'x'}
			if _, err := c.Write(b); err != nil {
				return err
			}
			_, err := io.ReadFull(c, b)
			return err
		})
	}
}

// p50 returns the median duration of f in seconds.
func p50(length time.Duration, f func() error) (float64, error) {
	var took []float64
	for start := time.Now(); time.Since(start) < length; {
		t := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(t).Seconds())
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// idleRow opens idle flows and looks at what each costs the gateway.
func (m *meter) idleRow(ctx context.Context) error {
	const flows = 2000
	if !strings.Contains("idle tunnelled TCP flow", m.only) {
		return nil
	}
	s := m.stage
	ln, err := s.lab.Gateway.Listen(":9001")
	if err != nil {
		return err
	}
	defer ln.Close()
	go acceptAll(ln, serveEcho)
	before, err := rss(s.gateway.PID())
	if err != nil {
		return err
	}
	for range flows {
		c, err := s.joined.Dial(ctx, "tcp", net.JoinHostPort(lab.GatewayIPv4.String(), "9001"))
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte{'x'}); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return err
		}
	}
	after, err := rss(s.gateway.PID())
	if err != nil {
		return err
	}
	fmt.Printf("| idle tunnelled TCP flow, RSS of the gateway | | %.0f KB | | | 40 KB |\n", float64(after-before)/flows/1e3)
	return nil
}

func rss(pid int) (int64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseInt(strings.Fields(string(b))[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
