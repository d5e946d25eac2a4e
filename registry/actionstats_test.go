package registry_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// ready waits until what was there before the start is counted.
func ready(t *testing.T, db *registry.DB, c *clock) registry.Stats {
	t.Helper()
	eventually(t, "the log is counted", func() bool { return db.Stats(c.Now()).Ready })
	return db.Stats(c.Now())
}

func TestStats_CountTheLast24Hours(t *testing.T) {
	c := newClock() // 12:00
	db := openIn(t, stateDir(t), c)
	appendRow(t, db, registry.Action{Registration: "r_a", Endpoint: "https.one", Verdict: "allow"})
	c.pass(90 * time.Minute) // 13:30
	last := c.Now()
	for range 3 {
		appendRow(t, db, registry.Action{Registration: "r_b", Endpoint: "https.one", Verdict: "deny"})
	}
	appendRow(t, db, registry.Action{Registration: "r_b", Verdict: "allow"})                                          // at no endpoint
	appendRow(t, db, registry.Action{Registration: "r_b", Verdict: "allow", Time: c.Now().Add(2 * time.Hour)})        // by a clock that was wrong
	appendRow(t, db, registry.Action{Registration: "r_b", Verdict: "allow", Time: c.Now().Add(-24 * time.Hour)})      // as well
	appendRow(t, db, registry.Action{Registration: "r_b", Verdict: "allow", Time: c.Now().Add(24 * 365 * time.Hour)}) // very wrong
	flush(t, db)
	s := ready(t, db, c)
	var hours []string
	for _, h := range s.Hours {
		if h.Allowed+h.Denied > 0 {
			hours = append(hours, fmt.Sprint(h.Start.Format("2 15:04 "), h.Allowed, " ", h.Denied))
		}
	}
	if want := []string{"1 12:00 1 0", "1 13:00 1 3"}; !reflect.DeepEqual(hours, want) {
		t.Errorf("hours %q, want %q", hours, want)
	}
	if first := s.Hours[0].Start; !first.Equal(time.Date(2026, 2, 28, 14, 0, 0, 0, time.UTC)) {
		t.Errorf("the first hour begins at %s", first)
	}
	if want := []registry.CountedRef{{"r_b", 1, 3, last}, {"r_a", 1, 0, last.Add(-90 * time.Minute)}}; !reflect.DeepEqual(s.ByRegistration, want) {
		t.Errorf("by registration %v, want %v", s.ByRegistration, want)
	}
	if want := []registry.CountedRef{{"https.one", 1, 3, last}}; !reflect.DeepEqual(s.ByEndpoint, want) {
		t.Errorf("by endpoint %v, want %v", s.ByEndpoint, want)
	}
	c.pass(23 * time.Hour) // 12:30: 12:00 yesterday has gone
	if s := db.Stats(c.Now()); len(s.ByRegistration) != 1 || s.ByRegistration[0].Ref != "r_b" || s.Hours[0].Denied != 3 {
		t.Errorf("a day later: %+v", s)
	}
	c.pass(time.Hour)
	if s := db.Stats(c.Now()); len(s.ByRegistration)+len(s.ByEndpoint) != 0 || s.Hours[0].Denied != 0 {
		t.Errorf("an hour after that: %+v", s)
	}
	// A slot that comes round counts anew.
	appendRow(t, db, registry.Action{Registration: "r_c", Verdict: "deny"})
	flush(t, db)
	if s := db.Stats(c.Now()); len(s.ByRegistration) != 1 || s.ByRegistration[0].Denied != 1 || s.Hours[23].Denied != 1 {
		t.Errorf("the same hour of the next day: %+v", s)
	}
}

// What is shown after a restart is what was shown before it, and what comes in
// meanwhile is counted once.
func TestStats_AreTheSameAfterARestart(t *testing.T) {
	c, dir := newClock(), stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(7, 7))
	const rows = 10_000
	for i := range rows {
		row := registry.Action{
			Registration: registry.ID(fmt.Sprint("r_", random.IntN(9))), Endpoint: fmt.Sprint("https.", random.IntN(9)),
			Credential: fmt.Sprint("bearer.", random.IntN(3)), Verdict: []string{"allow", "deny"}[random.IntN(2)],
		}
		id := appendRow(t, db, row)
		if i%500 == 0 {
			c.pass(95 * time.Minute) // the first rows are more than a day old in the end
		}
		db.Finish(id, registry.ActionResult{Status: []string{"200", "502 dns", "timeout", "403", "closed"}[random.IntN(5)]})
		if i%100 == 0 {
			flush(t, db) // so that some results are late
		}
	}
	flush(t, db)
	before := ready(t, db, c)
	uses := db.CredentialUses()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, c)
	const more = 2000
	for range more { // while it counts
		appendRow(t, db, registry.Action{Registration: "r_new", Verdict: "allow"})
	}
	flush(t, db)
	after := ready(t, db, c)
	last := after.ByRegistration[0]
	if last.Ref != "r_new" || last.Allowed != more {
		t.Errorf("what came meanwhile is counted as %+v", last)
	}
	after.ByRegistration = after.ByRegistration[1:]
	after.Hours[23].Allowed -= more
	if !reflect.DeepEqual(before.Hours, after.Hours) || !reflect.DeepEqual(before.ByRegistration, after.ByRegistration) || !reflect.DeepEqual(before.ByEndpoint, after.ByEndpoint) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	if !reflect.DeepEqual(uses, db.CredentialUses()) {
		t.Errorf("uses before %v\nafter  %v", uses, db.CredentialUses())
	}
	sum := 0
	for _, h := range before.Hours {
		sum += h.Allowed + h.Denied
	}
	if sum >= rows || sum < rows/2 {
		t.Errorf("%d of %d rows are of the last 24 hours", sum, rows)
	}
}

