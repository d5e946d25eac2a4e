package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// The registry's value comes first, then systemd's, then the environment's; and
// what is wrong with one is said without it.
func TestI02_NamedSecretComesFromOneOfThreePlaces(t *testing.T) {
	db, err := registry.Open(t.Context(), registry.Config{
		Dir: filepath.Join(t.TempDir(), "state"), Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	is := func(want string) {
		t.Helper()
		s, err := namedSecret(db, "HOOK")
		if want == "" {
			if err == nil || strings.Contains(err.Error(), "4711") || !strings.Contains(err.Error(), "HOOK") {
				t.Errorf("%v", err)
			}
			return
		}
		if err != nil || string(s.Reveal()) != want {
			t.Errorf("%v, want that of %s", err, want)
		}
	}
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "HOOK"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	is("")
	t.Setenv("CLAWPATROL_SECRET_HOOK", "environment-4711")
	is("environment-4711")
	write("systemd-4711\n")
	is("systemd-4711")
	for _, bad := range []string{"", "\n", strings.Repeat("4711", maxSecretFile)} { // the environment's is not meant then
		write(bad)
		is("")
	}
	if err := db.SetSecret(t.Context(), "HOOK", secret.New([]byte("registry-4711"))); err != nil {
		t.Fatal(err)
	}
	is("registry-4711")
}
