package registry_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// held is an action that a rule holds.
func held(reg registry.ID, rule, summary string) registry.HeldRequest {
	return registry.HeldRequest{
		Registration: reg, Endpoint: "https.github", Kind: registry.ApproveAction, Rule: rule, Summary: summary,
		Detail: registry.ActionDetail{HTTP: &registry.HTTPDetail{Method: "DELETE", Host: "api.github.com", Path: "/" + summary}},
	}
}

// grant answers an action of rule with terms, and returns the approval.
func grant(t testing.TB, db *registry.DB, reg registry.ID, rule string, terms registry.GrantTerms) registry.ApprovalID {
	t.Helper()
	n := db.PendingApprovals()
	c := hold(t, db, t.Context(), held(reg, rule, "the first of "+rule), n+1)
	id := pending(t, db, n+1)[0].ID
	if err := db.DecideFor(t.Context(), id, "go on", "me", terms); err != nil {
		t.Fatal(err)
	}
	if o := result(t, c); o.err != nil || !o.decision.Allowed() {
		t.Fatalf("%+v", o)
	}
	return id
}

// asked reports whether r waits for an operator, instead of being allowed at once.
func asked(t testing.TB, db *registry.DB, r registry.HeldRequest) bool {
	t.Helper()
	n := db.PendingApprovals()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := make(chan outcome, 1)
	go func() {
		d, err := db.Hold(ctx, r)
		c <- outcome{d, err}
	}()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		select {
		case o := <-c:
			if o.err != nil || !o.decision.Allowed() {
				t.Fatalf("%+v", o)
			}
			return false
		default:
		}
		if db.PendingApprovals() > n {
			cancel()
			<-c
			return true
		}
	}
	t.Fatal("neither asked nor allowed")
	return false
}

func TestGrants_CoverWhatTheRuleHoldsThereOfThatRegistration(t *testing.T) {
	clock := newClock()
	db := openIn(t, stateDir(t), clock)
	reg, other := approved(t, db).ID, approved(t, db).ID
	id := grant(t, db, reg, "no-deletion", registry.GrantTerms{For: 15 * time.Minute})

	d, err := db.Hold(t.Context(), held(reg, "no-deletion", "another"))
	if err != nil || d != (registry.Decision{ID: id, State: registry.ApprovalAllowed, Reason: "go on"}) {
		t.Errorf("%+v, %v", d, err)
	}
	elsewhere := held(reg, "no-deletion", "x")
	elsewhere.Endpoint = "https.gitlab"
	for what, r := range map[string]registry.HeldRequest{
		"another rule":         held(reg, "no-merge", "x"),
		"no rule":              held(reg, "", "x"),
		"another registration": held(other, "no-deletion", "x"),
		"another endpoint":     elsewhere,
		"a host key":           hostKeyRequest(reg, "key"),
	} {
		if !asked(t, db, r) {
			t.Errorf("%s: nobody was asked", what)
		}
	}
	list := db.Grants()
	if len(list) != 1 || list[0].Approval != id || list[0].Registration != reg || list[0].Endpoint != "https.github" || list[0].Rule != "no-deletion" ||
		list[0].Operator != "me" || list[0].Reason != "go on" || list[0].Uses != 0 || list[0].Used != 1 || list[0].ExpiresAt.Sub(list[0].CreatedAt) != 15*time.Minute {
		t.Errorf("%+v", list)
	}
	clock.pass(15*time.Minute - time.Microsecond)
	if asked(t, db, held(reg, "no-deletion", "the last")) {
		t.Error("over before its time")
	}
	clock.pass(time.Microsecond)
	if len(db.Grants()) != 0 || !asked(t, db, held(reg, "no-deletion", "too late")) {
		t.Error("not over in time")
	}
	if g, err := db.GrantOf(t.Context(), id); err != nil || g.ID != list[0].ID {
		t.Errorf("%+v, %v", g, err)
	}
	if _, err := db.GrantOf(t.Context(), "a_none"); !errors.Is(err, registry.ErrNoGrant) {
		t.Error(err)
	}
}

