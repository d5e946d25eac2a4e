package registry

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Limits of the action log.
const (
	maxQueuedRows    = 4096
	maxShare         = maxQueuedRows / 4 // of them, one registration's
	maxQueuedResults = 4096
	maxBatch         = 256 // rows, and as many results, in a transaction

	// gatherTime is how long rows wait for company after a transaction, where
	// nobody waits for them and there are less than maxBatch. Under load it makes one
	// transaction of hundreds, and most actions have ended by then and need no second
	// row. Who kills the gateway loses no row that somebody waited for, of others
	// those of this long.
	gatherTime = 20 * time.Millisecond

	minRetry = 100 * time.Millisecond // after a transaction failed, doubling up to
	maxRetry = 2 * time.Second
)

// actionLog is the queue before the action log and the goroutine that empties
// it. The writer takes whatever is there, up to maxBatch. Where somebody waits
// for the disk it never lingers for more: the rows that came in during one
// transaction are the next. Otherwise it leaves gatherTime between transactions,
// which are the larger part of what a row costs.
type actionLog struct {
	store func(rows []queuedRow, results []result) error // one transaction; called by the writer only
	trim  func() (total Removed, more bool)              // removes a few old rows; called by the writer only; nil: never
	log   *slog.Logger
	room  chan struct{} // a token for each queued row
	wake  chan struct{} // one token: there is something to write
	hurry chan struct{} // one token: do not gather any longer
	stop  chan struct{} // closed by close
	done  chan struct{} // closed when the writer has ended

	mu     sync.Mutex           // guards what follows
	shares map[ID]chan struct{} // a token for each of a registration's rows that is queued or waits for room
	rows   []queuedRow          // a ring: the row with ID n is rows[n%maxQueuedRows]
	last   int64                // the newest ID given out
	taken  int64                // the writer has every row up to this ID
	stored int64                // every row up to this ID is on disk

	// Results that came after the writer had taken their rows, numbered from 1.
	results       []result // a ring: number n is results[n%maxQueuedResults]
	lastResult    uint64
	takenResults  uint64
	storedResults uint64
	dropped       uint64

	waiters int // callers of sync
	untidy  int // rows written since trim was last called; from checkRows on it is due
	removed Removed

	err     error         // why the last transaction failed
	failing chan struct{} // closed while err is set
	moved   chan struct{} // closed and replaced after each transaction, also a failed one
	stopped bool
}

// queuedRow is a row that waits for the disk, with its result where the action
// has ended meanwhile. Most do: one row is then written instead of two.
type queuedRow struct {
	Action
	ended  bool
	result ActionResult
}

// result is a queued ActionResult of a row that was written without it.
type result struct {
	action int64
	ActionResult
}

// openActionLog continues the log and starts its writer.
func openActionLog(ctx context.Context, db *DB, keep *retention) (*actionLog, error) {
	l := &actionLog{
		log:     db.log,
		room:    make(chan struct{}, maxQueuedRows),
		wake:    make(chan struct{}, 1),
		hurry:   make(chan struct{}, 1),
		stop:    make(chan struct{}),
		done:    make(chan struct{}),
		shares:  make(map[ID]chan struct{}),
		rows:    make([]queuedRow, maxQueuedRows),
		results: make([]result, maxQueuedResults),
		failing: make(chan struct{}),
		moved:   make(chan struct{}),
	}
	if err := db.write.QueryRowContext(ctx, `SELECT max(
		(SELECT coalesce(max(id), 0) FROM actions),
		(SELECT coalesce(max(action), 0) FROM action_results),
		(SELECT first - 1 FROM action_log_start))`).Scan(&l.last); err != nil {
		return nil, err
	}
	l.taken, l.stored = l.last, l.last
	inserts, err := prepareInserts(ctx, db.write)
	if err != nil {
		return nil, err
	}
	l.store = func(rows []queuedRow, results []result) error {
		// Unlike begin, this must also work while the registry closes.
		db.writing <- struct{}{}
		defer func() { <-db.writing }()
		err := db.commit(context.Background(), func(ctx context.Context, tx *sql.Tx) error {
			return inserts.batch(ctx, tx, rows, results)
		})
		if err != nil {
			inserts.forget()
			return err
		}
		db.stats.record(db.clock(), rows, results)
		return nil
	}
	l.removed = keep.removed
	l.trim = keep.trim
	go l.run()
	return l, nil
}

