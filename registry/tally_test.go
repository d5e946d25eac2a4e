package registry

import (
	"fmt"
	"testing"
	"time"
)

// However many registrations and endpoints rows name, what is kept of them is
// bounded, and nothing is left out of the sum.
func TestI16_StatsAreBounded(t *testing.T) {
	s := newActionStats()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	const rows = 20_000
	for i := range rows {
		row := queuedRow{Action: Action{
			Registration: ID(fmt.Sprint("r_", i)), Endpoint: fmt.Sprint("https.", i), Credential: fmt.Sprint("bearer.", i/2), Verdict: verdictAllow, Time: now,
		}, ended: true, result: ActionResult{Status: "502 dns"}}
		s.record(now, []queuedRow{row}, []result{{int64(i), ActionResult{Status: "timeout"}}})
	}
	for i := rows; i <= maxCredentialUses; i++ { // the rows above have used as many
		s.uses.used("bearer.x", ID(fmt.Sprint("r_", i)), now.Add(time.Duration(i)*time.Second))
	}
	if _, ok := s.uses[credentialUser{"bearer.x", ID(fmt.Sprint("r_", maxCredentialUses))}]; !ok {
		t.Error("the newest use is not kept")
	}
	for what, n := range map[string][2]int{
		"registrations": {len(s.registrations.keys), maxCounted + 1}, "endpoints": {len(s.endpoints.keys), maxCounted + 1},
		"failures": {len(s.failures.keys), maxFailures + 1}, "uses": {len(s.uses), maxCredentialUses*7/8 + 1}, "late failures": {len(s.late), maxLateFailures},
	} {
		if n[0] != n[1] {
			t.Errorf("%d %s are kept, want %d", n[0], what, n[1])
		}
	}
	db := &DB{stats: s}
	stats := db.Stats(now)
	if stats.Hours[23].Allowed != rows || len(stats.ByRegistration) != maxRefs || len(stats.Failures) != maxRefs {
		t.Errorf("%d rows, %d registrations, %d failures", stats.Hours[23].Allowed, len(stats.ByRegistration), len(stats.Failures))
	}
	if others := stats.ByRegistration[0]; others.Ref != OtherRefs || others.Allowed != rows-maxCounted {
		t.Errorf("%+v", others)
	}
	// What is a day old makes room.
	tomorrow := now.Add(24 * time.Hour)
	s.record(tomorrow, []queuedRow{{Action: Action{Registration: "r_new", Verdict: verdictDeny, Time: tomorrow}}}, nil)
	if len(s.registrations.keys) != 1 || db.Stats(tomorrow).ByRegistration[0].Ref != "r_new" {
		t.Errorf("a day later there are %d", len(s.registrations.keys))
	}
}

// A clock that is wrong for a while spoils no hour for good.
func TestTally_ClockSetBack(t *testing.T) {
	tl := newTally(time.Hour, statsHours, 10, "others")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	wrong := now.Add(24 * 365 * time.Hour)
	tl.add(wrong, "x", wrong, counts{allowed: 5})
	tl.add(now, "x", now, counts{allowed: 2})
	if s := tl.sum(now, tl.keys["x"]); s.Allowed != 2 {
		t.Errorf("%+v", s)
	}
}

func TestCredentialUses_AreStoredAtMostEvery10Seconds(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	db := longLog(t, 1, now)
	db.writing <- struct{}{} // so that nobody else stores anything
	defer func() { <-db.writing }()
	stored := 0
	for seconds := range 35 {
		at := now.Add(time.Hour + time.Duration(seconds)*time.Second)
		db.stats.mu.Lock()
		db.stats.uses.used("bearer.github", "r_x", at)
		db.stats.mu.Unlock()
		if err := db.saveCredentialUses(t.Context(), at, credentialUseInterval); err != nil {
			t.Fatal(err)
		}
		var last int64
		if err := db.write.QueryRowContext(t.Context(), "SELECT time FROM credential_uses WHERE registration = 'r_x'").Scan(&last); err != nil {
			t.Fatal(err)
		}
		if seconds%10 == 0 {
			stored = seconds
		}
		if want := now.Add(time.Hour + time.Duration(stored)*time.Second); last != micros(want) {
			t.Errorf("after %d s the use of %s is stored, want that of %s", seconds, fromMicros(last), want)
		}
	}
}
