package registry_test

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/clawpatrol/clawpatrol/registry"
)

// smallDisk tells a re-executed test where its file system is to be.
const smallDisk = "REGISTRY_TEST_SMALL_DISK"

// onSmallDisk runs the rest of the test in a process of its own, with a file
// system of 8 MiB of its own, which a mount namespace gives to anyone, and
// returns its directory there. In the process that go test started it returns "":
// the test is over.
func onSmallDisk(t *testing.T) (dir string) {
	t.Helper()
	if dir := os.Getenv(smallDisk); dir != "" {
		if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal("making mounts private:", err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=0700"); err != nil {
			t.Fatal("mounting the small disk:", err)
		}
		return dir
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), smallDisk+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("on the small disk: %v\n%s", err, out)
	}
	return ""
}

// fill writes a file until the disk is full, but for what is to be left.
func fill(t *testing.T, disk string, left int64) (path string) {
	t.Helper()
	path = filepath.Join(disk, "somebody else's")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		var st unix.Statfs_t
		if err := unix.Statfs(disk, &st); err != nil {
			t.Fatal(err)
		}
		if int64(st.Bavail)*st.Bsize <= left {
			return path
		}
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return path
}

// A disk that really is full, in the middle of the traffic of several agents:
// whoever got a secret stands in the log, and the others got none. When there is
// space again, all goes on by itself.
func TestI19_FullDiskRefusesAndRecovers(t *testing.T) {
	disk := onSmallDisk(t)
	if disk == "" {
		return
	}
	log := &logged{}
	cfg := config(filepath.Join(disk, "state"), nil)
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	db, err := registry.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	setCredential(t, db, "bearer.github", "secret", "sesame")
	agents := []registry.ID{approved(t, db).ID, approved(t, db).ID, approved(t, db).ID, approved(t, db).ID}
	for round := range 3 {
		filler := fill(t, disk, 512<<10)
		eventually(t, "somebody is warned", func() bool { return log.count("the disk is nearly full") > 0 })

		var mu sync.Mutex
		served := map[int64]bool{}
		var refused atomic.Int64
		var wg sync.WaitGroup
		for _, id := range agents {
			wg.Go(func() {
				for refused.Load() < 100 {
					rel, err := db.Release(t.Context(), actionRow(id))
					switch {
					case err == nil:
						mu.Lock()
						served[rel.Action] = true
						mu.Unlock()
						db.Finish(rel.Action, registry.ActionResult{Status: "200"})
					case !errors.Is(err, registry.ErrLogFailed) || rel.Slots != nil:
						t.Errorf("round %d: refused with %v, %v", round, rel.Slots, err)
						refused.Add(100)
					default:
						refused.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if len(served) == 0 {
			t.Errorf("round %d: nobody was served before: this proves little", round)
		}
		_ = db.Block(t.Context(), agents[0], "on a full disk") // in force also where it cannot be stored
		if r := get(t, db, agents[0]); r.State != registry.Blocked {
			t.Errorf("round %d: a full disk keeps a registration from being blocked: %s", round, r.State)
		}

		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the log works again", func() bool {
			_, err := db.Release(t.Context(), actionRow(agents[1]))
			return err == nil
		})
		flush(t, db)
		logged := map[int64]bool{}
		for before := int64(0); ; {
			list := actions(t, db, registry.ActionFilter{Before: before, Limit: 500})
			for _, a := range list {
				if a.Result != nil || !served[a.ID] {
					logged[a.ID] = true
				}
				before = a.ID
			}
			if len(list) < 500 {
				break
			}
		}
		for id := range served {
			if !logged[id] {
				t.Errorf("round %d: action %d was served and is not in the log with its result", round, id)
			}
		}
		if err := db.Approve(t.Context(), agents[0], []string{"ci"}, ""); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
	if n := log.count("cannot be written"); n != 3 {
		t.Errorf("the log said %d times that it failed", n)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpen_SaysThatTheDiskIsFull(t *testing.T) {
	disk := onSmallDisk(t)
	if disk == "" {
		return
	}
	used := filepath.Join(disk, "used")
	db, err := registry.Open(t.Context(), config(used, nil))
	if err != nil {
		t.Fatal(err)
	}
	id := appendRow(t, db, actionRow("r_x"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	filler := fill(t, disk, 0)
	for _, dir := range []string{used, filepath.Join(disk, "new")} {
		var hint *registry.OpenError
		_, err := registry.Open(t.Context(), config(dir, nil))
		if !errors.Is(err, registry.ErrDiskFull) || !errors.As(err, &hint) || hint.Hint() == "" {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, used, nil)
	if next := appendRow(t, db, actionRow("r_x")); next != id+1 {
		t.Errorf("ID %d after %d", next, id)
	}
	openIn(t, filepath.Join(disk, "new"), nil)
}
