package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/clawpatrol/clawpatrol/e2e/lab"
)

// httpsRows compares HTTPS through the gateway with a TLS splice on the same
// tunnel that does not look at the bytes, and, for HTTP/2, with a direct
// connection.
func (m *meter) httpsRows(ctx context.Context) error {
	s := m.stage
	through := net.JoinHostPort(s.virtual.String(), "443")
	splice := net.JoinHostPort(lab.WorldIPv4.String(), "443")
	gatewayPID, splicePID := []int{s.gateway.PID()}, []int{s.splicer.Process.Pid}

	pair := func(workers, size int) (limit, ours contender) {
		return contender{"TLS splice", splicePID, requests(s.client(s.plain, splice, false, workers), apiHost, workers, size)},
			contender{"ours", gatewayPID, requests(s.client(s.joined.Host, through, false, workers), apiHost, workers, size)}
	}
	var errs []error
	for _, r := range []struct {
		name, reach   string
		workers, size int
	}{
		{"HTTPS h1, 1 KiB, 1 connection", "", 1, 1 << 10},
		{"HTTPS h1, 1 KiB, 16 connections", "0.62, then 0.85", 16, 1 << 10},
		{"HTTPS h1, 1 KiB, 64 connections", "", 64, 1 << 10},
		{"HTTPS h1, 1 MiB, 4 connections", "0.95", 4, 1 << 20},
	} {
		limit, ours := pair(r.workers, r.size)
		errs = append(errs, m.row(ctx, r.name, "/s", r.reach, limit, ours))
	}

	errs = append(errs, m.row(ctx, "HTTPS h2, 1 KiB, 10 streams, to the splice", "/s", "",
		contender{"TLS splice", splicePID, requests(s.client(s.plain, splice, true, 1), apiHost, 10, 1<<10)},
		contender{"ours", gatewayPID, requests(s.client(s.joined.Host, through, true, 1), apiHost, 10, 1<<10)}))
	direct := requests(s.client(s.plain, "192.0.2.15:443", true, 1), "direct.example.com", 10, 1<<10)
	errs = append(errs, m.row(ctx, "HTTPS h2, 1 KiB, 10 streams, to no tunnel at all", "/s", "0.55",
		contender{"direct h2", nil, direct},
		contender{"ours", gatewayPID, requests(s.client(s.joined.Host, through, true, 1), apiHost, 10, 1<<10)}))

	errs = append(errs, m.row(ctx, "HTTPS, fresh connections", "/s", "0.9",
		contender{"TLS splice", splicePID, fresh(s, s.plain, splice)},
		contender{"ours", gatewayPID, fresh(s, s.joined.Host, through)}))

	latency := func(h *lab.Host, addr string) func(context.Context, time.Duration) (float64, error) {
		c := s.client(h, addr, false, 1)
		return func(ctx context.Context, length time.Duration) (float64, error) {
			return p50(length, func() error { return get(ctx, c, apiHost, 1<<10) })
		}
	}
	errs = append(errs, m.added(ctx, "HTTPS, added p50 at 1 connection", "",
		contender{"TLS splice", splicePID, latency(s.plain, splice)},
		contender{"ours", gatewayPID, latency(s.joined.Host, through)}))
	return errors.Join(errs...)
}

func requests(c *http.Client, host string, workers, size int) func(context.Context, time.Duration) (float64, error) {
	return func(ctx context.Context, length time.Duration) (float64, error) {
		if err := get(ctx, c, host, size); err != nil { // connections are not what is measured
			return 0, err
		}
		return atOnce(workers, length, func() error { return get(ctx, c, host, size) })
	}
}

// fresh makes a new connection for every request, with its TLS handshake.
func fresh(s *stage, h *lab.Host, addr string) func(context.Context, time.Duration) (float64, error) {
	return func(ctx context.Context, length time.Duration) (float64, error) {
		return atOnce(8, length, func() error {
			c := s.client(h, addr, false, 1)
			defer c.CloseIdleConnections()
			return get(ctx, c, apiHost, 1<<10)
		})
	}
}

func get(ctx context.Context, c *http.Client, host string, size int) error {
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("https://%s/%d", host, size), nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || n != int64(size)) {
		err = fmt.Errorf("%s with %d bytes, want %d", resp.Status, n, size)
	}
	return err
}
