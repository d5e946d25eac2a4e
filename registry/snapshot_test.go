package registry_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
)

func TestSnapshot_Zero(t *testing.T) {
	var s registry.Snapshot
	if _, ok := s.ByAddr(netip.MustParseAddr("10.55.0.17")); ok {
		t.Error("found something by address")
	}
	if _, ok := s.ByID("r_x"); ok {
		t.Error("found something by ID")
	}
	if len(s.All()) != 0 || s.CodeRequired("r_x") {
		t.Error("holds something")
	}
}

func TestI05_ByAddrFindsExactlyTheOwner(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	one, two := approved(t, db), approved(t, db)
	s := db.Snapshot()
	for a, want := range map[string]registry.ID{
		"10.55.0.15":                        "", // the gateway's range
		"10.55.0.16":                        one.ID,
		"10.55.0.31":                        one.ID,
		"10.55.0.32":                        two.ID,
		"10.55.0.47":                        two.ID,
		"10.55.0.48":                        "",
		"10.56.0.16":                        "",
		"10.55.192.1":                       "", // virtual
		"fd55:c1a5::1":                      "",
		"fd55:c1a5:0:1::":                   one.ID,
		"fd55:c1a5:0:1:ffff:ffff:ffff:ffff": one.ID,
		"fd55:c1a5:0:2::1":                  two.ID,
		"fd55:c1a5:0:3::1":                  "",
		"fd55:c1a6:0:1::1":                  "",
		"::ffff:10.55.0.16":                 "",
		"::10.55.0.16":                      "",
		"fd55:c1a5:0:1::1%eth0":             "",
	} {
		r, ok := s.ByAddr(netip.MustParseAddr(a))
		if ok != (want != "") || ok && r.ID != want {
			t.Errorf("%s: got %v, want %q", a, r, want)
		}
	}
	if _, ok := s.ByAddr(netip.Addr{}); ok {
		t.Error("the zero address is somebody's")
	}
}

func TestSnapshot_IsImmutable(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	r := approved(t, db)
	before := db.Snapshot()
	if err := db.Block(t.Context(), r.ID, "why"); err != nil {
		t.Fatal(err)
	}
	approved(t, db)
	if got, _ := before.ByID(r.ID); got.State != registry.Approved || len(before.All()) != 1 {
		t.Error("an old snapshot changed")
	}
	all := db.Snapshot().All()
	all[0] = nil
	if db.Snapshot().All()[0] == nil {
		t.Error("callers share the list")
	}
}

func TestChanged(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	c, stop := db.Changed()
	ignored, stopIgnored := db.Changed()
	defer stopIgnored()
	r := approved(t, db) // two changes, one token
	<-c
	select {
	case <-c:
		t.Error("a second token for changes before the first was taken")
	default:
	}
	if err := db.Approve(t.Context(), r.ID, []string{"ci"}, ""); !errors.Is(err, registry.ErrState) {
		t.Fatal(err)
	}
	if err := db.SetProfiles(t.Context(), r.ID, []string{"ci"}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c:
		t.Error("told of changes that were none")
	default:
	}
	stop()
	stop()
	if err := db.Block(t.Context(), r.ID, ""); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c:
		t.Error("told after stop")
	default:
	}
	<-ignored
}

// TestConcurrentUse has everything at once, for the race detector, and checks
// that each snapshot is consistent in itself.
func TestConcurrentUse(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	ids := make([]registry.ID, 8)
	for i := range ids {
		ids[i] = approved(t, db).ID
	}
	setCredential(t, db, "bearer.github", "secret", "sesame-0")

	var readers, writers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				s := db.Snapshot()
				for _, r := range s.All() {
					if byID, ok := s.ByID(r.ID); !ok || byID != r {
						t.Error("a listed registration is not found by ID")
					}
					if byAddr, ok := s.ByAddr(r.Prefix4.Addr()); r.State != registry.Revoked && (!ok || byAddr != r) {
						t.Error("a listed registration is not found by address")
					}
					if r.State == registry.Approved && len(r.Profiles) == 0 {
						t.Error("approved without profiles")
					}
				}
			}
		})
	}
	for w := range 4 {
		writers.Go(func() {
			for i := range 25 {
				id := ids[rand.N(len(ids))]
				for _, err := range []error{
					db.Block(ctx, id, "why"),
					db.Approve(ctx, id, []string{"ci"}, ""),
					db.SetProfiles(ctx, id, []string{fmt.Sprint("p", i)}),
					db.SetCredential(ctx, "bearer.github", slot("secret", fmt.Sprintf("sesame-%d-%d", w, i))),
					errOf(db.Release(ctx, actionRow(id))),
					db.Sync(ctx),
					errOf(db.Actions(ctx, registry.ActionFilter{Registration: id, Limit: 5})),
					errOf(db.Credentials(ctx)),
				} {
					if err != nil && !errors.Is(err, registry.ErrState) {
						t.Error(err)
					}
				}
				if v4, _, err := db.VirtualAddresses(ctx, id, fmt.Sprintf("h%d.example.com", i)); err == nil {
					if host, ok := db.VirtualHost(id, v4); !ok || host != fmt.Sprintf("h%d.example.com", i) {
						t.Errorf("%v leads to %q", v4, host)
					}
				}
				r, err := db.Enrol(ctx, starting("guest", newSource()))
				if err != nil {
					t.Error(err)
					continue
				}
				if err := db.Revoke(ctx, r.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
}
