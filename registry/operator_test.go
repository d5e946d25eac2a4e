package registry_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func token(n int) [32]byte { return sha256.Sum256(fmt.Append(nil, "token", n)) }

func TestRootPassword(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	want := func(hash string) {
		t.Helper()
		got, err := db.RootPasswordHash(ctx)
		if err != nil || !bytes.Equal(got, []byte(hash)) || (got == nil) != (hash == "") {
			t.Errorf("hash %q, %v; want %q", got, err, hash)
		}
	}
	want("")
	if _, required, err := db.SetupCodeHash(ctx); err != nil || required {
		t.Errorf("a code is required on the first run: %v", err)
	}
	if err := db.SetRootPasswordHash(ctx, []byte("$2a$one"), true); err != nil {
		t.Fatal(err)
	}
	if err := db.SetRootPasswordHash(ctx, []byte("$2a$late"), true); !errors.Is(err, registry.ErrState) {
		t.Errorf("a second first run: %v", err)
	}
	want("$2a$one")
	if err := db.SetRootPasswordHash(ctx, []byte("$2a$two"), false); err != nil {
		t.Fatal(err)
	}
	want("$2a$two")
	for _, bad := range [][]byte{nil, bytes.Repeat([]byte("x"), 257)} {
		if err := db.SetRootPasswordHash(ctx, bad, false); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}

	code := token(99)
	if err := db.ResetRootPassword(ctx, code); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, nil)
	want("")
	if got, required, err := db.SetupCodeHash(ctx); err != nil || !required || got != code {
		t.Errorf("%x %v %v", got, required, err)
	}
	if err := db.SetRootPasswordHash(ctx, []byte("$2a$three"), true); err != nil {
		t.Fatal(err)
	}
	if _, required, err := db.SetupCodeHash(ctx); err != nil || required {
		t.Errorf("the code was not spent: %v", err)
	}
}

// Two first runs at once: one operator wins, the other is told.
func TestRootPassword_FirstRunIsAtomic(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	errs := make(chan error)
	for n := range 8 {
		go func() { errs <- db.SetRootPasswordHash(t.Context(), fmt.Append(nil, "hash", n), true) }()
	}
	won := 0
	for range 8 {
		switch err := <-errs; {
		case err == nil:
			won++
		case !errors.Is(err, registry.ErrState):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d first runs", won)
	}
}

func TestSessions(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	var password []byte
	begin := func(n int) {
		t.Helper()
		if err := db.NewSession(t.Context(), password, token(n), registry.Session{Expires: c.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	valid := func(n int, want bool) {
		t.Helper()
		if db.SessionValid(token(n)) != want {
			t.Errorf("session %d valid: %v", n, !want)
		}
	}
	begin(1)
	begin(2)
	valid(1, true)
	valid(3, false)
	if db.SessionValid([32]byte{}) {
		t.Error("the zero token is valid")
	}
	if err := db.EndSession(t.Context(), token(1)); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, c)
	valid(1, false)
	valid(2, true)

	c.pass(time.Hour - time.Second)
	valid(2, true)
	c.pass(time.Second)
	valid(2, false)

	// The 65th ends the oldest.
	for n := 100; n < 164; n++ {
		begin(n)
	}
	valid(100, true)
	begin(164)
	valid(100, false)
	valid(101, true)
	valid(164, true)
	if n := queryInt(t, dir, "SELECT count(*) FROM sessions"); n != 64 {
		t.Errorf("%d sessions stored", n)
	}

	if err := db.SetRootPasswordHash(t.Context(), []byte("hash"), false); err != nil {
		t.Fatal(err)
	}
	valid(164, false)
	// A log-in that was checked against the password before is too late.
	if err := db.NewSession(t.Context(), nil, token(199), registry.Session{Expires: c.Now().Add(time.Hour)}); !errors.Is(err, registry.ErrState) {
		t.Errorf("by the password before: %v", err)
	}
	valid(199, false)
	password = []byte("hash")
	begin(200)
	if err := db.ResetRootPassword(t.Context(), token(0)); err != nil {
		t.Fatal(err)
	}
	valid(200, false)
	if n := queryInt(t, dir, "SELECT count(*) FROM sessions"); n != 0 {
		t.Errorf("%d sessions left in the file", n)
	}
}

func TestSessions_ExpiredOnesDoNotCountAgainstTheLimit(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	if err := db.NewSession(t.Context(), nil, token(0), registry.Session{Expires: c.Now().Add(24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	for n := 1; n < 64; n++ {
		if err := db.NewSession(t.Context(), nil, token(n), registry.Session{Expires: c.Now().Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
	}
	c.pass(time.Minute)
	if err := db.NewSession(t.Context(), nil, token(64), registry.Session{Expires: c.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if !db.SessionValid(token(0)) {
		t.Error("a valid session ended to make room that expired ones held")
	}
}
