package public_test

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/clawpatrol/clawpatrol/enrolment"
	"github.com/clawpatrol/clawpatrol/registry"
)

func TestStart_MakesAPendingRegistrationOfThePeersAddress(t *testing.T) {
	g := newGateway(t)
	forged := http.Header{"X-Forwarded-For": {"203.0.113.9"}}
	key := newKey(t)
	var resp enrolment.StartResponse
	read(t, g.send("POST", enrolment.PathStart, "::ffff:192.0.2.7", startBody(t, "build host", key), forged), http.StatusCreated, &resp)
	if len(resp.UserCode) != 9 || !resp.ExpiresAt.Equal(g.clock.Now().Add(15*time.Minute)) {
		t.Errorf("user code %q, expires %v", resp.UserCode, resp.ExpiresAt)
	}
	reg, ok := g.db.Snapshot().ByID(registry.ID(resp.Registration))
	if !ok {
		t.Fatal("no such registration")
	}
	if reg.State != registry.Pending || reg.Name != "build host" || len(reg.Profiles) != 0 {
		t.Errorf("registered %+v", reg)
	}
	if got := reg.Pin.IPv4.String(); got != "192.0.2.7" || reg.Pin.IPv6.IsValid() {
		t.Errorf("pin %+v", reg.Pin)
	}
	if base64.StdEncoding.EncodeToString(reg.PublicKey[:]) != key {
		t.Error("another key was registered")
	}
	// What the gateway keeps is derived: the credential verifies, and is not it.
	c, err := enrolment.ParseJoinCredential(resp.JoinCredential)
	if err != nil {
		t.Fatal(err)
	}
	if !g.db.MACKey(reg.ID).Equal(c.Keys().MAC) || !g.db.PresharedKey(reg.ID).Equal(c.Keys().PresharedKey) {
		t.Error("the registry's keys are not those of the credential")
	}
}

