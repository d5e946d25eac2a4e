package registry

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"
)

// Retention bounds the action log, oldest rows first. The zero value is the
// default.
type Retention struct {
	// Keep is how long rows are kept; 0: 90 days. Not less than MinKeep.
	Keep time.Duration

	// MaxSize is what clawpatrol.db may hold, in bytes; 0: 4 GiB, or a quarter of
	// its file system where that is less. Not less than MinMaxSize. Above it rows
	// are removed that Keep would keep, all but the newest thousand.
	MaxSize int64
}

// The least a Retention may ask for: one that was meant to say "no limit" must
// not empty the log.
const (
	MinKeep    = time.Hour
	MinMaxSize = 16 << 20
)

const (
	defaultKeep    = 90 * 24 * time.Hour
	defaultMaxSize = 4 << 30

	minKept      = 1024      // rows that stay however large the database is
	removeStep   = maxBatch  // rows removed in a transaction: as many as come in one
	checkRows    = 4096      // rows written until the size is looked at, or a second
	sayInterval  = time.Hour // between log lines about removed rows
	minFreeSpace = 256 << 20 // bytes on the disk, or a tenth of it, below which we warn
)

// The reasons for removing rows, as stored.
const (
	removedForAge  = "age"
	removedForSize = "size"
)

// Removed says what retention has taken from the action log so far. The zero
// value: nothing.
type Removed struct {
	Rows   int64
	Newest time.Time // of the rows that are gone; what came later is there
	At     time.Time // when rows were last removed
	Reason string    // and why: "age" or "size"
}

// retention removes rows. The log's writer alone uses it, between transactions.
type retention struct {
	db      *DB
	dir     string
	keep    time.Duration
	maxSize int64

	removed Removed
	said    time.Time // when the log last told of removed rows
	unsaid  time.Time // since when there is something to tell
	low     bool      // the disk was nearly full when last looked at
	failed  string    // the last error logged
}

// check refuses a retention that keeps next to nothing.
func (r Retention) check() error {
	var detail string
	switch {
	case r.Keep != 0 && r.Keep < MinKeep:
		detail = fmt.Sprintf("the action log is to be kept for %s, less than %s", r.Keep, MinKeep)
	case r.MaxSize != 0 && r.MaxSize < MinMaxSize:
		detail = fmt.Sprintf("the database is to hold %d bytes at most, less than %d", r.MaxSize, int64(MinMaxSize))
	default:
		return nil
	}
	return &OpenError{Err: ErrInvalid, Detail: detail, Advice: "raise it in the action_log block of gateway.hcl, or leave it out"}
}

func newRetention(ctx context.Context, db *DB, dir string, want Retention) (*retention, error) {
	r := &retention{db: db, dir: dir, keep: want.Keep, maxSize: want.MaxSize}
	if r.keep == 0 {
		r.keep = defaultKeep
	}
	if r.maxSize == 0 {
		r.maxSize = defaultMaxSize
		if total, _, err := space(dir); err == nil && total > 0 { // some file systems do not say
			r.maxSize = min(r.maxSize, total/4)
		}
	}
	var newest, at int64
	err := db.write.QueryRowContext(ctx, "SELECT removed, newest, removed_at, reason FROM action_log_start").
		Scan(&r.removed.Rows, &newest, &at, &r.removed.Reason)
	r.removed.Newest, r.removed.At = fromMicros(newest), fromMicros(at)
	return r, err
}

