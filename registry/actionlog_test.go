package registry

import (
	"context"
	"errors"
	"log/slog"
	"testing"
)

// idleLog is an action log whose writer has not been started.
func idleLog() *actionLog {
	return &actionLog{
		log:     slog.New(slog.DiscardHandler),
		room:    make(chan struct{}, maxQueuedRows),
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		rows:    make([]Action, maxQueuedRows),
		failing: make(chan struct{}),
		moved:   make(chan struct{}),
	}
}

func (l *actionLog) appendN(t *testing.T, n int) {
	t.Helper()
	for range n {
		if _, err := l.append(t.Context(), Action{Verdict: verdictAllow}); err != nil {
			t.Fatal(err)
		}
	}
}

// A result that is on disk before its row would, after a crash between the two,
// be taken for that of another row: the next start gives the ID away again.
func TestActionLog_ResultsNeverOvertakeTheirRows(t *testing.T) {
	l := idleLog()
	l.appendN(t, 600)
	l.finish(600, ActionResult{Status: "late"})
	l.finish(1, ActionResult{Status: "early"})
	for _, want := range []struct{ rows, results, upTo int }{{256, 1, 256}, {256, 0, 512}, {88, 1, 600}, {0, 0, 600}} {
		rows, results := l.take(nil, nil)
		if len(rows) != want.rows || len(results) != want.results {
			t.Fatalf("took %d rows and %d results, want %+v", len(rows), len(results), want)
		}
		for _, r := range results {
			if r.action > int64(want.upTo) {
				t.Errorf("the result of %d is written with rows up to %d", r.action, want.upTo)
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
		l.store = func(rows []Action, _ []result) error { stored += len(rows); return nil }
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

// A row that waited for room while the disk failed is refused, and gives its
// place back.
func TestActionLog_RefusesAfterTheWait(t *testing.T) {
	l := idleLog()
	l.appendN(t, maxQueuedRows)
	got := make(chan error)
	go func() {
		_, err := l.append(t.Context(), Action{Verdict: verdictAllow})
		got <- err
	}()
	l.settle(nil, errors.New("disk full"))
	if err := <-got; !errors.Is(err, ErrLogFailed) {
		t.Errorf("got %v", err)
	}
	for rows, _ := l.take(nil, nil); len(rows) > 0; rows, _ = l.take(rows[:0], nil) {
		l.settle(rows, nil)
	}
	if len(l.room) != 0 {
		t.Errorf("%d places stay taken", len(l.room))
	}
	l.appendN(t, 1)
}
