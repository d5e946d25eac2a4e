package dashboard_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/clawpatrol/clawpatrol/dashboard"
)

const (
	firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	phone   = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Mobile/15E148 Safari/604.1"
)

// logInAs logs in with this browser from there, with cookies that it has already.
func (g *gateway) logInAs(browser, from string, cookies ...*http.Cookie) *http.Response {
	g.t.Helper()
	h := http.Header{"User-Agent": {browser}}
	for _, c := range cookies {
		h.Add("Cookie", c.Name+"="+c.Value)
	}
	r := g.send(request{method: "POST", path: "/login", form: url.Values{"password": {password}}, from: from, header: h})
	goesTo(g.t, r, "/")
	return r
}

func (g *gateway) alive(cookie string) bool {
	g.t.Helper()
	return g.send(request{method: "GET", path: "/api/profiles", cookie: cookie}).StatusCode == http.StatusOK
}

type loggedIn struct {
	ID, Source, Browser string
	CreatedAt           *time.Time `json:"created_at"`
	ExpiresAt           time.Time  `json:"expires_at"`
	Current             bool
}

func (g *gateway) sessions(cookie string) []loggedIn {
	g.t.Helper()
	var l struct{ Items []loggedIn }
	read(g.t, g.send(request{method: "GET", path: "/api/sessions", cookie: cookie}), http.StatusOK, &l)
	return l.Items
}

