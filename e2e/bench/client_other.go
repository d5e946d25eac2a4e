package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Other clients than the bench's own, to see what the client hides: see
// docs/performance.md.

// shape is how requests run side by side.
type shape struct {
	http2   bool
	conns   int
	streams int // on each; 1 over HTTP/1.1
}

// open opens the load with the client that was asked for. Uploads are the
// bench's own client's only.
func (s shape) open(e exchange) opener {
	return func(t target) func(context.Context) (load, error) {
		switch {
		case t.stage.client == "net/http" && e.up == 0:
			return t.netHTTP(s, apiHost, e)
		case t.stage.client == "h2load" && e.up == 0:
			return t.h2load(s, e)
		case s.http2:
			return t.h2(s.conns, s.streams, e)
		}
		return t.h1(s.conns, e)
	}
}

// netHTTP is net/http's client.
func (t target) netHTTP(s shape, host string, e exchange) func(context.Context) (load, error) {
	return func(ctx context.Context) (load, error) {
		l := &netHTTPLoad{workers: s.conns * s.streams, url: "https://" + host + e.path(), want: e.down}
		for range s.conns { // each has one connection
			transport := &http.Transport{
				DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return t.host.Dial(ctx, "tcp", t.addr) },
				TLSClientConfig:    &tls.Config{RootCAs: t.stage.roots, CurvePreferences: []tls.CurveID{tls.X25519}},
				MaxConnsPerHost:    1,
				DisableCompression: true,
				Protocols:          new(http.Protocols),
			}
			transport.Protocols.SetHTTP1(!s.http2)
			transport.Protocols.SetHTTP2(s.http2)
			l.clients = append(l.clients, &http.Client{Transport: transport})
			if err := l.get(ctx, len(l.clients)-1); err != nil {
				l.close()
				return nil, err
			}
		}
		return l, nil
	}
}

type netHTTPLoad struct {
	clients []*http.Client
	workers int
	url     string
	want    int
}

func (l *netHTTPLoad) run(ctx context.Context, length time.Duration) (figures, error) {
	return atOnce(l.workers, length, func(i int) error { return l.get(ctx, i%len(l.clients)) })
}

func (l *netHTTPLoad) get(ctx context.Context, client int) error {
	req, err := http.NewRequestWithContext(ctx, "GET", l.url, nil)
	if err != nil {
		return err
	}
	resp, err := l.clients[client].Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || n != int64(l.want)) {
		err = fmt.Errorf("%s with %d bytes, want %d", resp.Status, n, l.want)
	}
	return err
}

func (l *netHTTPLoad) close() {
	for _, c := range l.clients {
		c.CloseIdleConnections()
	}
}

// h2load is nghttp2's load generator, in C. Its connecting is measured with the
// rest, and its CPU time is not told.
func (t target) h2load(s shape, e exchange) func(context.Context) (load, error) {
	return loadFunc(func(ctx context.Context, length time.Duration) (figures, error) {
		args := []string{"h2load", "--duration", strconv.FormatInt(length.Milliseconds(), 10) + "ms", "--clients", strconv.Itoa(s.conns),
			"--max-concurrent-streams", strconv.Itoa(s.streams), "--connect-to", t.addr, "--header", "Authorization: Bearer " + placeholder}
		if !s.http2 {
			args = append(args, "--h1")
		}
		out, err := t.host.Run(ctx, append(args, "https://"+apiHost+e.path())...)
		if err != nil {
			return figures{}, err
		}
		m := h2loadSays.FindStringSubmatch(out)
		if m == nil {
			return figures{}, fmt.Errorf("h2load without a sum: %q", out)
		}
		rate, err := strconv.ParseFloat(m[1], 64)
		if m[2] != "0" {
			err = errors.Join(err, fmt.Errorf("%s requests of h2load's failed", m[2]))
		}
		return figures{rate: rate}, err
	}).open
}

var h2loadSays = regexp.MustCompile(`(?s)finished in [^,]+, ([0-9.]+) req/s.* (\d+) failed, \d+ errored`)

// knownClient checks the choice of a client.
func knownClient(name string) error {
	switch name {
	case "lean", "net/http":
		return nil
	case "h2load":
		_, err := exec.LookPath("h2load")
		return err
	}
	return fmt.Errorf("no client %q: want lean, net/http or h2load", name)
}

// serveSized answers /N with N bytes.
func serveSized(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil || n > len(zeroes) {
		http.Error(w, "want /N", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(n))
	_, _ = w.Write(zeroes[:n]) // the asker may be gone
}

var zeroes = make([]byte, kib)
