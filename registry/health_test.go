package registry_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

const day = 24 * time.Hour

// report is one look at a tunnel with a single peer.
func report(db *registry.DB, id registry.ID, shook time.Time, in, out uint64) {
	db.ReportHealth(map[registry.ID]registry.PeerHealth{id: {LastHandshake: shook, BytesIn: in, BytesOut: out}})
}

func TestHealth_CountsOverPeersThatComeAndGo(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	r := approved(t, db)
	check := func(in, out uint64, handshakes int) {
		t.Helper()
		if h := db.Health(r.ID); h.BytesIn != in || h.BytesOut != out || h.Handshakes != handshakes {
			t.Errorf("%+v, want %d in, %d out, %d handshakes", h, in, out, handshakes)
		}
	}
	check(0, 0, 0)
	first := c.Now()
	report(db, r.ID, first, 100, 50)
	report(db, r.ID, first, 300, 70)
	check(300, 70, 1)
	second := first.Add(2 * time.Minute)
	report(db, r.ID, second, 40, 10) // another peer since
	check(340, 80, 2)
	db.ReportHealth(nil) // blocked, say
	report(db, r.ID, time.Time{}, 1000, 1000)
	check(1340, 1080, 2)
	if h := db.Health(r.ID); !h.LastHandshake.Equal(second) {
		t.Errorf("last handshake %v", h.LastHandshake)
	}
	if !get(t, db, r.ID).LastHandshake.IsZero() {
		t.Error("a report was written to the database")
	}
	if h := db.Health("r_unknown"); h != (registry.Health{}) {
		t.Errorf("of an unknown one: %+v", h)
	}
	if err := db.Revoke(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	db.ReportHealth(nil)
	check(0, 0, 0)
}

func TestHealth_SilentFor90Seconds(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	c.pass(time.Hour)
	waiting := enrol(t, db, "waiting", newSource())
	r := approved(t, db)
	check := func(id registry.ID, silent bool) {
		t.Helper()
		if h := db.Health(id); h.Silent != silent {
			t.Errorf("%+v, want silent %v", h, silent)
		}
	}
	check(r.ID, false) // nobody could have spoken yet
	c.pass(90 * time.Second)
	check(r.ID, true)
	check(waiting.ID, false)
	report(db, r.ID, c.Now(), 148, 92)
	check(r.ID, false)
	c.pass(89 * time.Second)
	report(db, r.ID, c.Now(), 148, 4000) // what the gateway sends says nothing about who is there
	check(r.ID, false)
	c.pass(time.Second)
	check(r.ID, true)
	report(db, r.ID, c.Now(), 180, 4000)
	check(r.ID, false)
	c.pass(90 * time.Second)
	if err := db.Block(t.Context(), r.ID, "why"); err != nil {
		t.Fatal(err)
	}
	check(r.ID, false) // it may not speak
}

// A restart is no silence of the agent host's.
func TestHealth_NobodyIsSilentRightAfterAStart(t *testing.T) {
	c, dir := newClock(), stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	r := approved(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	c.pass(time.Hour)
	db = openIn(t, dir, c)
	if db.Health(r.ID).Silent {
		t.Error("silent at the first moment")
	}
	c.pass(registry.SilentAfter)
	if !db.Health(r.ID).Silent {
		t.Error("not silent after 90 s")
	}
}

// A credential that nobody has used for long must not wait for who finds it; an
// operator's approval brings it back with the pin it had.
func TestDormant_BlockedNotRemoved(t *testing.T) {
	c, log := newClock(), new(lockedBuffer)
	cfg := config(stateDir(t), c)
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	db := openWith(t, cfg)
	ghost, alive := approved(t, db), approved(t, db)
	c.pass(registry.DormantAfter - time.Minute)
	if err := db.RecordPeers(t.Context(), map[registry.ID]registry.PeerState{alive.ID: {Handshake: c.Now()}}); err != nil {
		t.Fatal(err)
	}
	c.pass(2 * time.Minute)
	eventually(t, "the ghost is blocked", func() bool { return get(t, db, ghost.ID).State == registry.Blocked })
	got := get(t, db, ghost.ID)
	if got.BlockedReason != "dormant: no handshake for 100 days" || got.Pin != ghost.Pin || len(got.Profiles) != 1 {
		t.Errorf("%+v", got)
	}
	if s := get(t, db, alive.ID).State; s != registry.Approved {
		t.Errorf("one that shook hands is %s", s)
	}
	if text := log.String(); !strings.Contains(text, string(ghost.ID)) || strings.Contains(text, string(alive.ID)) {
		t.Errorf("the log does not name it, or others:\n%s", text)
	}
	if err := db.Approve(t.Context(), ghost.ID, []string{"ci"}, ""); err != nil {
		t.Fatal(err)
	}
	tended(t, db, c)
	if got := get(t, db, ghost.ID); got.State != registry.Approved || got.Pin != ghost.Pin {
		t.Errorf("approved again: %+v", got)
	}
}

// After a long stop every agent host looks absent: they get a day to come back.
func TestDormant_OnlyWhereTheGatewayListened(t *testing.T) {
	c, dir := newClock(), stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	back, gone := approved(t, db), approved(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	c.pass(300 * day)
	db = openIn(t, dir, c)
	tended(t, db, c)
	for _, r := range []*registry.Registration{back, gone} {
		if s := get(t, db, r.ID).State; s != registry.Approved {
			t.Fatalf("%s while the gateway has hardly started", s)
		}
	}
	report(db, back.ID, c.Now(), 148, 92) // not stored yet
	c.pass(day)
	report(db, back.ID, c.Now(), 500, 92)
	eventually(t, "the other is blocked", func() bool { return get(t, db, gone.ID).State == registry.Blocked })
	if s := get(t, db, back.ID).State; s != registry.Approved {
		t.Errorf("the one that came back is %s", s)
	}
}

// What the reaper removes, it says: in the log and to operators, also after a
// restart, until they have seen it. What was blocked is not crowded out by what
// just expired: whoever can start registrations makes as many as they like.
func TestRemovals_NamedUntilSeen(t *testing.T) {
	c, log, dir := newClock(), new(lockedBuffer), stateDir(t)
	cfg := config(dir, c)
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	db, err := registry.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	stolen := enrol(t, db, "stolen", newSource())
	if err := db.RecordPeers(t.Context(), map[registry.ID]registry.PeerState{stolen.ID: {Handshake: c.Now(), From: stolen.Source, Newest: [12]byte{1}}}); err != nil {
		t.Fatal(err)
	}
	thief := netip.MustParseAddr("203.0.113.66")
	if err := db.Deviate(t.Context(), stolen.ID, registry.Deviation{From: thief, UDP: true, What: "a data packet"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for range 90 {
			enrol(t, db, "flood", newSource())
		}
		c.pass(16 * time.Minute)
		enrol(t, db, "newcomer", newSource())
	}
	check := func(db *registry.DB) []registry.Removal {
		t.Helper()
		all := db.Removals()
		blocked := 0
		for i, r := range all {
			if i > 0 && r.RemovedAt.After(all[i-1].RemovedAt) {
				t.Error("not newest first")
			}
			if r.BlockedReason != "" {
				blocked++
				if r.ID != stolen.ID || r.Name != "stolen" || r.Source != stolen.Source || !strings.Contains(r.BlockedReason, "203.0.113.66") || r.BlockedAt.IsZero() || r.RemovedAt.IsZero() {
					t.Errorf("%+v", r)
				}
			}
		}
		if blocked != 1 || len(all) != 51 {
			t.Errorf("%d removals, %d of them blocked before", len(all), blocked)
		}
		return all
	}
	check(db)
	if text := log.String(); !strings.Contains(text, "level=WARN") || !strings.Contains(text, string(stolen.ID)) || !strings.Contains(text, "203.0.113.66") {
		t.Error("the log does not say what was removed and why")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, c)
	all := check(db)
	c.pass(16 * time.Minute)
	enrol(t, db, "unseen", newSource())
	newer := db.Removals()[0]
	if err := db.SeenRemovals(t.Context(), all[0].RemovedAt); err != nil {
		t.Fatal(err)
	}
	if left := db.Removals(); len(left) != 1 || left[0].ID != newer.ID {
		t.Errorf("left: %+v", left)
	}
}

// tended waits until the registry's own goroutine has looked at everything after
// this instant.
func tended(t *testing.T, db *registry.DB, c *clock) {
	t.Helper()
	for range 2 { // the first may be seen before it ends
		r := enrol(t, db, "expires", newSource())
		c.pass(16 * time.Minute)
		eventually(t, "a round of the registry's own", func() bool { _, there := db.Snapshot().ByID(r.ID); return !there })
	}
}

func openWith(t *testing.T, cfg registry.Config) *registry.DB {
	t.Helper()
	db, err := registry.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
