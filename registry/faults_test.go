package registry_test

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// fullDisk makes every write of this process to a file fail from now on, as a
// full disk does, until the returned function is called. Nothing else of the
// test may write a file meanwhile, so none of these tests runs in parallel.
func fullDisk(t *testing.T) (repair func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	full := before
	full.Cur = 1 // bytes a file may have
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	repaired := false
	repair = func() {
		if repaired {
			return
		}
		repaired = true
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Error(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	}
	t.Cleanup(repair)
	return repair
}

func TestI19_NothingIsReleasedWhileTheLogCannotBeWritten(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	r := approved(t, db)
	setCredential(t, db, "bearer.github", "secret", "sesame")

	repair := fullDisk(t)
	queued := appendRow(t, db, actionRow(r.ID)) // nobody knows yet
	db.Finish(queued, registry.ActionResult{Status: "200"})
	if err := db.Sync(t.Context()); !errors.Is(err, registry.ErrLogFailed) {
		t.Fatalf("Sync: %v", err)
	}
	if rel, err := db.Release(t.Context(), actionRow(r.ID)); !errors.Is(err, registry.ErrLogFailed) || rel.Slots != nil {
		t.Fatalf("Release: %v, %v", rel, err)
	}
	if _, err := db.Append(t.Context(), actionRow(r.ID)); !errors.Is(err, registry.ErrLogFailed) {
		t.Fatalf("Append: %v", err)
	}
	if h := db.LogHealth(); h.Err == nil || h.Queued != 1 {
		t.Errorf("%+v", h)
	}

	repair()
	eventually(t, "the log works again", func() bool { return db.LogHealth().Err == nil })
	if got, _ := released(t, db, r.ID, "bearer.github"); got["secret"] != "sesame" {
		t.Errorf("released %v", got)
	}
	flush(t, db)
	list := actions(t, db, registry.ActionFilter{Registration: r.ID})
	if len(list) != 2 || list[1].ID != queued || list[1].Result == nil {
		t.Errorf("what was queued when the disk failed: %+v", list)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestClose_SaysWhatTheDiskLost(t *testing.T) {
	db, err := registry.Open(t.Context(), config(stateDir(t), nil))
	if err != nil {
		t.Fatal(err)
	}
	repair := fullDisk(t)
	defer repair()
	appendRow(t, db, registry.Action{Verdict: "allow"})
	if err := db.Close(); !errors.Is(err, registry.ErrLogFailed) {
		t.Errorf("got %v", err)
	}
}

// A disk that is full must not keep a hostile registration alive: blocking and
// revoking take effect, and are stored once the disk can. All else is refused
// and changes nothing.
func TestFullDisk_BlocksAndRevokesAllTheSame(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	hostile, gone, other := approved(t, db), approved(t, db), approved(t, db)
	waiting := enrol(t, db, "waiting", newSource())
	setCredential(t, db, "bearer.github", "secret", "sesame")
	changed, stop := db.Changed()
	defer stop()

	repair := fullDisk(t)
	if err := db.Block(ctx, hostile.ID, "pin violated"); err == nil {
		t.Error("a block that is not stored was acknowledged")
	}
	<-changed
	if err := db.Revoke(ctx, gone.ID); err == nil {
		t.Error("a revocation that is not stored was acknowledged")
	}
	if get(t, db, hostile.ID).State != registry.Blocked || get(t, db, gone.ID).State != registry.Revoked {
		t.Error("not in force")
	}
	if db.Block(ctx, hostile.ID, "another reason") == nil || db.Revoke(ctx, gone.ID) == nil {
		t.Error("acknowledged the second time, and still not stored")
	}
	for what, err := range map[string]error{
		"Approve":         db.Approve(ctx, waiting.ID, []string{"ci"}, ""),
		"SetProfiles":     db.SetProfiles(ctx, other.ID, []string{"more"}),
		"SetCredential":   db.SetCredential(ctx, "bearer.github", slot("secret", "changed")),
		"ClearCredential": db.ClearCredential(ctx, "bearer.github"),
		"SetSecret":       db.SetSecret(ctx, "NAME", text("x")),
		"NewSession":      db.NewSession(ctx, nil, token(1), registry.Session{Expires: time.Now().Add(time.Hour)}),
		"Enrol":           errOf(db.Enrol(ctx, starting("new", newSource()))),
		"SetRootPassword": db.SetRootPasswordHash(ctx, []byte("hash"), false),
	} {
		if err == nil {
			t.Errorf("%s was acknowledged", what)
		}
	}
	if get(t, db, waiting.ID).State != registry.Pending || get(t, db, other.ID).Profiles[0] != "ci" || len(db.Snapshot().All()) != 4 ||
		db.CredentialVersion("bearer.github") != 1 || !db.NamedSecret("NAME").IsZero() || db.SessionValid(token(1)) {
		t.Error("a refused change took effect in memory")
	}

	repair()
	stored := func() bool {
		return queryInt(t, dir, "SELECT count(*) FROM registrations WHERE state IN ('blocked', 'revoked')") == 2
	}
	eventually(t, "block and revocation are stored", stored)
	if err := errors.Join(db.Block(ctx, hostile.ID, "again"), db.Revoke(ctx, gone.ID)); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, nil)
	if reason := get(t, db, hostile.ID).BlockedReason; reason != "pin violated" {
		t.Errorf("the first reason was replaced by %q", reason)
	}
	if get(t, db, hostile.ID).State != registry.Blocked || get(t, db, gone.ID).State != registry.Revoked || get(t, db, waiting.ID).State != registry.Pending {
		t.Error("the restart undid it")
	}
	if got, _ := released(t, db, other.ID, "bearer.github"); got["secret"] != "sesame" {
		t.Errorf("released %v", got)
	}
}

// stalled makes every transaction of the registry in dir wait until the returned
// function is called, which must be within the registry's busy timeout (5 s).
func stalled(t *testing.T, dir string) (resume func()) {
	t.Helper()
	other := writer(t, filepath.Join(dir, "clawpatrol.db"))
	conn, err := other.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	resume = func() { _ = errors.Join(conn.Close(), other.Close()) } // which rolls back
	t.Cleanup(resume)
	return resume
}

// fillLog fills the queue before the log, of which a registration has a quarter
// at most, and returns the rows' IDs.
func fillLog(t *testing.T, db *registry.DB) (ids []int64) {
	t.Helper()
	for n := range 4096 {
		ids = append(ids, appendRow(t, db, registry.Action{Registration: registry.ID(fmt.Sprint("r_", n%8)), Verdict: "allow"}))
	}
	return ids
}

func TestRelease_WaitsWhileTheQueueIsFull(t *testing.T) {
	dir := stateDir(t)
	db := openIn(t, dir, nil)
	r := approved(t, db)
	setCredential(t, db, "bearer.github", "secret", "sesame")
	resume := stalled(t, dir)
	fillLog(t, db)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if rel, err := db.Release(ctx, actionRow(r.ID)); !errors.Is(err, context.DeadlineExceeded) || rel.Slots != nil {
		t.Errorf("with a full queue: %v, %v", rel, err)
	}
	done := make(chan error)
	go func() { done <- errOf(db.Release(t.Context(), actionRow(r.ID))) }()
	resume()
	if err := <-done; err != nil {
		t.Errorf("once there was room: %v", err)
	}
	flush(t, db)
	if n := queryInt(t, dir, "SELECT count(*) FROM actions"); n != 4097 {
		t.Errorf("%d rows", n)
	}
}

func TestFinish_DropsTheOldestAndCountsIt(t *testing.T) {
	dir := stateDir(t)
	db := openIn(t, dir, nil)
	ids := fillLog(t, db)
	flush(t, db) // or the results go into their rows
	resume := stalled(t, dir)
	// The writer waits with a batch that may hold some of the first results.
	for _, id := range append(ids, ids...) {
		db.Finish(id, registry.ActionResult{Status: "200"})
	}
	dropped := db.LogHealth().DroppedResults
	if dropped < 4096-256 || dropped > 4096 {
		t.Errorf("%d results dropped", dropped)
	}
	resume()
	flush(t, db)
	if n := queryInt(t, dir, "SELECT count(*) FROM action_results"); n != 4096 {
		t.Errorf("%d results", n)
	}
}

func TestClose_EndsWhoWaitsForRoom(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	resume := stalled(t, dir)
	fillLog(t, db)
	waiting := make(chan error)
	go func() { waiting <- errOf(db.Append(context.Background(), registry.Action{Verdict: "allow"})) }()
	closed := make(chan error)
	go func() { closed <- db.Close() }()
	if err := <-waiting; !errors.Is(err, registry.ErrClosed) {
		t.Errorf("the one that waits: %v", err)
	}
	resume()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}
