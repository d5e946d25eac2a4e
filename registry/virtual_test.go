package registry_test

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/registry"
)

func virtual(t testing.TB, db *registry.DB, id registry.ID, host string) (v4, v6 netip.Addr) {
	t.Helper()
	v4, v6, err := db.VirtualAddresses(t.Context(), id, host)
	if err != nil {
		t.Fatal(err)
	}
	return v4, v6
}

func TestVirtual_PairsStandForHosts(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	one, two := approved(t, db), approved(t, db)
	if got := fmt.Sprint(db.Resolvers()); got != "[10.55.0.1 fd55:c1a5::1]" {
		t.Errorf("resolvers %s", got)
	}
	a4, a6 := virtual(t, db, one.ID, "api.example.com")
	b4, b6 := virtual(t, db, one.ID, "www.example.com")
	c4, c6 := virtual(t, db, two.ID, "other.example.com")
	if a4 == b4 || a6 == b6 {
		t.Error("two hosts share an address")
	}
	if a4 != c4 || a6 != c6 {
		t.Error("registrations do not have tables of their own")
	}
	for _, a := range []netip.Addr{a4, a6, b4, b6} {
		if !db.IsVirtual(a) {
			t.Errorf("%v is not virtual", a)
		}
		if _, ok := db.Snapshot().ByAddr(a); ok {
			t.Errorf("%v belongs to a registration", a)
		}
	}
	check := func() {
		t.Helper()
		if again4, again6 := virtual(t, db, one.ID, "API.example.com."); again4 != a4 || again6 != a6 {
			t.Error("the same host got another pair")
		}
		for a, want := range map[netip.Addr]string{a4: "api.example.com", a6: "api.example.com", b4: "www.example.com", b6: "www.example.com"} {
			if host, ok := db.VirtualHost(one.ID, a); !ok || host != want {
				t.Errorf("%v leads to %q, want %q", a, host, want)
			}
		}
		if host, ok := db.VirtualHost(two.ID, a6); !ok || host != "other.example.com" {
			t.Errorf("for the other registration %v leads to %q", a6, host)
		}
	}
	check()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, nil)
	check()
	for _, a := range []string{"10.55.192.0", "10.55.192.200", "10.55.255.255", "10.55.0.1", "1.1.1.1", "fd55:c1a5:0:c000::", "fd55:c1a5:0:c000::200", "fd55:c1a5:0:c001::1", "::ffff:10.55.192.1"} {
		if host, ok := db.VirtualHost(one.ID, netip.MustParseAddr(a)); ok {
			t.Errorf("%s leads to %q", a, host)
		}
	}
	if _, ok := db.VirtualHost("r_unknown", a4); ok {
		t.Error("an unknown registration has hosts")
	}
	if _, ok := db.VirtualHost(one.ID, netip.Addr{}); ok {
		t.Error("the zero address leads somewhere")
	}
}

func TestI07_OnlyApprovedRegistrationsGetVirtualAddresses(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	waiting, blocked := enrol(t, db, "waiting", newSource()), approved(t, db)
	if err := db.Block(t.Context(), blocked.ID, ""); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[registry.ID]error{waiting.ID: registry.ErrState, blocked.ID: registry.ErrState, "r_unknown": registry.ErrNotFound} {
		if _, _, err := db.VirtualAddresses(t.Context(), id, "api.example.com"); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	ok := approved(t, db)
	for _, host := range []string{"", ".", "a\x00b", strings.Repeat("a", 254), "exämple.com"} {
		if _, _, err := db.VirtualAddresses(t.Context(), ok.ID, host); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%q: %v", host, err)
		}
	}
}

func TestVirtual_ConcurrentQueriesForOneHostAgree(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	r := approved(t, db)
	var mu sync.Mutex
	got := map[string]map[netip.Addr]bool{}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			host := fmt.Sprintf("h%d.example.com", i%4)
			v4, _, err := db.VirtualAddresses(t.Context(), r.ID, host)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if got[host] == nil {
				got[host] = map[netip.Addr]bool{}
			}
			got[host][v4] = true
		})
	}
	wg.Wait()
	all := map[netip.Addr]bool{}
	for host, addrs := range got {
		if len(addrs) != 1 {
			t.Errorf("%s has %v", host, addrs)
		}
		for a := range addrs {
			all[a] = true
		}
	}
	if len(all) != 4 {
		t.Errorf("%d addresses for 4 hosts", len(all))
	}
}

