package dns_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/clawpatrol/clawpatrol/proxy/dns"
)

func TestDNS_ThoseWhoAskTogetherAskOnce(t *testing.T) {
	release := make(chan struct{})
	world := startServer(t, func(transport string, q *mdns.Msg) *mdns.Msg {
		<-release
		return records("$ 300 IN A 192.0.2.1")(transport, q)
	})
	h := build(t, world)
	// One of them gives up: the others do not notice.
	hasty, giveUp := context.WithCancel(t.Context())
	var asking, begun, gone sync.WaitGroup
	wire, _ := question("a.example.org", mdns.TypeA).Pack()
	gone.Go(func() {
		if _, err := h.Answer(hasty, dns.Query{Registration: "r0", Server: gateway, Message: wire}); !errors.Is(err, context.Canceled) {
			t.Errorf("the one who gave up: %v", err)
		}
	})
	waitFor(t, "the first query", func() bool { return len(world.queries()) == 1 })
	const n = 30
	begun.Add(n)
	for range n {
		asking.Go(func() {
			begun.Done()
			only(t, h.ask(t, nil, gateway, question("a.example.org", mdns.TypeA)))
		})
	}
	begun.Wait()
	giveUp()
	gone.Wait() // with the answer there too, it might take that
	close(release)
	asking.Wait()
	if got := len(world.queries()); got > 2 {
		t.Errorf("%d askers, %d queries", n+1, got)
	}
}

// The attack: one registration asks for so much that others get no answer.
func TestI16_QueriesUnderWayAreBoundedPerRegistration(t *testing.T) {
	silent := startServer(t, nil)
	h := build(t, silent)
	h.refuse = func(netip.AddrPort) error { return nil }
	ctx, cancel := context.WithCancel(t.Context())
	var (
		flood   sync.WaitGroup
		mu      sync.Mutex
		dropped int
	)
	const n = 300
	for i := range n {
		wire, _ := question(fmt.Sprintf("n%d.example.org", i), mdns.TypeA).Pack()
		to := gateway
		if i%2 == 0 {
			to = silent.addr
		}
		flood.Go(func() {
			_, err := h.Answer(ctx, dns.Query{Registration: "flood", Server: to, Message: wire})
			if err != nil && ctx.Err() == nil {
				mu.Lock()
				dropped++
				mu.Unlock()
			}
		})
	}
	waitFor(t, "the flood to be cut", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return dropped == n-256
	})
	// Over TCP an answer is owed.
	wire, _ := question("tcp.example.org", mdns.TypeA).Pack()
	reply, err := h.Answer(ctx, dns.Query{Registration: "flood", Server: gateway, TCP: true, Message: wire})
	if err != nil || reply[3]&0xf != mdns.RcodeServerFailure {
		t.Errorf("over TCP: %x %v", reply, err)
	}
	// Others, and what needs no resolver, are served.
	silent.change(records("$ 300 IN A 192.0.2.1"))
	only(t, h.ask(t, nil, gateway, question("quiet.example.org", mdns.TypeA)))
	m, err := h.tryAs(t, dns.Query{Registration: "flood", Scope: scopeOf("api.example.com"), Server: gateway}, question("api.example.com", mdns.TypeA))
	if err != nil {
		t.Fatal(err)
	}
	only(t, m)
	cancel()
	flood.Wait()
	m, err = h.tryAs(t, dns.Query{Registration: "flood", Server: gateway}, question("later.example.org", mdns.TypeA))
	if err != nil {
		t.Fatalf("after the flood: %v", err)
	}
	only(t, m)
}

func TestDNS_CacheIsBounded(t *testing.T) {
	world := startServer(t, records("$ 3000 IN A 192.0.2.1"))
	h := build(t, world)
	const n = 10_100
	for i := range n {
		h.ask(t, nil, gateway, question(fmt.Sprintf("n%d.example.org", i), mdns.TypeA))
	}
	before := len(world.queries())
	for i := n - 10_000; i < n; i += 99 { // what is left, without pushing anything out
		h.ask(t, nil, gateway, question(fmt.Sprintf("n%d.example.org", i), mdns.TypeA))
	}
	if got := len(world.queries()); got != before {
		t.Errorf("%d of the last 10000 names were asked for again", got-before)
	}
	h.ask(t, nil, gateway, question("n0.example.org", mdns.TypeA))
	if got := len(world.queries()); got != before+1 {
		t.Errorf("the oldest of %d names is still there", n)
	}
}

// waitFor polls until ok, 5 s at most.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for %s", what)
		}
	}
}