func TestSessions_AreListedAndEnded(t *testing.T) {
	g := newOperated(t)
	desk := sessionCookie(t, g.logInAs(firefox, "192.0.2.7")).Value
	g.clock.pass(time.Minute)
	handy := sessionCookie(t, g.logInAs(phone, "2001:db8::5")).Value
	g.clock.pass(time.Minute)
	odd := sessionCookie(t, g.logInAs("<script>alert(1)</script>\u202e"+strings.Repeat("x", 300), "192.0.2.9")).Value

	all := g.sessions(desk)
	if len(all) != 3 || all[1].Source != "2001:db8::5" || all[1].Browser != "Safari 18 on iPhone" || all[1].Current ||
		all[2].Source != "192.0.2.7" || all[2].Browser != "Firefox 140 on Linux" || !all[2].Current ||
		!all[2].ExpiresAt.Equal(all[2].CreatedAt.Add(12*time.Hour)) || len(all[0].Browser) > 120 {
		t.Fatalf("%+v", all)
	}
	page := status(t, g.send(request{method: "GET", path: "/account", cookie: desk}), http.StatusOK)
	for _, want := range []string{"Firefox 140 on Linux", "Safari 18 on iPhone", "2001:db8::5", "this one", "&lt;script&gt;", "2026-03-01 12:01:00 UTC"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	if strings.Contains(page, "<script>alert") || strings.Contains(page, "\u202e") {
		t.Error("a browser's claim is taken as it is")
	}
	for _, secret := range []string{desk, handy, odd} {
		if strings.Contains(page, secret) {
			t.Error("a token is on the page")
		}
	}

	// One of them, by the form and by the API; what is gone is said to be.
	goesTo(t, g.send(request{method: "POST", path: "/account/sessions/" + all[1].ID + "/end", form: url.Values{}, cookie: desk}), "/account?done=ended")
	if g.alive(handy) || !g.alive(desk) || !g.alive(odd) {
		t.Error("not that one ended, or not only that one")
	}
	status(t, g.send(request{method: "POST", path: "/account/sessions/" + all[1].ID + "/end", form: url.Values{}, cookie: desk}), http.StatusNotFound)
	refused(t, g.send(request{method: "GET", path: "/api/sessions/" + all[1].ID, cookie: desk}), http.StatusNotFound, "not_found")
	refused(t, g.send(request{method: "DELETE", path: "/api/sessions/s_", cookie: desk}), http.StatusNotFound, "not_found")
	var one loggedIn
	read(t, g.send(request{method: "GET", path: "/api/sessions/" + all[0].ID, cookie: desk}), http.StatusOK, &one)
	if one.ID != all[0].ID || one.Current {
		t.Errorf("%+v", one)
	}
	status(t, g.send(request{method: "DELETE", path: "/api/sessions/" + one.ID, cookie: desk}), http.StatusNoContent)
	if g.alive(odd) {
		t.Error("ended by the API, and alive")
	}
	// An ID is never given again: a page that was open for long ends nobody else.
	later := sessionCookie(t, g.logInAs(phone, "2001:db8::5")).Value
	status(t, g.send(request{method: "DELETE", path: "/api/sessions/" + one.ID, cookie: desk}), http.StatusNotFound)
	if !g.alive(later) {
		t.Error("another session ended")
	}
}

func TestSessions_LogOutEverywhere(t *testing.T) {
	g := newOperated(t)
	for _, api := range []bool{false, true} {
		everywhere := func(cookie, which string) *http.Response {
			if api {
				return g.send(request{method: "DELETE", path: "/api/sessions?which=" + which, cookie: cookie})
			}
			return g.send(request{method: "POST", path: "/account/log-out", form: url.Values{"which": {which}}, cookie: cookie})
		}
		a, b, c := g.logIn(), g.logIn(), g.logIn()
		if r := everywhere(a, "some"); r.StatusCode != http.StatusBadRequest || !g.alive(b) {
			t.Errorf("some: status %d", r.StatusCode)
		}
		if r := everywhere(a, "others"); r.StatusCode/100 == 4 || !g.alive(a) || g.alive(b) || g.alive(c) {
			t.Errorf("others: status %d, alive %v %v %v", r.StatusCode, g.alive(a), g.alive(b), g.alive(c))
		}
		b = g.logIn()
		r := everywhere(a, "all")
		if r.StatusCode/100 == 4 || g.alive(a) || g.alive(b) || sessionCookie(t, r).MaxAge != -1 {
			t.Errorf("all: status %d, alive %v %v", r.StatusCode, g.alive(a), g.alive(b))
		}
	}
}

// Whoever planted a session's cookie before the log-in has nothing after it.
func TestI14_ALogInEndsTheSessionItCameWith(t *testing.T) {
	g := newOperated(t)
	planted, other := g.logIn(), g.logIn()
	mine := sessionCookie(t, g.logInAs(firefox, "192.0.2.1", &http.Cookie{Name: "cp_dash", Value: planted})).Value
	if mine == planted || g.alive(planted) || !g.alive(mine) || !g.alive(other) {
		t.Errorf("planted alive %v, mine %v, another's %v", g.alive(planted), g.alive(mine), g.alive(other))
	}
}

// Sessions outlive the gateway.
func TestSessions_SurviveARestart(t *testing.T) {
	g := newOperated(t)
	cookie := g.logIn()
	g.restart()
	if !g.alive(cookie) {
		t.Error("logged out by a restart")
	}
}

func TestPassword_IsChangedByWhoKnowsIt(t *testing.T) {
	const next = "quarry violin bishop teapot"
	for _, api := range []bool{false, true} {
		g := newOperated(t)
		change := func(cookie, old, now string) *http.Response {
			if api {
				return g.send(request{method: "PUT", path: "/api/password", body: fmt.Sprintf(`{"old":%q,"new":%q}`, old, now), cookie: cookie})
			}
			return g.send(request{method: "POST", path: "/account/password", form: url.Values{"old": {old}, "password": {now}, "repeat": {now}}, cookie: cookie})
		}
		mine, other := g.logIn(), g.logIn()
		for what, r := range map[int][]*http.Response{
			http.StatusForbidden:           {change(mine, "a wrong password", next), change(mine, "", next)},
			http.StatusUnprocessableEntity: {change(mine, password, "short"), change(mine, password, strings.Repeat("x", 73))},
		} {
			for _, r := range r {
				status(t, r, what)
			}
		}
		if !g.alive(mine) || !g.alive(other) {
			t.Fatal("a refused change ended sessions")
		}
		r := change(mine, password, next)
		if r.StatusCode/100 == 4 {
			t.Fatalf("status %d: %s", r.StatusCode, text(t, r))
		}
		rotated := sessionCookie(t, r).Value
		if g.alive(mine) || g.alive(other) || !g.alive(rotated) || len(g.sessions(rotated)) != 1 {
			t.Error("the session was not rotated, or another lives on")
		}
		hash, err := g.db.RootPasswordHash(t.Context())
		if err != nil || bcrypt.CompareHashAndPassword(hash, []byte(next)) != nil {
			t.Errorf("the new password is not stored: %v", err)
		}
		if g.tryLogin("192.0.2.1", password) != http.StatusUnauthorized || g.tryLogin("192.0.2.1", next) != http.StatusNoContent {
			t.Error("the old one opens, or the new one does not")
		}
		// Guessing the old one is guessing (I14): the limits are those of a log-in.
		limited := 0
		for range 12 {
			if change(rotated, "a wrong password", next).StatusCode == http.StatusTooManyRequests {
				limited++
			}
		}
		if limited == 0 {
			t.Error("guesses of the old password are not limited")
		}
	}
	// A script has no session, and gets none.
	g := newOperated(t)
	r := g.api("PUT", "/api/password", fmt.Sprintf(`{"old":%q,"new":%q}`, password, next))
	status(t, r, http.StatusNoContent)
	if len(r.Cookies()) != 0 || len(g.db.Sessions()) != 0 {
		t.Error("a script got a session")
	}
}

// Of two operators who change it at once one wins, and the other is told.
func TestPassword_ChangedByTwoAtOnce(t *testing.T) {
	g := newOperated(t)
	const n = 4
	answers := make(chan int, n)
	for i := range n {
		go func() {
			r := g.send(request{method: "PUT", path: "/api/password", body: fmt.Sprintf(`{"old":%q,"new":"password number %d"}`, password, i), secret: password, from: fmt.Sprintf("192.0.2.%d", i)})
			answers <- r.StatusCode
		}()
	}
	won := 0
	for range n {
		switch s := <-answers; s {
		case http.StatusNoContent:
			won++
		case http.StatusConflict, http.StatusForbidden, http.StatusUnauthorized: // as late as it was
		default:
			t.Errorf("status %d", s)
		}
	}
	if won != 1 {
		t.Errorf("%d changes won", won)
	}
}

func TestPassword_StrengthIsToldOnce(t *testing.T) {
	const weak = "password1234"
	g := newGateway(t)
	form := url.Values{"password": {weak}, "repeat": {weak}}
	page := status(t, g.send(request{method: "POST", path: "/setup", form: form}), http.StatusUnprocessableEntity)
	if !strings.Contains(page, "guessable") || !strings.Contains(page, `name="anyway"`) || strings.Contains(page, weak) {
		t.Errorf("it is not told: %s", page)
	}
	if hash, err := g.db.RootPasswordHash(t.Context()); err != nil || len(hash) != 0 {
		t.Fatal("it was set")
	}
	form.Set("anyway", "yes")
	goesTo(t, g.send(request{method: "POST", path: "/setup", form: form}), "/")
	// No silly rules: not in the API either.
	cookie := sessionCookie(t, g.send(request{method: "POST", path: "/api/login", body: loginBody(weak)})).Value
	form = url.Values{"old": {weak}, "password": {"123456789012"}, "repeat": {"123456789012"}}
	if page := status(t, g.send(request{method: "POST", path: "/account/password", form: form, cookie: cookie}), http.StatusUnprocessableEntity); !strings.Contains(page, `name="anyway"`) || !g.alive(cookie) {
		t.Error("it is not told when it is changed")
	}
	form.Set("anyway", "yes")
	goesTo(t, g.send(request{method: "POST", path: "/account/password", form: form, cookie: cookie}), "/account?done=changed-anyway")
	if page := status(t, g.send(request{method: "GET", path: "/setup"}), http.StatusSeeOther); strings.Contains(page, "anyway") {
		t.Error("asked before there is a reason")
	}
}

func TestPassword_MustBeTypedTwice(t *testing.T) {
	g := newOperated(t)
	cookie := g.logIn()
	status(t, g.send(request{method: "POST", path: "/account/password", cookie: cookie, form: url.Values{"old": {password}, "password": {"quarry violin bishop"}, "repeat": {"quarry violin"}}}), http.StatusUnprocessableEntity)
	if !g.alive(cookie) {
		t.Error("it was changed")
	}
}

// The attack: who knows the password that is just being changed logs in meanwhile,
// and has a session that the change did not end.
func TestI14_ALogInDoesNotOutliveAChangeOfThePassword(t *testing.T) {
	g := newOperated(t)
	release := dashboard.Hashing(g.handler)
	answer := make(chan *http.Response)
	go func() { answer <- g.send(request{method: "POST", path: "/api/login", body: loginBody(password)}) }()
	for deadline := time.Now().Add(10 * time.Second); dashboard.Waiting(g.handler) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the log-in does not come to the password")
		}
	}
	g.setPassword("another correct horse")
	release()
	r := <-answer
	if r.StatusCode != http.StatusUnauthorized || len(g.db.Sessions()) != 0 {
		t.Errorf("status %d, %d sessions", r.StatusCode, len(g.db.Sessions()))
	}
}
