package invites_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/enrolment/invites"
	"github.com/clawpatrol/clawpatrol/policy"
	"github.com/clawpatrol/clawpatrol/registry"
)

const gatewayHCL = `
gateway {
  public_url = "https://gw.example.com:8443"
}
profile "ci" {
  credentials = []
}
profile "deploy" {
  credentials = []
}
`

var now = time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC)

// office is one over a real registry, at a time that stands still.
func office(t *testing.T, hcl string) (*invites.Office, *registry.DB, *bytes.Buffer) {
	t.Helper()
	clock := func() time.Time { return now }
	db, err := registry.Open(t.Context(), registry.Config{
		Dir:     filepath.Join(t.TempDir(), "state"),
		Subnets: []netip.Prefix{netip.MustParsePrefix("10.55.0.0/16"), netip.MustParsePrefix("fd55:c1a5::/48")},
		Now:     clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	p, diags := policy.Compile("gateway.hcl", []byte(hcl), policy.Options{})
	if p == nil {
		t.Fatal(diags)
	}
	log := new(bytes.Buffer)
	o, err := invites.New(t.Context(), invites.Config{
		Registry:      db,
		Policy:        func() *policy.Policy { return p },
		CAFingerprint: "sha256:" + strings.Repeat("ab", 32),
		Now:           clock,
		Log:           slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return o, db, log
}

func TestMake_TokenAndRecordSayTheSame(t *testing.T) {
	o, _, log := office(t, gatewayHCL)
	for _, f := range []struct {
		req    invites.Request
		until  string
		uses   int
		source string
	}{
		{invites.Request{}, "2026-03-01T12:15:01Z", 1, ""}, // to the whole second, and not less than was asked for
		{invites.Request{TTL: "168h", Profiles: []string{"ci", "deploy", "ci"}, Uses: 1000, Source: "198.51.100.0/24"}, "2026-03-08T12:00:01Z", 1000, "198.51.100.0/24"},
		{invites.Request{TTL: "1s", Source: "2001:db8::7"}, "2026-03-01T12:00:02Z", 1, "2001:db8::7/128"},
	} {
		made, err := o.Make(t.Context(), "somebody", f.req)
		if err != nil {
			t.Fatal(err)
		}
		all, err := o.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		token, err := enrolment.ParseInvite(made.Token)
		if err != nil {
			t.Fatal(err)
		}
		record, err := json.Marshal(all[0])
		if err != nil {
			t.Fatal(err)
		}
		if shown, err := json.Marshal(made.Invite); err != nil || string(shown) != string(record) {
			t.Errorf("made %s, recorded %s", shown, record)
		}
		if i := all[0]; i.ExpiresAt.Format(time.RFC3339Nano) != f.until || i.Uses != f.uses || i.Source != f.source || i.State != "good" || i.MadeBy != "somebody" || i.Used != 0 {
			t.Errorf("recorded %s", record)
		}
		if !token.Expires.Equal(made.ExpiresAt) || token.Uses != made.Uses || strings.Join(token.Profiles, ",") != strings.Join(made.Profiles, ",") ||
			token.Source.IsValid() != (made.Source != "") || token.URL != "https://gw.example.com:8443" || token.CA[0] != 0xab || token.PublicCertificate {
			t.Errorf("the token says %+v", token)
		}
		if o.Identify(made.Token) != registry.InviteID(made.ID) {
			t.Error("the office does not know its own token")
		}
		if !strings.Contains(log.String(), made.ID) || strings.Contains(log.String(), made.Token[5:]) || strings.Contains(string(record), made.Token[5:]) {
			t.Error("the log does not have the invite, or it or the record has the token")
		}
	}
}

func TestMake_PublicCertificateIsInTheToken(t *testing.T) {
	o, _, _ := office(t, strings.Replace(gatewayHCL, "\n}", "\n  tls {\n    cert_file = \"/c.pem\"\n    key_file = \"/k.pem\"\n  }\n}", 1))
	made, err := o.Make(t.Context(), "", invites.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if i, err := enrolment.ParseInvite(made.Token); err != nil || !i.PublicCertificate {
		t.Errorf("%+v %v", i, err)
	}
}

func TestMake_RefusesWhatMakesNoSense(t *testing.T) {
	o, db, _ := office(t, gatewayHCL)
	many := make([]string, 17)
	for n := range many {
		many[n] = string(rune('a' + n))
	}
	for code, reqs := range map[string][]invites.Request{
		"bad_ttl":           {{TTL: "0s"}, {TTL: "-1m"}, {TTL: "168h1s"}, {TTL: "soon"}, {TTL: "10"}, {TTL: "999ms"}},
		"bad_uses":          {{Uses: -1}, {Uses: 1001}},
		"bad_source":        {{Source: "x"}, {Source: "198.51.100.7/24"}, {Source: "::ffff:192.0.2.1"}, {Source: "::ffff:192.0.2.0/120"}, {Source: "fe80::1%eth0"}, {Source: "198.51.100.0/33"}},
		"unknown_profile":   {{Profiles: []string{"ci", "nope"}}, {Profiles: []string{""}}},
		"too_many_profiles": {{Profiles: many}},
	} {
		for _, req := range reqs {
			_, err := o.Make(t.Context(), "", req)
			if why, ok := errors.AsType[*invites.Refusal](err); !ok || why.Code != code {
				t.Errorf("%+v: %v, want %s", req, err, code)
			}
		}
	}
	if all, err := db.Invites(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%d invites stored, %v", len(all), err)
	}
}

func TestMake_NotWhileEnrolmentIsClosed(t *testing.T) {
	o, _, _ := office(t, strings.Replace(gatewayHCL, "\n}", "\n  enrolment = \"closed\"\n}", 1))
	_, err := o.Make(t.Context(), "", invites.Request{})
	if why, ok := errors.AsType[*invites.Refusal](err); !ok || why.Code != "enrolment_closed" {
		t.Error(err)
	}
}

func TestIdentify_KnowsOnlyItsOwn(t *testing.T) {
	o, _, _ := office(t, gatewayHCL)
	other, _, _ := office(t, gatewayHCL)
	made, err := other.Make(t.Context(), "", invites.Request{})
	if err != nil {
		t.Fatal(err)
	}
	var nobody *invites.Office
	unknown := o.Identify("")
	for _, id := range []registry.InviteID{o.Identify(made.Token), o.Identify("cpi1_AAAA"), o.Identify(made.Token + "A"), nobody.Identify(made.Token)} {
		if id != unknown || id == registry.InviteID(made.ID) || id == "" {
			t.Errorf("identified as %q", id)
		}
	}
}

// TestI03_TheRegistryHasNoToken: neither the database nor the key beside it
// yields a token that is good.
func TestI03_TheRegistryHasNoToken(t *testing.T) {
	o, db, _ := office(t, gatewayHCL)
	made, err := o.Make(t.Context(), "", invites.Request{Profiles: []string{"ci"}})
	if err != nil {
		t.Fatal(err)
	}
	key, err := db.InviteKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Whoever has the key and reads the record can sign what the record says. It
	// is another invite, which the registry does not know.
	real, err := enrolment.ParseInvite(made.Token)
	if err != nil {
		t.Fatal(err)
	}
	forged, id, err := enrolment.SignInvite(key, real)
	if err != nil || forged == made.Token || id == made.ID {
		t.Fatalf("the same invite again: %v", err)
	}
	if all, err := db.Invites(t.Context()); err != nil || len(all) != 1 || string(all[0].ID) == id {
		t.Errorf("%+v %v", all, err)
	}
}

func TestVoid_SaysWhereThereIsNone(t *testing.T) {
	o, _, log := office(t, gatewayHCL)
	made, err := o.Make(t.Context(), "", invites.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Void(t.Context(), "somebody", made.ID); err != nil {
		t.Fatal(err)
	}
	if all, err := o.List(t.Context()); err != nil || all[0].State != "voided" || all[0].VoidedAt == nil || !strings.Contains(log.String(), "invite voided") {
		t.Errorf("%+v %v", all, err)
	}
	if why, ok := errors.AsType[*invites.Refusal](o.Void(t.Context(), "", "i_x")); !ok || why.Code != "not_found" {
		t.Error(why)
	}
}
