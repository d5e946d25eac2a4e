package registry_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

func slot(name, value string) map[string]secret.Secret {
	return map[string]secret.Secret{name: text(value)}
}

// released is what a released credential holds, readable.
func released(t *testing.T, db *registry.DB, id registry.ID, ref string) (map[string]string, uint64) {
	t.Helper()
	row := actionRow(id)
	row.Credential = ref
	r, err := db.Release(t.Context(), row)
	if err != nil {
		t.Fatal(err)
	}
	if r.Action == 0 {
		t.Error("released without a log row")
	}
	got := map[string]string{}
	for name, s := range r.Slots {
		got[name] = string(s.Reveal())
	}
	return got, r.Version
}

func TestCredential_VersionNeverGoesBack(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	r := approved(t, db)
	const ref = "basic.registry"
	var version uint64
	step := func(what string, err error, want map[string]string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got, v := released(t, db, r.ID, ref)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: released %v, want %v", what, got, want)
		}
		if v <= version {
			t.Errorf("%s: version %d after %d", what, v, version)
		}
		if version = v; db.CredentialVersion(ref) != v {
			t.Errorf("%s: CredentialVersion disagrees", what)
		}
	}
	if db.CredentialVersion(ref) != 0 {
		t.Error("a version before anything was stored")
	}
	if err := db.ClearCredential(ctx, ref); err != nil || db.CredentialVersion(ref) != 0 {
		t.Errorf("clearing nothing: %v", err)
	}
	step("set", db.SetCredential(ctx, ref, slot("secret", "one")), map[string]string{"secret": "one"})
	step("set another slot", db.SetCredential(ctx, ref, slot("passphrase", "two")), map[string]string{"secret": "one", "passphrase": "two"})
	step("replace", db.SetCredential(ctx, ref, slot("secret", "three")), map[string]string{"secret": "three", "passphrase": "two"})
	step("clear", db.ClearCredential(ctx, ref), nil)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = registry.Open(ctx, config(dir, nil)); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	step("set after restart", db.SetCredential(ctx, ref, slot("secret", "four")), map[string]string{"secret": "four"})
}

func TestCredentials_ListsWithoutValues(t *testing.T) {
	c := newClock()
	db := openIn(t, stateDir(t), c)
	setCredential(t, db, "bearer.b", "secret", "sesame")
	setCredential(t, db, "bearer.a", "secret", "sesame")
	list, err := db.Credentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Ref != "bearer.a" || list[1].Ref != "bearer.b" || list[0].Slots["secret"] != c.Now() || list[0].Version != 1 {
		t.Errorf("%+v", list)
	}
	list[0].Slots["secret"] = c.Now().Add(1)
	if again, _ := db.Credentials(t.Context()); again[0].Slots["secret"] != c.Now() {
		t.Error("callers share the slots")
	}
	r := approved(t, db)
	rel, err := db.Release(t.Context(), registry.Action{Registration: r.ID, Credential: "bearer.a", Verdict: "allow"})
	if err != nil {
		t.Fatal(err)
	}
	delete(rel.Slots, "secret")
	if got, _ := released(t, db, r.ID, "bearer.a"); got["secret"] != "sesame" {
		t.Error("one caller of Release takes a secret from the next")
	}
}

