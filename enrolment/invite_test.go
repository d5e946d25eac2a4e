package enrolment_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/secret"
)

func inviteKey() secret.Secret {
	b := make([]byte, 32)
	rand.Read(b)
	return secret.New(b)
}

// fullInvite says everything that an invite can say.
func fullInvite() enrolment.Invite {
	return enrolment.Invite{
		URL:               "https://gw.example.com:8443",
		CA:                sha256.Sum256([]byte("ca")),
		PublicCertificate: true,
		Expires:           now.UTC(),
		Uses:              3,
		Source:            netip.MustParsePrefix("2001:db8:7::/48"),
		Profiles:          []string{"ci", "deploy"},
	}
}

func sign(t testing.TB, key secret.Secret, i enrolment.Invite) string {
	t.Helper()
	token, _, err := enrolment.SignInvite(key, i)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestInvite_TokenSaysWhatWasSigned(t *testing.T) {
	key := inviteKey()
	for _, want := range []enrolment.Invite{
		fullInvite(),
		{URL: "https://gw.example.com", Expires: now.UTC(), Uses: 1},
		{URL: "https://[2001:db8::1]:8443", Expires: now.UTC(), Uses: enrolment.MaxInviteUses, Source: netip.MustParsePrefix("198.51.100.7/32")},
		{URL: "https://192.0.2.1:1", Expires: now.UTC(), Uses: 1, Source: netip.MustParsePrefix("0.0.0.0/0")},
	} {
		token, id, err := enrolment.SignInvite(key, want)
		if err != nil {
			t.Fatal(err)
		}
		if !enrolment.IsToken(token) || enrolment.IsToken(want.URL) || strings.ContainsAny(token, "+/= \n") {
			t.Errorf("token %q", token)
		}
		got, err := enrolment.ParseInvite(token)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Verify(key) || got.ID() != id {
			t.Errorf("%+v does not verify, or has another ID than %s", got, id)
		}
		for _, f := range []struct {
			what      string
			got, want any
		}{
			{"URL", got.URL, want.URL}, {"CA", got.CA, want.CA}, {"certificate", got.PublicCertificate, want.PublicCertificate},
			{"expiry", got.Expires, want.Expires}, {"uses", got.Uses, want.Uses}, {"source", got.Source, want.Source},
			{"profiles", strings.Join(got.Profiles, ","), strings.Join(want.Profiles, ",")},
		} {
			if !reflect.DeepEqual(f.got, f.want) {
				t.Errorf("%s is %v, want %v", f.what, f.got, f.want)
			}
		}
	}
}

// Every byte is signed, and by this key only.
func TestInvite_VerifiesOnlyAsItWasSigned(t *testing.T) {
	key := inviteKey()
	token := sign(t, key, fullInvite())
	prefix, text, _ := strings.Cut(token, "_")
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for n := range raw {
		changed := bytes.Clone(raw)
		changed[n] ^= 1
		if i, err := enrolment.ParseInvite(prefix + "_" + base64.RawURLEncoding.EncodeToString(changed)); err == nil && i.Verify(key) {
			t.Errorf("verifies with byte %d changed", n)
		}
	}
	i, err := enrolment.ParseInvite(token)
	if err != nil {
		t.Fatal(err)
	}
	if i.Verify(inviteKey()) || i.Verify(secret.Secret{}) || (enrolment.Invite{}).Verify(key) {
		t.Error("verifies with another key, with none, or with nothing signed")
	}
	// The domain: what this key signs elsewhere is no invite.
	auth := enrolment.Authorize(key, "r_1", "POST", enrolment.PathStart, nil, now)
	if _, err := enrolment.ParseInvite(auth); err == nil {
		t.Error("a CP-MAC header is a token")
	}
	// Nor do two invites of one content share a token.
	if again := sign(t, key, fullInvite()); again == token {
		t.Error("the same token twice")
	}
}

func TestParseInvite_AcceptsOneSpellingOnly(t *testing.T) {
	token := sign(t, inviteKey(), fullInvite())
	for what, bad := range map[string]string{
		"empty": "", "prefix alone": "cpi1_", "cut": token[:len(token)-1], "cut in half": token[:len(token)/2], "longer": token + "A",
		"padded": token + "=", "line break": token[:20] + "\n" + token[20:], "space": token + " ", "no prefix": token[5:],
		"other version": "cpi2_" + token[5:], "upper case": strings.ToUpper(token[:5]) + token[5:],
		"standard base64": "cpi1_" + strings.Repeat("/", 300), "too long": "cpi1_" + strings.Repeat("A", enrolment.MaxToken),
		"quoted": `"` + token + `"`, "url": "https://gw.example.com:8443",
	} {
		if _, err := enrolment.ParseInvite(bad); err == nil {
			t.Errorf("%s: accepted", what)
		} else if len(bad) > 20 && strings.Contains(err.Error(), bad[5:20]) {
			t.Errorf("%s: the error quotes the token: %v", what, err)
		}
	}
}

func TestSignInvite_RefusesWhatItCouldNotReadBack(t *testing.T) {
	for what, change := range map[string]func(*enrolment.Invite){
		"no URL":          func(i *enrolment.Invite) { i.URL = "" },
		"plain http":      func(i *enrolment.Invite) { i.URL = "http://gw.example.com" },
		"a path":          func(i *enrolment.Invite) { i.URL = "https://gw.example.com/x" },
		"a login":         func(i *enrolment.Invite) { i.URL = "https://a:b@gw.example.com" },
		"a space":         func(i *enrolment.Invite) { i.URL = "https://gw.exam ple.com" },
		"a long name":     func(i *enrolment.Invite) { i.URL = "https://" + strings.Repeat("a", 300) },
		"no uses":         func(i *enrolment.Invite) { i.Uses = 0 },
		"too many uses":   func(i *enrolment.Invite) { i.Uses = enrolment.MaxInviteUses + 1 },
		"host bits":       func(i *enrolment.Invite) { i.Source = netip.MustParsePrefix("198.51.100.7/24") },
		"mapped":          func(i *enrolment.Invite) { i.Source = netip.MustParsePrefix("::ffff:192.0.2.0/120") },
		"empty profile":   func(i *enrolment.Invite) { i.Profiles = []string{""} },
		"long profile":    func(i *enrolment.Invite) { i.Profiles = []string{strings.Repeat("p", 65)} },
		"escape sequence": func(i *enrolment.Invite) { i.Profiles = []string{"a\x1b[2J"} },
		"many profiles":   func(i *enrolment.Invite) { i.Profiles = make17() },
	} {
		i := fullInvite()
		change(&i)
		if token, _, err := enrolment.SignInvite(inviteKey(), i); err == nil || token != "" {
			t.Errorf("%s: signed", what)
		}
	}
	if _, _, err := enrolment.SignInvite(secret.Secret{}, fullInvite()); err == nil {
		t.Error("signed without a key")
	}
	// The longest there can be still fits.
	i := fullInvite()
	i.Profiles = make17()[1:]
	for n := range i.Profiles {
		i.Profiles[n] += strings.Repeat("p", 62)
	}
	sign(t, inviteKey(), i)
}

func make17() (names []string) {
	for n := range 17 {
		names = append(names, fmt.Sprintf("%02d", n))
	}
	return names
}

// TestI02_InviteDoesNotPrintItsToken: whoever logs one must not hand it out.
func TestI02_InviteDoesNotPrintItsToken(t *testing.T) {
	key := inviteKey()
	token, id, err := enrolment.SignInvite(key, fullInvite())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(token[5:])
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(token, id) || strings.Contains(id, hex.EncodeToString(raw[:16])) {
		t.Errorf("ID %s of token %s", id, token)
	}
}

// The token and its ID were made apart from this package, byte by byte and
// with Python's hmac and hashlib: tokens outlive an upgrade of the gateway.
func TestInvite_IsFormat1(t *testing.T) {
	key := secret.New(bytes.Repeat([]byte{7}, 32))
	i, err := enrolment.ParseInvite(goldenToken)
	if err != nil {
		t.Fatal(err)
	}
	if !i.Verify(key) || i.ID() != goldenID || i.URL != "https://gw.example.com:8443" || i.Uses != 2 || i.Expires.Unix() != 1_800_000_000 ||
		i.Source.String() != "198.51.100.0/24" || strings.Join(i.Profiles, ",") != "ci" || i.PublicCertificate || i.CA != [32]byte(bytes.Repeat([]byte{9}, 32)) {
		t.Errorf("read as %+v, id %s", i, i.ID())
	}
}

func FuzzParseInvite(f *testing.F) {
	key := inviteKey()
	f.Add(sign(f, key, fullInvite()))
	f.Add(sign(f, key, enrolment.Invite{URL: "https://gw.example.com", Expires: now, Uses: 1}))
	f.Add(goldenToken)
	f.Add("cpi1_")
	f.Add("cpi1_" + strings.Repeat("A", 180))
	f.Add("https://gw.example.com:8443")
	f.Fuzz(func(t *testing.T, token string) {
		i, err := enrolment.ParseInvite(token)
		if err != nil {
			return
		}
		if len(token) > enrolment.MaxToken || !enrolment.IsToken(token) {
			t.Fatalf("accepted %q", token)
		}
		if !strings.HasPrefix(i.URL, "https://") || strings.ContainsAny(i.URL[8:], "/?#@ \n\x1b") || i.Uses < 1 || i.Uses > enrolment.MaxInviteUses || len(i.Profiles) > enrolment.MaxInviteProfiles {
			t.Fatalf("%q says %+v", token, i)
		}
		// What was read can be written, and is then read as the same.
		again, err := enrolment.ParseInvite(sign(t, key, i))
		if err != nil || again.URL != i.URL || again.CA != i.CA || !again.Expires.Equal(i.Expires) || again.Uses != i.Uses || again.Source != i.Source ||
			!reflect.DeepEqual(again.Profiles, i.Profiles) || again.PublicCertificate != i.PublicCertificate {
			t.Fatalf("%v: %+v became %+v", err, i, again)
		}
	})
}

const (
	goldenToken = "cpi1_AAECAwQFBgcICQoLDA0ODwAJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQAAAABrSdIAAAIAE2d3LmV4YW1wbGUuY29tOjg0NDMFGMYzZAAAAwJjaeL_sUDEpVX05aNH8Hun7N7OdvmnRir3sIYetjdikbkr"
	goldenID    = "i_bce76dkandttll2io5xul4e2je"
)
