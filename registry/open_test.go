package registry_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

// refused opens dir, which must fail with want and a hint, and returns the
// message.
func refused(t *testing.T, cfg registry.Config, want error) string {
	t.Helper()
	db, err := registry.Open(t.Context(), cfg)
	if err == nil {
		_ = db.Close()
		t.Fatalf("opened, want %v", want)
	}
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) || hint.Hint() == "" {
		t.Fatalf("%v carries no hint", err)
	}
	return err.Error()
}

// filled makes a registry with something of everything and closes it.
func filled(t *testing.T) (dir string, id registry.ID) {
	t.Helper()
	dir = stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	id = approved(t, db).ID
	setCredential(t, db, "bearer.github", "secret", "sesame")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, id
}

// onDatabase runs statements on the closed registry's file, as an intruder or
// another program would.
func onDatabase(t *testing.T, dir string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "clawpatrol.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestI03_StateFilesAreForTheirOwnerOnly(t *testing.T) {
	old := syscall.Umask(0) // the registry must not rely on it
	defer syscall.Umask(old)
	dir := stateDir(t)
	db := openIn(t, dir, nil)
	approved(t, db)
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("state directory: %v %v", fi.Mode(), err)
	}
	seen := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		seen[d.Name()] = true
		if fi.Mode() != 0o600 {
			t.Errorf("%s has mode %v", d.Name(), fi.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"clawpatrol.db", "clawpatrol.db-wal", "clawpatrol.db-shm", "clawpatrol.lock", "master.key"} {
		if !seen[name] {
			t.Errorf("%s was not there to check", name)
		}
	}
}

func TestI03_WiderPermissionsStopTheStart(t *testing.T) {
	for name, mode := range map[string]fs.FileMode{
		".": 0o750, "clawpatrol.db": 0o640, "clawpatrol.db-wal": 0o604, "clawpatrol.db-shm": 0o620,
		"clawpatrol.lock": 0o602, "master.key": 0o644,
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := filled(t)
			path := filepath.Join(dir, name)
			if _, err := os.Stat(path); err != nil { // -wal and -shm after a crash
				if err := os.WriteFile(path, nil, mode); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			if msg := refused(t, config(dir, nil), registry.ErrPermissions); !strings.Contains(msg, fmt.Sprintf("%04o", mode)) {
				t.Errorf("the message does not say what is wrong: %s", msg)
			}
		})
	}
}

