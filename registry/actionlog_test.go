package registry

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/secret"
)

// idleLog is an action log whose writer has not been started.
func idleLog() *actionLog {
	return &actionLog{
		log:     slog.New(slog.DiscardHandler),
		room:    make(chan struct{}, maxQueuedRows),
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		shares:  make(map[ID]chan struct{}),
		rows:    make([]queuedRow, maxQueuedRows),
		results: make([]result, maxQueuedResults),
		failing: make(chan struct{}),
		moved:   make(chan struct{}),
	}
}

// appendN appends rows of more registrations than share the queue.
func (l *actionLog) appendN(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		if _, err := l.append(t.Context(), Action{Registration: ID(strconv.Itoa(i % 8)), Verdict: verdictAllow}); err != nil {
			t.Fatal(err)
		}
	}
}

// A result that is on disk before its row would, after a crash between the two,
// be taken for that of another row: the next start gives the ID away again. One
// that comes while its row waits goes into it.
func TestActionLog_ResultsNeverOvertakeTheirRows(t *testing.T) {
	l := idleLog()
	l.appendN(t, 600)
	l.finish(600, ActionResult{Status: "late"})
	l.finish(1, ActionResult{Status: "early"})
	l.finish(1, ActionResult{Status: "the first stands"})
	for _, want := range []struct {
		rows, results int
		ended         map[int64]string
	}{{256, 0, map[int64]string{1: "early"}}, {256, 2, nil}, {88, 0, map[int64]string{600: "late"}}, {0, 1, nil}} {
		rows, results := l.take(nil, nil)
		if len(rows) != want.rows || len(results) != want.results {
			t.Fatalf("took %d rows and %d results, want %+v", len(rows), len(results), want)
		}
		for _, row := range rows {
			if status, ok := want.ended[row.ID]; row.ended != ok || row.result.Status != status {
				t.Errorf("row %d is written with %v %q", row.ID, row.ended, row.result.Status)
			}
		}
		for _, r := range results {
			if r.action > l.stored {
				t.Errorf("the result of %d is written, and the rows on disk end at %d", r.action, l.stored)
			}
		}
		switch l.taken { // while the writer is at it
		case 256:
			l.finish(2, ActionResult{Status: "queued"})
			l.finish(256, ActionResult{Status: "queued"})
		case 600:
			if want.rows > 0 {
				l.finish(599, ActionResult{Status: "queued"})
			}
		}
		l.settle(rows, nil)
	}
}