func TestStart_RefusesBadRequests(t *testing.T) {
	g := newGateway(t)
	key := newKey(t)
	raw, _ := base64.StdEncoding.DecodeString(key)
	b64 := func(hexKey string) string {
		b, err := hex.DecodeString(hexKey)
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	raw[31] |= 0x80
	name := func(n string) string { return startBody(t, n, key) }
	cases := []struct{ what, body, code string }{
		{"empty", "", "bad_request"},
		{"null", "null", "bad_request"},
		{"array", "[]", "bad_request"},
		{"cut", name("host")[:20], "bad_request"},
		{"trailing", name("host") + "{}", "bad_request"},
		{"garbage after", name("host") + "x", "bad_request"},
		{"unknown field", `{"name":"host","wireguard_public_key":"` + key + `","state":"approved"}`, "bad_request"},
		{"wrong type", `{"name":1}`, "bad_request"},
		{"no name", name(""), "bad_name"},
		{"long name", name(strings.Repeat("n", 65)), "bad_name"},
		{"control", name("a\x1b[31mb"), "bad_name"},
		{"newline", name("a\nb"), "bad_name"},
		{"bidi", name("a\u202eb"), "bad_name"},
		{"look-alike letters", name("buіld"), "bad_name"},
		{"zero width", name("a\u200bb"), "bad_name"},
		{"spaces at the end", name("host "), "bad_name"},
		{"two spaces", name("a  b"), "bad_name"},
		{"no key", startBody(t, "host", ""), "bad_key"},
		{"short key", startBody(t, "host", key[:40]), "bad_key"},
		{"url alphabet", startBody(t, "host", strings.Repeat("-", 43)+"="), "bad_key"},
		{"line break", startBody(t, "host", key[:20]+"\n"+key[20:]), "bad_key"},
		{"unmasked bit", startBody(t, "host", base64.StdEncoding.EncodeToString(raw)), "bad_key"},
		{"zero key", startBody(t, "host", b64(strings.Repeat("00", 32))), "bad_key"},
		{"order 1", startBody(t, "host", b64("01"+strings.Repeat("00", 31))), "bad_key"},
		{"order 8", startBody(t, "host", b64("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")), "bad_key"},
		{"p-1", startBody(t, "host", b64("ec"+strings.Repeat("ff", 30)+"7f")), "bad_key"},
		{"the gateway's own", startBody(t, "host", base64.StdEncoding.EncodeToString(g.key[:])), "bad_key"},
	}
	for i, c := range cases {
		from := fmt.Sprintf("198.51.100.%d", i)
		r := g.send("POST", enrolment.PathStart, from, c.body, nil)
		t.Run(c.what, func(t *testing.T) { refused(t, r, http.StatusBadRequest, c.code) })
	}
	refused(t, g.send("POST", enrolment.PathStart, "192.0.2.1", strings.Repeat(" ", 4<<10)+"{", nil), http.StatusRequestEntityTooLarge, "body_too_large")
	if n := len(g.db.Snapshot().All()); n != 0 {
		t.Errorf("%d registrations were made", n)
	}
	read(t, g.send("POST", enrolment.PathStart, "192.0.2.1", name("host"), nil), http.StatusCreated, &enrolment.StartResponse{})
	refused(t, g.send("POST", enrolment.PathStart, "192.0.2.2", name("host"), nil), http.StatusConflict, "duplicate_key")
}

func TestStart_LimitsPendingPerSource(t *testing.T) {
	g := newGateway(t)
	for i := range 3 {
		g.start(fmt.Sprintf("host %d", i), fmt.Sprintf("2001:db8::%d", i)) // one /64
	}
	r := g.send("POST", enrolment.PathStart, "2001:db8::ffff", startBody(t, "host 4", newKey(t)), nil)
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	refused(t, r, http.StatusTooManyRequests, "too_many_pending")
	g.start("elsewhere", "2001:db8:0:1::1")
}

func TestStart_LimitsRequestsPerSource(t *testing.T) {
	g := newGateway(t)
	try := func(from string) int { return g.send("POST", enrolment.PathStart, from, "{}", nil).StatusCode }
	for i := range 10 {
		if s := try("192.0.2.1"); s != http.StatusBadRequest {
			t.Fatalf("request %d: status %d", i, s)
		}
	}
	if s := try("192.0.2.1"); s != http.StatusTooManyRequests {
		t.Errorf("request 11: status %d", s)
	}
	for i := range 10 {
		try(fmt.Sprintf("2001:db8::%d", i)) // one /64
	}
	if s := try("2001:db8::ff"); s != http.StatusTooManyRequests {
		t.Errorf("another address of the same /64: status %d", s)
	}
	if s := try("192.0.2.2"); s != http.StatusBadRequest {
		t.Errorf("another source: status %d", s)
	}
	g.clock.pass(6 * time.Second)
	if s := try("192.0.2.1"); s != http.StatusBadRequest {
		t.Errorf("after a while: status %d", s)
	}
	if s := try("192.0.2.1"); s != http.StatusTooManyRequests {
		t.Errorf("and then: status %d", s)
	}
}

// TestI02_JoinCredentialIsNotLogged searches the log of a whole enrolment.
func TestI02_JoinCredentialIsNotLogged(t *testing.T) {
	g := newGateway(t)
	a := g.start("host", "192.0.2.1")
	read(t, a.post(enrolment.PathClaim, a.from), http.StatusOK, &enrolment.ClaimResponse{})
	a.approve("ci")
	a.poll()
	keys := a.credential.Keys()
	for _, s := range [][]byte{a.credential.Reveal(), keys.MAC.Reveal(), keys.PresharedKey.Reveal()} {
		for _, form := range []string{string(s), hex.EncodeToString(s), base64.RawURLEncoding.EncodeToString(s), base64.StdEncoding.EncodeToString(s)} {
			if strings.Contains(g.log.String(), form) {
				t.Fatalf("the log has %q", form)
			}
		}
	}
	if !strings.Contains(g.log.String(), a.Registration) {
		t.Error("the log does not have the registration: is anything logged at all?")
	}
}

// FuzzStart sends arbitrary bodies: each is refused, or registers exactly what
// it says.
func FuzzStart(f *testing.F) {
	key := newKey(f)
	f.Add([]byte(startBody(f, "host", key)))
	f.Add([]byte(`{"name":"host","wireguard_public_key":"` + key + `","invite":"x"}`))
	f.Add([]byte(`{"name":"a","Name":"b","wireguard_public_key":"` + key + `"}`))
	f.Add([]byte("{\"name\":\"\xff\"}"))
	f.Add([]byte(`{`))
	g := newGateway(f)
	var sources uint32
	f.Fuzz(func(t *testing.T, body []byte) {
		sources++ // each from elsewhere: the limits per source have their own tests
		r := httptest.NewRequest("POST", enrolment.PathStart, strings.NewReader(string(body)))
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", byte(sources>>16), byte(sources>>8), byte(sources))
		g.clock.pass(time.Second) // or too many sources would be remembered
		w := httptest.NewRecorder()
		g.handler.ServeHTTP(w, r)
		if w.Code != http.StatusCreated {
			if w.Code < 400 || w.Code > 499 {
				t.Fatalf("status %d for %q", w.Code, body)
			}
			return
		}
		var resp enrolment.StartResponse
		if err := json.Unmarshal(w.Body.Bytes(), &resp); err != nil {
			t.Fatal(err)
		}
		reg, ok := g.db.Snapshot().ByID(registry.ID(resp.Registration))
		if !ok || reg.State != registry.Pending || reg.PublicKey == [32]byte{} {
			t.Fatalf("registered %+v for %q", reg, body)
		}
		for _, c := range reg.Name {
			if c < ' ' || c > '~' {
				t.Fatalf("name %q", reg.Name)
			}
		}
		if err := g.db.Revoke(t.Context(), reg.ID); err != nil {
			t.Fatal(err)
		}
	})
}
