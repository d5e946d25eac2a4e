package registry

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/clawpatrol/clawpatrol/secret"
)

// rawDB opens an empty database file the way Open does.
func rawDB(t *testing.T) (write, read *sql.DB) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "odd name ?#%.db")
	write, read, err := openSQLite(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	if _, err := write.Exec("SELECT 1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the file's name was not taken as it is: %v", err)
	}
	return write, read
}

// rawMigrated is rawDB with the schema of today.
func rawMigrated(t *testing.T) (write, read *sql.DB) {
	t.Helper()
	write, read = rawDB(t)
	if err := migrate(t.Context(), write, embedded); err != nil {
		t.Fatal(err)
	}
	return write, read
}

func TestPragmas_HoldOnEveryConnection(t *testing.T) {
	write, read := rawDB(t)
	if err := migrate(t.Context(), write, embedded); err != nil {
		t.Fatal(err)
	}
	check := func(c *sql.Conn, want map[string]string) {
		t.Helper()
		for pragma, value := range want {
			var got string
			if err := c.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != value {
				t.Errorf("%s is %s, want %s (%v)", pragma, got, value, err)
			}
		}
	}
	all := map[string]string{"busy_timeout": "5000", "foreign_keys": "1", "trusted_schema": "0", "temp_store": "2", "journal_mode": "wal"}
	var conns []*sql.Conn
	for range 4 { // all at once, so that they are different ones
		c, err := read.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		check(c, all)
		check(c, map[string]string{"query_only": "1"})
		c.Close()
	}
	c, err := write.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	check(c, all)
	check(c, map[string]string{"synchronous": "2", "secure_delete": "1"})
}

func TestMigrate_EachInOneTransaction(t *testing.T) {
	write, _ := rawDB(t)
	files := fstest.MapFS{
		"migrations/0001_a.sql": {Data: []byte("CREATE TABLE a (x); INSERT INTO a VALUES (1); -- and a comment")},
		"migrations/0002_b.sql": {Data: []byte("CREATE TABLE b (x); INSERT INTO nowhere VALUES (1);")},
	}
	if err := migrate(t.Context(), write, files); err == nil || !strings.Contains(err.Error(), "schema 2") {
		t.Fatalf("got %v", err)
	}
	version := func() (n int) {
		if err := write.QueryRow("PRAGMA user_version").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if version() != 1 {
		t.Errorf("schema %d", version())
	}
	if _, err := write.Exec("SELECT * FROM b"); err == nil {
		t.Error("half of the failed migration stayed")
	}
	files["migrations/0002_b.sql"].Data = []byte("CREATE TABLE b (x)")
	for range 2 {
		if err := migrate(t.Context(), write, files); err != nil {
			t.Fatal(err)
		}
	}
	if version() != 2 {
		t.Errorf("schema %d", version())
	}
	var n int
	if err := write.QueryRow("SELECT count(*) FROM a").Scan(&n); err != nil || n != 1 {
		t.Errorf("migration 1 ran again: %d rows, %v", n, err)
	}
	delete(files, "migrations/0001_a.sql")
	files["migrations/0003_c.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE c (x)")}
	if err := migrate(t.Context(), write, files); err == nil {
		t.Error("a gap in the numbers was accepted")
	}
}

// testdata/schema_0001.sql is a database as the first release wrote it, and
// stays as it is for ever.
func TestMigrate_OldestSchemaOpens(t *testing.T) {
	ctx := context.Background()
	dump, err := os.ReadFile("testdata/schema_0001.sql")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	key, _ := hex.DecodeString("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f")
	if err := os.WriteFile(filepath.Join(dir, fileMasterKey), key, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, fileDB)
	if err := createDBFile(path); err != nil {
		t.Fatal(err)
	}
	write, read, err := openSQLite(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := write.Exec(string(dump)); err != nil {
		t.Fatal(err)
	}
	read.Close()
	write.Close()

	db, err := Open(ctx, Config{Dir: dir, Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	all := db.Snapshot().All()
	if len(all) != 3 || all[0].State != Approved || all[1].State != Blocked || all[2].State != Revoked ||
		fmt.Sprint(all[0].Profiles) != "[ci docs]" || all[0].Pin != (Pin{IPv4: netip.MustParseAddr("192.0.2.1"), IPv6: netip.MustParseAddr("2001:db8::1")}) {
		t.Fatalf("%+v", all)
	}
	if !db.MACKey(all[0].ID).Equal(secret.New([]byte("mac key of builder"))) {
		t.Error("the MAC key is another")
	}
	got, err := db.Release(ctx, Action{Registration: all[0].ID, Credential: "bearer.github", Verdict: "allow"})
	if err != nil || !got.Slots["secret"].Equal(secret.New([]byte("open sesame"))) || got.Version != 2 {
		t.Errorf("version %d: %v", got.Version, err)
	}
	if !db.NamedSecret("TS_AUTHKEY").Equal(secret.New([]byte("poppy"))) {
		t.Error("the named secret is another")
	}
	if hash, err := db.RootPasswordHash(ctx); err != nil || string(hash) != "$2a$10$hash" {
		t.Errorf("%q %v", hash, err)
	}
	if host, ok := db.VirtualHost(all[0].ID, netip.MustParseAddr("10.55.192.1")); !ok || host != "api.github.com" {
		t.Errorf("%q", host)
	}
	list, err := db.Actions(ctx, ActionFilter{Before: got.Action, Registration: all[0].ID, Endpoint: "https.github"})
	if err != nil || len(list) != 1 || list[0].Summary != "GET api.github.com/user" || list[0].Result == nil || list[0].Result.BytesOut != 42 {
		t.Errorf("%+v %v", list, err)
	}
}

// What stands in the database file is nothing to trust: opening never panics,
// and only what seal made opens, in its place.
func FuzzOpenSealed(f *testing.F) {
	s, err := newSealer(secret.New(bytes.Repeat([]byte{1}, masterKeySize)))
	if err != nil {
		f.Fatal(err)
	}
	p := credentialPlace("bearer.github", "secret")
	// As seal would, but the same in every process of the fuzzer.
	good := s.aead.Seal(make([]byte, chacha20poly1305.NonceSizeX), make([]byte, chacha20poly1305.NonceSizeX), []byte("sesame"), p.associated())
	f.Add(good, "bearer.github", "secret")
	f.Add(good, "bearer.githubs", "ecret")
	f.Add(good[:23], "bearer.github", "secret")
	f.Add([]byte{}, "", "")
	f.Fuzz(func(t *testing.T, sealed []byte, ref, slot string) {
		value, err := s.open(credentialPlace(ref, slot), sealed)
		genuine := bytes.Equal(sealed, good) && ref == "bearer.github" && slot == "secret"
		if genuine != (err == nil) || genuine != (string(value.Reveal()) == "sesame") {
			t.Fatalf("opens: %v", err)
		}
		again, err := s.open(credentialPlace(ref, slot), s.seal(credentialPlace(ref, slot), sealed))
		if err != nil || !bytes.Equal(again.Reveal(), sealed) {
			t.Fatalf("what was sealed does not open: %v", err)
		}
	})
}
