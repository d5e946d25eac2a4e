package registry_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func TestSessions_AreToldApartAndEndedByID(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	begin := func(n int, source, browser string, replaces ...[32]byte) {
		t.Helper()
		s := registry.Session{ID: "s_999", Expires: c.Now().Add(time.Hour), Browser: browser}
		s.Source, _ = netip.ParseAddr(source)
		if err := db.NewSession(t.Context(), nil, token(n), s, replaces...); err != nil {
			t.Fatal(err)
		}
	}
	begin(1, "192.0.2.1", "one")
	c.pass(time.Minute)
	begin(2, "2001:db8::1", "two "+strings.Repeat("ü", 200))
	begin(3, "", "")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, c)
	all := db.Sessions()
	if len(all) != 3 || all[2].Browser != "one" || all[2].Source != netip.MustParseAddr("192.0.2.1") || !all[2].Created.Equal(c.Now().Add(-time.Minute)) ||
		!strings.HasPrefix(all[1].Browser, "two ü") || len(all[1].Browser) > 256 || all[0].Source.IsValid() || all[0].ID == "s_999" {
		t.Fatalf("%+v", all)
	}
	if s, ok := db.Session(token(2)); !ok || s != all[1] {
		t.Errorf("%+v", s)
	}
	for _, id := range []string{"", "s_", "2", "s_999", all[0].ID + " ", "' OR 1 --"} {
		if err := db.EndSessionByID(t.Context(), id); !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := db.EndSessionByID(t.Context(), all[0].ID); err != nil || db.SessionValid(token(3)) || !db.SessionValid(token(2)) {
		t.Errorf("%v", err)
	}
	begin(4, "", "", token(1), token(77)) // in place of the first
	if db.SessionValid(token(1)) || !db.SessionValid(token(4)) {
		t.Error("not replaced")
	}
	if s, _ := db.Session(token(4)); s.ID == all[0].ID {
		t.Error("an ID was given again")
	}
	if err := db.EndSessions(t.Context(), token(4), token(78)); err != nil || db.SessionValid(token(2)) || !db.SessionValid(token(4)) {
		t.Errorf("all but one: %v", err)
	}
	c.pass(time.Hour)
	if len(db.Sessions()) != 0 {
		t.Error("one that has expired is listed")
	}
	begin(5, "", "")
	if err := db.EndSessions(t.Context()); err != nil || len(db.Sessions()) != 0 {
		t.Errorf("all: %v", err)
	}
}

func TestRootPassword_IsChangedOnlyFromWhatItWas(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	ctx := t.Context()
	s := registry.Session{Expires: time.Now().Add(time.Hour)}
	change := func(old, hash string, n int) error {
		return db.ChangeRootPassword(ctx, []byte(old), []byte(hash), token(n), s)
	}
	if err := change("", "first", 1); !errors.Is(err, registry.ErrState) {
		t.Errorf("where there is none: %v", err)
	}
	if err := db.SetRootPasswordHash(ctx, []byte("one"), true); err != nil {
		t.Fatal(err)
	}
	if err := db.NewSession(ctx, []byte("one"), token(1), s); err != nil {
		t.Fatal(err)
	}
	for _, old := range []string{"", "two", "on", "one "} {
		if err := change(old, "evil", 2); !errors.Is(err, registry.ErrState) || !db.SessionValid(token(1)) || db.SessionValid(token(2)) {
			t.Errorf("%q: %v", old, err)
		}
	}
	if err := change("one", "", 2); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("by nothing: %v", err)
	}
	if err := change("one", "two", 2); err != nil || db.SessionValid(token(1)) || !db.SessionValid(token(2)) {
		t.Errorf("%v", err)
	}
	if err := db.ChangeRootPassword(ctx, []byte("two"), []byte("three"), [32]byte{}, registry.Session{}); err != nil || len(db.Sessions()) != 0 {
		t.Errorf("without a session: %v, %v", err, db.Sessions())
	}
}