func TestStats_FailedUpstreams(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	finish := func(row registry.Action, status string, late bool) {
		row.Verdict = "allow"
		id := appendRow(t, db, row)
		if late {
			flush(t, db)
		}
		db.Finish(id, registry.ActionResult{Status: status})
		flush(t, db)
	}
	one, two := registry.Action{Endpoint: "https.one"}, registry.Action{Endpoint: "ssh.two"}
	for _, late := range []bool{false, true} {
		finish(one, "502 dns", late)
		finish(two, "timeout", late)
		for _, fine := range []string{"200", "404", "200 aborted", "503 too_many_requests", "closed", "connected", "exit 1", "", "502 secret_missing", "502"} {
			finish(one, fine, late)
		}
		finish(registry.Action{}, "refused", late) // at no endpoint
	}
	c.pass(time.Minute)
	finish(one, "502 closed", true)
	eventually(t, "late failures are looked up", func() bool {
		f := db.Stats(c.Now()).Failures
		return len(f) == 3 && f[0].Count == 1 && f[1].Count == 2 && f[2].Count == 2
	})
	got := db.Stats(c.Now()).Failures
	want := []registry.FailedUpstream{{"https.one", "502 closed", 1, c.Now()}, {"https.one", "502 dns", 2, c.Now().Add(-time.Minute)}, {"ssh.two", "timeout", 2, c.Now().Add(-time.Minute)}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	c.pass(59 * time.Minute)
	if got := db.Stats(c.Now()).Failures; len(got) != 1 || got[0].Status != "502 closed" {
		t.Errorf("an hour later: %v", got)
	}
}

// When and by whom a credential was used outlives the gateway, however it ends,
// and the rows of the log.
func TestCredentialUses(t *testing.T) {
	c, dir := newClock(), stateDir(t)
	db := openIn(t, dir, c)
	start := c.Now()
	allow := func(registrations ...registry.ID) {
		t.Helper()
		for _, id := range registrations {
			appendRow(t, db, registry.Action{Registration: id, Credential: "bearer.github", Verdict: "allow"})
		}
		flush(t, db)
	}
	allow("r_a", "r_b")
	c.pass(time.Second)
	allow("r_a")
	appendRow(t, db, registry.Action{Registration: "r_b", Credential: "bearer.github", Verdict: "deny"}) // had nothing of it
	appendRow(t, db, registry.Action{Registration: "r_b", Verdict: "allow"})
	appendRow(t, db, registry.Action{Registration: "r_c", Credential: "basic.mirror", Verdict: "allow", Time: c.Now().Add(-time.Hour)})
	flush(t, db)
	want := []registry.CredentialUse{{"basic.mirror", "r_c", c.Now().Add(-time.Hour)}, {"bearer.github", "r_a", c.Now()}, {"bearer.github", "r_b", start}}
	if got := db.CredentialUses(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	stored := func() int64 { return queryInt(t, dir, "SELECT coalesce(max(time), 0) FROM credential_uses") }
	c.pass(11 * time.Second)
	eventually(t, "uses are stored", func() bool { return stored() == start.Add(time.Second).UnixMicro() })
	saved := c.Now()
	c.pass(5 * time.Second)
	allow("r_a")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if at := stored(); at != c.Now().UnixMicro() {
		t.Errorf("Close stored %d, want %d", at, c.Now().UnixMicro())
	}
	c.pass(24 * 30 * time.Hour) // beyond what is counted of the log
	db = openIn(t, dir, c)
	want[1].Time = saved.Add(5 * time.Second)
	if got := db.CredentialUses(); !reflect.DeepEqual(got, want) {
		t.Errorf("after a restart %v, want %v", got, want)
	}
}

// A machine without a battery begins in 1970, where the last 24 hours begin before
// there were any.
func TestStats_OfAClockThatHasNoTime(t *testing.T) {
	clock := &clock{now: time.Unix(3600, 0)}
	db := openIn(t, stateDir(t), clock)
	appendRow(t, db, registry.Action{Verdict: "allow", Time: clock.Now()})
	flush(t, db)
	if hours := db.Stats(clock.Now()).Hours; hours[22].Start.Unix() != 0 || hours[22].Allowed+hours[23].Allowed != 1 {
		t.Errorf("%+v", hours)
	}
}
