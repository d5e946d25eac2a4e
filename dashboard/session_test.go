package dashboard_test

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

func loginBody(pw string) string { return fmt.Sprintf(`{"password":%q}`, pw) }

func TestSetup_MakesTheOperator(t *testing.T) {
	g := newGateway(t)
	r := g.send(request{method: "POST", path: "/setup", form: url.Values{"password": {password}, "repeat": {password}}})
	goesTo(t, r, "/")
	status(t, g.send(request{method: "GET", path: "/registrations", cookie: sessionCookie(t, r).Value}), http.StatusOK)
	hash, err := g.db.RootPasswordHash(t.Context())
	if err != nil || bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil {
		t.Errorf("what is stored is not a bcrypt hash of the password: %v", err)
	}
	refused(t, g.send(request{method: "POST", path: "/api/setup", body: loginBody("another password")}), http.StatusConflict, "already_set_up")
	goesTo(t, g.send(request{method: "POST", path: "/setup", form: url.Values{"password": {"another password"}, "repeat": {"another password"}}}), "/login")
	goesTo(t, g.send(request{method: "GET", path: "/setup"}), "/login")
	status(t, g.send(request{method: "POST", path: "/api/login", body: loginBody(password)}), http.StatusNoContent)
}

func TestSetup_DefaultCostIsTwelve(t *testing.T) {
	g := newGateway(t)
	g.cfg = g.cfg.ForTest(0)
	g.restart()
	status(t, g.send(request{method: "POST", path: "/api/setup", body: loginBody(password)}), http.StatusNoContent)
	hash, err := g.db.RootPasswordHash(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if cost, err := bcrypt.Cost(hash); err != nil || cost != 12 {
		t.Errorf("cost %d, %v", cost, err)
	}
}

func TestSetup_RefusesBadPasswords(t *testing.T) {
	g := newGateway(t)
	for _, pw := range []string{"", "short", "eleven byte", strings.Repeat("x", 73), "with\nline break", " leading space", "trailing space ", "nul\x00in the middle"} {
		refused(t, g.send(request{method: "POST", path: "/api/setup", body: loginBodyJSON(t, pw)}), http.StatusUnprocessableEntity, "bad_password")
	}
	status(t, g.send(request{method: "POST", path: "/setup", form: url.Values{"password": {password}, "repeat": {password + "x"}}}), http.StatusUnprocessableEntity)
	if hash, err := g.db.RootPasswordHash(t.Context()); err != nil || len(hash) != 0 {
		t.Fatalf("a password was set: %v", err)
	}
	if dashboard.CheckPassword(strings.Repeat("x", 72)) != nil || dashboard.CheckPassword("twelve bytes") != nil || dashboard.CheckPassword("pässwörter sind") != nil {
		t.Error("a good password is refused")
	}
}

// Two set-ups at once: one wins, the other is told so, and only the winner's
// password opens anything.
func TestSetup_Race(t *testing.T) {
	g := newGateway(t)
	const n = 6
	answers := make([]int, n)
	pw := func(i int) string { return fmt.Sprintf("password number %d", i) }
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r := g.send(request{method: "POST", path: "/api/setup", body: loginBody(pw(i)), from: fmt.Sprintf("192.0.2.%d", i+1)})
			answers[i] = r.StatusCode
		})
	}
	wg.Wait()
	winners := 0
	for i, s := range answers {
		login := g.send(request{method: "POST", path: "/api/login", body: loginBody(pw(i)), from: fmt.Sprintf("192.0.2.%d", i+1)}).StatusCode
		switch {
		case s == http.StatusNoContent && login == http.StatusNoContent:
			winners++
		case s == http.StatusConflict && login == http.StatusUnauthorized:
		default:
			t.Errorf("set-up %d: status %d, then log-in %d", i, s, login)
		}
	}
	if winners != 1 {
		t.Errorf("%d set-ups won", winners)
	}
}

// After a reset only whoever has the one-time code sets the password.
func TestSetup_AfterResetTakesTheCode(t *testing.T) {
	g := newOperated(t)
	session := g.logIn()
	if err := g.db.ResetRootPassword(t.Context(), sha256.Sum256([]byte("ABCDEFGH23456777"))); err != nil {
		t.Fatal(err)
	}
	goesTo(t, g.send(request{method: "GET", path: "/registrations", cookie: session}), "/setup")
	if page := status(t, g.send(request{method: "GET", path: "/setup"}), http.StatusOK); !strings.Contains(page, `name="code"`) {
		t.Error("the form does not ask for the code")
	}
	set := func(code string) *http.Response {
		return g.send(request{method: "POST", path: "/api/setup", body: fmt.Sprintf(`{"password":%q,"code":%q}`, "the second password", code)})
	}
	refused(t, set(""), http.StatusForbidden, "wrong_code")
	refused(t, set("ABCDEFGH23456776"), http.StatusForbidden, "wrong_code")
	// A stale cookie from before opens nothing, before and after.
	status(t, set(" abcdefgh23456777 "), http.StatusNoContent)
	refused(t, g.send(request{method: "GET", path: "/api/registrations", cookie: session}), http.StatusUnauthorized, "unauthorized")
}

func TestSetup_CodeGuessesAreLimited(t *testing.T) {
	g := newOperated(t)
	if err := g.db.ResetRootPassword(t.Context(), sha256.Sum256([]byte("ABCDEFGH23456777"))); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		refused(t, g.send(request{method: "POST", path: "/api/setup", body: fmt.Sprintf(`{"password":%q,"code":"x"}`, password)}), http.StatusForbidden, "wrong_code")
	}
	refused(t, g.send(request{method: "POST", path: "/api/setup", body: fmt.Sprintf(`{"password":%q,"code":"x"}`, password)}), http.StatusTooManyRequests, "too_many_attempts")
}