func TestGrants_HaveTermsAndARule(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	reg := approved(t, db).ID
	for _, r := range []registry.HeldRequest{held(reg, "no-deletion", "x"), held(reg, "", "x"), hostKeyRequest(reg, "key")} {
		c := hold(t, db, t.Context(), r, 1)
		id := pending(t, db, 1)[0].ID
		bad := []registry.GrantTerms{{}, {For: time.Minute - 1}, {For: 24*time.Hour + 1}, {Uses: -1}, {Uses: 1001}, {For: -time.Hour, Uses: 1}}
		if r.Rule == "" {
			bad = append(bad, registry.GrantTerms{For: time.Hour})
		}
		for _, terms := range bad {
			if err := db.DecideFor(t.Context(), id, "", "", terms); !errors.Is(err, registry.ErrInvalid) {
				t.Errorf("%s with %+v: %v", r.Kind, terms, err)
			}
		}
		if err := db.Decide(t.Context(), id, false, "", ""); err != nil {
			t.Fatal(err)
		}
		result(t, c)
	}
	if len(db.Grants()) != 0 || len(db.AcceptedHostKeys()) != 0 {
		t.Error("something was granted")
	}
	ruled := hostKeyRequest(reg, "key")
	ruled.Rule = "x"
	if _, err := db.Hold(t.Context(), ruled); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("a host key of a rule: %v", err)
	}
	for range 256 {
		grant(t, db, approved(t, db).ID, "no-deletion", registry.GrantTerms{Uses: 1})
	}
	hold(t, db, t.Context(), held(reg, "no-deletion", "x"), 1)
	if err := db.DecideFor(t.Context(), pending(t, db, 1)[0].ID, "", "", registry.GrantTerms{Uses: 1}); !errors.Is(err, registry.ErrTooManyGrants) {
		t.Errorf("one more than there may be: %v", err)
	}
}

// However many ask at once, a grant of ten allows ten, and what is on disk says so.
func TestI17_GrantsAreUsedUpExactly(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	reg := approved(t, db).ID
	id := grant(t, db, reg, "no-deletion", registry.GrantTerms{Uses: 10})
	ctx, cancel := context.WithCancel(t.Context())
	outcomes := make(chan outcome, 50)
	var asking sync.WaitGroup
	for range 50 {
		asking.Go(func() {
			d, err := db.Hold(ctx, held(reg, "no-deletion", "at once"))
			outcomes <- outcome{d, err}
		})
	}
	pending(t, db, 16) // as many as may wait; each is an action of its own
	cancel()
	asking.Wait()
	close(outcomes)
	allowed := 0
	for o := range outcomes {
		if o.decision.Allowed() && o.decision.ID == id {
			allowed++
		} else if !errors.Is(o.err, context.Canceled) && !errors.Is(o.err, registry.ErrTooManyHeld) {
			t.Errorf("%+v", o)
		}
	}
	if allowed != 10 {
		t.Errorf("%d were allowed", allowed)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	again := openIn(t, dir, nil)
	if g, err := again.GrantOf(t.Context(), id); err != nil || g.Used != 10 || len(again.Grants()) != 0 {
		t.Errorf("after a restart: %+v, %v", g, err)
	}
	if !asked(t, again, held(reg, "no-deletion", "after a restart")) {
		t.Error("after a restart nobody was asked")
	}
}

// grantsDir tells a re-executed test binary to use up a grant until it is killed.
const grantsDir = "REGISTRY_TEST_GRANTS_DIR"

func useForever(dir string) error {
	ctx := context.Background()
	db, err := registry.Open(ctx, config(dir, nil))
	if err != nil {
		return err
	}
	reg, err := db.Enrol(ctx, starting(fmt.Sprint("host-", time.Now().UnixNano()), newSource()))
	if err == nil {
		err = db.Approve(ctx, reg.ID, []string{"ci"}, reg.UserCode)
	}
	if err != nil {
		return err
	}
	first := make(chan error, 1)
	go func() {
		_, err := db.Hold(ctx, held(reg.ID, "no-deletion", "first"))
		first <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); db.PendingApprovals() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("nothing waits")
		}
	}
	list, err := db.FindApprovals(ctx, registry.ApprovalFilter{Limit: 1})
	if err == nil {
		err = db.DecideFor(ctx, list[0].ID, "", "", registry.GrantTerms{Uses: registry.MaxGrantUses})
	}
	if err == nil {
		err = <-first
	}
	if err != nil {
		return err
	}
	fmt.Printf("granted %s\n", list[0].ID)
	var using sync.WaitGroup
	for range 4 {
		using.Go(func() {
			for n := range registry.MaxGrantUses / 4 {
				if _, err := db.Hold(ctx, held(reg.ID, "no-deletion", "next")); err != nil {
					return
				}
				fmt.Println("used")
				if n == 10 {
					fmt.Println("round")
				}
			}
		})
	}
	using.Wait()
	select {} // until it is killed
}

