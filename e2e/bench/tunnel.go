package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

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
	t := &table{meter: m, title: "the tunnel", names: []string{"WireGuard alone", "ours"}, against: []int{0}, compared: []int{0}}
	ends := otherPart("client and server", pid(os.Getpid()))
	both := func(f func(h *lab.Host, host string) loadFunc) []contender {
		return []contender{
			{[]part{gatewayPart("WireGuard", pid(s.plainPeer.Process.Pid)), otherPart("its other end", pid(s.plainAgent.Process.Pid)), ends}, f(s.plain, "10.77.0.1").open},
			{[]part{gatewayPart("gateway", pid(s.gateway.PID())), otherPart("its other end", pid(s.joined.PID())), ends}, f(s.joined.Host, lab.GatewayIPv4.String()).open},
		}
	}
	return t.end(errors.Join(
		t.row(ctx, row{"tunnel, one TCP flow down", "B/s", "0.90", "", ""}, both(bulk('d'))...),
		t.row(ctx, row{"tunnel, one TCP flow up", "B/s", "0.95", "", ""}, both(bulk('u'))...),
		t.row(ctx, row{"tunnel, TCP connects, 32 at once", "/s", "0.9", "", ""}, both(connects)...),
		t.row(ctx, row{"tunnel, echoes of 1 byte", "/s", "", "tunnel, echo p50, and what ours adds", "+35"}, both(echoes)...),
	))
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

func bulk(mode byte) func(*lab.Host, string) loadFunc {
	return func(h *lab.Host, host string) loadFunc {
		return func(ctx context.Context, length time.Duration) (figures, error) {
			c, err := h.Dial(ctx, "tcp", net.JoinHostPort(host, "9000"))
			if err != nil {
				return figures{}, err
			}
			defer c.Close()
			if _, err := c.Write([]byte{mode}); err != nil {
				return figures{}, err
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
					return figures{}, err
				}
				n += int64(k)
			}
			return figures{rate: float64(n) / time.Since(start).Seconds()}, nil
		}
	}
}

func connects(h *lab.Host, host string) loadFunc {
	return func(ctx context.Context, length time.Duration) (figures, error) {
		return atOnce(32, length, func(int) error {
			c, err := h.Dial(ctx, "tcp", net.JoinHostPort(host, "9001"))
			if err != nil {
				return err
			}
			// Closed with RST, so that the ports do not run out in TIME_WAIT.
			return errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close())
		})
	}
}

func echoes(h *lab.Host, host string) loadFunc {
	return func(ctx context.Context, length time.Duration) (figures, error) {
		c, err := h.Dial(ctx, "tcp", net.JoinHostPort(host, "9001"))
		if err != nil {
			return figures{}, err
		}
		defer c.Close()
		return atOnce(1, length, func(int) error {
			b := []byte{'x'}
			if _, err := c.Write(b); err != nil {
				return err
			}
			_, err := io.ReadFull(c, b)
			return err
		})
	}
}

// idleRow opens idle flows and looks at what each costs the gateway.
func (m *meter) idleRow(ctx context.Context) error {
	const flows = 2000
	if !m.only.MatchString("idle tunnelled TCP flow") {
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
	fmt.Printf("An idle tunnelled TCP flow costs the gateway %.0f KB of RSS (reach: 40 KB).\n", float64(after-before)/flows/1e3)
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