func TestActionLog_SyncWaitsForResultsBeingWritten(t *testing.T) {
	l := idleLog()
	l.appendN(t, 1)
	rows, _ := l.take(nil, nil)
	l.settle(rows, nil)
	l.finish(1, ActionResult{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.sync(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("with a result queued: %v", err)
	}
	rows, results := l.take(rows[:0], nil)
	if len(results) != 1 {
		t.Fatalf("took %d results", len(results))
	}
	if err := l.sync(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("with a result being written: %v", err)
	}
	l.settle(rows, nil)
	if err := l.sync(ended); err != nil {
		t.Errorf("with all of it written: %v", err)
	}
}

func TestActionLog_CloseTakesWhatNobodyWokeTheWriterFor(t *testing.T) {
	for range 20 { // the writer may notice either first
		l := idleLog()
		stored := 0
		l.store = func(rows []queuedRow, _ []result) error { stored += len(rows); return nil }
		l.appendN(t, 300)
		<-l.wake
		l.stopped = true
		close(l.stop)
		l.run()
		if stored != 300 {
			t.Fatalf("%d of 300 rows were written", stored)
		}
	}
}

// However much there is to remove, rows that wait for the disk wait for one step
// of it at most.
func TestActionLog_RemovesBetweenBatches(t *testing.T) {
	l := idleLog()
	var did strings.Builder
	l.store = func(rows []queuedRow, _ []result) error {
		did.WriteString("write ")
		return nil
	}
	steps := 0
	l.trim = func() (Removed, bool) {
		did.WriteString("remove ")
		if steps++; steps == 6 {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.stopped = true // there would always be more, and close does not wait for it
			close(l.stop)
		}
		return Removed{Rows: 7}, true
	}
	l.untidy = checkRows
	l.appendN(t, 4*maxBatch)
	l.run()
	if got := did.String(); got != strings.Repeat("write remove ", 4)+"remove remove " {
		t.Error(got)
	}
	if l.health().Removed.Rows != 7 {
		t.Errorf("%+v", l.health())
	}
}

// An agent that makes rows faster than the disk takes them must not keep the
// others from acting.
func TestActionLog_OneRegistrationLeavesRoomForOthers(t *testing.T) {
	l := idleLog()
	hostile := Action{Registration: "hostile", Verdict: verdictAllow}
	ended, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range maxQueuedRows + 100 {
		wg.Go(func() { _, _ = l.append(ended, hostile) })
	}
	for deadline := time.Now().Add(10 * time.Second); len(l.room) < maxShare; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d rows are queued", len(l.room))
		}
	}
	for range maxShare {
		if _, err := l.append(t.Context(), Action{Registration: "other", Verdict: verdictAllow}); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.room) != 2*maxShare {
		t.Errorf("%d rows are queued, want %d of each", len(l.room), maxShare)
	}
	cancel()
	wg.Wait()
	for {
		rows, _ := l.take(nil, nil)
		if len(rows) == 0 {
			break
		}
		l.settle(rows, nil)
	}
	if n := len(l.room) + len(l.shares["hostile"]) + len(l.shares["other"]); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
}

// A row that got room just as the disk failed is refused, and gives its place
// back.
func TestActionLog_RefusesAfterTheWait(t *testing.T) {
	l := idleLog()
	l.appendN(t, maxQueuedRows)
	got := make(chan error)
	go func() {
		_, err := l.append(t.Context(), Action{Verdict: verdictAllow})
		got <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		<-l.room // the one that waits takes it at once, and then waits for mu
		select {
		case l.room <- struct{}{}: // it was not waiting yet
		default:
			l.err = errors.New("disk full")
			close(l.failing)
		}
		failed := l.err != nil
		l.mu.Unlock()
		if failed {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits for room")
		}
	}
	if err := <-got; !errors.Is(err, ErrLogFailed) {
		t.Errorf("got %v", err)
	}
	if len(l.room) != maxQueuedRows-1 || len(l.shares[""]) != 0 {
		t.Errorf("%d places are taken, and %d of the registration's", len(l.room), len(l.shares[""]))
	}
}

// An address in steady use costs one write in ten minutes.
func TestVirtualUse_IsStoredOnce(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	db, err := Open(t.Context(), Config{
		Dir: filepath.Join(t.TempDir(), "state"), Now: func() time.Time { return now },
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	key := secret.New([]byte("key"))
	r, err := db.Enrol(t.Context(), NewRegistration{PublicKey: [32]byte{1}, MACKey: key, PresharedKey: key, Source: netip.MustParseAddr("192.0.2.1")})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Approve(t.Context(), r.ID, []string{"ci"}, ""); err != nil {
		t.Fatal(err)
	}
	v4, _, err := db.VirtualAddresses(t.Context(), r.ID, "api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	end, err := db.begin(t.Context()) // keeps the background from storing
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	writes := func() (n int) {
		t.Helper()
		if err := db.write.QueryRow("SELECT total_changes()").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := writes()
	start := now
	for minute := range 60 {
		at := start.Add(time.Duration(minute) * time.Minute)
		if _, ok := db.VirtualHost(r.ID, v4); !ok {
			t.Fatal("it leads nowhere")
		}
		db.virtual.of(r.ID).position(1).use(at)
		if err := db.saveVirtualUse(t.Context(), at, virtualUseInterval); err != nil {
			t.Fatal(err)
		}
	}
	if n := writes() - before; n != 5 {
		t.Errorf("%d writes in an hour", n)
	}
}
