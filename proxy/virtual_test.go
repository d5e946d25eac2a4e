package proxy_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
)

// The attack: keep a flow open for days, have so many names resolved that the
// table is full, and see whether the flow's address comes to mean another host.
func TestVirtualAddressOfARunningFlowIsNotReused(t *testing.T) {
	var ahead atomic.Int64
	up := udpUpstream(t, shout)
	k := proxytest.NewWith(t, reaching(443, up)+asking(resolver(t, nil)), registry.Config{
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/24"), netip.MustParsePrefix("fd55:c1a5::/48")},
		Now:     func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	id, answers := k.Approve("a", "red"), record(k)
	tcp, udp := k.Virtual(id, "api.test", 443), k.Virtual(id, "web.test", up.Port())
	conn := dial(t, k, id, tcp)
	if d := k.Proxy.UDP(k.Source(id, false), udp, []byte("x")); d != wireguard.Taken {
		t.Fatalf("disposition %v", d)
	}
	k.Eventually(5*time.Second, "both flows", func() bool { return answers.len() == 1 && k.Proxy.Counters().Flows == 2 })

	for range 10 {
		ahead.Add(int64(5 * time.Hour))
		k.Proxy.KeepVirtual()
	}
	var err error
	for i := 0; err == nil; i++ {
		_, _, err = k.DB.VirtualAddresses(t.Context(), id, fmt.Sprintf("%d.test", i))
	}
	if !errors.Is(err, registry.ErrTableFull) {
		t.Fatal(err)
	}
	for a, want := range map[netip.AddrPort]string{tcp: "api.test", udp: "web.test"} {
		if host, _ := k.DB.VirtualHost(id, a.Addr()); host != want {
			t.Errorf("%v leads to %q now, and to %q before", a, host, want)
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("the flow was not open: %v", err)
	}
}
