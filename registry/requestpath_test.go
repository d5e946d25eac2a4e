package registry

import (
	"context"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/clawpatrol/clawpatrol/secret"
)

// What a request needs (who is asking, where a virtual address leads, the
// secret, a place in the log) comes from memory. The test takes the database
// away: whatever asks it anything fails.
func TestRequestPath_ReadsNoDatabase(t *testing.T) {
	ctx := t.Context()
	db, err := Open(ctx, Config{
		Dir:     filepath.Join(t.TempDir(), "state"),
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")},
	})
	if err != nil {
		t.Fatal(err)
	}
	key := secret.New([]byte("key"))
	r, err := db.Enrol(ctx, NewRegistration{PublicKey: [32]byte{1}, MACKey: key, PresharedKey: key, Source: netip.MustParseAddr("192.0.2.1")})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Approve(ctx, r.ID, []string{"ci"}, ""); err != nil {
		t.Fatal(err)
	}
	if err := db.SetCredential(ctx, "bearer.github", map[string]secret.Secret{"secret": key}); err != nil {
		t.Fatal(err)
	}
	if err := db.SetSecret(ctx, "NAME", key); err != nil {
		t.Fatal(err)
	}
	v4, v6, err := db.VirtualAddresses(ctx, r.ID, "api.example.com")
	if err != nil {
		t.Fatal(err)
	}

	// No reader, and nobody who writes: the log's rows go nowhere.
	end, err := db.begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stored := make(chan int, 1)
	db.actions.mu.Lock()
	db.actions.store = func(rows []queuedRow, _ []result) error { stored <- len(rows); return nil }
	db.actions.trim = nil
	db.actions.mu.Unlock()
	if err := db.read.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.write.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Actions(ctx, ActionFilter{}); err == nil {
		t.Fatal("the database can still be read: this proves nothing")
	}

	reg, ok := db.Snapshot().ByAddr(r.Prefix4.Addr().Next())
	if !ok || reg.ID != r.ID || reg.State != Approved {
		t.Fatalf("%+v", reg)
	}
	if again4, again6, err := db.VirtualAddresses(ctx, reg.ID, "api.example.com"); err != nil || again4 != v4 || again6 != v6 {
		t.Errorf("%s and %s, were %s and %s: %v", again4, again6, v4, v6, err)
	}
	if host, ok := db.VirtualHost(reg.ID, v6); !ok || host != "api.example.com" || !db.IsVirtual(v4) || len(db.Resolvers()) == 0 {
		t.Errorf("a virtual address leads to %q", host)
	}
	if db.PresharedKey(reg.ID).IsZero() || db.MACKey(reg.ID).IsZero() || db.NamedSecret("NAME").IsZero() || db.CredentialVersion("bearer.github") != 1 {
		t.Error("a secret is missing")
	}
	rel, err := db.Release(ctx, Action{Registration: reg.ID, Credential: "bearer.github", Verdict: "allow"})
	if err != nil || !rel.Slots["secret"].Equal(key) {
		t.Fatalf("%v: %v", rel.Slots, err)
	}
	db.Finish(rel.Action, ActionResult{Status: "200"})
	if n := <-stored; n != 1 {
		t.Errorf("%d rows went to the log", n)
	}
	if err := db.actions.sync(context.WithoutCancel(ctx)); err != nil {
		t.Error(err)
	}
	end()
	_ = db.Close() // its database is gone
}
