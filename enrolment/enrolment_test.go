package enrolment_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/secret"
)

var now = time.Unix(1_800_000_000, 0)

func header(v string) http.Header { return http.Header{"Authorization": {v}} }

func TestAuthorize_VerifiesOnlyWhatWasSigned(t *testing.T) {
	key := enrolment.NewJoinCredential().Keys().MAC
	body := []byte("{}")
	v := enrolment.Authorize(key, "r_1", "POST", enrolment.PathPoll, body, now)
	auth, err := enrolment.ParseAuthorization(header(v))
	if err != nil {
		t.Fatal(err)
	}
	if auth.ID != "r_1" || !auth.Time.Equal(now) {
		t.Errorf("parsed id %q and time %v", auth.ID, auth.Time)
	}
	if !auth.Verify(key, "POST", enrolment.PathPoll, body) {
		t.Error("what was signed does not verify")
	}
	for what, ok := range map[string]bool{
		"method":   auth.Verify(key, "PUT", enrolment.PathPoll, body),
		"path":     auth.Verify(key, "POST", enrolment.PathClaim, body),
		"body":     auth.Verify(key, "POST", enrolment.PathPoll, []byte("{} ")),
		"key":      auth.Verify(enrolment.NewJoinCredential().Keys().MAC, "POST", enrolment.PathPoll, body),
		"zero key": auth.Verify(secret.Secret{}, "POST", enrolment.PathPoll, body),
		"psk":      auth.Verify(enrolment.NewJoinCredential().Keys().PresharedKey, "POST", enrolment.PathPoll, body),
	} {
		if ok {
			t.Errorf("verifies with another %s", what)
		}
	}
	for _, field := range []string{"ts", "nonce"} {
		changed, err := enrolment.ParseAuthorization(header(changeField(t, v, field)))
		if err != nil {
			t.Fatal(err)
		}
		if changed.Verify(key, "POST", enrolment.PathPoll, body) {
			t.Errorf("verifies with another %s", field)
		}
	}
	if (enrolment.Authorization{}).Verify(key, "POST", enrolment.PathPoll, body) {
		t.Error("the zero Authorization verifies")
	}
}

// changeField alters one parameter of a CP-MAC header, keeping its form.
func changeField(t *testing.T, v, field string) string {
	t.Helper()
	before, rest, ok := strings.Cut(v, field+"=")
	if !ok {
		t.Fatalf("no %s in %q", field, v)
	}
	c := byte('1')
	if rest[0] == c {
		c = '2'
	}
	return before + field + "=" + string(c) + rest[1:]
}

func TestParseAuthorization_AcceptsOneSpellingOnly(t *testing.T) {
	key := enrolment.NewJoinCredential().Keys().MAC
	good := enrolment.Authorize(key, "r_1", "POST", enrolment.PathPoll, nil, now)
	nonce := strings.Repeat("A", 22)
	mac := strings.Repeat("ab", 32)
	bad := map[string]http.Header{
		"none":           {},
		"two":            {"Authorization": {good, good}},
		"other scheme":   header("Bearer " + good),
		"lower scheme":   header("cp-mac" + strings.TrimPrefix(good, "CP-MAC")),
		"space":          header(strings.Replace(good, ",ts", ", ts", 1)),
		"extra":          header(good + ",x=y"),
		"twice":          header(strings.Replace(good, "ts=", "id=r_2,ts=", 1)),
		"order":          header("CP-MAC ts=1,id=r,nonce=" + nonce + ",mac=" + mac),
		"empty id":       header("CP-MAC id=,ts=1,nonce=" + nonce + ",mac=" + mac),
		"signed ts":      header("CP-MAC id=r,ts=+1,nonce=" + nonce + ",mac=" + mac),
		"padded ts":      header("CP-MAC id=r,ts=01,nonce=" + nonce + ",mac=" + mac),
		"fraction":       header("CP-MAC id=r,ts=1.5,nonce=" + nonce + ",mac=" + mac),
		"huge ts":        header("CP-MAC id=r,ts=9223372036854775808,nonce=" + nonce + ",mac=" + mac),
		"short nonce":    header("CP-MAC id=r,ts=1,nonce=" + nonce[1:] + ",mac=" + mac),
		"stray bits":     header("CP-MAC id=r,ts=1,nonce=" + nonce[1:] + "B,mac=" + mac),
		"broken nonce":   header("CP-MAC id=r,ts=1,nonce=" + nonce[:10] + "\n" + nonce[10:] + ",mac=" + mac),
		"padded nonce":   header("CP-MAC id=r,ts=1,nonce=" + nonce + "==,mac=" + mac),
		"short mac":      header("CP-MAC id=r,ts=1,nonce=" + nonce + ",mac=" + mac[2:]),
		"upper case mac": header("CP-MAC id=r,ts=1,nonce=" + nonce + ",mac=" + strings.ToUpper(mac)),
		"too long":       header("CP-MAC id=" + strings.Repeat("r", 512) + ",ts=1,nonce=" + nonce + ",mac=" + mac),
	}
	if _, err := enrolment.ParseAuthorization(header("CP-MAC id=r,ts=1,nonce=" + nonce + ",mac=" + mac)); err != nil {
		t.Fatalf("the pattern of the bad ones is not good itself: %v", err)
	}
	for what, h := range bad {
		if _, err := enrolment.ParseAuthorization(h); err == nil {
			t.Errorf("%s: accepted %q", what, h)
		}
	}
}

