package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"

	"github.com/clawpatrol/clawpatrol/protocols/ssh"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

// approvalsFor returns the adapter over a registry with an approved registration.
func approvalsFor(t *testing.T) (hostKeyApprovals, registry.ID) {
	t.Helper()
	db, err := registry.Open(t.Context(), registry.Config{
		Dir:     filepath.Join(t.TempDir(), "state"),
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	key := secret.New(make([]byte, 32))
	reg, err := db.Enrol(t.Context(), registry.NewRegistration{
		Name: "build-01", PublicKey: [32]byte{1}, MACKey: key, PresharedKey: key, Source: netip.MustParseAddr("192.0.2.1"),
	})
	if err == nil {
		err = db.Approve(t.Context(), reg.ID, []string{"ci"}, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	return hostKeyApprovals{db, slog.New(slog.DiscardHandler)}, reg.ID
}

func newHostKey(t *testing.T) xssh.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := xssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// decideNext answers what comes to wait, once it does.
func decideNext(t *testing.T, db *registry.DB, allow bool, reason string) registry.Held {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		list, err := db.Approvals(t.Context(), registry.ApprovalPending)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 {
			if err := db.Decide(t.Context(), list[0].ID, allow, reason, "test"); err != nil {
				t.Fatal(err)
			}
			return list[0]
		}
	}
	t.Fatal("nothing waits")
	return registry.Held{}
}

// A host key that the handler asks about reaches operators with both fingerprints,
// and their answer reaches the handler; only an accepted key is accepted.
func TestHostKeyApprovals_AskOperators(t *testing.T) {
	a, reg := approvalsFor(t)
	known, now := newHostKey(t), newHostKey(t)
	for _, test := range []struct {
		allow        bool
		reason, want string
	}{
		{false, "", "an operator refused it"},
		{false, "who is that?", "an operator refused it: who is that?"},
		{true, "compared", "<nil>"},
	} {
		result := make(chan error, 1)
		go func() {
			result <- a.Hold(t.Context(), ssh.HostKeyRequest{
				Registration: reg, Endpoint: "ssh.build", Host: "build.example.com", Port: 2222, Key: now.Marshal(), Known: [][]byte{known.Marshal(), []byte("damaged")},
			})
		}()
		held := decideNext(t, a.db, test.allow, test.reason)
		for _, want := range []string{xssh.FingerprintSHA256(known), xssh.FingerprintSHA256(now), `"host":"build.example.com"`, `"port":2222`, `"key_type":"ssh-ed25519"`} {
			if !strings.Contains(string(held.Detail), want) {
				t.Errorf("%s does not have %s", held.Detail, want)
			}
		}
		if held.Registration != reg || held.Kind != registry.ApproveHostKey {
			t.Errorf("%+v", held)
		}
		if got := fmt.Sprint(<-result); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
		if accepted := a.Accepted("ssh.build", "build.example.com", 2222); (len(accepted) == 1) != test.allow {
			t.Errorf("allowed %t: accepted %q", test.allow, accepted)
		}
	}
	if len(a.Accepted("ssh.build", "build.example.com", 22)) != 0 {
		t.Error("accepted for another port too")
	}
}

// What cannot be asked is refused (I19), in words for the agent.
func TestI19_HostKeysThatCannotBeAskedAboutAreRefused(t *testing.T) {
	a, reg := approvalsFor(t)
	key := newHostKey(t)
	r := ssh.HostKeyRequest{Registration: reg, Endpoint: "ssh.build", Host: "build.example.com", Port: 22, Key: key.Marshal()}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Hold(ended, r); !errors.Is(err, context.Canceled) {
		t.Errorf("the agent is gone: %v", err)
	}
	damaged := r
	damaged.Key = []byte("damaged")
	if err := a.Hold(t.Context(), damaged); err == nil || err.Error() != "it cannot be read" {
		t.Errorf("a damaged key: %v", err)
	}
	other := r
	other.Registration = "r_nobody"
	if err := a.Hold(t.Context(), other); err == nil || err.Error() != "the gateway could not ask an operator" {
		t.Errorf("nobody's: %v", err)
	}

	waiting, cancel := context.WithCancel(t.Context())
	defer cancel()
	results := make(chan error)
	for i := range 16 {
		busy := r
		busy.Host = fmt.Sprintf("h%d.example.com", i)
		go func() { results <- a.Hold(waiting, busy) }()
	}
	for deadline := time.Now().Add(10 * time.Second); a.db.PendingApprovals() < 16; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d wait", a.db.PendingApprovals())
		}
	}
	if err := a.Hold(t.Context(), r); err == nil || !strings.Contains(err.Error(), "too many requests wait") {
		t.Errorf("one too many: %v", err)
	}
	cancel()
	for range 16 {
		if err := <-results; err == nil {
			t.Error("accepted by nobody")
		}
	}
	if len(a.db.AcceptedHostKeys()) != 0 {
		t.Error("a key was accepted")
	}
}
