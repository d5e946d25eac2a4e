package registry_test

import (
	"crypto/rand"
	"encoding/binary"
	mathrand "math/rand/v2"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

var subnets = []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")}

// clock is a clock that tests turn.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// openIn opens the registry in dir until the test ends; c may be nil.
func openIn(t testing.TB, dir string, c *clock) *registry.DB {
	t.Helper()
	db, err := registry.Open(t.Context(), config(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func config(dir string, c *clock) registry.Config {
	cfg := registry.Config{Dir: dir, Subnets: subnets}
	if c != nil {
		cfg.Now = c.Now
	}
	return cfg
}

// stateDir names a directory that Open creates as it likes it.
func stateDir(t testing.TB) string { return filepath.Join(t.TempDir(), "state") }

// sources hands out addresses no test shares, beginning anywhere so that
// neither do processes that use one database after the other.
var sources = func() *atomic.Uint32 {
	var n atomic.Uint32
	n.Store(mathrand.Uint32())
	return &n
}()

func newSource() netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x0A000000|sources.Add(1)&0xFFFFFF) // 10.0.0.0/8
	return netip.AddrFrom4(b)
}

func text(s string) secret.Secret { return secret.New([]byte(s)) }

// starting is a valid request with this name from this source.
func starting(name string, source netip.Addr) registry.NewRegistration {
	n := registry.NewRegistration{Name: name, MACKey: text("mac key of " + name), PresharedKey: text("preshared key of " + name), Source: source}
	rand.Read(n.PublicKey[:])
	return n
}

func enrol(t testing.TB, db *registry.DB, name string, source netip.Addr) *registry.Registration {
	t.Helper()
	r, err := db.Enrol(t.Context(), starting(name, source))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// approved enrols and approves a registration that looks like no other.
func approved(t testing.TB, db *registry.DB) *registry.Registration {
	t.Helper()
	r := enrol(t, db, "host-"+rand.Text(), newSource())
	if err := db.Approve(t.Context(), r.ID, []string{"ci"}, ""); err != nil {
		t.Fatal(err)
	}
	return get(t, db, r.ID)
}

// get reads a registration as it is now.
func get(t testing.TB, db *registry.DB, id registry.ID) *registry.Registration {
	t.Helper()
	r, ok := db.Snapshot().ByID(id)
	if !ok {
		t.Fatalf("registration %s is gone", id)
	}
	return r
}

func setCredential(t testing.TB, db *registry.DB, ref, slot, value string) {
	t.Helper()
	if err := db.SetCredential(t.Context(), ref, map[string]secret.Secret{slot: text(value)}); err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok holds, for at most 10 s.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
