package proxy

import (
	"context"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/clawpatrol/clawpatrol/proxy/wireguard"
	"github.com/clawpatrol/clawpatrol/registry"
	"github.com/clawpatrol/clawpatrol/secret"
)

func enrolled(t *testing.T) (*registry.DB, *registry.Registration) {
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
	source := netip.MustParseAddr("192.0.2.1")
	reg, err := db.Enrol(t.Context(), registry.NewRegistration{
		Name: "host", PublicKey: [32]byte{1}, MACKey: secret.New(make([]byte, 32)), PresharedKey: secret.New(make([]byte, 32)), Source: source,
	})
	if err != nil {
		t.Fatal(err)
	}
	if reg, err = db.Claim(t.Context(), reg.ID, source); err != nil {
		t.Fatal(err)
	}
	return db, reg
}

// The pin grows by a claim, and the first packet from the new address overtakes
// the news of it.
func TestI08_WhoComesFromAnAddressThatIsTheirsByNowIsLetInAgain(t *testing.T) {
	db, reg := enrolled(t)
	p := NewPeers(db, nil)
	before := p.newPeerSet(db.Snapshot(), [32]byte{9})
	p.Deviated(wireguard.Deviation{PublicKey: reg.PublicKey, From: netip.MustParseAddr("192.0.2.1"), Proof: "a handshake initiation"})
	if now, _ := db.Snapshot().ByID(reg.ID); now.State != registry.Pending {
		t.Fatalf("the registration is %s", now.State)
	}
	after := p.newPeerSet(db.Snapshot(), [32]byte{9})
	if after.equal(before) || p.peers(after)[0].Life == p.peers(before)[0].Life {
		t.Error("the tunnel keeps it out")
	}
	select {
	case <-p.told:
	default:
		t.Error("Sync does not hear of it")
	}
	// Not so who comes from elsewhere.
	p.Deviated(wireguard.Deviation{PublicKey: reg.PublicKey, From: netip.MustParseAddr("192.0.2.2"), Proof: "a handshake initiation"})
	if now, _ := db.Snapshot().ByID(reg.ID); now.State != registry.Blocked || p.newPeerSet(db.Snapshot(), [32]byte{9})[reg.ID].Registration != nil {
		t.Errorf("the registration is %s", now.State)
	}
}

// The timestamp of a handshake that cannot be stored yet is neither lost nor
// without effect, or a recording of it would pass for new.
func TestI08_TimestampsThatAreNotStoredYetCount(t *testing.T) {
	db, reg := enrolled(t)
	p := NewPeers(db, nil)
	newest := wireguard.Timestamp{3}
	p.Handshake(wireguard.Handshake{PublicKey: reg.PublicKey, From: reg.Pin.IPv4, Timestamp: newest})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.record(ended, nil); err == nil {
		t.Fatal("stored, it seems")
	}
	if peers := p.peers(p.newPeerSet(db.Snapshot(), [32]byte{9})); peers[0].Newest != newest {
		t.Errorf("the tunnel is told of %x", peers[0].Newest)
	}
	if err := p.record(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if now, _ := db.Snapshot().ByID(reg.ID); now.Newest != newest {
		t.Errorf("stored: %x", now.Newest)
	}
}
