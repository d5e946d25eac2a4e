package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// idRange is the rows from low to high, inclusive.
type idRange struct{ low, high int64 }

func (r idRange) empty() bool { return r.low > r.high }

// idRange returns the IDs between which the rows of f are. Times rise with IDs
// but for the clock's corrections: see since and until.
func (db *DB) idRange(ctx context.Context, f ActionFilter) (ids idRange, err error) {
	if err := db.read.QueryRowContext(ctx, "SELECT first FROM action_log_start").Scan(&ids.low); err != nil {
		return ids, err
	}
	ids.low, ids.high = max(ids.low, f.After+1), db.LastAction()
	if f.Before != 0 {
		ids.high = min(ids.high, f.Before-1)
	}
	if !f.Since.IsZero() {
		first, err := db.timeBound(ctx, sinceQuery, f.Since)
		if err != nil {
			return ids, err
		}
		if !first.Valid {
			return idRange{1, 0}, nil
		}
		ids.low = max(ids.low, first.Int64)
	}
	if !f.Until.IsZero() {
		last, err := db.timeBound(ctx, untilQuery, f.Until)
		if err != nil {
			return ids, err
		}
		if !last.Valid {
			return idRange{1, 0}, nil
		}
		ids.high = min(ids.high, last.Int64)
	}
	return ids, nil
}

// The smallest ID of the rows since a time, and the greatest of those before. A
// clock that was set back has left rows with a time that is too late for their
// ID. To look at all would be to look at most of the log: these look at the rows
// next to that time and at those furthest from it, so that what a clock that was
// wrong by little or by much has written is found, up to maxWalkedTimes rows of
// each.
const (
	sinceQuery = `SELECT min(id) FROM (
		SELECT * FROM (SELECT id FROM actions INDEXED BY actions_by_time WHERE time >= ?1 ORDER BY time LIMIT ?2) UNION ALL
		SELECT * FROM (SELECT id FROM actions INDEXED BY actions_by_time WHERE time >= ?1 ORDER BY time DESC LIMIT ?2))`
	untilQuery = `SELECT max(id) FROM (
		SELECT * FROM (SELECT id FROM actions INDEXED BY actions_by_time WHERE time < ?1 ORDER BY time DESC LIMIT ?2) UNION ALL
		SELECT * FROM (SELECT id FROM actions INDEXED BY actions_by_time WHERE time < ?1 ORDER BY time LIMIT ?2))`
)

func (db *DB) timeBound(ctx context.Context, query string, t time.Time) (id sql.NullInt64, err error) {
	err = db.read.QueryRowContext(ctx, query, micros(t), maxWalkedTimes).Scan(&id)
	return id, err
}

// bound returns the upper part of ids that one page looks at.
func (db *DB) bound(ctx context.Context, f ActionFilter, ids idRange) (idRange, error) {
	switch {
	case f.spanned():
		low, err := db.spanBound(ctx, f, ids)
		if err != nil {
			return ids, err
		}
		ids.low = max(ids.low, low)
	case !f.denied():
		ids.low = max(ids.low, ids.high-f.maxRows()+1)
	}
	if f.denied() {
		query, args := f.deniedBound(ids)
		var low int64
		err := db.read.QueryRowContext(ctx, query, args...).Scan(&low)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return ids, err
		}
		ids.low = max(ids.low, low)
	}
	return ids, nil
}

// deniedBound asks for the last of the rows that were not allowed which a page
// looks at. The index alone answers it.
func (f *ActionFilter) deniedBound(ids idRange) (string, []any) {
	from, order, c := f.walk(ids)
	return "SELECT a.id FROM " + from + c.String() + " ORDER BY " + order + " LIMIT 1 OFFSET ?", append(c.args, maxWalkedDenied-1)
}

// spanBound returns the first ID of the last span that a page looks at; 0: of
// all.
func (db *DB) spanBound(ctx context.Context, f ActionFilter, ids idRange) (int64, error) {
	wanted := int(f.maxRows() >> spanBits)
	if f.denied() {
		wanted = maxDeniedSpans
	}
	query, args := f.spanQuery(ids)
	rows, err := db.read.QueryContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for looked, found := 1, 0; rows.Next(); looked++ {
		var span int64
		var both bool
		if err := rows.Scan(&span, &both); err != nil {
			return 0, err
		}
		if both {
			found++
		}
		if found == wanted || looked == maxWalkedSpans {
			return span << spanBits, nil
		}
	}
	return 0, rows.Err()
}

// spanQuery asks for the spans of the registration or endpoint, and whether both
// are in it where both are asked for.
func (f *ActionFilter) spanQuery(ids idRange) (string, []any) {
	one := *f
	both, args := "1", []any(nil)
	if f.Registration != "" && f.Endpoint != "" {
		one.Endpoint = ""
		both, args = alsoEndpoint, []any{fieldEndpoint, f.Endpoint}
	}
	var c conditions
	one.spans(&c, ids)
	return "SELECT s.span, " + both + " FROM action_spans s" + c.String() + " ORDER BY s.span DESC LIMIT ?",
		append(append(args, c.args...), maxWalkedSpans)
}

// AfterTime returns the ID before which all rows are older than t, as After of
// a filter that begins there.
func (db *DB) AfterTime(ctx context.Context, t time.Time) (int64, error) {
	first, err := db.timeBound(ctx, sinceQuery, t)
	switch {
	case err != nil:
		return 0, fmt.Errorf("looking for a time in the action log: %w", err)
	case !first.Valid:
		return db.LastAction(), nil
	}
	return first.Int64 - 1, nil
}