// The values were computed apart from this package, with Python's hmac and
// hashlib: an agent and a gateway of different versions must agree on them.
func TestKeys_AreTheProtocolsV1(t *testing.T) {
	raw := make([]byte, 32)
	for i := range raw {
		raw[i] = byte(i)
	}
	c, err := enrolment.ParseJoinCredential(base64.RawURLEncoding.EncodeToString(raw))
	if err != nil {
		t.Fatal(err)
	}
	k := c.Keys()
	for _, f := range []struct {
		what, got, want string
	}{
		{"MAC key", hex.EncodeToString(k.MAC.Reveal()), wantMACKey},
		{"preshared key", hex.EncodeToString(k.PresharedKey.Reveal()), wantPresharedKey},
	} {
		if f.got != f.want {
			t.Errorf("%s is %s, want %s", f.what, f.got, f.want)
		}
	}
	auth, err := enrolment.ParseAuthorization(header("CP-MAC id=r_1,ts=1800000000,nonce=AAECAwQFBgcICQoLDA0ODw,mac=" + wantMAC))
	if err != nil {
		t.Fatal(err)
	}
	if !auth.Verify(k.MAC, "POST", "/api/onboard/poll", []byte("{}")) {
		t.Error("the protocol's own example does not verify")
	}
	if none := (enrolment.JoinCredential{}).Keys(); !none.MAC.IsZero() || !none.PresharedKey.IsZero() {
		t.Error("a zero join credential has keys")
	}
}

func TestParseJoinCredential_RefusesAllButItsOwnForm(t *testing.T) {
	c := enrolment.NewJoinCredential()
	s := c.Encode()
	again, err := enrolment.ParseJoinCredential(s)
	if err != nil || !again.Equal(c.Secret) {
		t.Fatalf("Encode and Parse disagree: %v", err)
	}
	for _, bad := range []string{"", s[1:], s + "A", s + "=", s + "\n", s[:42] + "_", strings.Repeat("!", 43)} {
		if bad == s {
			continue // the last character may have been that one
		}
		_, err := enrolment.ParseJoinCredential(bad)
		if err == nil {
			t.Errorf("accepted %q", bad)
		} else if bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("the error quotes the credential: %v", err)
		}
	}
}

// TestI02_JoinCredentialDoesNotPrint: the credential and the keys may end up in
// a struct that somebody logs.
func TestI02_JoinCredentialDoesNotPrint(t *testing.T) {
	c := enrolment.NewJoinCredential()
	in := struct {
		C enrolment.JoinCredential
		k enrolment.Keys
	}{c, c.Keys()}
	asJSON, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprintf("%v %+v %#v %s %q %x", in, in, in, in, in, in), string(asJSON)} {
		for _, s := range [][]byte{c.Reveal(), in.k.MAC.Reveal(), in.k.PresharedKey.Reveal()} {
			for _, form := range []string{string(s), hex.EncodeToString(s), base64.RawURLEncoding.EncodeToString(s), base64.StdEncoding.EncodeToString(s)} {
				if strings.Contains(out, form) {
					t.Fatalf("printed as %q", out)
				}
			}
		}
	}
}

func FuzzParseAuthorization(f *testing.F) {
	key := enrolment.NewJoinCredential().Keys().MAC
	f.Add(enrolment.Authorize(key, "r_1", "POST", enrolment.PathPoll, []byte("{}"), now))
	f.Add("CP-MAC id=r,ts=-1,nonce=AAAAAAAAAAAAAAAAAAAAAA,mac=" + strings.Repeat("00", 32))
	f.Add("CP-MAC id=,ts=,nonce=,mac=")
	f.Add("CP-MAC id=r,ts=9223372036854775807,nonce=AAAAAAAAAAAAAAAAAAAAAB,mac=zz")
	f.Add("Basic Og==")
	f.Fuzz(func(t *testing.T, v string) {
		auth, err := enrolment.ParseAuthorization(header(v))
		if err != nil {
			return
		}
		if len(v) > 512 || !strings.HasPrefix(v, "CP-MAC id="+auth.ID+",ts=") {
			t.Fatalf("accepted %q", v)
		}
		if n, err := base64.RawURLEncoding.DecodeString(auth.Nonce); err != nil || len(n) != 16 {
			t.Fatalf("nonce %q", auth.Nonce)
		}
		if !strings.Contains(v, fmt.Sprintf(",ts=%d,nonce=%s,mac=", auth.Time.Unix(), auth.Nonce)) {
			t.Fatalf("%q has another spelling", v)
		}
		if auth.Verify(key, "GET", "/", nil) { // nobody signed this
			t.Fatalf("a forgery verifies: %q", v)
		}
		again, err := enrolment.ParseAuthorization(header(v))
		if err != nil || !bytes.Equal([]byte(again.Nonce), []byte(auth.Nonce)) {
			t.Fatal("not the same twice")
		}
	})
}

const (
	wantMACKey       = "226a6c39f73c05cf3d412ee3c75dd1e1a3cb89fb98f75e1b33d148de33321a2b"
	wantPresharedKey = "c1c4cbf8c767d14aa970299f44ca577097f7b4c8186338339f29aa7ed19984d9"
	wantMAC          = "4168c921cce62f21edde1a8776547c75c3a72f0c0627057d8be7aeef63bab70d"
)
