package registry_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// TestStates walks every transition from every state.
func TestStates(t *testing.T) {
	enter := map[registry.State]func(*testing.T, *registry.DB) registry.ID{
		registry.Pending:  func(t *testing.T, db *registry.DB) registry.ID { return enrol(t, db, "builder", newSource()).ID },
		registry.Approved: func(t *testing.T, db *registry.DB) registry.ID { return approved(t, db).ID },
		registry.Blocked: func(t *testing.T, db *registry.DB) registry.ID {
			id := approved(t, db).ID
			if err := db.Block(t.Context(), id, "first"); err != nil {
				t.Fatal(err)
			}
			return id
		},
		registry.Revoked: func(t *testing.T, db *registry.DB) registry.ID {
			id := approved(t, db).ID
			if err := db.Revoke(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			return id
		},
	}
	approve := func(t *testing.T, db *registry.DB, id registry.ID) error {
		return db.Approve(t.Context(), id, []string{"ci"}, "")
	}
	block := func(t *testing.T, db *registry.DB, id registry.ID) error { return db.Block(t.Context(), id, "why") }
	revoke := func(t *testing.T, db *registry.DB, id registry.ID) error { return db.Revoke(t.Context(), id) }
	profiles := func(t *testing.T, db *registry.DB, id registry.ID) error {
		return db.SetProfiles(t.Context(), id, []string{"docs"})
	}
	for _, test := range []struct {
		from registry.State
		do   string
		f    func(*testing.T, *registry.DB, registry.ID) error
		to   registry.State
		err  error
	}{
		{registry.Pending, "approve", approve, registry.Approved, nil},
		{registry.Pending, "block", block, registry.Blocked, nil},
		{registry.Pending, "revoke", revoke, registry.Revoked, nil},
		{registry.Pending, "profiles", profiles, registry.Pending, nil},
		{registry.Approved, "approve", approve, registry.Approved, registry.ErrState},
		{registry.Approved, "block", block, registry.Blocked, nil},
		{registry.Approved, "revoke", revoke, registry.Revoked, nil},
		{registry.Approved, "profiles", profiles, registry.Approved, nil},
		{registry.Blocked, "approve", approve, registry.Approved, nil},
		{registry.Blocked, "block", block, registry.Blocked, nil},
		{registry.Blocked, "revoke", revoke, registry.Revoked, nil},
		{registry.Blocked, "profiles", profiles, registry.Blocked, nil},
		{registry.Revoked, "approve", approve, registry.Revoked, registry.ErrState},
		{registry.Revoked, "block", block, registry.Revoked, registry.ErrState},
		{registry.Revoked, "revoke", revoke, registry.Revoked, nil},
		{registry.Revoked, "profiles", profiles, registry.Revoked, registry.ErrState},
	} {
		t.Run(fmt.Sprintf("%s %s", test.do, test.from), func(t *testing.T) {
			db := openIn(t, stateDir(t), nil)
			id := enter[test.from](t, db)
			if err := test.f(t, db, id); !errors.Is(err, test.err) {
				t.Fatalf("got %v, want %v", err, test.err)
			}
			if got := get(t, db, id).State; got != test.to {
				t.Errorf("now %s, want %s", got, test.to)
			}
		})
	}
	db := openIn(t, stateDir(t), nil)
	for name, f := range map[string]func(*testing.T, *registry.DB, registry.ID) error{"approve": approve, "block": block, "revoke": revoke, "profiles": profiles} {
		if err := f(t, db, "r_unknown"); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("%s of an unknown one: %v", name, err)
		}
	}
}

func TestApprove_RecordsWhatWasApproved(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	r := enrol(t, db, "builder", newSource())
	c.pass(time.Minute)
	if err := db.Approve(t.Context(), r.ID, []string{"ci", "docs", "ci"}, strings.ToLower(strings.ReplaceAll(r.UserCode, "-", " "))); err != nil {
		t.Fatal(err)
	}
	got := get(t, db, r.ID)
	if !slices.Equal(got.Profiles, []string{"ci", "docs"}) || !got.PinSealed || got.ApprovedAt != c.Now() || !got.ExpiresAt.IsZero() {
		t.Errorf("%+v", got)
	}
	c.pass(48 * time.Hour)
	enrol(t, db, "another", newSource()) // looks for expired ones
	get(t, db, r.ID)
}