func TestCredential_Bounds(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	many := map[string]secret.Secret{}
	for i := range 17 {
		many[fmt.Sprint("slot", i)] = text("x")
	}
	for name, test := range map[string]struct {
		ref   string
		slots map[string]secret.Secret
	}{
		"no name":     {"", slot("secret", "x")},
		"long name":   {strings.Repeat("a", 257), slot("secret", "x")},
		"odd name":    {"a\x00b", slot("secret", "x")},
		"no slots":    {"bearer.x", nil},
		"no slot":     {"bearer.x", slot("", "x")},
		"zero secret": {"bearer.x", map[string]secret.Secret{"secret": {}}},
		"empty":       {"bearer.x", slot("secret", "")},
		"too long":    {"bearer.x", slot("secret", strings.Repeat("a", 64<<10+1))},
		"many slots":  {"bearer.x", many},
	} {
		if err := db.SetCredential(t.Context(), test.ref, test.slots); !errors.Is(err, registry.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if list, _ := db.Credentials(t.Context()); len(list) != 0 {
		t.Errorf("something was stored: %v", list)
	}
	setCredential(t, db, "bearer.x", "secret", strings.Repeat("a", 64<<10))
}

func TestI21_MissingSecretIsReportedAsMissing(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	r := approved(t, db)
	if got, version := released(t, db, r.ID, "bearer.never_set"); len(got) != 0 || version != 0 {
		t.Errorf("never set: %v, version %d", got, version)
	}
	setCredential(t, db, "bearer.cleared", "secret", "sesame")
	if err := db.ClearCredential(t.Context(), "bearer.cleared"); err != nil {
		t.Fatal(err)
	}
	if got, version := released(t, db, r.ID, "bearer.cleared"); len(got) != 0 || version != 2 {
		t.Errorf("cleared: %v, version %d", got, version)
	}
	if !db.NamedSecret("never_set").IsZero() {
		t.Error("a named secret from nowhere")
	}
}

func TestRelease_RefusesWithoutRightOrRow(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	setCredential(t, db, "bearer.github", "secret", "sesame")
	waiting, ok, blocked, revoked := enrol(t, db, "waiting", newSource()), approved(t, db), approved(t, db), approved(t, db)
	if err := errors.Join(db.Block(t.Context(), blocked.ID, ""), db.Revoke(t.Context(), revoked.ID)); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		spoil func(*registry.Action)
		want  error
	}{
		"denied":        {func(a *registry.Action) { a.Verdict = "deny" }, registry.ErrState},
		"undecided":     {func(a *registry.Action) { a.Verdict = "" }, registry.ErrState},
		"no credential": {func(a *registry.Action) { a.Credential = "" }, registry.ErrInvalid},
		"nobody":        {func(a *registry.Action) { a.Registration = "" }, registry.ErrState},
		"unknown":       {func(a *registry.Action) { a.Registration = "r_unknown" }, registry.ErrState},
		"pending":       {func(a *registry.Action) { a.Registration = waiting.ID }, registry.ErrState},
		"blocked":       {func(a *registry.Action) { a.Registration = blocked.ID }, registry.ErrState},
		"revoked":       {func(a *registry.Action) { a.Registration = revoked.ID }, registry.ErrState},
	} {
		row := actionRow(ok.ID)
		test.spoil(&row)
		if got, err := db.Release(t.Context(), row); !errors.Is(err, test.want) || got.Slots != nil {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := db.Release(ctx, actionRow(ok.ID)); !errors.Is(err, context.Canceled) || got.Slots != nil {
		t.Errorf("with an ended context: %v, %v", got, err)
	}
	if err := db.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rows, _ := db.Actions(t.Context(), registry.ActionFilter{}); len(rows) != 0 {
		t.Errorf("refused releases left rows: %v", rows)
	}
}

func TestI02_NoSecretInFilesLogsOrErrors(t *testing.T) {
	dir := stateDir(t)
	var log bytes.Buffer
	cfg := config(dir, nil)
	cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db, err := registry.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	var secrets []string
	fresh := func() string {
		s := "sesame-" + rand.Text()
		secrets = append(secrets, s)
		return s
	}
	n := starting("builder", newSource())
	n.MACKey, n.PresharedKey = text(fresh()), text(fresh())
	r, err := db.Enrol(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	approveAll(t, db, r)
	hash := fresh()
	for _, err := range []error{
		db.SetCredential(ctx, "bearer.github", slot("secret", fresh())),
		db.SetCredential(ctx, "bearer.github", slot("secret", fresh())),
		db.SetCredential(ctx, "ssh_key.deploy", map[string]secret.Secret{"private_key": text(fresh()), "passphrase": text(fresh())}),
		db.SetSecret(ctx, "TS_AUTHKEY", text(fresh())),
		db.SetRootPasswordHash(ctx, []byte(hash), false),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := db.WireGuardKey(ctx)
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(secrets, string(key.Reveal()))
	rel, err := db.Release(ctx, actionRow(r.ID))
	if err != nil {
		t.Fatal(err)
	}
	printed := fmt.Sprintf("%v %+v %#v", rel, rel, rel)
	long := fresh() + strings.Repeat("x", 64<<10)
	for _, err := range []error{
		db.SetCredential(ctx, "", slot("secret", fresh())),
		db.SetCredential(ctx, "bearer.github", slot("secret", long)),
		db.SetSecret(ctx, "", text(fresh())),
		db.SetRootPasswordHash(ctx, []byte(fresh()), true),
	} {
		if err == nil {
			t.Fatal("not refused")
		}
		printed += err.Error()
	}
	if err := db.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	search := func(when string) {
		t.Helper()
		haystacks := map[string][]byte{"the log": log.Bytes(), "what was printed": []byte(printed)}
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if haystacks[f.Name()], err = os.ReadFile(filepath.Join(dir, f.Name())); err != nil {
				t.Fatal(err)
			}
		}
		for where, content := range haystacks {
			for _, s := range secrets {
				for _, form := range []string{s, hex.EncodeToString([]byte(s)), base64.StdEncoding.EncodeToString([]byte(s)), strings.ToLower(s)} {
					if bytes.Contains(content, []byte(form)) {
						t.Errorf("%s: %s holds a secret", when, where)
					}
				}
			}
		}
		if !bytes.Contains(append(haystacks["clawpatrol.db"], haystacks["clawpatrol.db-wal"]...), []byte("bearer.github")) {
			t.Error("the search would find nothing at all")
		}
	}
	search("while open")
	if err := db.ClearCredential(ctx, "bearer.github"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	search("closed")
}

// A thief of the database file, or someone with write access to it, moves
// sealed values about: to a credential of their own profile, to another slot, to
// another kind, or flips a bit. None of them opens.
func TestI03_SealedValueOpensInItsPlaceOnly(t *testing.T) {
	const prepare = "UPDATE credentials SET version = version" // nothing
	for name, test := range map[string]struct {
		statement string
		damaged   string // the ref that must fail
	}{
		"untouched":          {prepare, ""},
		"another credential": {"UPDATE credential_slots SET sealed = (SELECT sealed FROM credential_slots WHERE ref = 'bearer.prod' AND slot = 'secret') WHERE ref = 'bearer.mine' AND slot = 'secret'", "bearer.mine"},
		"another slot":       {"UPDATE credential_slots SET sealed = (SELECT sealed FROM credential_slots WHERE ref = 'bearer.prod' AND slot = 'secret') WHERE ref = 'bearer.prod' AND slot = 'other'", "bearer.prod"},
		"renamed slot":       {"UPDATE credential_slots SET slot = 'third' WHERE ref = 'bearer.prod' AND slot = 'secret'", "bearer.prod"},
		"another kind":       {"UPDATE credential_slots SET sealed = (SELECT sealed FROM named_secrets) WHERE ref = 'bearer.mine'", "bearer.mine"},
		"a setting":          {"UPDATE credential_slots SET sealed = (SELECT sealed FROM sealed_settings LIMIT 1) WHERE ref = 'bearer.mine'", "bearer.mine"},
		"other last byte":    {"UPDATE credential_slots SET sealed = CAST(substr(sealed, 1, length(sealed) - 1) || CASE substr(sealed, -1) WHEN x'00' THEN x'01' ELSE x'00' END AS BLOB) WHERE ref = 'bearer.mine'", "bearer.mine"},
		"cut short":          {"UPDATE credential_slots SET sealed = substr(sealed, 1, 23) WHERE ref = 'bearer.mine'", "bearer.mine"},
		"empty":              {"UPDATE credential_slots SET sealed = x'' WHERE ref = 'bearer.mine'", "bearer.mine"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := stateDir(t)
			db, err := registry.Open(t.Context(), config(dir, nil))
			if err != nil {
				t.Fatal(err)
			}
			r := approved(t, db)
			for ref, slots := range map[string]map[string]secret.Secret{
				"bearer.prod": {"secret": text("sesame"), "other": text("seed")},
				"bearer.mine": {"secret": text("poppy")},
			} {
				if err := db.SetCredential(t.Context(), ref, slots); err != nil {
					t.Fatal(err)
				}
			}
			if err := db.SetSecret(t.Context(), "TS_AUTHKEY", text("sesame")); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			onDatabase(t, dir, "PRAGMA foreign_keys = 0", test.statement)

			db = openIn(t, dir, nil)
			for _, ref := range []string{"bearer.prod", "bearer.mine"} {
				row := actionRow(r.ID)
				row.Credential = ref
				got, err := db.Release(t.Context(), row)
				if damaged := ref == test.damaged; damaged != (err != nil) || damaged && len(got.Slots) != 0 {
					t.Errorf("%s: %d slots, %v", ref, len(got.Slots), err)
				}
			}
			// What is damaged can be set anew, once all of it is.
			list, err := db.Credentials(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range list {
				for name := range c.Slots {
					setCredential(t, db, c.Ref, name, "new")
				}
				if got, _ := released(t, db, r.ID, c.Ref); len(got) != len(c.Slots) || got["secret"]+got["third"] != "new" {
					t.Errorf("%s set anew: %v", c.Ref, got)
				}
			}
		})
	}
}

func TestI03_MovedRegistrationKeyStopsTheStart(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	approved(t, db)
	approved(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	onDatabase(t, dir, "UPDATE registrations SET mac_sealed = (SELECT mac_sealed FROM registrations WHERE seq = 1)")
	refused(t, config(dir, nil), registry.ErrDamaged)
}

func TestNamedSecret(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"one", "two"} {
		if err := db.SetSecret(t.Context(), "TS_AUTHKEY", text(value)); err != nil {
			t.Fatal(err)
		}
		if !db.NamedSecret("TS_AUTHKEY").Equal(text(value)) {
			t.Errorf("not %q", value)
		}
	}
	if err := db.SetSecret(t.Context(), "TS_AUTHKEY", secret.Secret{}); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("a zero secret: %v", err)
	}
	key, err := db.WireGuardKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, nil)
	if !db.NamedSecret("TS_AUTHKEY").Equal(text("two")) {
		t.Error("lost at restart")
	}
	if again, err := db.WireGuardKey(t.Context()); err != nil || !again.Equal(key) {
		t.Errorf("another WireGuard key after restart: %v", err)
	}
}

func TestWireGuardKey_IsClamped(t *testing.T) {
	for range 8 { // an unclamped one looks clamped once in 32
		key, err := openIn(t, stateDir(t), nil).WireGuardKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b := key.Reveal(); len(b) != 32 || b[0]&7 != 0 || b[31]&0xC0 != 0x40 {
			t.Error("not a Curve25519 private key as RFC 7748 clamps it")
		}
	}
}