// Whoever can move state_dir away makes the next start one with no password.
func TestI03_ReplaceableStateDirectoryStopsTheStart(t *testing.T) {
	// Reachable by others, as t.TempDir is not.
	above, err := os.MkdirTemp("", "state-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(above) })
	dir := filepath.Join(above, "state")
	mode := func(m fs.FileMode) {
		t.Helper()
		if err := os.Chmod(above, m); err != nil {
			t.Fatal(err)
		}
	}
	mode(0o755)
	if err := openIn(t, dir, nil).Close(); err != nil {
		t.Fatal(err)
	}
	mode(0o777)
	if msg := refused(t, config(dir, nil), registry.ErrPermissions); !strings.Contains(msg, above) {
		t.Errorf("the message does not say where: %s", msg)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	refused(t, config(link, nil), registry.ErrPermissions)
	mode(0o777 | fs.ModeSticky)
	if err := openIn(t, dir, nil).Close(); err != nil {
		t.Error(err)
	}
}

func TestI03_ForeignOwnerStopsTheStart(t *testing.T) {
	dir := "/usr" // root's, for everybody but root
	if os.Geteuid() == 0 {
		dir, _ = filled(t)
		if err := os.Chown(filepath.Join(dir, "clawpatrol.db"), 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, config(dir, nil), registry.ErrPermissions)
}

func TestI03_LinkInPlaceOfTheDatabaseStopsTheStart(t *testing.T) {
	dir, _ := filled(t)
	path := filepath.Join(dir, "clawpatrol.db")
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path+".moved", path); err != nil {
		t.Fatal(err)
	}
	refused(t, config(dir, nil), registry.ErrPermissions)
}

func TestOpen_OneProcessAtATime(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	if msg := refused(t, config(dir, nil), registry.ErrLocked); !strings.Contains(msg, fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("the message does not name the process: %s", msg)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	openIn(t, dir, nil)
}

func TestOpen_NewerSchemaIsRefused(t *testing.T) {
	dir, _ := filled(t)
	onDatabase(t, dir, "PRAGMA user_version = 9999")
	if msg := refused(t, config(dir, nil), registry.ErrNewerSchema); !strings.Contains(msg, "9999") {
		t.Errorf("the message does not name the schema: %s", msg)
	}
}

func TestOpen_OtherFilesAreNotTakenForADatabase(t *testing.T) {
	t.Run("another program's", func(t *testing.T) {
		dir, _ := filled(t)
		onDatabase(t, dir, "PRAGMA application_id = 42")
		if msg := refused(t, config(dir, nil), registry.ErrDamaged); !strings.Contains(msg, "another program") {
			t.Error(msg)
		}
	})
	t.Run("garbage", func(t *testing.T) {
		dir, _ := filled(t)
		if err := os.WriteFile(filepath.Join(dir, "clawpatrol.db"), bytes.Repeat([]byte("nonsense"), 1024), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, config(dir, nil), registry.ErrDamaged)
	})
	t.Run("cut short", func(t *testing.T) {
		dir, _ := filled(t)
		if err := os.Truncate(filepath.Join(dir, "clawpatrol.db"), 10000); err != nil {
			t.Fatal(err)
		}
		refused(t, config(dir, nil), registry.ErrDamaged)
	})
}

func TestOpen_SubnetsMustFit(t *testing.T) {
	for name, list := range map[string][]string{
		"none":       {},
		"IPv4 only":  {"10.55.0.0/16"},
		"IPv6 only":  {"fd55:c1a5::/48"},
		"two IPv4":   {"10.55.0.0/16", "10.56.0.0/16"},
		"small IPv4": {"10.55.0.0/27", "fd55:c1a5::/48"},
		"small IPv6": {"10.55.0.0/16", "fd55:c1a5::/63"},
		"host bits":  {"10.55.0.1/16", "fd55:c1a5::/48"},
		"mapped":     {"10.55.0.0/16", "::ffff:10.0.0.0/104"},
		"everything": {"0.0.0.0/0", "::/0"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := registry.Config{Dir: stateDir(t)}
			for _, s := range list {
				cfg.Subnets = append(cfg.Subnets, netip.MustParsePrefix(s))
			}
			refused(t, cfg, registry.ErrSubnets)
		})
	}
}

func TestOpen_SubnetsInUseStay(t *testing.T) {
	dir, id := filled(t)
	other := registry.Config{Dir: dir, Subnets: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16"), subnets[1]}}
	refused(t, other, registry.ErrSubnets)

	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db, err = registry.Open(t.Context(), other)
	if err != nil {
		t.Fatalf("with no registration left: %v", err)
	}
	defer db.Close()
	if got := db.Resolvers()[0]; got != netip.MustParseAddr("10.99.0.1") {
		t.Errorf("resolver %v", got)
	}
}

func TestMasterKey_MissingIsNeverReplaced(t *testing.T) {
	dir, _ := filled(t)
	key := filepath.Join(dir, "master.key")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if msg := refused(t, config(dir, nil), registry.ErrMasterKey); !strings.Contains(msg, "missing") {
		t.Errorf("the message does not say that it is missing: %s", msg)
	}
	if _, err := os.Stat(key); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("a new master key was made for an old database")
	}
}

func TestMasterKey_CheckRemovedFromTheDatabaseIsNotANewDatabase(t *testing.T) {
	dir, _ := filled(t)
	onDatabase(t, dir, "DELETE FROM sealed_settings")
	refused(t, config(dir, nil), registry.ErrMasterKey)
}

func TestMasterKey_OtherKeyIsRefused(t *testing.T) {
	for name, key := range map[string][]byte{
		"another": bytes.Repeat([]byte{7}, 32),
		"short":   bytes.Repeat([]byte{7}, 31),
		"long":    bytes.Repeat([]byte{7}, 33),
		"empty":   {},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := filled(t)
			if err := os.WriteFile(filepath.Join(dir, "master.key"), key, 0o600); err != nil {
				t.Fatal(err)
			}
			refused(t, config(dir, nil), registry.ErrMasterKey)
		})
	}
}

func TestMasterKey_FromSystemd(t *testing.T) {
	creds := t.TempDir()
	if err := os.WriteFile(filepath.Join(creds, "clawpatrol-master-key"), bytes.Repeat([]byte{9}, 32), 0o400); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", creds)
	dir, _ := filled(t)
	if _, err := os.Stat(filepath.Join(dir, "master.key")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a master.key was written beside systemd's")
	}
	openIn(t, dir, nil)

	t.Setenv("CREDENTIALS_DIRECTORY", t.TempDir()) // without the credential
	other, _ := filled(t)
	if _, err := os.Stat(filepath.Join(other, "master.key")); err != nil {
		t.Error(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", creds)
	refused(t, config(other, nil), registry.ErrMasterKey)
}

func TestClose_TwiceAndUseAfterwards(t *testing.T) {
	db, err := registry.Open(t.Context(), config(stateDir(t), nil))
	if err != nil {
		t.Fatal(err)
	}
	r := approved(t, db)
	for range 2 {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Block(t.Context(), r.ID, "late"); !errors.Is(err, registry.ErrClosed) {
		t.Errorf("Block: %v", err)
	}
	if _, err := db.Release(t.Context(), actionRow(r.ID)); !errors.Is(err, registry.ErrClosed) {
		t.Errorf("Release: %v", err)
	}
	if err := db.Sync(t.Context()); err != nil {
		t.Errorf("Sync of nothing: %v", err)
	}
	db.Finish(1, registry.ActionResult{})
}

// A registration that nobody approved must not keep the operator from changing
// subnets, and has no address of the new ones.
func TestOpen_ExpiredRegistrationsDoNotHoldSubnets(t *testing.T) {
	dir, c := stateDir(t), newClock()
	db := openIn(t, dir, c)
	old := enrol(t, db, "anyone", newSource())
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	other := config(dir, c)
	other.Subnets = []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16"), subnets[1]}
	refused(t, other, registry.ErrSubnets)
	c.pass(16 * time.Minute)
	db, err := registry.Open(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, ok := db.Snapshot().ByID(old.ID); ok {
		t.Error("the expired registration is still there")
	}
}

func TestOpen_RelativeDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	openIn(t, "state", nil)
	if _, err := os.Stat("state/clawpatrol.db"); err != nil {
		t.Error(err)
	}
}
