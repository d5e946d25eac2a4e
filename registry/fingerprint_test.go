package registry_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
)

func TestFingerprint_TellsValuesApart(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	setCredential(t, db, "bearer.a", "secret", "sesame")
	setCredential(t, db, "postgres.b", "password", "sesame")
	setCredential(t, db, "bearer.other", "secret", "sesamf")
	if err := db.SetSecret(t.Context(), "NAME", text("sesame")); err != nil {
		t.Fatal(err)
	}
	fingerprint := db.Fingerprint("bearer.a", "secret")
	if !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(fingerprint) {
		t.Fatalf("%q", fingerprint)
	}
	if db.Fingerprint("postgres.b", "password") != fingerprint || db.SecretFingerprint("NAME") != fingerprint {
		t.Error("reuse does not show")
	}
	if db.Fingerprint("bearer.other", "secret") == fingerprint {
		t.Error("two values have one fingerprint")
	}
	for _, got := range []string{db.Fingerprint("bearer.a", "password"), db.Fingerprint("bearer.nothing", "secret"), db.SecretFingerprint("NOTHING")} {
		if got != "" {
			t.Errorf("of nothing: %q", got)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openIn(t, dir, nil)
	if db.Fingerprint("bearer.a", "secret") != fingerprint || db.SecretFingerprint("NAME") != fingerprint {
		t.Error("another one after a restart")
	}
	other := openIn(t, stateDir(t), nil)
	setCredential(t, other, "bearer.a", "secret", "sesame")
	if other.Fingerprint("bearer.a", "secret") == fingerprint {
		t.Error("two gateways have the same one")
	}
	if err := db.ClearCredential(t.Context(), "bearer.a"); err != nil || db.Fingerprint("bearer.a", "secret") != "" {
		t.Errorf("cleared: %v", err)
	}
}

// Whoever reads a fingerprint and not the master key learns nothing by hashing
// guesses; whoever has the key finds what is documented, and the key is not the
// one that seals, nor the master key itself.
func TestI02_FingerprintIsKeyed(t *testing.T) {
	dir := stateDir(t)
	var log bytes.Buffer
	cfg := config(dir, nil)
	cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db, err := registry.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const value = "sesame"
	setCredential(t, db, "bearer.a", "secret", value)
	fingerprint := db.Fingerprint("bearer.a", "secret")
	master, err := os.ReadFile(filepath.Join(dir, "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	first := func(sum []byte) string { return hex.EncodeToString(sum[:4]) }
	keyed := func(key []byte) string {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(value))
		return first(m.Sum(nil))
	}
	derived := func(label string) []byte {
		key, err := hkdf.Key(sha256.New, master, nil, label, 32)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	s256, s1, s5, s512 := sha256.Sum256([]byte(value)), sha1.Sum([]byte(value)), md5.Sum([]byte(value)), sha512.Sum512([]byte(value))
	for what, plain := range map[string]string{
		"SHA-256": first(s256[:]), "SHA-1": first(s1[:]), "MD5": first(s5[:]), "SHA-512": first(s512[:]),
		"HMAC without a key": keyed(nil), "HMAC of the master key": keyed(master), "HMAC of the sealing key": keyed(derived("clawpatrol registry seal v1")),
	} {
		if fingerprint == plain {
			t.Errorf("the fingerprint is %s", what)
		}
	}
	if want := keyed(derived("clawpatrol registry fingerprint v1")); fingerprint != want {
		t.Errorf("%s, want %s: every fingerprint that somebody noted is void", fingerprint, want)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), fingerprint) {
		t.Error("the log has the fingerprint")
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(fingerprint)) {
			t.Errorf("%s has the fingerprint", f.Name())
		}
	}
}

func TestSecrets_ListedAndCleared(t *testing.T) {
	c := newClock()
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, c))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, name := range []string{"B", "A", "GONE"} {
		if err := db.SetSecret(t.Context(), name, text("sesame of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is nothing to clear
		if err := db.ClearSecret(t.Context(), "GONE"); err != nil {
			t.Fatal(err)
		}
	}
	check := func() {
		t.Helper()
		want := []registry.SecretStatus{{Name: "A", SetAt: c.Now()}, {Name: "B", SetAt: c.Now()}}
		if got := db.Secrets(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v, want %v", got, want)
		}
		if !db.NamedSecret("GONE").IsZero() || db.SecretFingerprint("GONE") != "" {
			t.Error("what was cleared is there")
		}
	}
	check()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	onDatabase(t, dir, "UPDATE named_secrets SET sealed = (SELECT sealed FROM named_secrets WHERE name = 'A') WHERE name = 'B'")
	db = openIn(t, dir, c)
	check()
	if !db.NamedSecret("B").IsZero() || db.SecretFingerprint("B") != "" || db.SecretFingerprint("A") == "" {
		t.Error("what does not open has a value or a fingerprint")
	}
}

func TestSecrets_AreBounded(t *testing.T) {
	db := openIn(t, stateDir(t), nil)
	set := func(name string) error { return db.SetSecret(t.Context(), name, text("sesame")) }
	for i := range 256 {
		if err := set(fmt.Sprintf("S%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := set("ONE_MORE"); !errors.Is(err, registry.ErrInvalid) {
		t.Errorf("one more: %v", err)
	}
	if err := set("S0"); err != nil {
		t.Errorf("replacing one: %v", err)
	}
}
