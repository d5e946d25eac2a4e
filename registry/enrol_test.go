package registry_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

func TestEnrol_NewRegistration(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db := openIn(t, dir, c)
	source := netip.MustParseAddr("192.0.2.7")
	r := enrol(t, db, "builder", source)

	if !regexp.MustCompile(`^r_[a-z2-7]{26}$`).MatchString(string(r.ID)) {
		t.Errorf("id %q", r.ID)
	}
	if !regexp.MustCompile(`^[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}$`).MatchString(r.UserCode) {
		t.Errorf("user code %q", r.UserCode)
	}
	if r.State != registry.Pending || r.Name != "builder" || len(r.Profiles) != 0 || r.PinSealed || r.Transport != "wireguard" {
		t.Errorf("%+v", r)
	}
	if r.Pin != (registry.Pin{IPv4: source}) || r.Source != source {
		t.Errorf("pin %v, source %v", r.Pin, r.Source)
	}
	if r.CreatedAt != c.Now() || r.ExpiresAt != c.Now().Add(15*time.Minute) {
		t.Errorf("created %v, expires %v", r.CreatedAt, r.ExpiresAt)
	}
	// The first range is the gateway's.
	if r.Prefix4 != netip.MustParsePrefix("10.55.0.16/28") || r.Prefix6 != netip.MustParsePrefix("fd55:c1a5:0:1::/64") {
		t.Errorf("ranges %v %v", r.Prefix4, r.Prefix6)
	}
	if got := get(t, db, r.ID); got != r {
		t.Errorf("the snapshot has %+v", got)
	}
	if !db.MACKey(r.ID).Equal(text("mac key of builder")) || !db.PresharedKey(r.ID).Equal(text("preshared key of builder")) {
		t.Error("the keys are not the ones enrolled")
	}
}

func TestEnrol_SurvivesRestart(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	r := enrol(t, db, "builder", netip.MustParseAddr("2001:db8::7"))
	ctx := t.Context()
	if _, err := db.Claim(ctx, r.ID, r.Source); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Claim(ctx, r.ID, netip.MustParseAddr("192.0.2.7")); err != nil {
		t.Fatal(err)
	}
	if err := db.RecordPeers(ctx, map[registry.ID]registry.PeerState{r.ID: {Endpoint: netip.MustParseAddrPort("192.0.2.7:51000"), Handshake: c.Now()}}); err != nil {
		t.Fatal(err)
	}
	if err := db.Approve(ctx, r.ID, []string{"ci", "docs"}, ""); err != nil {
		t.Fatal(err)
	}
	if err := db.Block(ctx, r.ID, "moved house"); err != nil {
		t.Fatal(err)
	}
	before := fmt.Sprintf("%+v", *get(t, db, r.ID))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, c)
	if after := fmt.Sprintf("%+v", *get(t, db, r.ID)); after != before {
		t.Errorf("before %s\nafter  %s", before, after)
	}
	if !db.MACKey(r.ID).Equal(text("mac key of builder")) || !db.PresharedKey(r.ID).Equal(text("preshared key of builder")) {
		t.Error("the keys are not the ones enrolled")
	}
}

