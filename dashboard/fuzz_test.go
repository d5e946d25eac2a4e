package dashboard_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/clawpatrol/clawpatrol/registry"
)

// FuzzGate sends the handler anything, without a credential: it never panics
// and never answers more than the public pages (I13, I16).
func FuzzGate(f *testing.F) {
	g := newOperated(f)
	reg := g.enrol("host", "198.51.100.1")
	f.Add("GET", "/registrations", listen, "", "")
	f.Add("POST", "/api/registrations/"+string(reg.ID)+"/approve", listen, `{"profiles":["ci"]}`, "")
	f.Add("POST", "/login/../api/setup", "localhost:8080", `{"password":"x"}`, "x")
	f.Add("GET", "/static/style.css?x=%00", "[::1]:8080", "", strings.Repeat("A", 43))
	f.Add("PUT", "//api/secrets/X", "[::1%25eth0]:8080", "{}", "\"")
	f.Add("CONNECT", "*", ":8080", "\x00", ";")
	g.forget()
	f.Fuzz(func(t *testing.T, method, path, host, body, cookie string) {
		g.t = t
		if _, err := http.NewRequest(method, "http://x/", nil); err != nil {
			return // net/http refuses such a method
		}
		if u, err := url.ParseRequestURI(path); err != nil || u.IsAbs() || strings.ContainsAny(path, " \r\n") {
			return // and such a target
		}
		h := http.Header{}
		if cookie != "" {
			h["Cookie"] = []string{"cp_dash=" + cookie}
		}
		r := g.send(request{method: method, path: path, host: host, body: body, header: h})
		switch s := r.StatusCode; {
		case s == http.StatusOK:
			if u, _ := url.ParseRequestURI(path); u.Path != "/login" && u.Path != "/static/style.css" {
				t.Fatalf("%s %s: 200", method, path)
			}
		case s == http.StatusNoContent || s >= 500:
			t.Fatalf("%s %s of %q: status %d", method, path, host, s)
		}
		if got := g.get(reg.ID).State; got != registry.Pending {
			t.Fatalf("%s %s made the registration %s", method, path, got)
		}
	})
}

// FuzzCredentialBody sends any body as an operator would: it is stored as a
// value that fits a header, or refused.
func FuzzCredentialBody(f *testing.F) {
	g := newOperated(f)
	reg := g.enrol("host", "198.51.100.1")
	if err := g.db.Approve(f.Context(), reg.ID, []string{"ci"}, ""); err != nil {
		f.Fatal(err)
	}
	session := g.logIn()
	f.Add(`{"slots":{"secret":"x"}}`)
	f.Add(`{"slots":{"secret":"a\r\nb"}}`)
	f.Add(`{"slots":{"secret":"x","other":"y"}}`)
	f.Add(`{"slots":{"secret":"\ud800"},"slots":{"SECRET":null}}`)
	f.Add(`{"slots":null}`)
	g.forget()
	f.Fuzz(func(t *testing.T, body string) {
		g.t = t
		r := g.send(request{method: "PUT", path: "/api/credentials/bearer/github_token", body: body, cookie: session})
		if s := r.StatusCode; s != http.StatusNoContent {
			if s < 400 || s > 499 {
				t.Fatalf("status %d for %q", s, body)
			}
			return
		}
		released, err := g.db.Release(t.Context(), registry.Action{Registration: reg.ID, Credential: "bearer.github_token", Verdict: "allow"})
		if err != nil {
			t.Fatal(err)
		}
		value := string(released.Slots["secret"].Reveal())
		if value == "" || len(value) > 64<<10 || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(released.Slots) != 1 {
			t.Fatalf("stored %q from %q", value, body)
		}
	})
}