// append queues row under the next ID. It waits for its registration's share
// first and then for room: an agent that makes rows faster than the disk takes
// them waits for itself, and the others find room.
func (l *actionLog) append(ctx context.Context, row Action) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	l.mu.Lock()
	failing := l.failing
	share := l.shareOf(row.Registration)
	if l.err == nil && !l.stopped && putTwo(share, l.room) { // nearly always
		defer l.mu.Unlock()
		return l.queue(row), nil
	}
	l.mu.Unlock()
	select {
	case <-failing:
		return 0, l.refusal()
	default:
	}
	if err := l.enter(ctx, share, failing); err != nil {
		return 0, err
	}
	if err := l.enter(ctx, l.room, failing); err != nil {
		<-share
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped || l.err != nil {
		<-l.room
		<-share
		return 0, l.refusalLocked()
	}
	return l.queue(row), nil
}

// queue gives row the next ID; called with mu held, and tokens for the row.
func (l *actionLog) queue(row Action) int64 {
	l.last++
	row.ID = l.last
	l.rows[row.ID%maxQueuedRows] = queuedRow{Action: row}
	poke(l.wake)
	if l.last-l.stored >= maxBatch {
		poke(l.hurry)
	}
	return row.ID
}

// shareOf returns where a registration's rows take their tokens; called with mu
// held. The map grows with the registrations that have acted since the start,
// and a channel of nothing costs as much however long it is.
func (l *actionLog) shareOf(id ID) chan struct{} {
	share := l.shares[id]
	if share == nil {
		share = make(chan struct{}, maxShare)
		l.shares[id] = share
	}
	return share
}

// enter puts a token into places, waiting for as long as they are all taken.
func (l *actionLog) enter(ctx context.Context, places chan<- struct{}, failing <-chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-failing:
		return l.refusal()
	case <-l.stop:
		return ErrClosed
	}
}

// refusal is why no row is taken in.
func (l *actionLog) refusal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refusalLocked()
}

func (l *actionLog) refusalLocked() error {
	switch {
	case l.stopped:
		return ErrClosed
	case l.err != nil:
		return fmt.Errorf("%w: %w", ErrLogFailed, l.err)
	}
	return ErrLogFailed // it has recovered since
}

// poke leaves a token, unless there is no room for it, and reports which.
func poke(c chan<- struct{}) bool {
	select {
	case c <- struct{}{}:
		return true
	default:
		return false
	}
}

// putTwo leaves a token in both, or in none where one of them has no room.
// Who waits for room goes first: a channel has none while somebody waits.
func putTwo(one, other chan struct{}) bool {
	if !poke(one) {
		return false
	}
	if !poke(other) {
		<-one
		return false
	}
	return true
}

// finish adds the result to its row, or queues it where the writer has the row
// already.
func (l *actionLog) finish(id int64, r ActionResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped || id < 1 || id > l.last {
		return
	}
	if id > l.taken {
		if row := &l.rows[id%maxQueuedRows]; !row.ended {
			row.ended, row.result = true, r
		}
		return
	}
	if l.lastResult-l.takenResults >= maxQueuedResults {
		l.takenResults++
		l.dropped++
	}
	l.lastResult++
	l.results[l.lastResult%maxQueuedResults] = result{id, r}
	poke(l.wake)
	if l.lastResult-l.takenResults >= maxBatch {
		poke(l.hurry)
	}
}

// sync waits for what is queued now.
func (l *actionLog) sync(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	row, result := l.last, l.lastResult
	l.waiters++
	defer func() { l.waiters-- }()
	poke(l.hurry)
	for {
		if l.stored >= row && l.storedResults >= result {
			return nil
		}
		if l.err != nil {
			return l.refusalLocked()
		}
		moved := l.moved
		l.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
		}
		l.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (l *actionLog) health() LogHealth {
	l.mu.Lock()
	defer l.mu.Unlock()
	return LogHealth{Queued: int(l.last - l.stored), DroppedResults: l.dropped, Err: l.err, Removed: l.removed}
}

// close writes what is queued and ends the writer. A disk that fails now has
// failed for good: what could not be written is counted in the error.
func (l *actionLog) close() error {
	l.mu.Lock()
	l.stopped = true
	l.mu.Unlock()
	close(l.stop)
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return fmt.Errorf("%d action rows are lost: %w: %w", l.last-l.stored, ErrLogFailed, l.err)
	}
	return nil
}
