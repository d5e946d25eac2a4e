package proxy_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
)

func TestShutdownLetsRunningActionsEnd(t *testing.T) {
	k := proxytest.New(t, twoTeams)
	k.SetSecret("bearer.red", "secret", "red-token")
	id := k.Approve("a", "red")
	idle := k.Serve(nil, id, "api.test", 443) // between two requests
	begun, drained := make(chan struct{}), make(chan struct{})
	busy := k.Serve(handler(func(ctx context.Context, f *proxy.Flow) error {
		grant, err := f.Authorize(ctx, proxy.Action{})
		if err != nil {
			return err
		}
		defer grant.Finish(registry.ActionResult{Status: "200"})
		close(begun)
		select {
		case <-f.Draining():
			close(drained)
		case <-ctx.Done():
			return ctx.Err()
		}
		_, err = io.ReadFull(f.Conn, make([]byte, 4)) // the rest of the request
		if err != nil {
			return err
		}
		_, err = f.Conn.Write([]byte("answer"))
		return err
	}), id, "api.test", 443)
	<-begun

	result := make(chan error, 1)
	go func() { result <- k.Proxy.Shutdown(context.Background()) }()
	<-drained
	if _, err := k.Dial(id, k.Virtual(id, "api.test", 443)); err != proxytest.ErrRefused {
		t.Errorf("a connection while draining: %v", err)
	}
	if d := k.Proxy.UDP(k.Source(id, false), addrPort("169.254.1.1:9"), nil); d != wireguard.Taken {
		t.Errorf("a datagram while draining: %v", d)
	}
	closedSoon(t, idle)
	if _, err := busy.Write([]byte("rest")); err != nil {
		t.Fatal(err)
	}
	_ = busy.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got, err := io.ReadAll(busy); string(got) != "answer" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-result; err != nil {
		t.Errorf("shutting down: %v", err)
	}
}

func TestShutdownClosesWhatDoesNotEnd(t *testing.T) {
	up := upstream(t, echo)
	k := proxytest.New(t, reaching(443, up))
	k.SetSecret("bearer.red", "secret", "red-token")
	id := k.Approve("a", "red")
	spliced := dial(t, k, id, up)
	_, _ = spliced.Write([]byte("x"))
	_, _ = spliced.Read(make([]byte, 1))

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := k.Proxy.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	closedSoon(t, spliced)
	if n := k.Proxy.Counters().Flows; n != 0 {
		t.Errorf("%d flows left", n)
	}
}

// TestShutdownDoesNotWaitForTheQuiet: a splice over which nothing goes, and UDP,
// do not keep a restart waiting.
func TestShutdownDoesNotWaitForTheQuiet(t *testing.T) {
	tcp, udp := upstream(t, echo), udpUpstream(t, shout)
	k := proxytest.New(t, reaching(443, tcp, udp))
	id, answers := k.Approve("a", "red"), record(k)
	dial(t, k, id, tcp)
	k.Proxy.UDP(k.Source(id, false), udp, []byte("x"))
	k.Eventually(5*time.Second, "an answer", func() bool { return answers.len() == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := k.Proxy.Shutdown(ctx); err != nil || ctx.Err() != nil {
		t.Errorf("shutting down: %v, %v", err, ctx.Err())
	}
}
