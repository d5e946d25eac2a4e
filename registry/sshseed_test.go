package registry_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// The seed is made once, stays the same over a restart, is another one in another
// registry, and stands nowhere in the files (I03).
func TestI03_SSHSeedIsSealedAndStays(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := db.SSHSeed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(seed.Reveal()) != 32 || bytes.Count(seed.Reveal(), []byte{0}) == 32 {
		t.Fatalf("a seed of %d bytes", len(seed.Reveal()))
	}
	if again, err := db.SSHSeed(t.Context()); err != nil || !again.Equal(seed) {
		t.Errorf("the second call returns another seed: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, seed.Reveal()) {
			t.Errorf("%s holds the seed", f)
		}
	}
	reopened := openIn(t, dir, nil)
	if again, err := reopened.SSHSeed(t.Context()); err != nil || !again.Equal(seed) {
		t.Errorf("after a restart it is another seed: %v", err)
	}
	if other, err := openIn(t, stateDir(t), nil).SSHSeed(t.Context()); err != nil || other.Equal(seed) {
		t.Errorf("two registries share a seed: %v", err)
	}
}

// What is set together replaces what was set together before, in memory and on
// disk.
func TestReplaceCredential_ClearsWhatIsNotNamed(t *testing.T) {
	dir := stateDir(t)
	db, err := registry.Open(t.Context(), config(dir, nil))
	if err != nil {
		t.Fatal(err)
	}
	const ref = "ssh_key.deploy"
	ctx := t.Context()
	if err := db.SetCredential(ctx, ref, map[string]secret.Secret{"private_key": text("one"), "passphrase": text("old")}); err != nil {
		t.Fatal(err)
	}
	if err := db.ReplaceCredential(ctx, ref, nil); err == nil {
		t.Error("replaced by nothing")
	}
	if err := db.ReplaceCredential(ctx, ref, map[string]secret.Secret{"private_key": text("two")}); err != nil {
		t.Fatal(err)
	}
	check := func(db *registry.DB) {
		t.Helper()
		list, err := db.Credentials(ctx)
		if err != nil || len(list) != 1 || list[0].Version != 2 || len(list[0].Slots) != 1 || list[0].Slots["private_key"].IsZero() {
			t.Errorf("%+v, %v", list, err)
		}
	}
	check(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	check(openIn(t, dir, nil))
}
