package proxy_test

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/proxy"
	"github.com/clawpatrol/clawpatrol/proxy/proxytest"
	"github.com/clawpatrol/clawpatrol/registry"
)

func TestFlows_AreARegistrationsOwnNewestFirst(t *testing.T) {
	up, udp := upstream(t, echo), udpUpstream(t, shout)
	k := proxytest.New(t, reaching(443, up, udp))
	k.SetSecret("bearer.red", "secret", "s3cret")
	mine, other := k.Approve("mine", "red"), k.Approve("other", "red")
	before := time.Now()

	carried := dial(t, k, mine, up)
	dial(t, k, other, up)
	if _, err := carried.Write([]byte("twelve bytes")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(carried, make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	k.Eventually(10*time.Second, "the splice is listed with its bytes", func() bool {
		l := k.Proxy.Flows(mine, 100)
		return len(l) == 1 && l[0].Bytes == 24
	})
	f, _ := pipeFlow(t, k, mine, "api.test")
	grant, err := f.Authorize(t.Context(), proxy.Action{Summary: "GET /"})
	if err != nil {
		t.Fatal(err)
	}
	if l := k.Proxy.Flows(mine, 100); len(l) != 2 || l[0].Bytes != 0 {
		t.Errorf("while the action runs: %+v", l)
	}
	grant.Finish(registry.ActionResult{Status: "200", BytesIn: 3, BytesOut: 4})
	src := k.Source(mine, false)
	k.Proxy.UDP(src, udp, []byte("hello"))
	k.Eventually(10*time.Second, "three flows, and the datagrams' bytes", func() bool {
		l := k.Proxy.Flows(mine, 100)
		return len(l) == 3 && l[0].Bytes == 5+9
	})
	list := k.Proxy.Flows(mine, 100)
	for i, want := range []proxy.LiveFlow{
		{Protocol: "udp", Destination: udp.String(), Bytes: 14},
		{Protocol: "https", Destination: "api.test:443", Endpoint: "https.api", Bytes: 7},
		{Protocol: "tcp", Destination: up.String(), Bytes: 24},
	} {
		got := list[i]
		if got.Since.Before(before) || got.Since.After(time.Now()) {
			t.Errorf("%s: since %v", got.Destination, got.Since)
		}
		got.Since = time.Time{}
		if got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if l := k.Proxy.Flows(mine, 2); len(l) != 2 || l[0].Protocol != "udp" {
		t.Errorf("at most two, the newest: %+v", l)
	}
	if l := k.Proxy.Flows(mine, 0); len(l) != 0 {
		t.Errorf("none asked for: %+v", l)
	}
	if l := k.Proxy.Flows("r_nobody", 100); len(l) != 0 {
		t.Errorf("of nobody: %+v", l)
	}
	if l := k.Proxy.Flows(other, 100); len(l) != 1 || l[0].Protocol != "tcp" {
		t.Errorf("of the other: %+v", l)
	}
	if err := k.DB.Block(t.Context(), mine, "enough"); err != nil {
		t.Fatal(err)
	}
	k.Eventually(time.Second, "the blocked registration has no flow", func() bool { return len(k.Proxy.Flows(mine, 100)) == 0 })
}

// What a peek decides is written while others list: this is for the race detector,
// and says what is listed before and after.
func TestFlows_OneThatIsPeekedAtTellsWhereItGoes(t *testing.T) {
	up := upstream(t, echo)
	k := proxytest.New(t, reaching(up.Port(), up))
	id := k.Approve("a", "red")
	conn := dial(t, k, id, up) // says nothing yet
	is := func(want string) func() bool {
		return func() bool {
			return slices.ContainsFunc(k.Proxy.Flows(id, 100), func(l proxy.LiveFlow) bool {
				return fmt.Sprintf("%s %s %s", l.Protocol, l.Destination, l.Endpoint) == want
			})
		}
	}
	k.Eventually(10*time.Second, "it is listed while it is peeked at", is(fmt.Sprintf("tcp %v ", up)))
	if _, err := conn.Write(hello(t, "api.test")); err != nil {
		t.Fatal(err)
	}
	k.Eventually(10*time.Second, "it is the endpoint's", is(fmt.Sprintf("https api.test:%d https.api", up.Port())))
}
