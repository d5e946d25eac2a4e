package registry

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"
	"sync"
	"time"
)

// Limits of Stats.
const (
	statsHours     = 24
	failureMinutes = 60

	maxCounted  = 1024 // registrations, and endpoints, that are counted one by one
	maxFailures = 256  // endpoints and statuses of failed upstreams
	maxRefs     = 100  // that Stats returns of each

	maxLateFailures = 1024 // whose endpoint is yet to be looked up
)

// OtherRefs stands for all beyond the number that is counted one by one.
const OtherRefs = "others"

// Stats is what the action log has of the last 24 hours.
type Stats struct {
	Hours          [statsHours]HourStats // oldest first; the last is the hour that has begun
	ByRegistration []CountedRef          // most first, at most 100
	ByEndpoint     []CountedRef          // the same; actions at no endpoint are not in it
	Failures       []FailedUpstream      // latest first, at most 100
	Ready          bool                  // false: what was logged before the start is still being counted
}

// HourStats is how many actions were decided in an hour.
type HourStats struct {
	Start           time.Time
	Allowed, Denied int
}

// CountedRef is how many actions a registration or an endpoint had.
type CountedRef struct {
	Ref             string // OtherRefs: all that are not counted one by one
	Allowed, Denied int
	Last            time.Time
}

// FailedUpstream is an endpoint whose upstream could not be used in the last hour.
type FailedUpstream struct {
	Ref    string
	Status string // as in the log, such as "502 dns"
	Count  int    // at least: of a flood of failures some are not counted
	Last   time.Time
}

// failure is a key of the tally of failed upstreams.
type failure struct{ endpoint, status string }

// actionStats counts the rows of the log: the writer what it has stored, and
// seed, in the background, what was there before.
type actionStats struct {
	late chan failedLate // for resolve

	mu            sync.Mutex // guards what follows
	all           tally[struct{}]
	registrations tally[string]
	endpoints     tally[string]
	failures      tally[failure]
	uses          credentialUses
	ready         bool
}

// failedLate is a failure that became known after its row had been written.
type failedLate struct {
	action int64
	status string
	at     time.Time
}

func newActionStats() *actionStats {
	return &actionStats{
		late:          make(chan failedLate, maxLateFailures),
		all:           newTally(time.Hour, statsHours, 1, struct{}{}),
		registrations: newTally(time.Hour, statsHours, maxCounted, OtherRefs),
		endpoints:     newTally(time.Hour, statsHours, maxCounted, OtherRefs),
		failures:      newTally(time.Minute, failureMinutes, maxFailures, failure{OtherRefs, ""}),
		uses:          make(credentialUses),
	}
}

// Stats returns what was counted up to now. It reads memory only.
func (db *DB) Stats(now time.Time) Stats {
	s := db.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{
		ByRegistration: mostFirst(&s.registrations, now),
		ByEndpoint:     mostFirst(&s.endpoints, now),
		Ready:          s.ready,
	}
	all := s.all.keys[struct{}{}]
	for i := range stats.Hours {
		unit := s.all.since(now) + int64(i)
		stats.Hours[i].Start = time.Unix(unit*int64(time.Hour/time.Second), 0).UTC()
		if unit < 0 { // a clock that has no time yet: nothing is before 1970
			continue
		}
		if slot := unit % statsHours; all != nil && s.all.slots[slot] == unit {
			stats.Hours[i].Allowed, stats.Hours[i].Denied = int(all.slots[slot].allowed), int(all.slots[slot].denied)
		}
	}
	for key, c := range s.failures.keys {
		if n := s.failures.sum(now, c); n.Denied > 0 {
			stats.Failures = append(stats.Failures, FailedUpstream{key.endpoint, key.status, n.Denied, n.Last})
		}
	}
	slices.SortFunc(stats.Failures, func(a, b FailedUpstream) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.Status, b.Status))
	})
	stats.Failures = stats.Failures[:min(len(stats.Failures), maxRefs)]
	return stats
}

func mostFirst(t *tally[string], now time.Time) []CountedRef {
	list := make([]CountedRef, 0, len(t.keys))
	for key, c := range t.keys {
		if n := t.sum(now, c); n.Allowed+n.Denied > 0 {
			n.Ref = key
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b CountedRef) int {
		return cmp.Or(cmp.Compare(b.Allowed+b.Denied, a.Allowed+a.Denied), cmp.Compare(a.Ref, b.Ref))
	})
	return list[:min(len(list), maxRefs)]
}

// record counts what the writer has stored. A batch's rows are mostly alike:
// those beside each other are counted together.
func (s *actionStats) record(now time.Time, rows []queuedRow, results []result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(rows) > 0 {
		first := &rows[0]
		n := 1
		for n < len(rows) && alikeInStats(first, &rows[n]) {
			n++
		}
		s.count(now, &rows[n-1].Action, uint32(n))
		for i := range rows[:n] {
			if row := &rows[i]; row.ended && row.Endpoint != "" && upstreamFailed(row.result.Status) {
				s.failures.add(now, failure{row.Endpoint, row.result.Status}, row.Time, counts{denied: 1})
			}
		}
		rows = rows[n:]
	}
	for i := range results {
		if r := &results[i]; upstreamFailed(r.Status) {
			select {
			case s.late <- failedLate{r.action, r.Status, now}:
			default: // a flood: enough of them are counted
			}
		}
	}
}