func TestI14_SessionCookie(t *testing.T) {
	g := newOperated(t)
	c := sessionCookie(t, g.send(request{method: "POST", path: "/api/login", body: loginBody(password)}))
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Secure || c.Domain != "" || c.MaxAge != 12*3600 {
		t.Errorf("on loopback: %+v", c)
	}
	raw, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || len(raw) != 32 {
		t.Errorf("the token is not 256 bits: %q", c.Value)
	}
	if other := sessionCookie(t, g.send(request{method: "POST", path: "/api/login", body: loginBody(password)})); other.Value == c.Value {
		t.Error("two sessions share a token")
	}
	// The registry knows the token by its hash only.
	if !g.db.SessionValid(sha256.Sum256(raw)) || g.db.SessionValid([32]byte(raw)) {
		t.Error("the session is not stored under its token's SHA-256")
	}

	g.cfg.Listen, g.cfg.TLS = "192.0.2.10:8443", true
	g.restart()
	r := g.send(request{method: "POST", path: "/api/login", body: loginBody(password), host: "192.0.2.10:8443", local: "192.0.2.10:8443"})
	if c := sessionCookie(t, r); !c.Secure {
		t.Error("not Secure off loopback")
	}
}

func TestI14_SessionsEnd(t *testing.T) {
	g := newOperated(t)
	get := func(cookie string) int {
		return g.send(request{method: "GET", path: "/api/registrations", cookie: cookie}).StatusCode
	}
	first, second := g.logIn(), g.logIn()
	r := g.send(request{method: "POST", path: "/logout", form: url.Values{}, cookie: first})
	goesTo(t, r, "/login")
	if c := sessionCookie(t, r); c.MaxAge != -1 || c.Value != "" {
		t.Errorf("log-out leaves the cookie: %+v", c)
	}
	if get(first) != http.StatusUnauthorized || get(second) != http.StatusOK {
		t.Error("log-out ends its own session and no other")
	}
	g.clock.pass(12*time.Hour - time.Second)
	if get(second) != http.StatusOK {
		t.Error("ended before 12 h")
	}
	g.clock.pass(time.Second)
	if get(second) != http.StatusUnauthorized {
		t.Error("alive after 12 h")
	}
	third := g.logIn()
	g.setPassword("an altogether new one")
	if get(third) != http.StatusUnauthorized {
		t.Error("alive after the password changed")
	}
}

// A page of another port may set more cookies of our name: they neither help
// nor lock the operator out.
func TestSession_StrayCookiesOfTheSameName(t *testing.T) {
	g := newOperated(t)
	stray := "cp_dash=x; " + strings.Repeat("cp_dash="+strings.Repeat("A", 43)+"; ", 200)
	cookies := http.Header{"Cookie": {stray + "cp_dash=" + g.logIn()}}
	status(t, g.send(request{method: "GET", path: "/api/registrations", header: cookies.Clone()}), http.StatusOK)
	goesTo(t, g.send(request{method: "POST", path: "/logout", form: url.Values{}, header: cookies.Clone()}), "/login")
	if n := len(g.db.Sessions()); n != 0 {
		t.Errorf("%d sessions after the log-out", n)
	}
}

func TestI14_SecretHeader(t *testing.T) {
	g := newOperated(t)
	get := func(secret string) *http.Response {
		return g.send(request{method: "GET", path: "/api/registrations", secret: secret})
	}
	for range 40 { // right passwords use up no attempts
		status(t, get(password), http.StatusOK)
	}
	refused(t, get(password+"x"), http.StatusUnauthorized, "unauthorized")
	refused(t, get(password[1:]), http.StatusUnauthorized, "unauthorized")
	two := http.Header{"X-Clawpatrol-Secret": {password, password}}
	refused(t, g.send(request{method: "GET", path: "/api/registrations", header: two}), http.StatusUnauthorized, "unauthorized")

	// A change of the password is in force at once, whatever was cached.
	g.setPassword("an altogether new one")
	refused(t, get(password), http.StatusUnauthorized, "unauthorized")
	status(t, get("an altogether new one"), http.StatusOK)
}

// What is cached for the header must not let a guesser try faster than the
// limit: past it, right and wrong are answered alike.
func TestI14_HeaderCacheIsNoOracle(t *testing.T) {
	g := newOperated(t)
	get := func(secret string) int {
		return g.send(request{method: "GET", path: "/api/registrations", secret: secret}).StatusCode
	}
	if get(password) != http.StatusOK {
		t.Fatal("the right password is refused")
	}
	for i := range 10 {
		if s := get(fmt.Sprintf("wrong password %d", i)); s != http.StatusUnauthorized {
			t.Fatalf("guess %d: status %d", i, s)
		}
	}
	if s := get("wrong password 11"); s != http.StatusTooManyRequests {
		t.Errorf("wrong, past the limit: status %d", s)
	}
	if s := get(password); s != http.StatusTooManyRequests {
		t.Errorf("right, past the limit: status %d", s)
	}
}

// bcrypt reads 72 bytes: what comes after must not be ignored.
func TestI14_LongPasswordsDoNotMatchTheirBeginning(t *testing.T) {
	g := newGateway(t)
	long := strings.Repeat("x", 72)
	g.setPassword(long)
	status(t, g.send(request{method: "POST", path: "/api/login", body: loginBody(long)}), http.StatusNoContent)
	refused(t, g.send(request{method: "POST", path: "/api/login", body: loginBody(long + "y")}), http.StatusUnauthorized, "wrong_password")
}
