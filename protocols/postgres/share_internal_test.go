package postgres

import (
	"testing"
	"testing/synctest"
	"time"
)

// The attack: connect, use up what one may write to the log, connect again.
func TestI16_ConnectingAgainGivesNoFreshShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shares
		first := s.enter("a")
		for first.refusals.Allow() {
		}
		s.leave(first)
		if again := s.enter("a"); again.refusals.Allow() {
			t.Error("a fresh share")
		} else {
			s.leave(again)
		}
		time.Sleep(time.Minute) // of the bubble's clock
		s.leave(s.enter("b"))
		if s.of["a"] != nil {
			t.Error("a share that is as new is kept")
		}
	})
}
