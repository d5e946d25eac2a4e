package registry_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// crashDir tells a re-executed test binary to be the gateway that gets killed.
const crashDir = "REGISTRY_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	for name, be := range map[string]func(dir string) error{crashDir: changeForever, removalDir: outliveForever, invitesDir: inviteForever, grantsDir: useForever} {
		if dir := os.Getenv(name); dir != "" {
			fmt.Fprintln(os.Stderr, be(dir))
			os.Exit(3)
		}
	}
	os.Exit(m.Run())
}

// removalDir does so too: this one's rows are all too old to be kept.
const removalDir = "REGISTRY_TEST_REMOVAL_DIR"

// changeForever changes all kinds of state from several goroutines and prints
// one line for each change, once it is acknowledged.
func changeForever(dir string) error {
	ctx := context.Background()
	db, err := registry.Open(ctx, config(dir, nil))
	if err != nil {
		return err
	}
	failed := make(chan error, 8)
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) } // one write each
	var ok sync.Once
	for worker := range 4 {
		go func() {
			for n := 0; ; n++ {
				failed <- func() error {
					source := fmt.Sprintf("w%d-%d-%s", worker, n, rand.Text()[:6])
					r, err := db.Enrol(ctx, starting(source, newSource()))
					if err != nil {
						return err
					}
					say("enrolled %s", r.ID)
					if err := db.Approve(ctx, r.ID, []string{"ci"}, r.UserCode); err != nil {
						return err
					}
					say("approved %s", r.ID)
					if _, _, err := db.VirtualAddresses(ctx, r.ID, "api.example.com"); err != nil {
						return err
					}
					say("virtual %s", r.ID)
					ref := fmt.Sprintf("bearer.w%d", worker)
					value := rand.Text()
					if err := db.SetCredential(ctx, ref, map[string]secret.Secret{"secret": text(value)}); err != nil {
						return err
					}
					say("secret %s %s %d", ref, value, db.CredentialVersion(ref))
					row := actionRow(r.ID)
					row.Summary = source
					id, err := db.Append(ctx, row)
					if err != nil {
						return err
					}
					db.Finish(id, registry.ActionResult{Status: source})
					if err := db.Sync(ctx); err != nil {
						return err
					}
					say("row %d %s", id, source)
					if id, err = db.Append(ctx, row); err != nil {
						return err
					}
					if err := db.Sync(ctx); err != nil {
						return err
					}
					db.Finish(id, registry.ActionResult{Status: source}) // too late for its row
					if err := db.Sync(ctx); err != nil {
						return err
					}
					say("row %d %s", id, source)
					if err := db.Block(ctx, r.ID, "why"); err != nil {
						return err
					}
					say("blocked %s", r.ID)
					if err := db.Revoke(ctx, r.ID); err != nil {
						return err
					}
					say("revoked %s", r.ID)
					ok.Do(func() { say("round") })
					return nil
				}()
			}
		}()
	}
	for {
		if err := <-failed; err != nil {
			return err
		}
	}
}