// A kill at any instant gives no use back: what was allowed is counted, and at
// most the four that were under way besides.
func TestI17_KilledWhileAGrantIsUsed(t *testing.T) {
	dir := stateDir(t)
	for round := range 3 {
		used, id := 0, registry.ApprovalID("")
		for _, line := range killed(t, grantsDir, dir, time.Duration(20*round)*time.Millisecond) {
			if line == "used" {
				used++
			} else if name, ok := strings.CutPrefix(line, "granted "); ok {
				id = registry.ApprovalID(name)
			}
		}
		db, err := registry.Open(t.Context(), config(dir, nil))
		if err != nil {
			t.Fatal(err)
		}
		if g, err := db.GrantOf(t.Context(), id); err != nil || used < 10 || g.Used < used || g.Used > used+4 {
			t.Errorf("round %d: %d were allowed, stored is %+v, %v", round, used, g, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What was granted to a registration goes with its approval, and does not come
// back with the next one.
func TestGrants_EndWithTheApproval(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	blocked, revoked, reset, kept := approved(t, db).ID, approved(t, db).ID, approved(t, db).ID, approved(t, db).ID
	for _, reg := range []registry.ID{blocked, revoked, reset, kept} {
		grant(t, db, reg, "no-deletion", registry.GrantTerms{For: time.Hour})
	}
	back := grant(t, db, kept, "no-merge", registry.GrantTerms{Uses: 5})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	of := func(reg registry.ID, rule string) *registry.Grant {
		for _, g := range db.Grants() {
			if g.Registration == reg && g.Rule == rule {
				return &g
			}
		}
		return nil
	}
	must(db.EndGrant(ctx, of(kept, "no-merge").ID))
	if of(kept, "no-merge") != nil || !asked(t, db, held(kept, "no-merge", "x")) {
		t.Error("taken back, and still in force")
	}
	g, err := db.GrantOf(ctx, back)
	if err != nil || g.EndedAt.IsZero() {
		t.Errorf("%+v, %v", g, err)
	}
	for _, id := range []registry.GrantID{g.ID, "g_none"} {
		if err := db.EndGrant(ctx, id); !errors.Is(err, registry.ErrNoGrant) {
			t.Errorf("%s taken back: %v", id, err)
		}
	}
	must(db.Block(ctx, blocked, "why"))
	must(db.Approve(ctx, blocked, []string{"ci"}, ""))
	must(db.Revoke(ctx, revoked))
	if !asked(t, db, held(blocked, "no-deletion", "x")) || of(revoked, "no-deletion") != nil || of(kept, "no-deletion") == nil || of(reset, "no-deletion") == nil {
		t.Errorf("after a block and a revocation: %+v", db.Grants())
	}
	must(db.Close())
	db, err = registry.Open(ctx, config(dir, nil))
	must(err)
	if len(db.Grants()) != 2 || of(kept, "no-deletion") == nil || of(reset, "no-deletion") == nil {
		t.Errorf("after a restart: %+v", db.Grants())
	}
	must(db.UnapproveAll(ctx))
	must(db.Approve(ctx, reset, []string{"ci"}, get(t, db, reset).UserCode))
	if len(db.Grants()) != 0 || !asked(t, db, held(reset, "no-deletion", "x")) {
		t.Errorf("after all approvals were taken back: %+v", db.Grants())
	}
	must(db.Close())
	db = openIn(t, dir, nil)
	if len(db.Grants()) != 0 {
		t.Errorf("after another restart: %+v", db.Grants())
	}
}

// A full disk keeps no grant alive that was taken back, and uses none up whose
// use it cannot store.
func TestI19_GrantsOnAFullDisk(t *testing.T) {
	dir := stateDir(t)
	db := openIn(t, dir, nil)
	reg := approved(t, db).ID
	grant(t, db, reg, "numbered", registry.GrantTerms{Uses: 5})
	grant(t, db, reg, "timed", registry.GrantTerms{For: time.Hour})
	list := db.Grants()
	repair := fullDisk(t)
	if d, err := db.Hold(t.Context(), held(reg, "numbered", "x")); err == nil || d.Allowed() {
		t.Errorf("%+v, %v", d, err)
	}
	if err := db.EndGrant(t.Context(), list[1].ID); err == nil || !strings.Contains(err.Error(), "not stored yet") {
		t.Error(err)
	}
	if now := db.Grants(); len(now) != 1 || now[0].Used != 0 {
		t.Errorf("%+v", now)
	}
	repair()
	eventually(t, "it is stored", func() bool {
		g, err := db.GrantOf(t.Context(), list[1].Approval)
		return err == nil && !g.EndedAt.IsZero()
	})
}