func TestApprove_NeedsProfiles(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	r := enrol(t, db, "builder", newSource())
	if err := db.Approve(t.Context(), r.ID, nil, ""); !errors.Is(err, registry.ErrNoProfiles) {
		t.Errorf("none: %v", err)
	}
	for _, bad := range []string{"", "a\nb", "a\xffb", strings.Repeat("a", 129)} {
		if err := db.Approve(t.Context(), r.ID, []string{"ci", bad}, ""); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if get(t, db, r.ID).State != registry.Pending {
		t.Error("a refused approval changed the state")
	}
}

func TestApprove_BlockedKeepsItsPin(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	r := approved(t, db)
	if err := db.Block(t.Context(), r.ID, "packet from elsewhere"); err != nil {
		t.Fatal(err)
	}
	if got := get(t, db, r.ID); got.BlockedReason != "packet from elsewhere" || got.BlockedAt.IsZero() {
		t.Errorf("%+v", got)
	}
	if err := db.Block(t.Context(), r.ID, "again"); err != nil {
		t.Fatal(err)
	}
	if got := get(t, db, r.ID); got.BlockedReason != "packet from elsewhere" {
		t.Errorf("the first reason was replaced by %q", got.BlockedReason)
	}
	if err := db.Approve(t.Context(), r.ID, []string{"ci"}, ""); err != nil {
		t.Fatal(err)
	}
	if got := get(t, db, r.ID); got.Pin != r.Pin || !got.PinSealed || got.BlockedReason != "" || !got.BlockedAt.IsZero() {
		t.Errorf("%+v", got)
	}
}

func TestBlock_ReasonIsBounded(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	r := approved(t, db)
	if err := db.Block(t.Context(), r.ID, strings.Repeat("é", 400)+"\x1b[2J"); err != nil {
		t.Fatal(err)
	}
	if got := get(t, db, r.ID).BlockedReason; got != strings.Repeat("é", 256) {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

func TestApprove_LookAlikesNeedTheCode(t *testing.T) {
	here, there := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	pending := func(name string, source netip.Addr) func(*testing.T, *registry.DB) {
		return func(t *testing.T, db *registry.DB) { enrol(t, db, name, source) }
	}
	for name, test := range map[string]struct {
		other func(*testing.T, *registry.DB)
		need  bool
	}{
		"nobody else":              {func(*testing.T, *registry.DB) {}, false},
		"other name and source":    {pending("tester", there), false},
		"same source":              {pending("tester", here), true},
		"same name":                {pending("Build-01", there), true},
		"name in other case":       {pending("BUILD-01", there), true},
		"name in other width":      {pending("Ｂｕｉｌｄ－０１", there), true},
		"name with other space":    {pending("Build 01", there), true},
		"Cyrillic letters":         {pending("Вuild-01", there), true},
		"digits for letters":       {pending("Bui1d-o1", there), true},
		"accent":                   {pending("Buïld-01", there), true},
		"invisible characters":     {pending("Build\u200b-01", there), true},
		"another number":           {pending("Build-02", there), false},
		"same source, but revoked": {func(t *testing.T, db *registry.DB) { r := enrol(t, db, "x", here); _ = db.Revoke(t.Context(), r.ID) }, false},
		"same name, but revoked": {func(t *testing.T, db *registry.DB) {
			r := enrol(t, db, "build-01", there)
			_ = db.Revoke(t.Context(), r.ID)
		}, false},
		"same source, but approved": {func(t *testing.T, db *registry.DB) { approveAll(t, db, enrol(t, db, "x", here)) }, false},
		"same name, approved":       {func(t *testing.T, db *registry.DB) { approveAll(t, db, enrol(t, db, "build-01", there)) }, true},
		"same name, blocked": {func(t *testing.T, db *registry.DB) {
			r := enrol(t, db, "build-01", there)
			approveAll(t, db, r)
			_ = db.Block(t.Context(), r.ID, "")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			db := openIn(t, stateDir(t), nil)
			test.other(t, db)
			r := enrol(t, db, "Build-01", here)
			if got := db.Snapshot().CodeRequired(r.ID); got != test.need {
				t.Errorf("CodeRequired is %v", got)
			}
			wrong := "BBBB-BBBB"
			if r.UserCode == wrong {
				wrong = "CCCC-CCCC"
			}
			for _, code := range []string{wrong, "-", "x", r.UserCode[:8], r.UserCode + "B", strings.Repeat("B", 1<<16)} {
				if err := db.Approve(t.Context(), r.ID, []string{"ci"}, code); !errors.Is(err, registry.ErrCodeWrong) || !errors.Is(err, registry.ErrCodeRequired) {
					t.Fatalf("code %.20q: %v", code, err)
				}
			}
			err := db.Approve(t.Context(), r.ID, []string{"ci"}, "")
			if test.need {
				if !errors.Is(err, registry.ErrCodeRequired) || errors.Is(err, registry.ErrCodeWrong) {
					t.Fatalf("without code: %v", err)
				}
				err = db.Approve(t.Context(), r.ID, []string{"ci"}, r.UserCode)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The operator who means the new registration of a host must not restore the
// blocked one of the same name with one click.
func TestApprove_BlockedBesideAPendingLookAlikeNeedsTheCode(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	old := enrol(t, db, "builder", newSource())
	approveAll(t, db, old)
	if err := db.Block(t.Context(), old.ID, "leaked"); err != nil {
		t.Fatal(err)
	}
	enrol(t, db, "builder", newSource())
	if err := db.Approve(t.Context(), old.ID, []string{"ci"}, ""); !errors.Is(err, registry.ErrCodeRequired) {
		t.Fatalf("got %v", err)
	}
}

func approveAll(t *testing.T, db *registry.DB, list ...*registry.Registration) {
	t.Helper()
	for _, r := range list {
		if err := db.Approve(t.Context(), r.ID, []string{"ci"}, r.UserCode); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRevoke_DestroysWhatItLeaves(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	r := approved(t, db)
	v4, _, err := db.VirtualAddresses(t.Context(), r.ID, "api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Revoke(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		if !db.MACKey(r.ID).IsZero() || !db.PresharedKey(r.ID).IsZero() {
			t.Error("keys are still handed out")
		}
		if _, ok := db.Snapshot().ByAddr(r.Prefix4.Addr()); ok {
			t.Error("found by address")
		}
		if _, ok := db.VirtualHost(r.ID, v4); ok {
			t.Error("its virtual addresses still work")
		}
		if got := get(t, db, r.ID); got.State != registry.Revoked || got.RevokedAt.IsZero() {
			t.Errorf("%+v", got)
		}
	}
	check()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, nil)
	check()
}

func TestUnapproveAll(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	one, two, three := approved(t, db), approved(t, db), approved(t, db)
	if err := db.Block(t.Context(), two.ID, "why"); err != nil {
		t.Fatal(err)
	}
	if err := db.Revoke(t.Context(), three.ID); err != nil {
		t.Fatal(err)
	}
	if err := db.UnapproveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	c.pass(48 * time.Hour) // nobody hurries an operator who lost the password
	db = openIn(t, dir, c)
	enrol(t, db, "newcomer", newSource())
	for id, want := range map[registry.ID]registry.State{one.ID: registry.Pending, two.ID: registry.Pending, three.ID: registry.Revoked} {
		if got := get(t, db, id); got.State != want {
			t.Errorf("%s, want %s", got.State, want)
		}
	}
	if got := get(t, db, one.ID); got.Pin != one.Pin || !got.PinSealed {
		t.Errorf("the pin was lost: %+v", got)
	}
	if _, err := db.Release(t.Context(), actionRow(one.ID)); !errors.Is(err, registry.ErrState) {
		t.Errorf("Release: %v", err)
	}
	approveAll(t, db, get(t, db, one.ID))
}

// Between what an operator saw and what they approve, a claim may have changed
// the pin.
func TestApproveAs_RefusesAnotherPin(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	reg := enrol(t, db, "build-01", newSource())
	seen := reg.Pin
	if _, err := db.Claim(t.Context(), reg.ID, reg.Source); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Claim(t.Context(), reg.ID, netip.MustParseAddr("2001:db8::1")); err != nil {
		t.Fatal(err)
	}
	if err := db.ApproveAs(t.Context(), reg.ID, registry.Approval{Profiles: []string{"ci"}, Shown: &seen}); !errors.Is(err, registry.ErrPinChanged) {
		t.Errorf("with the pin as it was: %v", err)
	}
	now, _ := db.Snapshot().ByID(reg.ID)
	if now.State != registry.Pending {
		t.Fatalf("the registration is %s", now.State)
	}
	if err := db.ApproveAs(t.Context(), reg.ID, registry.Approval{Profiles: []string{"ci"}, Shown: &now.Pin}); err != nil {
		t.Errorf("with the pin as it is: %v", err)
	}
}

// A page asks it of each registration, and whoever can start registrations
// decides how many: it must cost comparisons only.
func TestCodeRequired_CostsNoMemory(t *testing.T) {
	dir := stateDir(t)
	db := openIn(t, dir, nil)
	mine, other := enrol(t, db, "build-o1", newSource()), enrol(t, db, "bui1d-01", newSource())
	check := func(db *registry.DB) {
		t.Helper()
		s := db.Snapshot()
		if !s.CodeRequired(mine.ID) || !s.CodeRequired(other.ID) {
			t.Error("the two do not look alike")
		}
		if n := testing.AllocsPerRun(10, func() { s.CodeRequired(mine.ID) }); n > 1 {
			t.Errorf("%v allocations", n)
		}
	}
	check(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	check(openIn(t, dir, nil))
}