// space returns the size of dir's file system and what we may still write to it,
// in bytes.
func space(dir string) (total, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, err
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

// trim is step with its errors logged: a row that stays too long keeps nobody
// from acting.
func (r *retention) trim() (total Removed, more bool) {
	more, err := r.step(context.Background())
	switch {
	case err == nil:
		r.failed = ""
	case err.Error() != r.failed:
		r.failed = err.Error()
		r.db.log.Error("registry: removing old rows of the action log failed, and is tried again", "err", err)
	}
	return r.removed, more
}

// step removes up to removeStep of the oldest rows, if any are too old or the
// database is too large. more says that it may have to be called again at once.
//
// What the rows took is used again by later ones: the file does not shrink.
// Keeping it so that it could would cost a tenth to a third of every row.
func (r *retention) step(ctx context.Context) (more bool, err error) {
	r.warnOfFullDisk()
	r.db.writing <- struct{}{} // unlike begin, without a way out: this is short
	defer func() { <-r.db.writing }()
	size, err := r.size(ctx)
	if err != nil {
		return false, err
	}
	now := r.db.clock()
	oldest, err := r.oldest(ctx, now, size > r.maxSize)
	if err != nil {
		return false, err
	}
	if oldest.rows == 0 {
		r.say(now)
		return false, nil
	}
	next := Removed{Rows: r.removed.Rows + oldest.rows, Newest: r.removed.Newest, At: now, Reason: oldest.reason}
	if oldest.newest.After(next.Newest) {
		next.Newest = oldest.newest
	}
	first := oldest.last + 1
	if err := r.db.commit(ctx, func(ctx context.Context, tx *sql.Tx) error { return remove(ctx, tx, first, next) }); err != nil {
		return false, err
	}
	r.removed = next
	if r.unsaid.IsZero() {
		r.unsaid = now
	}
	if now.Sub(r.unsaid) > time.Minute { // it goes on and on
		r.say(now)
	}
	return true, nil
}

// remove deletes the rows before first, and says in the database that it did.
func remove(ctx context.Context, tx *sql.Tx, first int64, now Removed) error {
	if _, err := tx.ExecContext(ctx, "UPDATE action_log_start SET first = ?, removed = ?, newest = ?, removed_at = ?, reason = ?",
		first, now.Rows, micros(now.Newest), micros(now.At), now.Reason); err != nil {
		return err
	}
	for _, d := range []struct {
		statement string
		bound     int64
	}{
		{"DELETE FROM actions WHERE id < ?", first},
		{"DELETE FROM action_results WHERE action < ?", first},
		{"DELETE FROM action_spans WHERE span < ?", first >> spanBits},
	} {
		if _, err := tx.ExecContext(ctx, d.statement, d.bound); err != nil {
			return err
		}
	}
	return nil
}

// size is what the database holds, in bytes, without the pages that are free.
// The caller holds writing, as for all that follows: a writer that waited for a
// connection to read with would wait for whoever reads slowly.
func (r *retention) size(ctx context.Context) (bytes int64, err error) {
	err = r.db.write.QueryRowContext(ctx, `SELECT (p.page_count - f.freelist_count) * s.page_size
		FROM pragma_page_count p, pragma_freelist_count f, pragma_page_size s`).Scan(&bytes)
	return bytes, err
}

// oldestRows is what step removes next.
type oldestRows struct {
	rows   int64
	last   int64     // the greatest ID
	newest time.Time // the latest time
	reason string
}

// oldest returns which of the oldest rows have to go: those before the first
// that is young enough, or, where space is needed, a whole step's.
func (r *retention) oldest(ctx context.Context, now time.Time, needSpace bool) (o oldestRows, err error) {
	rows, err := r.db.write.QueryContext(ctx, `SELECT id, time, (SELECT max(id) FROM actions) FROM actions ORDER BY id LIMIT ?`, removeStep)
	if err != nil {
		return o, err
	}
	defer rows.Close()
	for rows.Next() {
		var id, at, last int64
		if err := rows.Scan(&id, &at, &last); err != nil {
			return o, err
		}
		reason := removedForAge
		if now.Sub(fromMicros(at)) <= r.keep {
			if !needSpace || id > last-minKept {
				break
			}
			reason = removedForSize
		}
		o.rows, o.last, o.reason = o.rows+1, id, reason
		if t := fromMicros(at); t.After(o.newest) {
			o.newest = t
		}
	}
	return o, rows.Err()
}

// say tells the operator what was removed, now and then.
func (r *retention) say(now time.Time) {
	if r.unsaid.IsZero() || now.Sub(r.said) < sayInterval {
		return
	}
	level, message := slog.LevelInfo, "registry: rows of the action log were removed, older than they are kept"
	if r.removed.Reason == removedForSize {
		level, message = slog.LevelWarn, "registry: the database has reached its size: rows of the action log are removed before their time"
	}
	r.db.log.Log(context.Background(), level, message, "keep", r.keep, "max_size", r.maxSize,
		"removed_in_all", r.removed.Rows, "complete_since", r.removed.Newest)
	r.said, r.unsaid = now, time.Time{}
}

// warnOfFullDisk says once that the disk is nearly full, and again after it was
// not.
func (r *retention) warnOfFullDisk() {
	total, free, err := space(r.dir)
	if err != nil {
		return // whoever writes next finds out more
	}
	low := min(minFreeSpace, total/10)
	switch {
	case !r.low && free < low:
		r.low = true
		r.db.log.Warn("registry: the disk is nearly full; when it is full, every action is refused", "dir", r.dir, "free_bytes", free)
	case free > 2*low:
		r.low = false
	}
}
