package registry_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// invite stores one with this ID, good for 15 minutes.
func invite(t testing.TB, db *registry.DB, c *clock, id registry.InviteID, change func(*registry.Invite)) {
	t.Helper()
	i := registry.Invite{ID: id, Uses: 1, MadeBy: "test", ExpiresAt: c.Now().Add(15 * time.Minute)}
	if change != nil {
		change(&i)
	}
	if err := db.AddInvite(t.Context(), i); err != nil {
		t.Fatal(err)
	}
}

func getInvite(t testing.TB, db *registry.DB, id registry.InviteID) registry.Invite {
	t.Helper()
	all, err := db.Invites(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.ID == id {
			return i
		}
	}
	t.Fatalf("invite %s is gone", id)
	return registry.Invite{}
}

// enrolWith starts a registration with an invite.
func enrolWith(t testing.TB, db *registry.DB, id registry.InviteID, source netip.Addr) (*registry.Registration, error) {
	n := starting("host of "+source.String(), source)
	n.Invite = id
	return db.Enrol(t.Context(), n)
}

// TestI10_OneUseMakesOneRegistration: of fifty that use it at one time, one does.
func TestI10_OneUseMakesOneRegistration(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	for _, uses := range []int{1, 7} {
		id := registry.InviteID("i_" + strings.Repeat("x", uses))
		invite(t, db, c, id, func(i *registry.Invite) { i.Uses = uses })
		var wg sync.WaitGroup
		var made, refused atomic.Int32
		begin := make(chan struct{})
		for range 50 {
			wg.Go(func() {
				<-begin
				switch _, err := enrolWith(t, db, id, newSource()); {
				case err == nil:
					made.Add(1)
				case errors.Is(err, registry.ErrInvite):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		close(begin)
		wg.Wait()
		if int(made.Load()) != uses || int(refused.Load()) != 50-uses {
			t.Errorf("an invite for %d made %d registrations, %d were refused", uses, made.Load(), refused.Load())
		}
		if i := getInvite(t, db, id); i.Used != uses || i.LastUsedAt.IsZero() {
			t.Errorf("%+v", i)
		}
	}
	if n := len(db.Snapshot().All()); n != 8 {
		t.Errorf("%d registrations", n)
	}
}

// TestI10_ABadInviteMakesNothing: whatever is wrong with it, the error is the
// same, and neither a registration nor a use comes of it.
func TestI10_ABadInviteMakesNothing(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	invite(t, db, c, "i_used", nil)
	if _, err := enrolWith(t, db, "i_used", newSource()); err != nil {
		t.Fatal(err)
	}
	invite(t, db, c, "i_voided", nil)
	if err := db.VoidInvite(t.Context(), "i_voided"); err != nil {
		t.Fatal(err)
	}
	invite(t, db, c, "i_elsewhere", func(i *registry.Invite) { i.Source = netip.MustParsePrefix("203.0.113.0/24") })
	invite(t, db, c, "i_expired", func(i *registry.Invite) { i.ExpiresAt = c.Now().Add(time.Minute) })
	c.pass(time.Minute)
	var said []string
	for _, id := range []registry.InviteID{"i_used", "i_voided", "i_elsewhere", "i_expired", "i_unknown"} {
		_, err := enrolWith(t, db, id, netip.MustParseAddr("198.51.100.7"))
		if !errors.Is(err, registry.ErrInvite) {
			t.Errorf("%s: %v", id, err)
			continue
		}
		if !slices.Contains(said, err.Error()) {
			said = append(said, err.Error())
		}
	}
	if len(said) != 1 {
		t.Errorf("not one error: %q", said)
	}
	if n := len(db.Snapshot().All()); n != 1 {
		t.Errorf("%d registrations", n)
	}
	for _, id := range []registry.InviteID{"i_voided", "i_elsewhere", "i_expired"} {
		if i := getInvite(t, db, id); i.Used != 0 || !i.LastUsedAt.IsZero() {
			t.Errorf("%+v", i)
		}
	}
}

// A start that fails for another reason does not use the invite.
func TestInvite_IsNotUsedByAStartThatFails(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	invite(t, db, c, "i_a", nil)
	source := newSource()
	for _, name := range []string{"one", "two", "three"} {
		enrol(t, db, name, source)
	}
	if _, err := enrolWith(t, db, "i_a", source); !errors.Is(err, registry.ErrTooManyPending) {
		t.Fatal(err)
	}
	n := starting("four", newSource())
	n.PublicKey = db.Snapshot().All()[0].PublicKey
	n.Invite = "i_a"
	if _, err := db.Enrol(t.Context(), n); !errors.Is(err, registry.ErrDuplicateKey) {
		t.Fatal(err)
	}
	if i := getInvite(t, db, "i_a"); i.Used != 0 {
		t.Fatalf("used %d times by starts that failed", i.Used)
	}
	if _, err := enrolWith(t, db, "i_a", newSource()); err != nil {
		t.Fatal(err)
	}
}

func TestInvite_SourceBounds(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	for _, f := range []struct {
		source  string
		in, out []string
	}{
		{"198.51.100.128/25", []string{"198.51.100.128", "198.51.100.255", "::ffff:198.51.100.200"}, []string{"198.51.100.127", "198.51.101.0", "2001:db8::1"}},
		{"198.51.100.7/32", []string{"198.51.100.7"}, []string{"198.51.100.6", "198.51.100.8"}},
		{"2001:db8::/33", []string{"2001:db8::", "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff"}, []string{"2001:db8:8000::", "2001:db7:ffff::", "32.1.13.184"}},
		{"0.0.0.0/0", []string{"192.0.2.1", "255.255.255.254"}, []string{"2001:db8::1", "::1"}},
		{"::/0", []string{"2001:db8:1::1"}, []string{"192.0.2.2", "::ffff:192.0.2.2"}},
		{"", []string{"192.0.2.3", "2001:db8:2::1"}, nil},
	} {
		id := registry.InviteID("i_" + f.source)
		invite(t, db, c, id, func(i *registry.Invite) {
			i.Uses = len(f.in) + len(f.out)
			if f.source != "" {
				i.Source = netip.MustParsePrefix(f.source)
			}
		})
		for _, a := range f.in {
			if _, err := enrolWith(t, db, id, netip.MustParseAddr(a)); err != nil {
				t.Errorf("%s from %s: %v", f.source, a, err)
			}
		}
		for _, a := range f.out {
			if _, err := enrolWith(t, db, id, netip.MustParseAddr(a)); !errors.Is(err, registry.ErrInvite) {
				t.Errorf("%s from %s: %v", f.source, a, err)
			}
		}
	}
}

// The approval that an invite gives in advance, and what becomes of it.
func TestInvite_ApprovesInAdvance(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db := openIn(t, dir, c)
	invite(t, db, c, "i_a", func(i *registry.Invite) { i.Profiles, i.Uses = []string{"ci", "deploy"}, 5 })
	start := func() *registry.Registration {
		t.Helper()
		r, err := enrolWith(t, db, "i_a", newSource())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := start()
	if r.State != registry.Pending || r.Invite != "i_a" || strings.Join(r.Invited, ",") != "ci,deploy" || len(r.Profiles) != 0 || r.PinSealed {
		t.Errorf("started as %+v", r)
	}
	// It outlives a restart.
	voidedLater, blocked := start(), start()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, c)
	if err := db.ApproveInvited(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	if r = get(t, db, r.ID); r.State != registry.Approved || strings.Join(r.Profiles, ",") != "ci,deploy" || len(r.Invited) != 0 || !r.PinSealed || !r.ExpiresAt.IsZero() || r.Invite != "i_a" {
		t.Errorf("approved as %+v", r)
	}
	if err := db.Block(t.Context(), blocked.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if err := db.VoidInvite(t.Context(), "i_a"); err != nil {
		t.Fatal(err)
	}
	for what, id := range map[string]registry.ID{"approved already": r.ID, "voided since": voidedLater.ID, "blocked": blocked.ID} {
		if err := db.ApproveInvited(t.Context(), id); !errors.Is(err, registry.ErrState) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// What the invite made stays, and can be approved by an operator.
	if get(t, db, r.ID).State != registry.Approved || get(t, db, voidedLater.ID).State != registry.Pending {
		t.Error("voiding changed registrations that the invite had made")
	}
	if err := db.Approve(t.Context(), voidedLater.ID, []string{"ci"}, voidedLater.UserCode); err != nil {
		t.Error(err)
	}
	if _, err := enrolWith(t, db, "i_a", newSource()); !errors.Is(err, registry.ErrInvite) {
		t.Errorf("a voided invite: %v", err)
	}
	was := getInvite(t, db, "i_a").VoidedAt
	c.pass(time.Second)
	if err := db.VoidInvite(t.Context(), "i_a"); err != nil || !getInvite(t, db, "i_a").VoidedAt.Equal(was) {
		t.Errorf("voiding twice: %v", err)
	}
	if err := db.VoidInvite(t.Context(), "i_nobody"); !errors.Is(err, registry.ErrInvite) {
		t.Errorf("voiding what is not there: %v", err)
	}
}

// Whoever took the dashboard may have made invites: a reset of its password that
// withdraws approvals withdraws those given in advance too.
func TestUnapproveAll_VoidsInvites(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	invite(t, db, c, "i_a", func(i *registry.Invite) { i.Profiles, i.Uses = []string{"ci"}, 3 })
	pending, err := enrolWith(t, db, "i_a", newSource())
	if err != nil {
		t.Fatal(err)
	}
	in, err := enrolWith(t, db, "i_a", newSource())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.ApproveInvited(t.Context(), in.ID); err != nil {
		t.Fatal(err)
	}
	if err := db.UnapproveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []registry.ID{pending.ID, in.ID} {
		if err := db.ApproveInvited(t.Context(), id); !errors.Is(err, registry.ErrState) || get(t, db, id).State != registry.Pending {
			t.Errorf("approved by the invite after the reset: %v", err)
		}
	}
	if _, err := enrolWith(t, db, "i_a", newSource()); !errors.Is(err, registry.ErrInvite) {
		t.Errorf("used after the reset: %v", err)
	}
}

func TestInvites_AreBounded(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	id := func(n int) registry.InviteID {
		return registry.InviteID(strings.Repeat("i", 1+n%60)) + registry.InviteID(rune('a'+n/60))
	}
	n := 0
	for ; n < 1000; n++ {
		invite(t, db, c, id(n), nil)
	}
	over := registry.Invite{ID: id(n), Uses: 1, ExpiresAt: c.Now().Add(time.Hour)}
	if err := db.AddInvite(t.Context(), over); !errors.Is(err, registry.ErrTooManyInvites) {
		t.Fatal(err)
	}
	// What is void, or used up, makes room.
	if err := db.VoidInvite(t.Context(), id(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := enrolWith(t, db, id(1), newSource()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		invite(t, db, c, id(n), nil)
		n++
	}
	if err := db.AddInvite(t.Context(), registry.Invite{ID: id(n), Uses: 1, ExpiresAt: c.Now().Add(time.Hour)}); !errors.Is(err, registry.ErrTooManyInvites) {
		t.Fatal(err)
	}
	c.pass(20 * time.Minute) // those end
	for range 20 {
		invite(t, db, c, id(n), nil)
		n++
	}
	if all, err := db.Invites(t.Context()); err != nil || len(all) != 1020 || all[0].ID != id(n-1) {
		t.Errorf("%d listed, %v", len(all), err)
	}
	c.pass(31 * 24 * time.Hour)
	invite(t, db, c, id(n), nil)
	if all, err := db.Invites(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("%d listed, %v", len(all), err)
	}
	for what, bad := range map[string]registry.Invite{
		"no ID": {Uses: 1, ExpiresAt: c.Now()}, "no uses": {ID: "i_z", ExpiresAt: c.Now()}, "no end": {ID: "i_z", Uses: 1},
		"a bad profile": {ID: "i_z", Uses: 1, ExpiresAt: c.Now(), Profiles: []string{""}},
	} {
		if err := db.AddInvite(t.Context(), bad); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestI17_AnInviteUsedBeforeTheEndIsUsedAfterIt: the use is on disk when Enrol
// returns, and so is the key.
func TestI17_AnInviteUsedBeforeTheEndIsUsedAfterIt(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db := openIn(t, dir, c)
	key, err := db.InviteKey(t.Context())
	if err != nil || len(key.Reveal()) != 32 {
		t.Fatal(err)
	}
	invite(t, db, c, "i_a", nil)
	invite(t, db, c, "i_b", nil)
	if _, err := enrolWith(t, db, "i_a", newSource()); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, c)
	if again, err := db.InviteKey(t.Context()); err != nil || !again.Equal(key) {
		t.Errorf("another key after a restart: %v", err)
	}
	if _, err := enrolWith(t, db, "i_a", newSource()); !errors.Is(err, registry.ErrInvite) {
		t.Errorf("used twice: %v", err)
	}
	if _, err := enrolWith(t, db, "i_b", newSource()); err != nil {
		t.Error(err)
	}
}

// A void and an approval at one time: whichever comes first, a registration that
// is pending after both stays so.
func TestInvite_VoidRacesApproval(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	outcomes := make(map[registry.State]int)
	for n := range 40 {
		id := registry.InviteID("i_" + string(rune('a'+n)))
		invite(t, db, c, id, func(i *registry.Invite) { i.Profiles = []string{"ci"} })
		r, err := enrolWith(t, db, id, newSource())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				<-begin
				if err := db.ApproveInvited(t.Context(), r.ID); err != nil && !errors.Is(err, registry.ErrState) {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			<-begin
			if err := db.VoidInvite(t.Context(), id); err != nil {
				t.Error(err)
			}
		})
		close(begin)
		wg.Wait()
		r = get(t, db, r.ID)
		outcomes[r.State]++
		if len(r.Invited) != 0 || (r.State == registry.Approved) != (len(r.Profiles) == 1) {
			t.Fatalf("%+v", r)
		}
		if err := db.ApproveInvited(t.Context(), r.ID); !errors.Is(err, registry.ErrState) {
			t.Fatalf("approved after the void: %v", err)
		}
		if err := db.Revoke(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("outcomes %v", outcomes)
}

// invitesDir tells a re-executed test binary to use invites until it is killed.
const invitesDir = "REGISTRY_TEST_INVITES_DIR"

// inviteForever makes, uses and voids invites from several goroutines, and prints
// one line for each change, once it is acknowledged.
func inviteForever(dir string) error {
	ctx := context.Background()
	db, err := registry.Open(ctx, config(dir, nil))
	if err != nil {
		return err
	}
	failed := make(chan error)
	var round sync.Once
	for range 3 {
		go func() {
			for {
				failed <- func() error {
					id := registry.InviteID("i_" + rand.Text())
					if err := db.AddInvite(ctx, registry.Invite{ID: id, Profiles: []string{"ci"}, Uses: 1, ExpiresAt: time.Now().Add(time.Hour)}); err != nil {
						return err
					}
					fmt.Printf("made %s\n", id)
					n := starting(rand.Text(), newSource())
					n.Invite = id
					r, err := db.Enrol(ctx, n)
					if err != nil {
						return err
					}
					fmt.Printf("used %s %s\n", id, r.ID)
					if err := db.ApproveInvited(ctx, r.ID); err != nil {
						return err
					}
					fmt.Printf("approved %s %s\n", id, r.ID)
					if err := db.VoidInvite(ctx, id); err != nil {
						return err
					}
					fmt.Printf("voided %s\n", id)
					if err := db.Revoke(ctx, r.ID); err != nil { // makes room
						return err
					}
					round.Do(func() { fmt.Println("round") })
					return nil
				}()
			}
		}()
	}
	for {
		if err := <-failed; err != nil {
			return err
		}
	}
}

// TestI17_KilledAtAnyInstantUsesAnInviteOnceOrNotAtAll: the use of an invite and
// the registration that it makes are there together, or neither is; what was
// acknowledged is there.
func TestI17_KilledAtAnyInstantUsesAnInviteOnceOrNotAtAll(t *testing.T) {
	dir := stateDir(t)
	for range 5 {
		lines := killed(t, invitesDir, dir, time.Duration(mathrand.IntN(60))*time.Millisecond)
		db, err := registry.Open(t.Context(), config(dir, nil))
		if err != nil {
			t.Fatal(err)
		}
		all, err := db.Invites(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		invites := make(map[string]registry.Invite)
		made := make(map[registry.InviteID]int)
		for _, r := range db.Snapshot().All() {
			made[r.Invite]++
		}
		for _, i := range all {
			invites[string(i.ID)] = i
			if made[i.ID] != i.Used {
				t.Errorf("%+v is used by %d registrations", i, made[i.ID])
			}
		}
		for _, line := range lines {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			i, ok := invites[f[1]]
			switch {
			case !ok:
				t.Errorf("%s: the invite is gone", line)
			case f[0] == "used" && i.Used != 1, f[0] == "voided" && i.VoidedAt.IsZero():
				t.Errorf("%s: %+v", line, i)
			case f[0] == "approved" && get(t, db, registry.ID(f[2])).State == registry.Pending:
				t.Errorf("%s: it is pending again", line)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestI17_ResetLeavesTheRevokedAlone: one that an invite had approved in advance, too.
func TestI17_ResetLeavesTheRevokedAlone(t *testing.T) {
	c, dir := newClock(), stateDir(t)
	db := openIn(t, dir, c)
	invite(t, db, c, "i_a", func(i *registry.Invite) { i.Profiles = []string{"ci"} })
	reg, err := enrolWith(t, db, "i_a", newSource())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Revoke(t.Context(), reg.ID); err != nil {
		t.Fatal(err)
	}
	if err := db.UnapproveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, db, reg.ID).State; got != registry.Revoked {
		t.Errorf("the state is %s", got)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	openIn(t, dir, c) // fails the test where the registry does not open again
}