func alikeInStats(a, b *queuedRow) bool {
	return a.Registration == b.Registration && a.Endpoint == b.Endpoint && a.Credential == b.Credential && a.Verdict == b.Verdict &&
		a.Time.Unix()/60 == b.Time.Unix()/60
}

// count counts n rows like a, of which a is the last; called with mu held.
func (s *actionStats) count(now time.Time, a *Action, n uint32) {
	c := counts{allowed: n}
	if a.Verdict != verdictAllow {
		c = counts{denied: n}
	}
	s.all.add(now, struct{}{}, a.Time, c)
	if a.Registration != "" {
		s.registrations.add(now, string(a.Registration), a.Time, c)
	}
	if a.Endpoint != "" {
		s.endpoints.add(now, a.Endpoint, a.Time, c)
	}
	if a.Verdict == verdictAllow && a.Credential != "" {
		s.uses.used(a.Credential, a.Registration, a.Time)
	}
}

// upstreamFailures are the ways in which an upstream fails, as they stand in the
// log: alone, or after the status that an agent got.
var upstreamFailures = []string{
	"dns", "refused", "unreachable", "timeout", "egress", "tls", "certificate", "certificate_host", "certificate_authority", "certificate_expired",
	"upstream_error", "bad_upstream_answer", "bad_upgrade", "upstream_lost", // protocols.Explain and the protocols' own
	"credential_rejected", "algorithms", "disconnected", "jump", "no_authentication", "authentication",
}

// upstreamFailed says whether a status tells of an upstream that could not be used.
func upstreamFailed(status string) bool {
	if status == "" || status[0] >= '0' && status[0] <= '9' && !strings.HasPrefix(status, "502 ") {
		return false // nearly always
	}
	class, answered := strings.CutPrefix(status, "502 ")
	return slices.Contains(upstreamFailures, class) || answered && class == "closed"
}

// tendStats counts what the log had when it was opened, up to and with the row
// last, and then looks up the endpoints of late failures, until the registry
// closes.
func (db *DB) tendStats(last int64) {
	db.seedStats(last)
	for {
		select {
		case <-db.closing:
			return
		case f := <-db.stats.late:
			var endpoint string
			err := db.read.QueryRowContext(context.Background(), "SELECT endpoint FROM actions WHERE id = ?", f.action).Scan(&endpoint)
			if err != nil || endpoint == "" {
				continue // it is only for show
			}
			db.stats.mu.Lock()
			db.stats.failures.add(db.clock(), failure{endpoint, f.status}, f.at, counts{denied: 1})
			db.stats.mu.Unlock()
		}
	}
}

// seedStep is how many rows are counted at once; between two steps the seeding
// rests for as long as the step took, so that a gateway that starts has half a
// processor at least for its traffic.
const seedStep = 4096

// seedStats counts the rows of the last 24 hours, newest first.
func (db *DB) seedStats(last int64) {
	for high := last; high > 0; high -= seedStep {
		began := time.Now()
		more, err := db.seedStatsStep(context.Background(), idRange{high - seedStep + 1, high})
		if err != nil {
			db.log.Error("registry: counting the action log's rows of the last 24 hours failed; the figures are short of them", "err", err)
			return
		}
		if !more {
			break
		}
		select {
		case <-time.After(time.Since(began)):
		case <-db.closing:
			return
		}
	}
	db.stats.mu.Lock()
	defer db.stats.mu.Unlock()
	db.stats.ready = true
}

// seedStatsStep counts the rows within ids, and says whether any is recent
// enough for others to be before it.
func (db *DB) seedStatsStep(ctx context.Context, ids idRange) (more bool, err error) {
	rows, err := db.read.QueryContext(ctx, `SELECT a.time, a.registration, a.endpoint, a.credential, a.verdict, coalesce(a.status, r.status)
		FROM actions a LEFT JOIN action_results r ON r.action = a.id WHERE a.id BETWEEN ? AND ? ORDER BY a.id`, ids.low, ids.high)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	now := db.clock()
	var batch []queuedRow
	for rows.Next() {
		var row queuedRow
		var at int64
		var status sql.NullString
		if err := rows.Scan(&at, &row.Registration, &row.Endpoint, &row.Credential, &row.Verdict, &status); err != nil {
			return false, err
		}
		row.Time, row.ended, row.result.Status = fromMicros(at), status.Valid, status.String
		more = more || now.Sub(row.Time) <= statsHours*time.Hour
		batch = append(batch, row)
	}
	if err := rows.Err(); err != nil {
		return false, err
	}
	db.stats.record(now, batch, nil)
	return more, nil
}
