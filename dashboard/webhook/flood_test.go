package webhook_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/dashboard/webhook"
	"github.com/clawpatrol/clawpatrol/registry"
)

// An agent that asks and goes away again and again does not keep others from being announced.
func TestI16_WhatIsOverCostsOthersNoTime(t *testing.T) {
	b := newBench(t)
	regs := []registry.ID{b.approved("hostile-1"), b.approved("hostile-2"), b.approved("hostile-3")}
	released := make(chan struct{})
	hang := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released })
	b.answer.Store(&hang)
	b.run()
	b.enrol("first")
	b.next()
	var leave []func()
	for n := range 48 {
		leave = append(leave, b.hold(regs[n%3], fmt.Sprint("comes and goes ", n)))
	}
	b.hook.WaitQueued(48)
	for _, f := range leave {
		f()
	}
	b.answer.Store(nil)
	b.enrol("honest")
	b.hook.WaitQueued(49)
	close(released)
	if got := b.next(); !strings.Contains(got.body, "honest") {
		t.Errorf("announced: %s", got.body)
	}
}

// What does not fit is announced when there is room again, if it waits still.
func TestI16_WhatDidNotFitIsAnnouncedLater(t *testing.T) {
	b := newBench(t)
	reg := b.approved("honest")
	released := make(chan struct{})
	hang := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released })
	b.answer.Store(&hang)
	b.run()
	b.enrol("first")
	b.next()
	var flood []registry.ID
	for n := range 64 {
		flood = append(flood, b.enrol(fmt.Sprint("flood-", n)).ID)
	}
	b.hook.WaitQueued(64)
	b.hold(reg, "the honest one")
	b.status("it did not fit", func(s webhook.Status) bool { return strings.Contains(s.Problem, "too much is to be announced") })
	for _, id := range flood {
		if err := b.db.Revoke(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	b.answer.Store(nil)
	close(released)
	if got := b.next(); !strings.Contains(got.body, "the honest one") {
		t.Errorf("announced: %s", got.body)
	}
}
