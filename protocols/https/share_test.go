package https

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

// The attack: an agent with a wildcard makes up hosts, until what is kept for
// others is forgotten.
func TestI16_HostsOfOneRegistrationPushOutItsOwnOnly(t *testing.T) {
	ps := newPools(nil)
	get := func(id registry.ID, host string) *pool {
		return ps.get(poolKey{registration: id, host: host}, poolStamp{}, &policy.Endpoint{})
	}
	first, other := get("a", "first"), get("b", "first")
	for i := range maxPools {
		get("a", fmt.Sprint(i))
		get("a", "used")
	}
	if get("b", "first") != other {
		t.Error("another registration's pool was dropped")
	}
	if n := len(ps.byID.of("a")); n != maxShare {
		t.Errorf("%d pools of one registration", n)
	}
	if get("a", "used") != ps.byID.of("a")[0] || get("a", "first") == first {
		t.Error("the least recently used were not those that went")
	}
	ps.close()
	if len(ps.byID.byOwner) > 0 || len(ps.byID.of("b")) > 0 {
		t.Error("owners without pools are kept")
	}
}

// The attack: set more going upstream than there are sockets.
func TestI16_ConnectionsUpstreamAreBoundedPerRegistration(t *testing.T) {
	dialled := errors.New("dialled")
	refuse := true
	ps := newPools(func(context.Context, *policy.Endpoint, string, uint16) (net.Conn, error) {
		if refuse {
			return nil, dialled
		}
		gateway, upstream := net.Pipe()
		t.Cleanup(func() { upstream.Close() })
		return gateway, nil
	})
	ps.conns.max = 2
	p := ps.get(poolKey{registration: "a", host: "x.example"}, poolStamp{}, &policy.Endpoint{})
	for range 3 { // what fails gives its place back
		if _, _, err := p.h1.dial(t.Context()); !errors.Is(err, dialled) {
			t.Fatal(err)
		}
	}
	refuse = false
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	for range 2 { // the handshake is part of it
		go func() {
			_, _, err := p.h1.dial(ctx)
			failed <- err
		}()
	}
	full := func() bool {
		ps.conns.mu.Lock()
		defer ps.conns.mu.Unlock()
		return ps.conns.of["a"] == 2
	}
	eventually(t, "both are being made", full)
	if _, _, err := p.h1.dial(t.Context()); !errors.Is(err, errTooManyConns) {
		t.Errorf("a third: %v", err)
	}
	if !ps.reserve("b") {
		t.Error("one registration's connections refuse another's")
	}
	cancel()
	for range 2 {
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if len(ps.conns.of) != 1 {
		t.Errorf("places are left: %v", ps.conns.of)
	}
}

// Connections that are idle make room for others of their registration.
func TestI16_IdleConnectionsUpstreamMakeRoom(t *testing.T) {
	idle, open, live := idleWorld(t)
	ps := newPools(nil)
	ps.conns.max = 1
	p := ps.get(poolKey{registration: "a"}, poolStamp{}, &policy.Endpoint{})
	if !ps.reserve("a") {
		t.Fatal("refused below the limit")
	}
	u := open()
	u.pool = &p.h1
	u.socket.closed = func() { ps.conns.remove("a") }
	p.h1.put(u)
	if !ps.reserve("a") {
		t.Error("the idle connection is in the way")
	}
	eventually(t, "it is closed", func() bool { return live.Load() == 0 })
	p.h1.put(open())
	if p.h1.closed {
		t.Error("the pool keeps none any more")
	}
	p.h1.close()
	idle.close()
}
