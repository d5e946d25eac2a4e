package dashboard

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

// Every page, as links lead to it, fits at every size, light and dark, and is
// accessible.
func TestDashboard_EveryPageFitsAndIsAccessible(t *testing.T) {
	t.Parallel()
	s := newDay(t)
	p := s.open(t, setting{})
	var kinds []string
	for _, path := range s.everyPage(false) {
		u, err := url.Parse(path)
		must(t, err)
		kinds = append(kinds, kindOf(u))
		p.visit(path)
		p.inspect(pictureName(u))
	}
	for _, want := range []string{"/", "/registrations", "/registrations/*", "/approvals", "/credentials", "/credentials/*/*", "/actions", "/recordings", "/policy", "/system", "/account"} {
		if !slices.Contains(kinds, want) {
			t.Errorf("no link leads to a page like %s: %q", want, kinds)
		}
	}
}

func pictureName(u *url.URL) string {
	name := strings.Trim(strings.ReplaceAll(strings.ReplaceAll(kindOf(u), "/*", "-one"), "/", "-"), "-")
	if name == "" {
		name = "overview"
	}
	return name
}

// The pages before the gate, and those that say that something is wrong.
func TestDashboard_LogInAndErrorPagesFitAndAreAccessible(t *testing.T) {
	t.Parallel()
	s := newStage(t, dayPolicy)
	p := chromium.open(t, s.base, setting{})
	p.visit("/login")
	p.inspect("login")
	p.expect(`status of (401|404|400)`)
	p.look(setting{})
	p.fill("Root password", "not the password")
	p.click("button", "Log in")
	p.tells("alert", "password")
	p.inspect("login-refused")
	p.enter(s.cookie)
	p.visit("/no-such-page")
	p.inspect("error")
}