// tinyTable is a registry whose virtual range is 10.0.0.48/28: 15 addresses.
func tinyTable(t *testing.T, dir string, c *clock) *registry.DB {
	t.Helper()
	db, err := registry.Open(t.Context(), tiny(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func TestVirtual_AddressRestsADayAfterItsLastUse(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db := tinyTable(t, dir, c)
	r := approved(t, db)
	host := func(n int) string { return fmt.Sprintf("h%d.example.com", n) }
	addrs := make([]netip.Addr, 15)
	for n := range addrs {
		addrs[n], _ = virtual(t, db, r.ID, host(n))
	}
	full := func(when string) {
		t.Helper()
		if _, _, err := db.VirtualAddresses(t.Context(), r.ID, "new.example.com"); !errors.Is(err, registry.ErrTableFull) {
			t.Fatalf("%s: %v", when, err)
		}
	}
	full("at once")
	virtual(t, db, r.ID, host(0)) // those there are still answer

	// All but the fourth are used again later: by a query, or by a flow.
	c.pass(12 * time.Hour)
	for n, a := range addrs {
		switch {
		case n == 3:
		case n%2 == 0:
			virtual(t, db, r.ID, host(n))
		default:
			if _, ok := db.VirtualHost(r.ID, a); !ok {
				t.Fatalf("%v leads nowhere", a)
			}
		}
	}
	c.pass(12*time.Hour - time.Minute)
	full("short of a day")

	// A restart forgets neither the table nor its uses.
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = tinyTable(t, dir, c)
	defer func() { db.Close() }()
	full("after restart")
	c.pass(time.Hour)
	a, _ := virtual(t, db, r.ID, "new.example.com")
	if a != addrs[3] {
		t.Errorf("the new host got %v, want %v, which nobody used for a day", a, addrs[3])
	}
	if got, ok := db.VirtualHost(r.ID, a); !ok || got != "new.example.com" {
		t.Errorf("%v leads to %q", a, got)
	}
	if _, _, err := db.VirtualAddresses(t.Context(), r.ID, host(3)); !errors.Is(err, registry.ErrTableFull) {
		t.Errorf("the host that lost its address: %v", err)
	}
}

// What kill -9 keeps from being stored must not shorten the day: uses are
// stored in time, and the rest covers the remainder.
func TestVirtual_UsesAreStoredWhileRunning(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db := tinyTable(t, dir, c)
	defer func() { db.Close() }()
	r := approved(t, db)
	a, _ := virtual(t, db, r.ID, "api.example.com")
	lastUse := func() int64 { return queryInt(t, dir, "SELECT last_use FROM virtual_addresses") }
	first := lastUse()

	c.pass(9 * time.Minute)
	db.VirtualHost(r.ID, a)
	c.pass(2 * time.Minute)
	db.VirtualHost(r.ID, a)
	eventually(t, "a use 11 minutes after the first is stored", func() bool { return lastUse() == c.Now().UnixMicro() })
	if lastUse()-first != (11 * time.Minute).Microseconds() {
		t.Errorf("stored %v later", time.Duration(lastUse()-first)*time.Microsecond)
	}
}

// queryInt reads one number beside the open registry.
func queryInt(t testing.TB, dir, query string) (n int64) {
	t.Helper()
	db := reader(t, filepath.Join(dir, "clawpatrol.db"))
	defer db.Close()
	if err := db.QueryRow(query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// 4096 is what DNS promises; the address plan must give that many.
func TestVirtual_TableHolds4096(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	r := approved(t, db)
	seen := map[netip.Addr]bool{}
	for n := range 4096 {
		v4, v6 := virtual(t, db, r.ID, fmt.Sprintf("h%d.example.com", n))
		if seen[v4] || seen[v6] || !db.IsVirtual(v4) || !db.IsVirtual(v6) {
			t.Fatalf("host %d: %v %v", n, v4, v6)
		}
		seen[v4], seen[v6] = true, true
	}
	if _, _, err := db.VirtualAddresses(t.Context(), r.ID, "one.too.many"); !errors.Is(err, registry.ErrTableFull) {
		t.Fatalf("got %v", err)
	}
}
