package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
)

// Everything that can happen to a registration happens to it at once. What must
// hold holds in every snapshot, and after a restart.
func TestStates_HoldWhateverComesAtOnce(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]registry.ID, 0, 20)
	for i := range cap(ids) {
		source := newSource()
		reg := enrol(t, db, fmt.Sprintf("host-%d", i), source)
		ids = append(ids, reg.ID)
		thief, six := newSource(), netip.MustParseAddr("2001:db8::1")
		expected := func(err error) {
			for _, fine := range []error{nil, registry.ErrState, registry.ErrPinSealed, registry.ErrPinChanged, registry.ErrNotFound, registry.ErrCodeRequired} {
				if errors.Is(err, fine) {
					return
				}
			}
			t.Errorf("unexpected: %v", err)
		}
		ctx, end := context.WithCancel(t.Context())
		var watching, acting sync.WaitGroup
		watching.Go(func() {
			before := *reg
			for ctx.Err() == nil {
				now, ok := db.Snapshot().ByID(reg.ID)
				if !ok {
					t.Error("it has gone")
					return
				}
				checkStep(t, &before, now)
				before = *now
			}
		})
		approve := func(a registry.Approval) {
			a.Profiles, a.UserCode = []string{"ci"}, reg.UserCode
			expected(db.ApproveAs(t.Context(), reg.ID, a))
		}
		claim := func(from netip.Addr) {
			_, err := db.Claim(t.Context(), reg.ID, from)
			expected(err)
		}
		for _, act := range []func(int){
			func(int) { claim(source) },
			func(int) { claim(six) },
			func(int) { approve(registry.Approval{}) },
			func(int) { approve(registry.Approval{Repin: &registry.Pin{IPv4: thief}}) },
			func(int) { expected(db.Block(t.Context(), reg.ID, "test")) },
			func(int) { expected(db.Deviate(t.Context(), reg.ID, registry.Deviation{From: thief, What: "a poll"})) },
			func(int) {
				expected(db.Deviate(t.Context(), reg.ID, registry.Deviation{From: source, UDP: true, What: "a data packet"}))
			},
			func(n int) {
				expected(db.RecordPeers(t.Context(), map[registry.ID]registry.PeerState{reg.ID: {From: source, Newest: [12]byte{byte(n + 1)}}}))
			},
		} {
			acting.Go(func() {
				for n := range 6 {
					act(n)
				}
			})
		}
		acting.Wait()
		if i%2 == 0 {
			for range 2 {
				acting.Go(func() { expected(db.Revoke(t.Context(), reg.ID)) })
			}
			acting.Go(func() { approve(registry.Approval{}) })
			acting.Go(func() { expected(db.Deviate(t.Context(), reg.ID, registry.Deviation{From: thief, What: "a poll"})) })
			acting.Wait()
			if now, _ := db.Snapshot().ByID(reg.ID); now.State != registry.Revoked {
				t.Errorf("after a revocation it is %s", now.State)
			}
		}
		end()
		watching.Wait()
	}
	memory := make(map[registry.ID]registry.Registration)
	for _, id := range ids {
		now, _ := db.Snapshot().ByID(id)
		memory[id] = *now
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, nil)
	for _, id := range ids {
		now, ok := db.Snapshot().ByID(id)
		was := memory[id]
		if !ok || now.State != was.State || now.Pin != was.Pin || now.PinSealed != was.PinSealed || now.Blocks != was.Blocks || now.Newest != was.Newest || now.Seen != was.Seen {
			t.Errorf("on disk %+v, in memory %+v", now, was)
		}
	}
}

// checkStep checks what may become of a registration, in any number of steps.
func checkStep(t *testing.T, before, now *registry.Registration) {
	t.Helper()
	switch {
	case before.State == registry.Revoked && now.State != registry.Revoked:
		t.Errorf("revoked, then %s", now.State)
	case before.State != registry.Pending && now.State == registry.Pending:
		t.Errorf("%s, then pending", before.State)
	case now.State == registry.Approved && (!now.PinSealed || len(now.Profiles) == 0):
		t.Errorf("approved: %+v", now)
	case before.PinSealed && !now.PinSealed:
		t.Error("a sealed pin was opened")
	case before.PinSealed && now.Blocks == before.Blocks && now.Pin != before.Pin && before.State != registry.Blocked && now.State != registry.Revoked:
		t.Errorf("a sealed pin changed from %+v to %+v without a block", before.Pin, now.Pin)
	case now.Blocks < before.Blocks && now.State != registry.Revoked:
		t.Errorf("%d lives, then %d", before.Blocks, now.Blocks)
	case now.State == registry.Blocked && now.BlockedReason == "":
		t.Error("blocked without a reason")
	}
}
