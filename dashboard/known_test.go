package dashboard_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

func knownCookie(t testing.TB, r *http.Response) *http.Cookie {
	t.Helper()
	for _, c := range r.Cookies() {
		if c.Name == "cp_known" {
			return c
		}
	}
	t.Fatal("the browser is not made a known one")
	return nil
}

// try sends a password by the form with the cookie cp_known, if there is one.
func (g *gateway) try(from, pw, known string) *http.Response {
	g.t.Helper()
	h := http.Header{}
	if known != "" {
		h.Set("Cookie", "cp_known="+known)
	}
	return g.send(request{method: "POST", path: "/login", form: url.Values{"password": {pw}}, from: from, header: h})
}

// The attack: a program on the gateway's own host, or behind the operator's NAT,
// sends wrong passwords without end, so that the operator cannot log in either.
func TestI14_GuessersAtTheSameSourceDoNotLockTheOperatorOut(t *testing.T) {
	const loopback = "127.0.0.1"
	g := newOperated(t)
	known := knownCookie(t, g.try(loopback, password, ""))
	if !known.HttpOnly || known.SameSite != http.SameSiteStrictMode || known.Path != "/" || known.Secure || known.MaxAge <= 0 {
		t.Errorf("%+v", known)
	}
	g.restart() // what a gateway remembers of sources is gone
	for range 50 {
		g.tryLogin(loopback, "a wrong password")
	}
	for i := range 70 { // the limit over all is used up too
		g.tryLogin(fmt.Sprintf("198.51.100.%d", i), "a wrong password")
	}
	status(t, g.try(loopback, password, ""), http.StatusTooManyRequests)
	for range 30 {
		status(t, g.try(loopback, password, known.Value), http.StatusSeeOther)
	}
	status(t, g.try(loopback, password, ""), http.StatusTooManyRequests) // they were given nothing back

	// It opens nothing, and whoever stole it can guess no more than others.
	goesTo(t, g.send(request{method: "GET", path: "/account", header: http.Header{"Cookie": {"cp_known=" + known.Value + "; cp_dash=" + known.Value}}}), "/login?next=%2Faccount")
	for range 10 {
		status(t, g.try("203.0.113.9", "a wrong password", known.Value), http.StatusUnauthorized)
	}
	status(t, g.try("203.0.113.9", "a wrong password", known.Value), http.StatusTooManyRequests)
	g.clock.pass(6 * time.Second)
	status(t, g.try("203.0.113.9", "a wrong password", known.Value), http.StatusUnauthorized)
}

func TestI14_KnownBrowsersAreNotForged(t *testing.T) {
	g := newOperated(t)
	first := g.try("192.0.2.1", password, "")
	known := knownCookie(t, first).Value
	raw, err := base64.RawURLEncoding.DecodeString(known)
	if err != nil || len(raw) != 48 {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	other := append([]byte(nil), raw...)
	other[0] ^= 1
	guesses := map[string]string{"another ID": base64.RawURLEncoding.EncodeToString(other), "garbage": "x", "empty": "", "short": known[:40], "zeros": base64.RawURLEncoding.EncodeToString(make([]byte, 48))}
	for range 10 {
		g.tryLogin("192.0.2.7", "a wrong password")
	}
	for what, c := range guesses {
		if s := g.try("192.0.2.7", password, c).StatusCode; s != http.StatusTooManyRequests {
			t.Errorf("%s: status %d", what, s)
		}
	}
	if s := g.try("192.0.2.7", password, known).StatusCode; s != http.StatusSeeOther {
		t.Errorf("the real one: status %d", s)
	}
	// Logging in often gives a browser no more than one allowance.
	if again := knownCookie(t, g.try("192.0.2.1", password, known)).Value; again != known {
		t.Error("a second ID for the same browser")
	}
	// A new password makes every browser a stranger, and this one known again.
	g.setPassword("an altogether new one")
	if s := g.try("192.0.2.7", "an altogether new one", known).StatusCode; s != http.StatusTooManyRequests {
		t.Errorf("after the password changed: status %d", s)
	}
}

// Wrong set-up codes do not keep out who has the right one.
func TestI14_WrongSetupCodesDoNotLockTheOperatorOut(t *testing.T) {
	g := newOperated(t)
	if err := g.db.ResetRootPassword(t.Context(), sha256.Sum256([]byte("ABCDEFGH23456777"))); err != nil {
		t.Fatal(err)
	}
	set := func(code string) int {
		return g.send(request{method: "POST", path: "/api/setup", body: fmt.Sprintf(`{"password":%q,"code":%q}`, password, code)}).StatusCode
	}
	for range 20 {
		set("AAAAAAAAAAAAAAAA")
	}
	if s := set("AAAAAAAAAAAAAAAA"); s != http.StatusTooManyRequests {
		t.Fatalf("wrong codes are not limited: status %d", s)
	}
	if s := set("ABCDEFGH23456777"); s != http.StatusNoContent {
		t.Errorf("the right one: status %d", s)
	}
}

// BenchmarkI14_BcryptCost is what a log-in costs the gateway, and a guess whoever
// stole the hash and its key; docs/dashboard.md has the figure.
func BenchmarkI14_BcryptCost(b *testing.B) {
	hash, err := bcrypt.GenerateFromPassword([]byte(password), dashboard.BcryptCost)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil {
			b.Fatal("it does not match")
		}
	}
}