// TestI17_KilledAtAnyInstantLosesNothingAcknowledged kills a process that
// changes state as fast as it can, at random instants, again and again on the
// same directory, and looks for everything it had acknowledged.
func TestI17_KilledAtAnyInstantLosesNothingAcknowledged(t *testing.T) {
	dir := stateDir(t)
	acknowledged := 0
	versions := map[string]uint64{}
	for round := range 8 {
		lines := killed(t, crashDir, dir, time.Duration(mathrand.IntN(60))*time.Millisecond)
		acknowledged += len(lines)

		db, err := registry.Open(t.Context(), config(dir, nil))
		if err != nil {
			t.Fatalf("round %d: the next start: %v", round, err)
		}
		if got := integrity(t, dir); got != "ok" {
			t.Fatalf("round %d: integrity_check: %s", round, got)
		}
		rows := map[int64]registry.LoggedAction{}
		for before := int64(0); ; {
			list := actions(t, db, registry.ActionFilter{Before: before, Limit: 500})
			for _, a := range list {
				rows[a.ID] = a
				before = a.ID
			}
			if len(list) < 500 {
				break
			}
		}
		// The states a registration passes through, in order.
		order := []registry.State{registry.Pending, registry.Approved, registry.Blocked, registry.Revoked}
		secrets := map[string][]string{}
		for _, line := range lines {
			f := strings.Fields(line)
			switch f[0] {
			case "enrolled", "approved", "virtual", "blocked", "revoked":
				r, ok := db.Snapshot().ByID(registry.ID(f[1]))
				if !ok {
					t.Errorf("round %d: %s is gone", round, f[1])
					continue
				}
				least := registry.State(f[0])
				if f[0] == "enrolled" || f[0] == "virtual" {
					least = registry.Pending
				}
				if slices.Index(order, r.State) < slices.Index(order, least) {
					t.Errorf("round %d: %s was %s and is %s", round, f[1], f[0], r.State)
				}
			case "secret":
				secrets[f[1]] = f[1:]
			case "row":
				var id int64
				fmt.Sscan(f[1], &id)
				if a := rows[id]; a.Summary != f[2] || a.Result == nil || a.Result.Status != f[2] {
					t.Errorf("round %d: row %d: %+v", round, id, a)
				}
			}
		}
		// One change after the last acknowledged may have happened unheard.
		r := approved(t, db)
		for ref, said := range secrets {
			got, version := released(t, db, r.ID, ref)
			var want uint64
			fmt.Sscan(said[2], &want)
			if version < want || version == want && got["secret"] != said[1] || version > want+1 {
				t.Errorf("round %d: %s is at version %d, acknowledged was %d", round, ref, version, want)
			}
			if version < versions[ref] {
				t.Errorf("round %d: %s went back from version %d to %d", round, ref, versions[ref], version)
			}
			versions[ref] = version
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if acknowledged < 100 {
		t.Errorf("only %d changes were acknowledged: this proves little", acknowledged)
	}
}

// outliveForever appends rows that are too old to be kept, so that they are
// removed at once, and prints the ID of each that is acknowledged.
func outliveForever(dir string) error {
	ctx := context.Background()
	db, err := registry.Open(ctx, config(dir, nil))
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		var last int64
		for i := range 800 {
			row := actionRow("r_x")
			row.Time = time.Now().AddDate(-1, 0, 0)
			if last, err = db.Append(ctx, row); err != nil {
				return err
			}
			if i%2 == 0 {
				db.Finish(last, registry.ActionResult{Status: "200"})
			}
		}
		if err := db.Sync(ctx); err != nil {
			return err
		}
		fmt.Printf("row %d\n", last)
		if n == 7 { // the first look for what to remove is at 4096 rows
			fmt.Println("round")
		}
	}
}

// A kill while rows are written and removed leaves what was removed said, and
// the rest without a gap.
func TestI17_KilledWhileRowsAreRemoved(t *testing.T) {
	dir := stateDir(t)
	for round := range 4 {
		lines := killed(t, removalDir, dir, time.Duration(mathrand.IntN(60))*time.Millisecond)
		var acknowledged int64
		for _, line := range lines {
			_, _ = fmt.Sscanf(line, "row %d", &acknowledged) // the other is "round"
		}
		if got := integrity(t, dir); got != "ok" {
			t.Fatalf("round %d: integrity_check: %s", round, got)
		}
		first, removed := queryInt(t, dir, "SELECT first FROM action_log_start"), queryInt(t, dir, "SELECT removed FROM action_log_start")
		rows, last := queryInt(t, dir, "SELECT count(*) FROM actions"), queryInt(t, dir, "SELECT coalesce(max(id), 0) FROM actions")
		if removed == 0 {
			t.Errorf("round %d: nothing was removed: this proves nothing", round)
		}
		if rows == 0 {
			last = first - 1
		}
		if removed != first-1 || rows != last-removed || last < acknowledged {
			t.Errorf("round %d: %d acknowledged; %d removed before %d, %d rows up to %d", round, acknowledged, removed, first, rows, last)
		}
		if n := queryInt(t, dir, "SELECT count(*) FROM actions WHERE (status IS NULL) <> (duration IS NULL)"); n != 0 {
			t.Errorf("round %d: %d rows with half a result", round, n)
		}
	}
}

// The first start makes a directory, a key, a file and a schema. Wherever it is
// killed, the next one finds its way.
func TestI17_KilledDuringTheFirstStart(t *testing.T) {
	for range 12 {
		dir := stateDir(t)
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stage := []string{"", "clawpatrol.lock", "clawpatrol.db", "clawpatrol.db-wal", "master.key"}[mathrand.IntN(5)]
		eventually(t, "the start comes as far as "+stage, func() bool {
			_, err := os.Stat(filepath.Join(dir, stage))
			return err == nil
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed, as it should be
		db, err := registry.Open(t.Context(), config(dir, nil))
		if err != nil {
			t.Fatalf("killed at %q: %v", stage, err)
		}
		approved(t, db)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killed runs the test binary with dir in the named variable until it says that
// it has made a round, and some time more, kills it, and returns what it said.
func killed(t *testing.T, variable, dir string, more time.Duration) (lines []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewReader(out)
	for {
		line, err := scan.ReadString('\n')
		if err == io.EOF {
			break // a line cut short was not said
		}
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.TrimSpace(line))
		if lines[len(lines)-1] == "round" {
			time.AfterFunc(more, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // killed, as it should be
	if stderr.Len() > 0 {
		t.Fatalf("the child failed by itself: %s", stderr.String())
	}
	return lines
}

func integrity(t *testing.T, dir string) (result string) {
	t.Helper()
	db := reader(t, filepath.Join(dir, "clawpatrol.db"))
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&result); err != nil {
		t.Fatal(err)
	}
	return result
}

func writer(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	return db
}
