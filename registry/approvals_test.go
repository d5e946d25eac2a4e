package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func hostKeyRequest(reg registry.ID, key string) registry.HeldRequest {
	return registry.HeldRequest{
		Registration: reg, Endpoint: "ssh.build", Kind: registry.ApproveHostKey, Summary: "is this build.example.com's key? " + key,
		Detail:  map[string]any{"host": "build.example.com", "port": 22},
		HostKey: registry.HostKey{Host: "build.example.com", Port: 22, Key: []byte(key)},
	}
}

type outcome struct {
	decision registry.Decision
	err      error
}

// hold begins to hold r and waits until it is pending, with n waiting in all.
func hold(t testing.TB, db *registry.DB, ctx context.Context, r registry.HeldRequest, n int) <-chan outcome {
	t.Helper()
	result := make(chan outcome, 1)
	go func() {
		d, err := db.Hold(ctx, r)
		result <- outcome{d, err}
	}()
	pending(t, db, n)
	return result
}

func pending(t testing.TB, db *registry.DB, n int) []registry.Held {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		list, err := db.Approvals(t.Context(), registry.ApprovalPending)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == n && db.PendingApprovals() == n {
			return list
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d approvals are pending (%d in memory), not %d", len(list), db.PendingApprovals(), n)
		}
		time.Sleep(time.Millisecond)
	}
}

// holders waits until n wait for one approval.
func holders(t testing.TB, db *registry.DB, id registry.ApprovalID, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		got, err := db.Holders(id)
		if err != nil {
			t.Fatal(err)
		}
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d wait for %s, not %d", got, id, n)
		}
	}
}

func result(t testing.TB, c <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-c:
		return o
	case <-time.After(10 * time.Second):
		t.Fatal("still waiting")
		return outcome{}
	}
}

func TestHold_WaitsForTheOperator(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	reg := approved(t, db).ID
	ctx := t.Context()
	for _, allow := range []bool{true, false} {
		c := hold(t, db, ctx, registry.HeldRequest{
			Registration: reg, Endpoint: "https.github", Kind: registry.ApproveAction,
			Summary: "DELETE /repos/x\x1b[2J", Detail: map[string]any{"method": "DELETE"},
		}, 1)
		held := pending(t, db, 1)[0]
		if held.Registration != reg || held.Endpoint != "https.github" || held.Kind != registry.ApproveAction || held.State != registry.ApprovalPending ||
			held.Summary != "DELETE /repos/x\uFFFD[2J" || string(held.Detail) != `{"method":"DELETE"}` || held.ExpiresAt.Sub(held.CreatedAt) != 10*time.Minute {
			t.Errorf("%+v", held)
		}
		if err := db.Decide(ctx, held.ID, allow, "because", "dashboard 127.0.0.1"); err != nil {
			t.Fatal(err)
		}
		want := map[bool]registry.ApprovalState{true: registry.ApprovalAllowed, false: registry.ApprovalDenied}[allow]
		if o := result(t, c); o.err != nil || o.decision != (registry.Decision{ID: held.ID, State: want, Reason: "because"}) || o.decision.Allowed() != allow {
			t.Errorf("%+v", o)
		}
		stored, err := db.Approval(ctx, held.ID)
		if err != nil || stored.State != want || stored.Reason != "because" || stored.Operator != "dashboard 127.0.0.1" || stored.DecidedAt.IsZero() {
			t.Errorf("%+v, %v", stored, err)
		}
		if err := db.Decide(ctx, held.ID, !allow, "", "somebody else"); !errors.Is(err, registry.ErrState) {
			t.Errorf("decided twice: %v", err)
		}
	}
	if err := db.Decide(ctx, "a_nobody", true, "", ""); !errors.Is(err, registry.ErrNoApproval) {
		t.Errorf("what there is not was decided: %v", err)
	}
	if (registry.Decision{}).Allowed() {
		t.Error("the zero Decision allows")
	}
	if len(db.AcceptedHostKeys()) != 0 {
		t.Error("an action accepted a host key")
	}
}