func TestEnrol_RefusesWhatIsIncomplete(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	for name, spoil := range map[string]func(*registry.NewRegistration){
		"source":        func(n *registry.NewRegistration) { n.Source = netip.Addr{} },
		"public key":    func(n *registry.NewRegistration) { n.PublicKey = [32]byte{} },
		"MAC key":       func(n *registry.NewRegistration) { n.MACKey = secret.Secret{} },
		"preshared key": func(n *registry.NewRegistration) { n.PresharedKey = text("") },
	} {
		n := starting("builder", newSource())
		spoil(&n)
		if _, err := db.Enrol(t.Context(), n); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestEnrol_PublicKeysAreUnique(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	n := starting("builder", newSource())
	r, err := db.Enrol(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Enrol(t.Context(), n); !errors.Is(err, registry.ErrDuplicateKey) {
		t.Fatalf("a second time: %v", err)
	}
	if err := db.Revoke(t.Context(), r.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Enrol(t.Context(), n); !errors.Is(err, registry.ErrDuplicateKey) {
		t.Fatalf("with a revoked key: %v", err)
	}
}

func TestEnrol_LimitPerSource(t *testing.T) {
	for name, sources := range map[string][4]string{
		"IPv4 address": {"192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"},
		"IPv6 /64":     {"2001:db8::1", "2001:db8::2", "2001:db8::ffff:1", "2001:db8:0:0:8000::"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			db := openIn(t, stateDir(t), c)
			for i, s := range sources[:3] {
				enrol(t, db, fmt.Sprint("host", i), netip.MustParseAddr(s))
			}
			if _, err := db.Enrol(t.Context(), starting("host3", netip.MustParseAddr(sources[3]))); !errors.Is(err, registry.ErrTooManyPending) {
				t.Fatalf("the fourth: %v", err)
			}
			enrol(t, db, "elsewhere", newSource())
			c.pass(15 * time.Minute)
			enrol(t, db, "host3", netip.MustParseAddr(sources[3]))
		})
	}
}

// Blocking its own pending registrations must not let anybody start more.
func TestEnrol_BlockedBeforeApprovalCountsAndExpires(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	source := newSource()
	var last registry.ID
	for i := range 3 {
		last = enrol(t, db, fmt.Sprint("host", i), source).ID
		if err := db.Block(t.Context(), last, "pin violated"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Enrol(t.Context(), starting("host3", source)); !errors.Is(err, registry.ErrTooManyPending) {
		t.Fatalf("the fourth: %v", err)
	}
	c.pass(15 * time.Minute)
	eventually(t, "the blocked ones are gone", func() bool { return len(db.Snapshot().All()) == 0 })
	if !db.MACKey(last).IsZero() {
		t.Error("an expired registration has a key")
	}
}

func TestEnrol_LimitInAll(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	for i := range 100 {
		enrol(t, db, fmt.Sprint("host", i), newSource())
	}
	if _, err := db.Enrol(t.Context(), starting("one more", newSource())); !errors.Is(err, registry.ErrTooManyPending) {
		t.Fatalf("got %v", err)
	}
	codes := map[string]bool{}
	for _, r := range db.Snapshot().All() {
		codes[r.UserCode] = true
		if err := db.Approve(t.Context(), r.ID, []string{"ci"}, r.UserCode); err != nil {
			t.Fatal(err)
		}
	}
	if len(codes) != 100 {
		t.Errorf("%d different user codes of 100", len(codes))
	}
	enrol(t, db, "one more", newSource())
}

func TestPending_ExpiresAndIsPublished(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db := openIn(t, dir, c)
	r := enrol(t, db, "builder", newSource())
	kept := approved(t, db)
	changed, stop := db.Changed()
	defer stop()

	c.pass(15*time.Minute - time.Second)
	if db.MACKey(r.ID).IsZero() {
		t.Error("expired early")
	}
	c.pass(time.Second)
	if !db.MACKey(r.ID).IsZero() || !db.PresharedKey(r.ID).IsZero() {
		t.Error("an expired registration has keys")
	}
	<-changed
	if _, ok := db.Snapshot().ByID(r.ID); ok {
		t.Error("still in the snapshot")
	}
	if _, ok := db.Snapshot().ByAddr(r.Prefix4.Addr().Next()); ok {
		t.Error("its addresses are still found")
	}
	get(t, db, kept.ID)
	for what, err := range map[string]error{
		"Approve": db.Approve(t.Context(), r.ID, []string{"ci"}, r.UserCode),
		"Block":   db.Block(t.Context(), r.ID, "late"),
		"Claim":   errOf(db.Claim(t.Context(), r.ID, r.Source)),
	} {
		if !errors.Is(err, registry.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

// tiny has two ranges for registrations in each subnet.
func tiny(dir string, c *clock) registry.Config {
	return registry.Config{Dir: dir, Now: c.Now, Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/26"), netip.MustParsePrefix("fd00::/62")}}
}

func TestRanges_GatewayAndVirtualOnesAreNotGivenAway(t *testing.T) {
	db, err := registry.Open(t.Context(), tiny(stateDir(t), newClock()))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	one, two := approved(t, db), approved(t, db)
	if one.Prefix4 != netip.MustParsePrefix("10.0.0.16/28") || two.Prefix4 != netip.MustParsePrefix("10.0.0.32/28") ||
		one.Prefix6 != netip.MustParsePrefix("fd00:0:0:1::/64") || two.Prefix6 != netip.MustParsePrefix("fd00:0:0:2::/64") {
		t.Errorf("%v %v, %v %v", one.Prefix4, one.Prefix6, two.Prefix4, two.Prefix6)
	}
	if _, err := db.Enrol(t.Context(), starting("third", newSource())); !errors.Is(err, registry.ErrSubnetFull) {
		t.Errorf("the third: %v", err)
	}
}

func TestRanges_RestADayAfterRevocation(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), tiny(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	old := approved(t, db)
	approved(t, db)
	if err := db.Revoke(t.Context(), old.ID); err != nil {
		t.Fatal(err)
	}
	c.pass(24*time.Hour - time.Second)
	for _, when := range []string{"before", "after"} {
		if _, err := db.Enrol(t.Context(), starting("too early", newSource())); !errors.Is(err, registry.ErrSubnetFull) {
			t.Errorf("within a day, %s a restart: %v", when, err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if db, err = registry.Open(t.Context(), tiny(dir, c)); err != nil {
			t.Fatal(err)
		}
	}
	defer db.Close()
	c.pass(time.Second)
	r := enrol(t, db, "next day", newSource())
	if got, ok := db.Snapshot().ByAddr(old.Prefix6.Addr()); !ok || got.ID != r.ID {
		t.Errorf("the range of %v leads to %+v", old.Prefix6, got)
	}
}

func TestRanges_RestAfterExpiry(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	first := enrol(t, db, "first", newSource())
	c.pass(15 * time.Minute)
	if second := enrol(t, db, "second", newSource()); second.Prefix4 == first.Prefix4 {
		t.Error("an expired registration's range was given away at once")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, c)
	if third := enrol(t, db, "third", newSource()); third.Prefix4 == first.Prefix4 {
		t.Error("a restart made the registry forget")
	}
	c.pass(24 * time.Hour)
	if fourth := enrol(t, db, "fourth", newSource()); fourth.Prefix4 != first.Prefix4 {
		t.Errorf("after a day: %v", fourth.Prefix4)
	}
}

// An attacker with many addresses who lets registrations expire must not shut
// out everybody else for a day.
func TestRanges_ExpiredOnesCannotUseUpTheSubnet(t *testing.T) {
	c := newClock()
	db, err := registry.Open(t.Context(), tiny(stateDir(t), c))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	a := enrol(t, db, "a", newSource())
	c.pass(time.Minute)
	enrol(t, db, "b", newSource())
	c.pass(15 * time.Minute)
	if r := enrol(t, db, "honest", newSource()); r.Prefix4 != a.Prefix4 {
		t.Errorf("got %v, want the one that rested longest", r.Prefix4)
	}
}

func TestClaim(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	other4 := netip.MustParseAddr("192.0.2.99")
	handshake := func(t *testing.T, db *registry.DB, r *registry.Registration, c *clock) {
		if err := db.RecordPeers(t.Context(), map[registry.ID]registry.PeerState{r.ID: {Handshake: c.Now()}}); err != nil {
			t.Fatal(err)
		}
	}
	approve := func(t *testing.T, db *registry.DB, r *registry.Registration, _ *clock) {
		if err := db.Approve(t.Context(), r.ID, []string{"ci"}, ""); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		before func(t *testing.T, db *registry.DB, r *registry.Registration, c *clock)
		claims []netip.Addr
		want   error // of the last claim; the others must succeed
		pin    registry.Pin
	}{
		"one family":             {nil, []netip.Addr{v4}, nil, registry.Pin{IPv4: v4}},
		"both families":          {nil, []netip.Addr{v4, v6}, nil, registry.Pin{IPv4: v4, IPv6: v6}},
		"first from elsewhere":   {nil, []netip.Addr{other4}, registry.ErrState, registry.Pin{IPv4: v4}},
		"first by other family":  {nil, []netip.Addr{v6}, registry.ErrState, registry.Pin{IPv4: v4}},
		"a family twice":         {nil, []netip.Addr{v4, other4}, registry.ErrPinSealed, registry.Pin{IPv4: v4}},
		"second family twice":    {nil, []netip.Addr{v4, v6, v6}, registry.ErrPinSealed, registry.Pin{IPv4: v4, IPv6: v6}},
		"at 60 s":                {func(_ *testing.T, _ *registry.DB, _ *registry.Registration, c *clock) { c.pass(60 * time.Second) }, []netip.Addr{v4}, nil, registry.Pin{IPv4: v4}},
		"after 60 s":             {func(_ *testing.T, _ *registry.DB, _ *registry.Registration, c *clock) { c.pass(61 * time.Second) }, []netip.Addr{v4}, registry.ErrPinSealed, registry.Pin{IPv4: v4}},
		"after first handshake":  {handshake, []netip.Addr{v4}, registry.ErrPinSealed, registry.Pin{IPv4: v4}},
		"an IPv4-mapped address": {nil, []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.1")}, nil, registry.Pin{IPv4: v4}},
		"no address":             {nil, []netip.Addr{{}}, registry.ErrInvalid, registry.Pin{IPv4: v4}},
		// The first claim that an approval overtook adds nothing; others would.
		"after approval":                {approve, []netip.Addr{v4}, nil, registry.Pin{IPv4: v4}},
		"after approval, twice":         {approve, []netip.Addr{v4, v4}, registry.ErrPinSealed, registry.Pin{IPv4: v4}},
		"after approval, other family":  {approve, []netip.Addr{v4, v6}, registry.ErrPinSealed, registry.Pin{IPv4: v4}},
		"after approval, elsewhere":     {approve, []netip.Addr{other4}, registry.ErrPinSealed, registry.Pin{IPv4: v4}},
		"after approval, first by IPv6": {approve, []netip.Addr{v6}, registry.ErrPinSealed, registry.Pin{IPv4: v4}},
		"after approval and 60 s": {func(t *testing.T, db *registry.DB, r *registry.Registration, c *clock) {
			approve(t, db, r, c)
			c.pass(61 * time.Second)
		}, []netip.Addr{v4}, registry.ErrPinSealed, registry.Pin{IPv4: v4}},
		"when blocked": {func(t *testing.T, db *registry.DB, r *registry.Registration, _ *clock) {
			if err := db.Block(t.Context(), r.ID, ""); err != nil {
				t.Fatal(err)
			}
		}, []netip.Addr{v4}, registry.ErrState, registry.Pin{IPv4: v4}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			db := openIn(t, stateDir(t), c)
			r := enrol(t, db, "builder", v4)
			if test.before != nil {
				test.before(t, db, r, c)
			}
			for i, a := range test.claims {
				got, err := db.Claim(t.Context(), r.ID, a)
				switch {
				case i < len(test.claims)-1 || test.want == nil:
					if err != nil {
						t.Fatalf("claim from %v: %v", a, err)
					}
					if got.Pin != get(t, db, r.ID).Pin {
						t.Error("what was returned was not published")
					}
				case !errors.Is(err, test.want):
					t.Fatalf("claim from %v: got %v, want %v", a, err, test.want)
				}
			}
			if pin := get(t, db, r.ID).Pin; pin != test.pin {
				t.Errorf("pin %v, want %v", pin, test.pin)
			}
		})
	}
}

func TestRecordPeers_FirstHandshakeSealsThePin(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	r := enrol(t, db, "builder", newSource())
	record := func(p registry.PeerState) *registry.Registration {
		t.Helper()
		if err := db.RecordPeers(t.Context(), map[registry.ID]registry.PeerState{r.ID: p, "r_unknown": p}); err != nil {
			t.Fatal(err)
		}
		return get(t, db, r.ID)
	}
	endpoint := netip.MustParseAddrPort("192.0.2.1:4000")
	if got := record(registry.PeerState{Endpoint: endpoint}); got.Endpoint != endpoint || got.PinSealed {
		t.Errorf("an endpoint alone: %+v", got)
	}
	first := c.Now()
	if got := record(registry.PeerState{Handshake: first}); got.LastHandshake != first || !got.PinSealed || got.Endpoint != endpoint {
		t.Errorf("the first handshake: %+v", got)
	}
	before := db.Snapshot()
	record(registry.PeerState{Endpoint: endpoint, Handshake: first})
	record(registry.PeerState{Endpoint: endpoint, Handshake: first.Add(-time.Minute)})
	if db.Snapshot() != before {
		t.Error("nothing changed, and yet something was published")
	}
}

func TestNames(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	for given, want := range map[string]string{
		"builder":                    "builder",
		"  two   words\t\n":          "two words",
		"":                           "unnamed",
		" \x00\u200b\u3164":          "unnamed",
		"evil\u202egnp.exe":          "evilgnp.exe",
		"a\x1b[31mred\x07":           "a[31mred",
		"zero\u200dwidth\ufeff":      "zerowidth",
		"bad\xff\xfeutf8":            "badutf8",
		"<script>":                   "<script>", // whoever shows it escapes it
		"Größe":                      "Größe",
		strings.Repeat("é", 100):     strings.Repeat("é", 64),
		strings.Repeat("a b ", 1000): strings.TrimSpace(strings.Repeat("a b ", 16)),
	} {
		r := enrol(t, db, given, newSource())
		if r.Name != want {
			t.Errorf("%q became %q, want %q", given, r.Name, want)
		}
		if n := utf8.RuneCountInString(r.Name); n > 64 {
			t.Errorf("%q has %d runes", r.Name, n)
		}
		if err := db.Revoke(t.Context(), r.ID); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUserCodes_AreRandom(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	seen := map[rune]int{}
	for range 60 {
		for _, letter := range strings.ReplaceAll(enrol(t, db, rand.Text(), newSource()).UserCode, "-", "") {
			seen[letter]++
		}
	}
	if len(seen) != 20 { // 480 letters: one is missing with a chance of 4e-10
		t.Errorf("only %d letters are used", len(seen))
	}
}
