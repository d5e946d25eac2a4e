package registry_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// logged is what a registry logs.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), s)
}

func TestRetention_RemovesWhatIsTooOld(t *testing.T) {
	dir, c, log := stateDir(t), newClock(), &logged{}
	cfg := config(dir, c)
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	db, err := registry.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var old time.Time
	for n := range 700 { // some steps' worth
		old = c.Now()
		id := appendRow(t, db, actionRow("r_old"))
		if n%100 == 0 {
			flush(t, db) // so that results come late
		}
		db.Finish(id, registry.ActionResult{Status: "200"})
		c.pass(time.Second)
	}
	running := appendRow(t, db, actionRow("r_old"))
	flush(t, db)
	if n := db.LogHealth().Removed.Rows; n != 0 {
		t.Fatalf("%d rows are gone already", n)
	}
	c.pass(90*24*time.Hour - 350*time.Second)
	eventually(t, "half of them are removed", func() bool { return db.LogHealth().Removed.Rows >= 350 })
	eventually(t, "the log says so", func() bool { return log.count("older than they are kept") == 1 })
	if list := actions(t, db, registry.ActionFilter{Registration: "r_old", Limit: 500}); len(list) < 340 || list[0].ID != running {
		t.Errorf("%d rows are left", len(list))
	}
	c.pass(time.Hour)
	eventually(t, "all of them are removed", func() bool { return db.LogHealth().Removed.Rows == 701 })
	removed := db.LogHealth().Removed
	if removed.Newest.Before(old) || !removed.At.Equal(c.Now()) || removed.Reason != "age" {
		t.Errorf("%+v", removed)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"actions", "action_spans"} {
		if n := queryInt(t, dir, "SELECT count(*) FROM "+table+" WHERE true"); n > 2 { // the span of what comes next stays
			t.Errorf("%d rows in %s", n, table)
		}
	}

	// IDs are not given again, and what is gone is not forgotten.
	db = openIn(t, dir, c)
	if id := appendRow(t, db, actionRow("r_new")); id != running+1 {
		t.Errorf("ID %d after %d", id, running)
	}
	db.Finish(running, registry.ActionResult{Status: "200"}) // of a row that is gone
	flush(t, db)
	if got := db.LogHealth().Removed; got != removed {
		t.Errorf("%+v, before the restart %+v", got, removed)
	}
	list := actions(t, db, registry.ActionFilter{})
	if len(list) != 1 || list[0].Registration != "r_new" || list[0].Result != nil {
		t.Errorf("%+v", list)
	}
}

// An approved agent decides how many rows it makes, and not how large the
// database becomes.
func TestRetention_BoundsTheDisk(t *testing.T) {
	dir, log := stateDir(t), &logged{}
	cfg := config(dir, nil)
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	cfg.Retention.MaxSize = registry.MinMaxSize
	db, err := registry.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	row := actionRow("r_hostile")
	row.Summary, row.Reason = strings.Repeat("s", 512), strings.Repeat("r", 512)
	row.Profile, row.Credential, row.Rule = strings.Repeat("p", 256), strings.Repeat("c", 256), strings.Repeat("u", 256)
	var last int64
	for range 12_000 { // 24 MB
		last = appendRow(t, db, row)
	}
	flush(t, db)
	size := func() int64 {
		return queryInt(t, dir, "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size")
	}
	eventually(t, "the database is small enough", func() bool { return size() <= registry.MinMaxSize })
	h := db.LogHealth()
	if h.Removed.Reason != "size" || h.Removed.Rows == 0 {
		t.Errorf("%+v", h.Removed)
	}
	if list := actions(t, db, registry.ActionFilter{Limit: 500}); len(list) != 500 || list[0].ID != last {
		t.Error("the newest rows are gone")
	}
	// What is written between two looks comes on top.
	if fi, err := os.Stat(filepath.Join(dir, "clawpatrol.db")); err != nil || fi.Size() > registry.MinMaxSize+4096*2048 {
		t.Errorf("the file has %d bytes: %v", fi.Size(), err)
	}
	eventually(t, "the log warns", func() bool { return log.count("before their time") == 1 })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if n := queryInt(t, dir, "SELECT count(*) = max(id) - (SELECT first FROM action_log_start) + 1 FROM actions"); n != 1 {
		t.Error("there is a gap")
	}
	// One whose limit is far below what it holds keeps its newest rows.
	if n := queryInt(t, dir, "SELECT count(*) FROM actions"); n < 1024 {
		t.Errorf("%d rows are left", n)
	}
}

// A setting that was meant as "no limit" must not empty the log.
func TestRetention_RefusesToKeepNothing(t *testing.T) {
	for _, r := range []registry.Retention{{Keep: -1}, {Keep: time.Minute}, {MaxSize: -1}, {MaxSize: 1 << 20}} {
		cfg := config(stateDir(t), nil)
		cfg.Retention = r
		db, err := registry.Open(t.Context(), cfg)
		var hint *registry.OpenError
		if !errors.Is(err, registry.ErrInvalid) || !errors.As(err, &hint) || hint.Hint() == "" {
			t.Errorf("%+v: %v", r, err)
		}
		if err == nil {
			_ = db.Close() // the test has failed
		}
	}
}

// The one row that retention writes about itself cannot take anything back, and
// rows it does not speak of cannot be deleted.
func TestRetention_OnlyRemovesWhatItSays(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		appendRow(t, db, actionRow("r_x"))
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw := writer(t, filepath.Join(dir, "clawpatrol.db"))
	defer raw.Close()
	if _, err := raw.Exec("UPDATE action_log_start SET first = 5, removed = 4"); err != nil {
		t.Fatal(err)
	}
	for statement, ok := range map[string]bool{
		"DELETE FROM actions WHERE id < 5":                 true,
		"DELETE FROM actions WHERE id = 5":                 false,
		"DELETE FROM actions":                              false,
		"UPDATE action_log_start SET first = 4":            false,
		"UPDATE action_log_start SET removed = 3":          false,
		"INSERT INTO action_log_start SELECT 2,1,0,0,0,''": false,
	} {
		if _, err := raw.Exec(statement); (err == nil) != ok {
			t.Errorf("%s: %v", statement, err)
		}
	}
	if n := queryInt(t, dir, "SELECT count(*) FROM actions"); n != 6 {
		t.Errorf("%d rows are left", n)
	}
}
