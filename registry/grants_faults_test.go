package registry_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// A block that the disk refused ends grants all the same, also where it is lifted
// before it could be stored, and whatever the disk knows then.
func TestGrants_StayOverWhereTheDiskWasFullWhenTheRegistrationWasBlocked(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	reg := approved(t, db).ID
	grant(t, db, reg, "no-deletion", registry.GrantTerms{For: time.Hour})
	repair := fullDisk(t)
	if err := db.Block(t.Context(), reg, "pin violated"); err == nil {
		t.Fatal("stored on a full disk")
	}
	repair()
	if err := db.Approve(t.Context(), reg, []string{"ci"}, ""); err != nil {
		t.Fatal(err)
	}
	if len(db.Grants()) != 0 {
		t.Error("in force before the restart")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, nil)
	if list := db.Grants(); len(list) != 0 {
		t.Errorf("in force again after the restart: %+v", list)
	}
}

// Bodies and literals are not shown: two actions that look the same need not be.
func TestI19_OneAnswerAllowsOneAction(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	reg := approved(t, db).ID
	r := held(reg, "no-deletion", "x")
	first := hold(t, db, t.Context(), r, 1)
	id := pending(t, db, 1)[0].ID
	second := hold(t, db, t.Context(), r, 2)
	if err := db.Decide(t.Context(), id, true, "", "me"); err != nil {
		t.Fatal(err)
	}
	if o := result(t, first); o.err != nil || !o.decision.Allowed() {
		t.Errorf("%+v", o)
	}
	if err := db.Decide(t.Context(), pending(t, db, 1)[0].ID, false, "once is enough", "me"); err != nil {
		t.Fatal(err)
	}
	if o := result(t, second); o.err != nil || o.decision.Allowed() || o.decision.Reason != "once is enough" {
		t.Errorf("%+v", o)
	}
}

func TestGrants_AreNotMadeLongerByAClockThatIsSetBack(t *testing.T) {
	clock := newClock()
	db := openIn(t, stateDir(t), clock)
	reg := approved(t, db).ID
	grant(t, db, reg, "no-deletion", registry.GrantTerms{For: 15 * time.Minute})
	clock.pass(-24 * time.Hour)
	if !asked(t, db, held(reg, "no-deletion", "x")) {
		t.Error("in force a day before it was given")
	}
	clock.pass(24 * time.Hour)
	clock.pass(-30 * time.Second) // less than grantSlack
	if asked(t, db, held(reg, "no-deletion", "y")) {
		t.Error("over though the clock is right again")
	}
}

// The page that a second answer gets says what became of it, and not that it waits.
func TestDecide_OnAFullDiskTellsWhatBecame(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	reg := approved(t, db).ID
	ctx, cancel := context.WithCancel(t.Context())
	c := hold(t, db, ctx, held(reg, "no-deletion", "x"), 1)
	id := pending(t, db, 1)[0].ID
	repair := fullDisk(t)
	cancel()
	<-c
	err = db.Decide(t.Context(), id, true, "", "me")
	repair()
	var over *registry.OverError
	if !errors.As(err, &over) || over.Held.State != registry.ApprovalWithdrawn {
		t.Errorf("%v: %+v", err, over)
	}
}

func TestGrants_TakenBackTellHowOftenTheyWereUsed(t *testing.T) {
	for how, end := range map[string]func(*registry.DB, registry.Grant) error{
		"taken back": func(db *registry.DB, g registry.Grant) error { return db.EndGrant(t.Context(), g.ID) },
		"blocked":    func(db *registry.DB, g registry.Grant) error { return db.Block(t.Context(), g.Registration, "x") },
	} {
		db := openIn(t, stateDir(t), nil)
		reg := approved(t, db).ID
		id := grant(t, db, reg, "no-deletion", registry.GrantTerms{For: time.Hour})
		for range 3 {
			if asked(t, db, held(reg, "no-deletion", "x")) {
				t.Fatal("asked")
			}
		}
		if err := end(db, db.Grants()[0]); err != nil {
			t.Fatal(err)
		}
		if g, err := db.GrantOf(t.Context(), id); err != nil || g.Used != 3 || g.EndedAt.IsZero() {
			t.Errorf("%s: %+v, %v", how, g, err)
		}
	}
}
