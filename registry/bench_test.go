package registry_test

import (
	"context"
	"database/sql"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// BenchmarkByAddr is the lookup every packet's flow starts with: one atomic
// load and one map access.
func BenchmarkByAddr(b *testing.B) {
	db := openIn(b, stateDir(b), nil)
	var r *registry.Registration
	for range 64 { // of the thousands a subnet holds
		r = approved(b, db)
	}
	for _, a := range []netip.Addr{r.Prefix4.Addr().Next(), r.Prefix6.Addr().Next()} {
		b.Run(family(a), func(b *testing.B) {
			for b.Loop() {
				if _, ok := db.Snapshot().ByAddr(a); !ok {
					b.Fatal("not found")
				}
			}
		})
	}
}

// BenchmarkRelease is what an action waits for before it gets its secret.
func BenchmarkRelease(b *testing.B) {
	db := openIn(b, stateDir(b), nil)
	r := approved(b, db)
	setCredential(b, db, "bearer.github", "secret", "sesame")
	row := actionRow(r.ID)
	hammer(b, func(ctx context.Context) error {
		_, err := db.Release(ctx, row)
		return err
	})
}

// BenchmarkAppendSync is an action row acknowledged on disk.
func BenchmarkAppendSync(b *testing.B) {
	db := openIn(b, stateDir(b), nil)
	row := actionRow(approved(b, db).ID)
	hammer(b, func(ctx context.Context) error {
		if _, err := db.Append(ctx, row); err != nil {
			return err
		}
		return db.Sync(ctx)
	})
}

// BenchmarkAppendLimit stands beside BenchmarkAppendSync: the same rows in the
// same schema, written straight to SQLite in transactions of 256, with nobody
// waiting and nothing in between.
func BenchmarkAppendLimit(b *testing.B) {
	dir := stateDir(b)
	created, err := registry.Open(b.Context(), config(dir, nil))
	if err != nil {
		b.Fatal(err)
	}
	if err := created.Close(); err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "clawpatrol.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	insert, err := db.Prepare("INSERT INTO actions (id, time, registration, profile, endpoint, credential, protocol, summary, verdict, rule, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		b.Fatal(err)
	}
	a := actionRow("r_6lsbizhlv4zfn5ojrbwg6jdoi7")
	b.ResetTimer()
	for done := 0; done < b.N; {
		tx, err := db.Begin()
		if err != nil {
			b.Fatal(err)
		}
		in := tx.Stmt(insert)
		for range min(256, b.N-done) {
			done++
			if _, err := in.Exec(done, time.Now().UnixMicro(), string(a.Registration), a.Profile, a.Endpoint, a.Credential,
				a.Protocol, a.Summary, a.Verdict, a.Rule, a.Reason); err != nil {
				b.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkAppend is the writer alone: producers wait for room only.
func BenchmarkAppend(b *testing.B) {
	db := openIn(b, stateDir(b), nil)
	row := actionRow(approved(b, db).ID)
	hammer(b, func(ctx context.Context) error {
		_, err := db.Append(ctx, row)
		return err
	})
	if err := db.Sync(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkTrimming is BenchmarkAppendSync on a database that has reached its
// size: each row that comes has another one go.
func BenchmarkTrimming(b *testing.B) {
	cfg := config(stateDir(b), nil)
	cfg.Retention.MaxSize = registry.MinMaxSize
	db, err := registry.Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	row := actionRow(approved(b, db).ID)
	for db.LogHealth().Removed.Rows == 0 {
		if _, err := db.Append(b.Context(), row); err != nil {
			b.Fatal(err)
		}
	}
	hammer(b, func(ctx context.Context) error {
		if _, err := db.Append(ctx, row); err != nil {
			return err
		}
		return db.Sync(ctx)
	})
	if n := queryInt(b, cfg.Dir, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"); n > 2*registry.MinMaxSize {
		b.Errorf("the file has %d bytes", n)
	}
}

// BenchmarkAction is what a request costs the log: a release, and its result
// half a millisecond later. "paced" leaves the writer time, as requests do that
// come at some 10,000/s; "flood" does not.
func BenchmarkAction(b *testing.B) {
	for name, pause := range map[string]time.Duration{"paced": 25 * time.Millisecond, "flood": 0} {
		b.Run(name, func(b *testing.B) {
			db := openIn(b, stateDir(b), nil)
			rows := make([]registry.Action, 8)
			for i := range rows {
				rows[i] = actionRow(approved(b, db).ID)
			}
			setCredential(b, db, "bearer.github", "secret", "sesame")
			result := registry.ActionResult{Status: "200", BytesIn: 312, BytesOut: 1337, Duration: time.Millisecond}
			var next atomic.Int64
			b.ReportAllocs()
			before := cpuTime(b)
			hammer(b, func(ctx context.Context) error {
				released, err := db.Release(ctx, rows[next.Add(1)%int64(len(rows))])
				if err != nil {
					return err
				}
				if pause > 0 {
					time.Sleep(500 * time.Microsecond)
				}
				db.Finish(released.Action, result)
				if pause > 0 {
					time.Sleep(pause)
				}
				return nil
			})
			if err := db.Sync(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what this process has used of the processors.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// hammer runs f b.N times on 256 goroutines, and reports how long the median
// call took.
func hammer(b *testing.B, f func(context.Context) error) {
	b.Helper()
	var next atomic.Int64
	waits := make([]time.Duration, b.N)
	var wg sync.WaitGroup
	b.ResetTimer()
	for range 256 {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < int64(b.N); n = next.Add(1) - 1 {
				began := time.Now()
				if err := f(b.Context()); err != nil {
					b.Error(err)
					return
				}
				waits[n] = time.Since(began)
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	slices.Sort(waits)
	b.ReportMetric(float64(waits[len(waits)/2].Microseconds()), "p50-µs")
}

func actionRow(id registry.ID) registry.Action {
	return registry.Action{Registration: id, Profile: "ci", Endpoint: "https.github", Credential: "bearer.github",
		Protocol: "https", Summary: "GET api.github.com/repos/example/project/issues", Verdict: "allow", Rule: "", Reason: ""}
}

func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}
