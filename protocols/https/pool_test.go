package https

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/ca"
)

// idleWorld is a pool, and an upstream that counts the connections to it.
func idleWorld(t *testing.T) (p *h1Pool, open func() *upstream, live *atomic.Int64) {
	t.Helper()
	world, err := ca.Open(ca.Config{Dir: filepath.Join(t.TempDir(), "world")})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := world.Leaf("api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	live = new(atomic.Int64)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer live.Add(-1)
				defer conn.Close()
				_, _ = io.Copy(io.Discard, tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*leaf}}))
			}()
		}
	}()
	p = &h1Pool{dial: func(ctx context.Context) (*tls.Conn, *socket, error) {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			return nil, nil, err
		}
		live.Add(1)
		return shakeHands(ctx, newSocket(conn, func() {}), &tls.Config{InsecureSkipVerify: true})
	}}
	return p, func() *upstream {
		t.Helper()
		conn, s, err := p.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return newUpstream(p, conn, s)
	}, live
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func TestI16_IdleUpstreamConnectionsAreBounded(t *testing.T) {
	p, open, live := idleWorld(t)
	for range maxIdlePerPool + 10 {
		p.put(open())
	}
	eventually(t, "those too many are closed", func() bool { return live.Load() == maxIdlePerPool })
	p.close()
	eventually(t, "all are closed", func() bool { return live.Load() == 0 })
	p.put(open())
	eventually(t, "what comes back later is closed", func() bool { return live.Load() == 0 })
}

// A connection is waited on when it has been idle for a while, and closed when
// it has been for too long; in between it can be used again.
func TestIdleConnectionIsParkedAndUsedAgain(t *testing.T) {
	p, open, live := idleWorld(t)
	defer p.close()
	u := open()
	parked := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return u.parked != nil
	}
	for range 3 {
		p.put(u)
		eventually(t, "it is parked", parked)
		got, err := p.take(t.Context())
		if err != nil || got != u || u.parked != nil {
			t.Fatalf("another connection, or %v", err)
		}
	}
	p.put(u)
	eventually(t, "it is parked", parked)
	p.mu.Lock()
	u.since = time.Now().Add(-upstreamIdleTimeout)
	p.mu.Unlock()
	p.tend()
	eventually(t, "it is closed", func() bool { return live.Load() == 0 })
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) > 0 {
		t.Errorf("%d are kept", len(p.idle))
	}
}

// A burst leaves connections behind: those beyond the steady number go soon.
func TestI16_SpareIdleConnectionsGoSoon(t *testing.T) {
	p, open, live := idleWorld(t)
	defer p.close()
	for range steadyIdle + 5 {
		p.put(open())
	}
	eventually(t, "all are parked", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return !p.soon && p.idle[len(p.idle)-1].parked != nil
	})
	p.mu.Lock()
	for _, u := range p.idle {
		u.since = u.since.Add(-spareIdleTimeout)
	}
	p.mu.Unlock()
	p.tend()
	eventually(t, "the spare ones are closed", func() bool { return live.Load() == steadyIdle })
}