// Two operators decide at the same instant: exactly one wins, and what is in
// force is what the winner said.
func TestDecide_OneOperatorWins(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	reg := approved(t, db).ID
	for range 20 {
		c := hold(t, db, t.Context(), hostKeyRequest(reg, "key"), 1)
		id := pending(t, db, 1)[0].ID
		errs := make([]error, 4)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = db.Decide(t.Context(), id, i%2 == 0, "", fmt.Sprint(i)) })
		}
		wg.Wait()
		winners := ""
		for i, err := range errs {
			if err == nil {
				winners += fmt.Sprint(i)
			} else if !errors.Is(err, registry.ErrState) {
				t.Error(err)
			}
		}
		stored, err := db.Approval(t.Context(), id)
		if err != nil || len(winners) != 1 || stored.Operator != winners {
			t.Errorf("%q won, stored is %+v, %v", winners, stored, err)
		}
		o := result(t, c)
		if o.err != nil || o.decision.Allowed() != (winners == "0" || winners == "2") {
			t.Errorf("%q won: %+v", winners, o)
		}
		if accepted := len(db.HostKeys("ssh.build", "build.example.com", 22)) == 1; accepted != o.decision.Allowed() {
			t.Errorf("allowed %t, accepted %t", o.decision.Allowed(), accepted)
		}
		if o.decision.Allowed() {
			if err := db.ForgetHostKey(t.Context(), "ssh.build", "build.example.com", 22); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What one registration asks twice is one row, whose end is the end for both.
// When the last of those who wait is gone, nobody is asked any more.
func TestHold_SharesARowAndWithdrawsIt(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	one, two := approved(t, db).ID, approved(t, db).ID
	ctx, cancel := context.WithCancel(t.Context())
	first := hold(t, db, ctx, hostKeyRequest(one, "key"), 1)
	shared := pending(t, db, 1)[0].ID
	second := hold(t, db, t.Context(), hostKeyRequest(one, "key"), 1)
	holders(t, db, shared, 2)
	others := hold(t, db, t.Context(), hostKeyRequest(two, "key"), 2)
	cancel()
	if o := result(t, first); !errors.Is(o.err, context.Canceled) || o.decision.Allowed() {
		t.Errorf("%+v", o)
	}
	holders(t, db, shared, 1)
	for _, h := range pending(t, db, 2) {
		if err := db.Decide(t.Context(), h.ID, true, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []<-chan outcome{second, others} {
		if o := result(t, c); o.err != nil || !o.decision.Allowed() {
			t.Errorf("%+v", o)
		}
	}

	ctx, cancel = context.WithCancel(t.Context())
	alone := hold(t, db, ctx, hostKeyRequest(one, "other"), 1)
	id := pending(t, db, 1)[0].ID
	cancel()
	if o := result(t, alone); !errors.Is(o.err, context.Canceled) {
		t.Errorf("%+v", o)
	}
	pending(t, db, 0)
	if h, err := db.Approval(t.Context(), id); err != nil || h.State != registry.ApprovalWithdrawn || h.DecidedAt.IsZero() {
		t.Errorf("%+v, %v", h, err)
	}
	if err := db.Decide(t.Context(), id, true, "", ""); !errors.Is(err, registry.ErrState) {
		t.Errorf("what was withdrawn was decided: %v", err)
	}
	if k := db.HostKeys("ssh.build", "build.example.com", 22); len(k) != 1 || string(k[0]) != "key" {
		t.Errorf("%q", k)
	}
}

// Nobody decides: it is a no, also for an operator who comes too late.
func TestI19_NobodyDecidedIsDenied(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	reg := approved(t, db).ID
	r := hostKeyRequest(reg, "key")
	r.Timeout = time.Hour
	waiting := hold(t, db, t.Context(), r, 1)
	id := pending(t, db, 1)[0].ID
	c.pass(time.Hour)
	if err := db.Decide(t.Context(), id, true, "", ""); !errors.Is(err, registry.ErrState) {
		t.Errorf("decided too late: %v", err)
	}
	o := result(t, waiting)
	if o.err != nil || o.decision.State != registry.ApprovalExpired || o.decision.Allowed() || o.decision.Reason == "" {
		t.Errorf("%+v", o)
	}
	pending(t, db, 0)
	if len(db.AcceptedHostKeys()) != 0 {
		t.Error("a key was accepted")
	}
}

// However much an agent asks, what waits is bounded, for each and in all.
func TestI16_WhatWaitsIsBounded(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	ctx, cancel := context.WithCancel(t.Context())
	var all []<-chan outcome
	n := 0
	for range 16 {
		reg := approved(t, db).ID
		for j := range 16 {
			n++
			all = append(all, hold(t, db, ctx, hostKeyRequest(reg, fmt.Sprint(j)), n))
		}
		if _, err := db.Hold(ctx, hostKeyRequest(reg, "one more")); !errors.Is(err, registry.ErrTooManyHeld) {
			t.Fatalf("%d of one registration wait: %v", 17, err)
		}
	}
	if _, err := db.Hold(ctx, hostKeyRequest(approved(t, db).ID, "key")); !errors.Is(err, registry.ErrTooManyHeld) {
		t.Errorf("257 wait: %v", err)
	}
	cancel()
	for _, c := range all {
		if o := result(t, c); !errors.Is(o.err, context.Canceled) {
			t.Errorf("%+v", o)
		}
	}
	pending(t, db, 0)
}

// Who asks and goes away, again and again, is refused after a while, and may ask
// again later; others are not affected.
func TestI16_AskingAgainAndAgainIsBounded(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	reg, other := approved(t, db).ID, approved(t, db).ID
	ask := func(of registry.ID) error {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		waiting := make(chan outcome, 1)
		go func() {
			d, err := db.Hold(ctx, hostKeyRequest(of, "key"))
			waiting <- outcome{d, err}
		}()
		for {
			select {
			case o := <-waiting:
				return o.err
			case <-time.After(time.Millisecond):
				if db.PendingApprovals() == 1 {
					cancel()
				}
			}
		}
	}
	for i := range 32 {
		if err := ask(reg); !errors.Is(err, context.Canceled) {
			t.Fatalf("question %d: %v", i, err)
		}
	}
	if err := ask(reg); !errors.Is(err, registry.ErrTooManyHeld) {
		t.Errorf("question 33: %v", err)
	}
	if err := ask(other); !errors.Is(err, context.Canceled) {
		t.Errorf("another registration: %v", err)
	}
	c.pass(time.Second)
	if err := ask(reg); !errors.Is(err, context.Canceled) {
		t.Errorf("a second later: %v", err)
	}
}

func TestHold_RefusesWhatItCannotAsk(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	reg := approved(t, db).ID
	waiting := enrol(t, db, "waiting", netip.MustParseAddr("192.0.2.99")).ID
	good := hostKeyRequest(reg, "key")
	for name, change := range map[string]func(*registry.HeldRequest){
		"nobody's":         func(r *registry.HeldRequest) { r.Registration = "" },
		"unknown":          func(r *registry.HeldRequest) { r.Registration = "r_nobody" },
		"not approved":     func(r *registry.HeldRequest) { r.Registration = waiting },
		"no endpoint":      func(r *registry.HeldRequest) { r.Endpoint = "" },
		"no summary":       func(r *registry.HeldRequest) { r.Summary = "" },
		"no kind":          func(r *registry.HeldRequest) { r.Kind = "" },
		"no key":           func(r *registry.HeldRequest) { r.HostKey = registry.HostKey{} },
		"no port":          func(r *registry.HeldRequest) { r.HostKey.Port = 0 },
		"large key":        func(r *registry.HeldRequest) { r.HostKey.Key = make([]byte, 16<<10+1) },
		"key of an action": func(r *registry.HeldRequest) { r.Kind = registry.ApproveAction },
		"large detail":     func(r *registry.HeldRequest) { r.Detail = map[string]string{"x": strings.Repeat("x", 8<<10)} },
		"no object":        func(r *registry.HeldRequest) { r.Detail = []int{1} },
		"no JSON":          func(r *registry.HeldRequest) { r.Detail = func() {} },
	} {
		r := good
		change(&r)
		if d, err := db.Hold(t.Context(), r); err == nil || d.Allowed() {
			t.Errorf("%s: %+v, %v", name, d, err)
		}
	}
	pending(t, db, 0)
}

// What an operator decided is there after kill -9; what waited then is withdrawn:
// whoever waited is gone too.
func TestI17_DecisionsSurviveAndWaitsEnd(t *testing.T) {
	dir := stateDir(t)
	db := openIn(t, dir, nil)
	reg := approved(t, db).ID
	for _, key := range []string{"first", "second"} { // the second takes the first one's place
		c := hold(t, db, t.Context(), hostKeyRequest(reg, key), 1)
		if err := db.Decide(t.Context(), pending(t, db, 1)[0].ID, true, "", "me"); err != nil {
			t.Fatal(err)
		}
		if o := result(t, c); !o.decision.Allowed() {
			t.Errorf("%+v", o)
		}
	}
	hold(t, db, t.Context(), hostKeyRequest(reg, "third"), 1)
	third := pending(t, db, 1)[0].ID

	// What is on disk at this instant, as a gateway finds it that starts again.
	killed := stateDir(t)
	if err := os.MkdirAll(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"clawpatrol.db", "clawpatrol.db-wal", "master.key"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(killed, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	again := openIn(t, killed, nil)
	if k := again.HostKeys("ssh.build", "build.example.com", 22); len(k) != 1 || string(k[0]) != "second" {
		t.Errorf("the accepted keys are %q", k)
	}
	if list := again.AcceptedHostKeys(); len(list) != 1 || list[0].Approval == "" || list[0].AcceptedAt.IsZero() || list[0].Endpoint != "ssh.build" {
		t.Errorf("%+v", list)
	}
	if h, err := again.Approval(t.Context(), third); err != nil || h.State != registry.ApprovalWithdrawn {
		t.Errorf("what waited is %+v, %v", h, err)
	}
	if err := again.Decide(t.Context(), third, true, "", ""); !errors.Is(err, registry.ErrState) {
		t.Errorf("decided: %v", err)
	}
	all, err := again.Approvals(t.Context(), "")
	if err != nil || len(all) != 3 || all[0].ID != third || all[1].State != registry.ApprovalAllowed || all[1].Operator != "me" {
		t.Errorf("%+v, %v", all, err)
	}
}

// An accepted key counts for one endpoint, host and port, until it is forgotten.
func TestHostKeys_AreOfOneEndpointHostAndPort(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	reg := approved(t, db).ID
	c := hold(t, db, t.Context(), hostKeyRequest(reg, "key"), 1)
	if err := db.Decide(t.Context(), pending(t, db, 1)[0].ID, true, "", ""); err != nil {
		t.Fatal(err)
	}
	result(t, c)
	for _, place := range []struct {
		endpoint, host string
		port           uint16
		n              int
	}{
		{"ssh.build", "build.example.com", 22, 1},
		{"ssh.build", "build.example.com", 23, 0},
		{"ssh.build", "other.example.com", 22, 0},
		{"ssh.other", "build.example.com", 22, 0},
	} {
		if got := db.HostKeys(place.endpoint, place.host, place.port); len(got) != place.n {
			t.Errorf("%+v: %q", place, got)
		}
	}
	if err := db.ForgetHostKey(t.Context(), "ssh.build", "build.example.com", 23); !errors.Is(err, registry.ErrNoApproval) {
		t.Errorf("what was not accepted was forgotten: %v", err)
	}
	if err := db.ForgetHostKey(t.Context(), "ssh.build", "build.example.com", 22); err != nil {
		t.Fatal(err)
	}
	if len(db.HostKeys("ssh.build", "build.example.com", 22)) != 0 || len(db.AcceptedHostKeys()) != 0 {
		t.Error("the key is still accepted")
	}
}

// Who takes the dashboard back from an attacker takes back what that one accepted.
func TestHostKeys_GoWithAllApprovals(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	c := hold(t, db, t.Context(), hostKeyRequest(approved(t, db).ID, "key"), 1)
	if err := db.Decide(t.Context(), pending(t, db, 1)[0].ID, true, "", ""); err != nil {
		t.Fatal(err)
	}
	result(t, c)
	if err := db.UnapproveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(db.AcceptedHostKeys()) != 0 {
		t.Error("the key is still accepted")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if len(openIn(t, dir, nil).AcceptedHostKeys()) != 0 {
		t.Error("the key is still accepted after a restart")
	}
}

// Closing lets everyone go.
func TestHold_EndsWithTheRegistry(t *testing.T) {
	db, err := registry.Open(t.Context(), config(stateDir(t), nil))
	if err != nil {
		t.Fatal(err)
	}
	c := hold(t, db, t.Context(), hostKeyRequest(approved(t, db).ID, "key"), 1)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if o := result(t, c); !errors.Is(o.err, registry.ErrClosed) || o.decision.Allowed() {
		t.Errorf("%+v", o)
	}
}
